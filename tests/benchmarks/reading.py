"""The loader, decoding and resizing to 448 with all cores, beside the decoding alone and beside Pillow's."""

import gc
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from statistics import median
from tempfile import mkdtemp
from typing import Any

import numpy as np
import psutil
import torch

from lglm_core import rooms
from lglm_core.data.commit import commit_dataset
from lglm_core.data.dataset import Dataset
from lglm_core.data.images import decode
from lglm_core.data.intake import Intake
from lglm_core.data.loader import Loader
from lglm_core.data.plan import Plan
from lglm_core.data.shards import write_shard
from lglm_core.data.transforms import Augmentation, squash
from tests.benchmarks.pictures import folder
from tests.benchmarks.registry import Measured, benchmark
from tests.benchmarks.sharding import LABELS, cores, plans
from tests.benchmarks.timing import in_turns

BYTES = 300_000_000
SIZE, BATCH = 448, 32
ROUNDS = 3
EPOCHS = 10


@cache
def dataset() -> Dataset:
    """The pictures, sharded."""
    out = mkdtemp(prefix="dataset-", dir=folder(BYTES).parent)
    shards = tuple(plans(folder(BYTES)))
    receipts = [write_shard(shard, LABELS, out, Intake("header")) for shard in shards]
    commit_dataset(out, rooms.Recipe("dataset", {}, {}), Plan(LABELS, shards, "benchmark"), receipts)
    return Dataset.open(out)


def loader() -> Loader:
    found = dataset()
    plain = Augmentation(crop=False)
    fingerprint = found.manifest.fingerprint
    return Loader(
        split=found.split("train"),
        fingerprint=fingerprint,
        image_size=SIZE,
        batch_size=BATCH,
        threads=cores(),
        augmentation=plain,
    )


def exhaust(batches: Any) -> None:
    for _ in batches:
        pass


def rates(*functions: Callable[[], Any]) -> list[float]:
    """Images a second of each, medians of turns taken; by the clock, for all cores work."""
    samples = len(dataset().split("train"))
    seconds = in_turns(*functions, rounds=ROUNDS, warm_up=False, clock=time.perf_counter)
    return [samples / one for one in seconds]


def decode_from_memory() -> Callable[[], None]:
    """The same pictures, decoded and resized by as many threads, and nothing else."""
    split = dataset().split("train")
    encoded = [split.read_image(row) for row in range(len(split))]

    def run() -> None:
        with ThreadPoolExecutor(cores()) as pool:
            for _ in pool.map(lambda data: squash(decode(data), SIZE), encoded):
                pass

    return run


class PillowFolder(torch.utils.data.Dataset):
    """What torchvision's ImageFolder does with each picture, and the usual transforms."""

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


def pillow_loader() -> None:
    """One epoch in a random order, with as many worker processes as cores."""
    files = sorted(folder(BYTES).iterdir())
    exhaust(
        torch.utils.data.DataLoader(PillowFolder(files), batch_size=BATCH, shuffle=True, num_workers=cores())
    )


@benchmark("images/s", target=0.9, higher_is_better=True)
def loader_and_decoding() -> Measured:
    """The loader reads, checks, decodes and resizes to 448, beside decoding and resizing from memory."""
    ours, baseline = rates(lambda: exhaust(loader().in_order()), decode_from_memory())
    return Measured(ours, baseline, f"{cores()} threads, JPEGs of 640×480")


@benchmark("images/s", target=2.5, higher_is_better=True)
def loader_and_pillow() -> Measured:
    """The loader, beside a DataLoader over files with Pillow and as many workers."""
    ours, baseline = rates(lambda: exhaust(loader().training_epoch(0)), pillow_loader)
    return Measured(ours, baseline, f"{cores()} threads, {cores()} processes")


@benchmark("images/s", target=0.9, higher_is_better=True)
def loader_random_order() -> Measured:
    """The loader in a random order, beside the order of the shards."""
    in_order = np.arange(len(dataset().split("train")))
    ours, baseline = rates(
        lambda: exhaust(loader().training_epoch(0)),
        lambda: exhaust(loader()._batches(in_order, view_of_epoch=0)),
    )
    return Measured(ours, baseline, "the same views")


@benchmark("MB", target=0.9)
def loader_memory() -> Measured:
    """The process's memory in the last three of ten epochs, beside the second to fourth."""
    process, sizes = psutil.Process(os.getpid()), []
    small = loader()
    for epoch in range(EPOCHS):
        exhaust(small.training_epoch(epoch))
        gc.collect()
        sizes.append(process.memory_info().rss / 1e6)
    return Measured(median(sizes[-3:]), median(sizes[1:4]), ", ".join(f"{size:.0f}" for size in sizes))
