"""Shard labelled pictures into WebDataset tar files with an index.

lglm shard coco --root COCO --out DATASET
lglm shard mirflickr --root MIRFLICKR --out DATASET
lglm shard voc --root VOCdevkit/VOC2007 --out DATASET
lglm shard table --table labels.csv --image-root PICTURES --out DATASET
lglm shard toy --out DATASET
"""

import importlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from jobs import command_line
from jobs.command_line import Outcome
from jobs.options import SOURCES, Shard, ShardFound, ShardToy
from lglm_core import rooms, storage
from lglm_core.dataset.layout import load_labels
from lglm_core.errors import DamageError, InputError, RunError
from lglm_core.rooms import lease

if TYPE_CHECKING:
    import pyarrow as pa

    from lglm_core.dataset.image_policy import ImagePolicy
    from lglm_core.dataset.plan import Plan
    from lglm_core.dataset.receipt import Receipt
    from lglm_core.labels.vocabulary import LabelVocabulary
    from lglm_core.sources.source import Source

LABELS_TOLD = 6
logger = logging.getLogger("lglm.shard")


def run(options: Shard) -> Outcome:
    """Plan the shards, write those that are missing, and commit the dataset."""
    if isinstance(options, ShardToy):
        return _shard_toy(options)
    assert isinstance(options, ShardFound)
    source = _source(options)
    if options.append:
        return _append(source, options)
    provenance = _provenance(source.inputs(), source.options(), options)
    return _complete(provenance, options) or _write(source, provenance, options)


def _source(options: ShardFound) -> "Source":
    module, _, name = options.source.partition(":")
    absolute = options.absolute()
    arguments = {field: getattr(absolute, field) for field in type(options).model_fields}
    own = {field: value for field, value in arguments.items() if field not in ShardFound.model_fields}
    source: Source = getattr(importlib.import_module(module), name)(**own)
    return source


def _provenance(inputs: Mapping[str, str], of_source: Mapping[str, Any], options: Shard) -> rooms.Provenance:
    """What decides the bytes of the shards."""
    settings: dict[str, Any] = {**of_source, "max_samples_per_shard": options.max_samples_per_shard}
    if options.max_bytes_per_shard is not None:
        settings["max_bytes_per_shard"] = options.max_bytes_per_shard
    if options.duplicates == "drop":
        settings["duplicates"] = "drop"
    return rooms.Provenance("dataset", inputs, {**settings, **_intake(options).options()})


def _intake(options: Shard) -> "ImagePolicy":
    from lglm_core.dataset.image_policy import QUALITY, ImagePolicy

    return ImagePolicy(options.verify, options.max_side, options.quality or QUALITY)


def _complete(provenance: rooms.Provenance, options: Shard) -> Outcome | None:
    """What there is to say of a dataset that is complete; None if shards are to be written."""
    manifest = rooms.find(options.out, provenance)
    if manifest is None:
        return None
    from lglm_core.dataset.integrity import check_sizes, told

    damages = check_sizes(options.out, manifest)
    again = options.retry_rejected and _unreadable(manifest)
    if not damages and not again:
        return _outcome(options.out, manifest, "already complete")
    if len(manifest.details["parts"]) > 1:
        if damages:
            raise DamageError(f"{told(options.out, damages)}; it was added to, so bring back a copy of that")
        raise InputError(
            f"{options.out}: was added to, and what stands in it stays; with --append --retry-rejected, "
            "pictures that can be read now become new shards"
        )
    return None


def _unreadable(manifest: rooms.Manifest) -> int:
    """How many pictures of a dataset could not be read; of the rejected ones the others are duplicates."""
    dropped = manifest.counts["duplicates"] if manifest.options.get("duplicates") == "drop" else 0
    return manifest.counts["rejected"] - dropped


def _shard_toy(options: ShardToy) -> Outcome:
    """Draw, then shard as any other COCO; a complete dataset is recognised before anything is drawn."""
    drawn = {"source": "toy", "samples": options.samples, "seed": options.seed}
    provenance = _provenance({}, drawn, options)
    if outcome := _complete(provenance, options):
        return outcome
    from jobs.cluster import progress_bar
    from lglm_core.sources.coco import CocoSource
    from lglm_core.sources.toy.coco import write_toy_coco

    with _kept_or_temporary(options.root) as root:
        with progress_bar(options.samples, "draw") as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            write_toy_coco(root, samples=options.samples, seed=options.seed, progress=show)
        return _write(CocoSource(root), provenance, options)


