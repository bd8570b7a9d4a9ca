"""Writing shards of JPEGs, compared with tar and sha256sum, and with webdataset's ShardWriter."""

import contextlib
import io
import multiprocessing
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from lglm_core.dataset.image_policy import ImagePolicy
from lglm_core.dataset.plan import ShardPlan
from lglm_core.dataset.shard_writer import write_shard
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.sources.source import LabelledImage
from tests.benchmarks.pictures import folder
from tests.benchmarks.registry import Measured, benchmark

BYTES = 2_000_000_000
PER_SHARD = 250  # few, so that all cores finish at about the same time
LABELS = LabelVocabulary(["cat", "dog"])
ROUNDS = 5


def plans(pictures: Path) -> list[ShardPlan]:
    """Plan shards of :data:`PER_SHARD` pictures each."""
    shards = []
    names = sorted(path.name for path in pictures.iterdir())
    for number, start in enumerate(range(0, len(names), PER_SHARD)):
        chosen = names[start : start + PER_SHARD]
        images = tuple(LabelledImage(n[:-4], "train", str(pictures / n), n, ("cat",)) for n in chosen)
        shards.append(ShardPlan("train", number, images, "benchmark"))
    return shards


def write(out: Path, plan: ShardPlan) -> None:
    """Write one shard, checking only the pictures' headers."""
    write_shard(plan, LABELS, str(out), ImagePolicy("header"))


def cores() -> int:
    return len(os.sched_getaffinity(0))


def with_workers(workers: int, pictures: Path, out: Path) -> float:
    """Return the seconds that *workers* processes take, without starting them and without the plan."""
    shards = plans(pictures)
    first = replace(shards[0], images=shards[0].images[:1])
    write(out, first)  # imports modules on first use, which forks then share
    shutil.rmtree(out)
    os.sync()
    if workers == 1:
        started = time.perf_counter()
        for plan in shards:
            write(out, plan)
        return time.perf_counter() - started
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        pool.map(time.sleep, [0.1] * workers)  # waits until all have started
        started = time.perf_counter()
        for _ in pool.imap_unordered(partial(write, out), shards):
            pass
        return time.perf_counter() - started


def with_tar(pictures: Path, out: Path) -> float:
    """Return the seconds that ``tar cf`` and then ``sha256sum`` take."""
    out.unlink(missing_ok=True)
    os.sync()
    started = time.perf_counter()
    subprocess.run(["tar", "cf", out, "-C", pictures, "."], check=True)
    subprocess.run(["sha256sum", out], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def with_shard_writer(pictures: Path, out: Path) -> float:
    """Return the seconds that webdataset takes for the same samples, without the plan."""
    import webdataset

    images = [image for plan in plans(pictures) for image in plan.images]
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    os.sync()
    started = time.perf_counter()
    pattern = str(out / "%06d.tar")
    with (
        contextlib.redirect_stdout(io.StringIO()),
        webdataset.ShardWriter(pattern, maxcount=PER_SHARD, verbose=0) as writer,
    ):
        for image in images:
            text = {"labels": list(image.labels), "unknown": [], "source": image.source}
            writer.write({"__key__": image.key, "jpg": Path(image.uri).read_bytes(), "json": text})
    return time.perf_counter() - started


def compared(total_bytes: int, ours: Callable[[], float], baseline: Callable[[], float]) -> Measured:
    """Return the rates in megabytes per second, as medians over alternating rounds."""
    ours(), baseline()  # a virtual machine's memory is slow at the first write
    turns = [(ours(), baseline()) for _ in range(ROUNDS)]
    rates = [total_bytes / 1e6 / median(seconds) for seconds in zip(*turns, strict=True)]
    return Measured(
        rates[0], rates[1], f"{total_bytes / 1e9:g} GB of JPEGs on the local disk, page cache warm"
    )


@benchmark("MB/s", target=0.7, higher_is_better=True)
def shard_one_worker(total_bytes: int = BYTES) -> Measured:
    """One worker shards a folder, checking headers, against tar cf and then sha256sum."""
    pictures = folder(total_bytes)
    with TemporaryDirectory(prefix="lglm-bench-") as scratch:
        return compared(
            total_bytes,
            lambda: with_workers(1, pictures, Path(scratch, "ours")),
            lambda: with_tar(pictures, Path(scratch, "plain.tar")),
        )


@benchmark("MB/s", target=1.5, higher_is_better=True)
def shard_all_cores(total_bytes: int = BYTES) -> Measured:
    """As many workers as cores shard a folder, checking headers, against webdataset's ShardWriter."""
    pictures = folder(total_bytes)
    with TemporaryDirectory(prefix="lglm-bench-") as scratch:
        measured = compared(
            total_bytes,
            lambda: with_workers(cores(), pictures, Path(scratch, "ours")),
            lambda: with_shard_writer(pictures, Path(scratch, "theirs")),
        )
    return measured._replace(note=f"{measured.note}; {cores()} cores; ShardWriter computes no digests")
