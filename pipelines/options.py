"""The options of every flow, and which of them a job gets; command line and Prefect's form derive from them.

The module imports nothing heavy.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from jobs import options as jobs
from jobs.options import (
    NUMBER_AS_TEXT,
    SHARD,
    Fraction,
    LabelVectors,
    MaxRejected,
    Options,
    PositiveInt,
    RecipeOptions,
    Seed,
    ToySamples,
    Unlabelled,
    Url,
    UrlOrNone,
    Weight,
)

Code = Literal["sent", "image"]


class Cluster(Options):
    """Where the jobs of a flow run."""

    ray_address: str | None = None
    """Ray cluster: http://head:8265 (its Jobs API) runs every job there, ray://… or head:6379 lets jobs
    started here use it; default $RAY_ADDRESS, else a local Ray for each job."""
    code: Code = "sent"
    """With a Jobs API: send this lglm along, or use the cluster image's own, if its version is the same."""


class Sharding(Options):
    """Where labelled pictures come from, and how they are sharded."""

    source: Literal["toy", "coco", "mirflickr", "voc", "table"]
    """Where labelled pictures come from: drawn here, a public collection, or a table of your own."""
    root: UrlOrNone = None
    """The collection's folder. With source toy: where to keep the drawn pictures; default OUT/raw."""
    year: Annotated[Literal["2014", "2017"] | None, NUMBER_AS_TEXT] = None
    """With source coco: which COCO, where the root holds both."""
    crowds: Literal["keep", "drop"] = "keep"
    """With source coco: whether annotations of crowds count."""
    min_area: Weight = 0.0
    """With source coco: annotations of a smaller area, in square pixels, do not count."""
    labels: Annotated[Literal["24", "38"], NUMBER_AS_TEXT] = "24"
    """With source mirflickr: the 24 potential labels, or 38 with the 14 relevant ones."""
    unlabelled: Unlabelled = "keep"
    """With source coco or mirflickr: keep pictures without any label as negatives, or drop them."""
    table: UrlOrNone = None
    """With source table: a CSV, TSV, JSONL or Parquet file with the columns image and labels."""
    image_root: UrlOrNone = None
    """With source table: the folder that the column image is relative to."""
    label_order: UrlOrNone = None
    """With source table: a file with all labels in the order wanted; default: alphabetical."""
    validation_share: Fraction = 0.2
    """With source table: fraction of the pictures that go to val, where the table has no column split."""
    split_seed: Seed = 0
    """With source mirflickr, or a table without the column split: seed of the division into train and val."""
    samples: ToySamples = 1000
    """With source toy: number of scenes to draw; a fifth of them for val."""
    draw_seed: Seed = 0
    """With source toy: seed of the drawing."""
    max_samples_per_shard: PositiveInt = 1000
    """Largest number of pictures per tar file."""
    max_bytes_per_shard: PositiveInt | None = None
    """Largest number of bytes of pictures per tar file."""
    verify: Literal["decode", "header"] = "decode"
    """Decode every picture to its end, or check only its header and its last bytes, which is faster."""
    max_side: PositiveInt | None = None
    """Scale pictures with a longer side down to this many pixels, as JPEGs; default: all keep their bytes."""
    quality: Annotated[int, Field(ge=1, le=95)] | None = None
    """Quality of the JPEGs that are scaled down; default 90."""
    duplicates: Literal["keep", "drop"] = "keep"
    """Pictures with the same bytes as another: keep and report them, or reject all but one."""
    max_rejected: MaxRejected = 0.2
    """Fraction of the pictures that may be unreadable; with more, nothing is trained."""

    @model_validator(mode="after")
    def _options_suit_the_source(self) -> Self:
        kind = SHARD[self.source]
        taken = JOB_OPTIONS[kind]
        for name, option in taken.items():
            if kind.model_fields[option].is_required() and getattr(self, name) is None:
                raise ValueError(f"source {self.source} needs the option `{name}`")
        for name, info in Sharding.model_fields.items():
            if name not in ("source", *taken) and getattr(self, name) != info.default:
                raise ValueError(f"source {self.source} takes no option `{name}`")
        return self


class TrainLglm(Sharding, LabelVectors, RecipeOptions, Cluster):
    """From labelled pictures to a model, its evaluation, its embeddings, and tags of new pictures."""

    out: Url
    """Folder for everything: dataset, labels, run, evaluation, embeddings, tags."""
    num_workers: Annotated[int, Field(ge=0)] = 1
    """Ray Train workers; 0 trains in one process, without Ray."""
    cache: UrlOrNone = None
    """Folder on each worker's own disk that keeps pictures once they are read from a bucket."""
    cache_gb: Annotated[float, Field(gt=0)] | None = None
    """Limit of the cache's size, in units of 10^9 bytes; default 100."""
    checkpoint_steps: Annotated[int, Field(ge=0)] = 1000
    """Steps between checkpoints within an epoch; 0: checkpoints at the ends of epochs only."""
    images: UrlOrNone = None
    """Folder of new pictures to tag; with source toy, the default is the pictures drawn for it."""
    query: UrlOrNone = None
    """Picture whose nearest neighbours to find; the default is the first tagged one that can be read."""
    neighbours: PositiveInt = 5
    """Number of neighbours to find."""


class TagBucket(Cluster):
    """Tag every file of a folder or bucket prefix, and sum up what was found."""

    model: Url
    """Model folder, as train-lglm writes it to OUT/run/model."""
    images: Url
    """Folder or s3:// prefix of pictures, searched to any depth; every file in it becomes a row."""
    out: Url
    """Tags folder to write."""


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


_OF_EVERY_SOURCE = _same(
    *("max_samples_per_shard", "max_bytes_per_shard", "verify", "max_side", "quality"),
    *("duplicates", "max_rejected"),
)
_OF_TRAINING = _same(*RecipeOptions.model_fields, "num_workers", "cache", "cache_gb", "checkpoint_steps")

JOB_OPTIONS: Mapping[type[Options], Mapping[str, str]] = {
    jobs.SHARD["coco"]: _OF_EVERY_SOURCE | _same("root", "unlabelled", "crowds", "min_area", "year"),
    jobs.SHARD["mirflickr"]: _OF_EVERY_SOURCE | _same("root", "labels", "unlabelled", "split_seed"),
    jobs.SHARD["voc"]: _OF_EVERY_SOURCE | _same("root"),
    jobs.SHARD["table"]: _OF_EVERY_SOURCE
    | _same("table", "image_root", "validation_share", "split_seed", "label_order"),
    jobs.ShardToy: _OF_EVERY_SOURCE | _same("root", "samples") | {"draw_seed": "seed"},
    jobs.MakeLabelEmbeddings: _same(*LabelVectors.model_fields),
    jobs.Train: _OF_TRAINING,
    jobs.Search: {"neighbours": "k"},
}
"""By job, which option of :class:`TrainLglm` gives which option of the job; the flow decides the others."""
