"""Write a dataset with several processes, and perhaps die by SIGKILL, all at once, at a chosen moment.

    python -m tests.lglm_core.dataset.shard_workers TABLE IMAGES OUT WORKERS MOMENT

Moments are counted over all processes: every write to a tar, and just before and after each file is made.
Prints how many there were.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from lglm_core.dataset.commit import Written, commit_dataset
from lglm_core.dataset.plan import Plan, make_plan
from lglm_core.dataset.shard_writer import write_shard
from lglm_core.dataset.tar import TarWriter
from lglm_core.rooms import DatasetManifest, Provenance, Room
from lglm_core.sources.table import TableSource
from lglm_core.storage.disk import DiskLocation

PER_SHARD = 4


def main(table: str, images: str, out: str, workers: int, moment: int) -> None:
    """Write the dataset, or go on with it."""
    passed = multiprocessing.Value("i", 0)

    def pass_moment() -> None:
        with passed.get_lock():
            passed.value += 1
            if passed.value == moment:
                os.killpg(os.getpgrp(), signal.SIGKILL)

    mortal(TarWriter, "write", pass_moment)
    mortal(DiskLocation, "publish", pass_moment)
    mortal(DiskLocation, "create", pass_moment)
    source = TableSource(table, images)
    room = Room(out, Provenance(DatasetManifest, source.inputs(), source.options()))
    if room.find() is None:
        plan = make_plan(source, PER_SHARD)
        room.begin()
        write_with(workers, plan, out)
        receipts = [write_shard(shard, plan.labels, out) for shard in plan.shards]
        commit_dataset(room, Written(plan, receipts))
    print(passed.value)


def mortal(kind: type, name: str, pass_moment: Callable[[], None]) -> None:
    """Make a method pass a moment before and after what it does."""
    method = getattr(kind, name)

    def counted(*arguments: Any) -> Any:
        pass_moment()
        result = method(*arguments)
        pass_moment()
        return result

    setattr(kind, name, counted)


def write_with(workers: int, plan: Plan, out: str) -> None:
    """Divide the shards among forked processes, and wait for them."""
    fork = multiprocessing.get_context("fork")
    started = [fork.Process(target=write_some, args=(plan, out, first, workers)) for first in range(workers)]
    for process in started:
        process.start()
    for process in started:
        process.join()
        assert process.exitcode == 0


def write_some(plan: Plan, out: str, first: int, step: int) -> None:
    """One worker: every *step*-th shard."""
    for shard in plan.shards[first::step]:
        write_shard(shard, plan.labels, out)


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:]))
