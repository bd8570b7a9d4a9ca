"""The loader with all cores at 448 pixels, compared with decoding alone and with a loader by Pillow."""

import atexit
import gc
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from statistics import median
from tempfile import mkdtemp
from typing import Any

import numpy as np
import psutil
import torch

from lglm_core.dataset.commit import Written, commit_dataset
from lglm_core.dataset.image_policy import ImagePolicy
from lglm_core.dataset.plan import Plan
from lglm_core.dataset.reader import Dataset, Split
from lglm_core.dataset.shard_writer import write_shard
from lglm_core.images.codec import decode
from lglm_core.images.transforms import Augmentation, squash
from lglm_core.loading.loader import Loader
from lglm_core.rooms import DatasetManifest, Provenance, Room
from tests.benchmarks.pictures import folder
from tests.benchmarks.registry import Measured, benchmark
from tests.benchmarks.sharding import LABELS, cores, plans
from tests.benchmarks.timing import in_turns

BYTES = 300_000_000
SIZE, BATCH = 448, 32
ROUNDS = 3
EPOCHS = 10


@cache
def dataset(total_bytes: int) -> Dataset:
    """Return a dataset of random pictures."""
    pictures = folder(total_bytes)
    out = mkdtemp(prefix="lglm-bench-")
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    shards = tuple(plans(pictures))
    receipts = [write_shard(shard, LABELS, out, ImagePolicy("header")) for shard in shards]
    room = Room(out, Provenance(DatasetManifest, {}, {}))
    commit_dataset(room, Written(Plan(LABELS, shards, "benchmark"), receipts))
    return Dataset.open(out)


def loader(total_bytes: int) -> Loader:
    """Return a loader of whole pictures, with a thread for each core."""
    opened = dataset(total_bytes)
    return Loader(
        split=opened.split("train"),
        fingerprint=opened.manifest.fingerprint,
        image_size=SIZE,
        batch_size=BATCH,
        threads=cores(),
        augmentation=Augmentation(crop=False),
    )


def exhaust(batches: Any) -> None:
    for _ in batches:
        pass


def next_epoch(reader: Loader) -> None:
    """Read one epoch in a random order."""
    exhaust(reader.training_epoch(0))


def rates(samples: int, *functions: Callable[[], Any]) -> list[float]:
    """Return each function's images per second, by the wall clock because all cores work."""
    seconds = in_turns(*functions, rounds=ROUNDS, warm_up=False, clock=time.perf_counter)
    return [samples / each for each in seconds]


def decode_from_memory(split: Split) -> Callable[[], None]:
    """Return a function that only decodes and resizes the split's pictures, with as many threads."""
    encoded = [split.read_image(row) for row in range(len(split))]

    def run() -> None:
        with ThreadPoolExecutor(cores()) as pool:
            for _ in pool.map(lambda data: squash(decode(data), SIZE), encoded):
                pass

    return run


class PillowFolder(torch.utils.data.Dataset):
    """Reads pictures as torchvision's ImageFolder does, with the usual transforms."""

    def __init__(self, files: list[Path]) -> None:
        from torchvision import transforms

        self.files = files
        self.transform = transforms.Compose([transforms.Resize((SIZE, SIZE)), transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> Any:
        from PIL import Image

        with self.files[row].open("rb") as file:
            return self.transform(Image.open(file).convert("RGB")), 0


def pillow_loader(total_bytes: int) -> None:
    """Read one epoch with as many worker processes as cores."""
    files = sorted(folder(total_bytes).iterdir())
    exhaust(torch.utils.data.DataLoader(PillowFolder(files), batch_size=BATCH, num_workers=cores()))


@benchmark("images/s", target=0.9, higher_is_better=True)
def loader_and_decoding(total_bytes: int = BYTES) -> Measured:
    """The loader, which reads, decodes and resizes, against decoding and resizing from memory."""
    reader = loader(total_bytes)
    baseline = decode_from_memory(reader.split)
    ours, theirs = rates(len(reader.split), lambda: exhaust(reader.in_order()), baseline)
    return Measured(
        ours, theirs, f"{cores()} threads, JPEGs of 640×480; their checksums are checked at the first read"
    )


@benchmark("images/s", target=2.5, higher_is_better=True)
def loader_and_pillow(total_bytes: int = BYTES) -> Measured:
    """The loader, against a DataLoader over files with Pillow and as many workers."""
    reader = loader(total_bytes)
    ours, theirs = rates(
        len(reader.split), lambda: exhaust(reader.in_order()), partial(pillow_loader, total_bytes)
    )
    return Measured(ours, theirs, f"{cores()} threads, {cores()} processes")


@benchmark("images/s", target=0.9, higher_is_better=True)
def loader_random_order(total_bytes: int = BYTES) -> Measured:
    """The loader in a random order, against the order of the shards."""
    reader = loader(total_bytes)
    in_order = np.arange(len(reader.split))

    def next_in_order() -> None:
        exhaust(reader._batches(in_order, view_of_epoch=0))

    return Measured(*rates(len(reader.split), partial(next_epoch, reader), next_in_order), "the same views")


@benchmark("MB", target=0.9)
def loader_memory(total_bytes: int = BYTES) -> Measured:
    """The process's memory in the last three of ten epochs, against the second to fourth."""
    process, sizes, reader = psutil.Process(os.getpid()), [], loader(total_bytes)
    for epoch in range(EPOCHS):
        exhaust(reader.training_epoch(epoch))
        gc.collect()
        sizes.append(process.memory_info().rss / 1e6)
    return Measured(median(sizes[-3:]), median(sizes[1:4]), ", ".join(f"{size:.0f}" for size in sizes))
