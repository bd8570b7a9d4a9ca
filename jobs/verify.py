"""Check that a dataset is as it was written, by names and sizes, or by every byte and every picture.

lglm verify --dataset DATASET
lglm verify --dataset DATASET --full
"""

import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs import command_line
from jobs.command_line import Outcome
from jobs.options import Verify
from lglm_core import storage
from lglm_core.errors import DamageError
from lglm_core.rooms import DatasetManifest, is_unfinished, require

if TYPE_CHECKING:
    from lglm_core.dataset.integrity import Damage

logger = logging.getLogger("lglm.verify")


def run(options: Verify) -> Outcome:
    """Check the dataset, and name every damage on stderr."""
    from lglm_core.dataset.integrity import (
        NEVER_DECODED,
        REMEDY,
        check_files,
        check_sizes,
        files_beside_shards,
        summary,
    )

    manifest = require(options.dataset, DatasetManifest)
    damages = check_sizes(options.dataset, manifest)
    if options.full:
        named = {damage.file for damage in damages}
        others = [name for name in files_beside_shards(manifest) if name not in named]
        damages += check_files(options.dataset, manifest, others)
        damages += _check_shards(options, manifest)
    for damage in damages:
        logger.error(str(damage))
    if damages:
        files = len({damage.file for damage in damages})
        mendable = any(not damage.problem.endswith(NEVER_DECODED) for damage in damages)
        remedy = f"; {REMEDY}" if mendable else ""
        raise DamageError(f"{summary(options.dataset, damages)} ({files} damaged files in all){remedy}")
    return _outcome(options, manifest)


def _check_shards(options: Verify, manifest: DatasetManifest) -> "list[Damage]":
    """Check each shard in a Ray task."""
    from jobs.cluster import ray_cluster, run_tasks
    from lglm_core.dataset.integrity import check_shard
    from lglm_core.dataset.reader import shards_with_rows

    url = storage.absolute(options.dataset)
    calls = [(url, shard, index) for shard, index in shards_with_rows(url, manifest)]
    with ray_cluster(options.ray_address):
        found = run_tasks(check_shard, calls, "verify")
    return [damage for damages in found for damage in damages]


def _outcome(options: Verify, manifest: DatasetManifest) -> Outcome:
    from lglm_core.dataset.integrity import untracked_files

    how = "every byte is as it was written" if options.full else "names and sizes are as they were written"
    counts = {**manifest.counts, "shards": len(manifest.shards)}
    lines = [
        f"{options.dataset}: dataset, whole: {counts['written']} samples in {counts['shards']} shards, {how}"
    ]
    if not is_unfinished(options.dataset):
        untracked = untracked_files(options.dataset, manifest)
        lines += [f"  does not belong to the dataset: {name}" for name in untracked]
    return Outcome("done", options.dataset, "\n".join(lines), counts=counts)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line."""
    return command_line.main("verify", Verify, run, argv)


if __name__ == "__main__":
    sys.exit(main())