def _write(source: "Source", provenance: rooms.Provenance, options: Shard) -> Outcome:
    from jobs.cluster import ray_cluster
    from lglm_core.dataset.commit import NothingReadable, commit_dataset, refuse_another
    from lglm_core.dataset.plan import make_plan

    plan = make_plan(source, options.max_samples_per_shard, options.max_bytes_per_shard)
    new, standing = storage.is_empty(options.out), rooms.read_manifest(options.out)
    if standing and standing.details["parts"][0]["plan"] != plan.fingerprint:
        raise InputError(
            f"{options.out}: the pictures' sizes, by which --max-bytes-per-shard divides them, have changed "
            "since; bring back what is damaged from a copy, or take what can be read now as new shards, with "
            "--append --retry-rejected"
        )
    with ray_cluster(options.ray_address):
        rooms.begin(options.out, provenance)
        if options.retry_rejected:
            rooms.reopen(options.out)
        receipts, duplicates = _write_shards(plan, options, {})
    if standing and not options.retry_rejected:
        refuse_another(options.out, standing, plan, receipts)
    try:
        manifest = commit_dataset(
            options.out,
            provenance,
            plan,
            receipts,
            dropped=plan.unlabelled_dropped,
            duplicates=duplicates,
            max_rejected=options.max_rejected,
            retried=_unreadable(standing) if standing else 0,
        )
    except NothingReadable:
        if new:  # the folder would only stand in the way of the next try
            rooms.abandon(options.out)
        raise
    return _outcome(options.out, manifest, "done")


def _append(source: "Source", options: ShardFound) -> Outcome:
    """Write what the source has and the dataset lacks as new shards; nothing that stands is touched."""
    from jobs.cluster import ray_cluster
    from lglm_core.dataset.append import NewImages, orphan_files
    from lglm_core.dataset.commit import commit_dataset
    from lglm_core.dataset.plan import make_plan
    from lglm_core.dataset.reader import Dataset

    dataset = Dataset.open(options.out)
    base = dataset.manifest
    provenance = _provenance(source.inputs(), source.options(), options)
    _refuse_other_handling(options.out, base, provenance)
    addition = NewImages(source, dataset, options.extend_labels, options.retry_rejected)
    plan = make_plan(
        addition, options.max_samples_per_shard, options.max_bytes_per_shard, numbers=addition.numbers()
    )
    added_from = _provenance(addition.inputs(), source.options(), options)
    if not plan.planned:
        if rooms.is_unfinished(options.out):  # an addition that was stopped, of pictures that are gone
            with suppress(InputError):  # another process is there, just now
                rooms.begin_addition(options.out, added_from, base)
                _end_addition(options.out, base)
        return _outcome(options.out, base, f"nothing new, {addition.standing} pictures are known already")
    with ray_cluster(options.ray_address):
        rooms.begin_addition(options.out, added_from, base)
        for name in orphan_files(options.out, base, plan):
            storage.remove(storage.join(options.out, name))
        standing = {name: split.index for name, split in addition.splits.items()}
        receipts, duplicates = _write_shards(plan, options, standing)
    if addition.retried == plan.planned == sum(len(receipt.unreadable) for receipt in receipts):
        _end_addition(options.out, base)
        return _outcome(options.out, base, f"nothing new, {addition.retried} pictures still cannot be read")
    manifest = commit_dataset(
        options.out,
        provenance,
        plan,
        receipts,
        dropped=plan.unlabelled_dropped,
        duplicates=duplicates,
        max_rejected=options.max_rejected,
        retried=addition.retried,
        base=base,
    )
    added = manifest.counts["written"] - base.counts["written"]
    return _outcome(options.out, manifest, f"done, {added} samples added to {base.counts['written']}")


def _end_addition(out: str, base: rooms.Manifest) -> None:
    """Leave a dataset as it was before an addition that came to nothing."""
    from lglm_core.dataset.append import orphan_files

    lease.confirm(out)
    for name in orphan_files(out, base):
        storage.remove(storage.join(out, name))
    rooms.end_addition(out)


