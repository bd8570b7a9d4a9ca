"""The options of every flow; command line and Prefect's form derive from them. Imports nothing heavy."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from jobs.options import OnRay, Recipe, Share, ToySamples


class TrainLglm(Recipe, OnRay):
    """From labelled pictures to a model, its evaluation, its embeddings, and tags of new pictures."""

    out: str
    """Folder for everything: dataset, labels, run, evaluation, embeddings, tags."""
    source: Literal["toy", "coco", "table"]
    """Where labelled pictures come from: drawn here, COCO's layout, or a table of your own."""
    root: str | None = None
    """With source coco: its folder. With source toy: where to keep the drawn pictures; default OUT/raw."""
    year: Literal["2014", "2017"] | None = None
    """With source coco: which, where the root holds both."""
    unlabelled: Literal["keep", "drop"] = "keep"
    """With source coco: pictures without any annotation."""
    table: str | None = None
    """With source table: a CSV, JSONL or Parquet file with the columns image and labels."""
    image_root: str | None = None
    """With source table: the folder that the column image is relative to."""
    validation_share: Share = 0.2
    """With source table: share of the pictures that go to val, where the table names no split."""
    samples: ToySamples = 1000
    """With source toy: scenes to draw."""
    glove: str | None = None
    """GloVe text file; without it the label vectors come from co-occurrence in the training split."""
    alias: tuple[str, ...] = ()
    """'label=words', for labels that GloVe calls something else."""
    oov: Literal["error", "zero"] = "error"
    """A label none of whose words GloVe holds: refuse, or take a zero vector."""
    num_workers: Annotated[int, Field(ge=0)] = 1
    """Ray Train workers; 0 trains in one process, without Ray."""
    images: str | None = None
    """Folder of new pictures to tag; with source toy, by default, those drawn for it."""
    query: str | None = None
    """Picture whose nearest neighbours to find; by default the first tagged one that can be read."""

    @model_validator(mode="after")
    def _source_is_named(self) -> "TrainLglm":
        needed = {"coco": ("root",), "table": ("table", "image_root"), "toy": ()}[self.source]
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(f"source {self.source} needs the option --{name.replace('_', '-')}")
        if self.alias and not self.glove:
            raise ValueError(f"--alias {self.alias[0]!r} is for word vectors; it needs --glove")
        return self
