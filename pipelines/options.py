"""The options of every flow; command line and Prefect's form derive from them. Imports nothing heavy."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from jobs.options import (
    Fraction,
    LabelVectors,
    MaxRejected,
    Options,
    Recipe,
    ToySamples,
    Unlabelled,
    Url,
    UrlOrNone,
)

Code = Literal["sent", "image"]


class Cluster(Options):
    """Where the jobs of a flow run."""

    ray_address: str | None = None
    """Ray cluster: http://head:8265 (its Jobs API) runs every job there, ray://… or head:6379 lets jobs
    started here use it; default $RAY_ADDRESS, else a local Ray for each job."""
    code: Code = "sent"
    """With a Jobs API: send this lglm along, or use that in the cluster's image, if of the same version."""


class TrainLglm(LabelVectors, Recipe, Cluster):
    """From labelled pictures to a model, its evaluation, its embeddings, and tags of new pictures."""

    out: Url
    """Folder for everything: dataset, labels, run, evaluation, embeddings, tags."""
    source: Literal["toy", "coco", "mirflickr", "voc", "table"]
    """Where labelled pictures come from: drawn here, a public collection, or a table of your own."""
    root: UrlOrNone = None
    """The collection's folder. With source toy: where to keep the drawn pictures; default OUT/raw."""
    year: Literal["2014", "2017"] | None = None
    """With source coco: which, where the root holds both."""
    unlabelled: Unlabelled = "keep"
    """With source coco or mirflickr: pictures without any label."""
    max_rejected: MaxRejected = 0.2
    """Fraction of the pictures that may be unreadable; with more, nothing is trained."""
    table: UrlOrNone = None
    """With source table: a CSV, TSV, JSONL or Parquet file with the columns image and labels."""
    image_root: UrlOrNone = None
    """With source table: the folder that the column image is relative to."""
    validation_share: Fraction = 0.2
    """With source table: share of the pictures that go to val, where the table names no split."""
    samples: ToySamples = 1000
    """With source toy: scenes to draw."""
    num_workers: Annotated[int, Field(ge=0)] = 1
    """Ray Train workers; 0 trains in one process, without Ray."""
    images: UrlOrNone = None
    """Folder of new pictures to tag; with source toy, by default, those drawn for it."""
    query: UrlOrNone = None
    """Picture whose nearest neighbours to find; by default the first tagged one that can be read."""

    @model_validator(mode="after")
    def _source_is_named(self) -> "TrainLglm":
        needed = {"table": ("table", "image_root"), "toy": ()}.get(self.source, ("root",))
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(f"source {self.source} needs the option --{name.replace('_', '-')}")
        return self


class TagBucket(Cluster):
    """Tag every file of a folder or bucket prefix, and sum up what was found."""

    model: Url
    """Model folder, as train-lglm wrote it to OUT/run/model."""
    images: Url
    """Folder or s3:// prefix of pictures, searched to any depth; every file in it becomes a row."""
    out: Url
    """Tags folder to write."""