def _refuse_other_handling(out: str, base: rooms.Manifest, provenance: rooms.Provenance) -> None:
    """Refuse to add pictures that would be checked, scaled or compared in another way than those there."""
    differences = [
        f"{name} was {base.options.get(name, 'not given')}, now {provenance.options.get(name, 'not given')}"
        for name in ("verify", "max_side", "quality", "duplicates")
        if base.options.get(name) != provenance.options.get(name)
    ]
    if differences:
        raise InputError(f"{out}: made with other options: {'; '.join(differences)}. Add with the same ones")


def _write_shards(
    plan: "Plan", options: Shard, standing: "Mapping[str, pa.Table]"
) -> "tuple[list[Receipt], pa.Table]":
    """Write all shards of a plan as Ray tasks; return their receipts, and the duplicates that are kept."""
    from jobs.cluster import run_tasks
    from lglm_core.dataset.duplicates import find_duplicates, twins_by_shard, without_orphans
    from lglm_core.dataset.shard_writer import write_shard

    where = (plan.labels, storage.absolute(options.out), _intake(options))
    shards = {shard.name: shard for shard in plan.shards}

    def write(without: Mapping[str, Mapping[str, str] | None], progress: str, retry: bool = False) -> None:
        calls: list[tuple[Any, ...]] = [
            (shards[name], *where, left_out, retry) for name, left_out in without.items()
        ]
        receipts.update(zip(without, run_tasks(write_shard, calls, progress, still_ours), strict=True))
        for receipt in (receipts[name] for name in without if receipts[name].lost):
            if not retry:
                raise RunError(
                    f"{options.out}: {_why_it_stays(receipt)}; bring them back, and run the same again"
                )
            logger.warning(_why_it_stays(receipt))

    still_ours = partial(lease.confirm, options.out)
    receipts: dict[str, Receipt] = {}
    write(dict.fromkeys(shards), "shard", options.retry_rejected)
    if orphans := without_orphans(list(receipts.values()), standing):
        write(orphans, "take duplicates back")
    duplicates = find_duplicates(list(receipts.values()), standing)
    if options.duplicates == "drop" and len(duplicates):
        twins = twins_by_shard(duplicates)
        write(
            {name: {**receipts[name].duplicates, **more} for name, more in twins.items()}, "drop duplicates"
        )
        duplicates = duplicates.slice(0, 0)
    return [receipts[name] for name in shards], duplicates


def _why_it_stays(receipt: "Receipt") -> str:
    first = receipt.lost[0]
    return (
        f"{receipt.shard} stays as it was, with {len(receipt.unreadable)} pictures rejected: of its samples "
        f"{len(receipt.lost)} can no longer be read, such as {first.source} ({first.error})"
    )


def _outcome(out: str, manifest: rooms.Manifest, status: str) -> Outcome:
    counts, splits = manifest.counts, manifest.details["splits"]
    lines = [
        f"{out}: dataset, {status}: {counts['written']} samples in {len(manifest.details['shards'])} shards ("
        + ", ".join(f"{name} {split['samples']}" for name, split in splits.items())
        + f"), {counts['unlabelled']} of them without a label; {counts['rejected']} pictures rejected",
        f"  {_told(load_labels(out, manifest))}",
    ]
    if counts["unlabelled_dropped"]:
        lines.append(f"  {counts['unlabelled_dropped']} pictures without a label were dropped")
    if counts["rejected"]:
        lines.append(f"  why: {storage.join(out, 'rejects.parquet')}")
    if counts["duplicates"]:
        lines.append(
            f"  {counts['duplicates']} pictures have the same bytes as another: "
            f"{storage.join(out, 'duplicates.parquet')}, or dropped: rejects.parquet"
        )
    return Outcome(status.partition(",")[0], out, "\n".join(lines), counts=counts)


def _told(labels: "LabelVocabulary") -> str:
    """Name some labels, in quotation marks: a cell that was taken apart in another way than meant is seen."""
    more = f" and {len(labels) - LABELS_TOLD} more" if len(labels) > LABELS_TOLD else ""
    return f"{len(labels)} labels: {', '.join(map(repr, labels[:LABELS_TOLD]))}{more}"


@contextmanager
def _kept_or_temporary(root: str | None) -> Iterator[str]:
    if root:
        yield storage.absolute(root)
        return
    with TemporaryDirectory(prefix="lglm-toy-") as folder:
        yield folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line."""
    return command_line.main("shard", SOURCES, run, argv)


if __name__ == "__main__":
    sys.exit(main())
