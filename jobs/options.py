"""The options of every job: one class each, from which command line, config file and form derive.

Imports nothing heavy, so that help, refusals and flows start fast.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model, model_validator

from lglm_core import storage
from lglm_core.model.config import LearnedGraphConfig
from lglm_core.training.recipe import Fraction, PositiveInt, Seed, TrainingRecipe, Weight

Unlabelled = Literal["keep", "drop"]
MaxRejected = Annotated[float, Field(ge=0, le=1)]
# YAML reads a year as a number.
NUMBER_AS_TEXT = BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)
ToySamples = Annotated[int, Field(ge=5, le=900_000)]


@dataclass(frozen=True)
class IsUrl:
    """Marks an option whose value is a path or URL; ``but_for`` are words that are none."""

    but_for: tuple[str, ...] = ()


Url = Annotated[str, IsUrl()]
UrlOrNone = Annotated[str | None, IsUrl()]


class Options(BaseModel):
    """What all options have in common: they are frozen, and an unknown one is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def absolute(self) -> Self:
        """Return the same options, meaning the same in a process with another working directory."""
        places = {
            name: value
            for name, info in type(self).model_fields.items()
            for mark in info.metadata
            if isinstance(mark, IsUrl) and (value := getattr(self, name)) and value not in mark.but_for
        }
        absolute = {
            name: tuple(map(storage.absolute, value)) if isinstance(value, tuple) else storage.absolute(value)
            for name, value in places.items()
        }
        return self.model_copy(update=absolute)


class OnRay(Options):
    """Options of a job that runs on Ray."""

    ray_address: str | None = None
    """Ray cluster to run on; default $RAY_ADDRESS, else a local Ray of its own."""


class WriteDataset(OnRay):
    """What the verbs that write a dataset share."""

    out: Url
    """Dataset folder to write."""
    max_samples_per_shard: PositiveInt = 1000
    """Pictures per tar file, at most."""
    max_bytes_per_shard: PositiveInt | None = None
    """Bytes of pictures per tar file, at most; by their size where they lie now."""
    verify: Literal["decode", "header"] = "decode"
    """Decode every picture to its end, or check its header and its last bytes alone, which is faster."""
    max_side: PositiveInt | None = None
    """Scale pictures with a longer side down to it, in pixels, as JPEGs; default: all keep their bytes."""
    quality: Annotated[int, Field(ge=1, le=95)] | None = None
    """Quality of those JPEGs; default 90."""
    duplicates: Literal["keep", "drop"] = "keep"
    """Pictures with the same bytes as another: keep and report them, or make rejects of all but one."""
    max_rejected: MaxRejected = 0.2
    """Fraction of the pictures that may be unreadable; with more, the dataset is not completed."""

    @model_validator(mode="after")
    def _quality_is_of_jpegs(self) -> Self:
        if self.quality is not None and self.max_side is None:
            raise ValueError("--quality is of the pictures that --max-side scales down; it needs that")
        return self


class Source(Options):
    """Where labelled pictures are found; the options of each source are its class's arguments."""

    source_class: ClassVar[str]
    """Where the source's class is: ``module:name``, loaded when it is needed."""


class Coco(Source):
    """COCO, 2014 or 2017."""

    source_class = "lglm_core.sources.coco:CocoSource"

    root: Url
    """Folder with {train,val}20xx/ and annotations/instances_{train,val}20xx.json, or .json.gz."""
    unlabelled: Unlabelled = "keep"
    """Pictures without any annotation: keep them as negatives, or drop them."""
    crowds: Literal["keep", "drop"] = "keep"
    """Whether annotations of crowds count, as the field has it."""
    min_area: Weight = 0.0
    """Annotations of a smaller area, in square pixels, do not count."""
    year: Annotated[Literal["2014", "2017"] | None, NUMBER_AS_TEXT] = None
    """Which COCO, where the root holds both."""


class Mirflickr(Source):
    """MIRFLICKR-25K."""

    source_class = "lglm_core.sources.mirflickr:MirflickrSource"

    root: Url
    """Folder with mirflickr/im*.jpg and annotations/*.txt."""
    labels: Annotated[Literal["24", "38"], NUMBER_AS_TEXT] = "24"
    """The 24 potential labels, or with the 14 relevant ones 38."""
    unlabelled: Unlabelled = "keep"
    """Pictures without any label: keep them as negatives, or drop them."""
    split_seed: Seed = 0
    """Seed of the split: one half for train, the other for val."""


class Voc(Source):
    """Pascal VOC, 2007 (trainval and test) or 2012 (train and val)."""

    source_class = "lglm_core.sources.voc:VocSource"

    root: Url
    """Folder VOC2007 or VOC2012, with JPEGImages/ and ImageSets/Main/."""


class Table(Source):
    """Your own pictures, from a CSV, TSV, JSONL or Parquet table."""

    source_class = "lglm_core.sources.table:TableSource"

    table: Url
    """File with the columns image, labels (a list, or separated by |) and optionally unknown and split."""
    image_root: Url
    """Folder that the column image is relative to, where it holds no addresses."""
    validation_share: Fraction = 0.2
    """Fraction of the pictures that go to val, where the table has no column split."""
    split_seed: Seed = 0
    """Seed of that division; each picture's side depends on its name alone."""
    label_order: UrlOrNone = None
    """File with all labels in the order wanted, a JSON list or one a line; default: alphabetical."""


class ShardToy(WriteDataset):
    """Draw scenes in COCO's format and shard them."""

    samples: ToySamples = 1000
    """Scenes to draw; a fifth of them for val."""
    seed: Seed = 0
    """Seed of the drawing."""
    root: UrlOrNone = None
    """Folder to keep the drawn COCO-format files in; default: a temporary one."""


class ShardSource(WriteDataset, Source):
    """Write the labelled pictures of a source as a sharded dataset."""


class AppendSource(WriteDataset, Source):
    """Add what a source has and a complete dataset lacks, as new shards; no existing file changes."""

    extend_labels: bool = False
    """Allow labels that the dataset does not have; they are unknown in older pictures."""


class RetrySource(WriteDataset, Source):
    """Read the pictures again that could not be read when a dataset was written."""


OwnSource = TypeVar("OwnSource", bound=WriteDataset)


def _by_source(verb: type[OwnSource]) -> dict[str, type[OwnSource]]:
    """Return the options of a verb for each source: those of the verb, and those of the source."""
    return {
        source.__name__.lower(): create_model(
            f"{verb.__name__}{source.__name__}", __base__=(verb, source), __doc__=source.__doc__
        )
        for source in (Coco, Mirflickr, Voc, Table)
    }


SHARD: dict[str, type[WriteDataset]] = {**_by_source(ShardSource), "toy": ShardToy}
APPEND = _by_source(AppendSource)
RETRY = _by_source(RetrySource)


class Verify(OnRay):
    """Check a dataset against what was written."""

    dataset: Url
    """Dataset folder."""
    full: bool = False
    """Read every byte and decode every picture; otherwise names and sizes are compared."""


class DescribeDataset(Options):
    """Tell what is in a dataset: its splits, labels, sizes and rejects, as text and as a page."""

    dataset: Url
    """Dataset folder."""
    html: UrlOrNone = None
    """HTML page to write, with pictures."""
    examples: Annotated[int, Field(ge=1, le=1000)] = 36
    """Pictures of each split that the page shows, drawn by chance."""
    top: PositiveInt = 10
    """How many labels and pairs the text names of each kind."""


class LabelVectors(Options):
    """Where the labels' vectors come from."""

    glove: UrlOrNone = None
    """GloVe text file, also in gzip or as ARCHIVE.zip/NAME; with neither this nor ready-made vectors, they
    come from label co-occurrence in the training split."""
    vectors: UrlOrNone = None
    """Ready-made vectors by label name: .parquet (label, vector), .json, or .csv with a header."""
    alias: tuple[str, ...] = ()
    """'label=words': use other words for a label; may be given several times."""
    alias_file: UrlOrNone = None
    """File of such aliases, a JSON object or one 'label=words' a line ('# …' is a comment); --alias wins
    over it."""
    oov: Literal["error", "zero", "cooccurrence"] = "error"
    """A label none of whose words GloVe holds: refuse, take a zero vector, or the mean of the labels that it
    goes together with in the training split."""

    @model_validator(mode="after")
    def _sources_go_together(self) -> Self:
        if self.glove and self.vectors:
            raise ValueError("--glove and --vectors both say where the label vectors come from; give one")
        for_words = {
            "--alias": repr(self.alias[0]) if self.alias else None,
            "--alias-file": self.alias_file,
            "--oov": None if self.oov == "error" else self.oov,
        }
        for flag, value in for_words.items():
            if value and not self.glove:
                raise ValueError(f"{flag} {value} is for word vectors; it needs --glove")
        return self


class MakeLabelEmbeddings(LabelVectors):
    """Embed the labels of a dataset."""

    dataset: Url
    """Dataset folder whose labels to embed."""
    out: Url
    """Label embeddings folder to write."""


class Recipe(TrainingRecipe, Options):
    """How to train: everything but what to train on."""

    weights: Annotated[str, IsUrl(but_for=("imagenet", "none"))] = "imagenet"
    """Weights the backbone starts from: imagenet, none, or a file."""


class Train(Recipe, OnRay):
    """Train a model on a dataset."""

    dataset: Url
    """Dataset folder."""
    label_embeddings: UrlOrNone = None
    """Label embeddings folder, made for the same labels; needed by heads that read label vectors."""
    out: Url
    """Run folder to write; the model is in its folder model."""
    hold_out: tuple[str, ...] = ()
    """Labels not to train, as if nobody had labelled them; lglm extend adds them by name afterwards."""
    num_workers: Annotated[int, Field(ge=0)] = 1
    """Ray Train workers; 0 trains in this process, without Ray."""
    cache: UrlOrNone = None
    """Folder on each worker's own disk to keep pictures in once they were read, as from a bucket."""
    cache_gb: Annotated[float, Field(gt=0)] | None = None
    """The most that the dataset may take up there, in units of 10^9 bytes; copies of others make room;
    default 100."""
    checkpoint_steps: Annotated[int, Field(ge=0)] = 1000
    """Steps between checkpoints within an epoch, from which an interrupted training goes on; 0: none but
    those at the ends of epochs."""

    @model_validator(mode="after")
    def _size_is_of_a_cache(self) -> Self:
        if self.cache_gb is not None and self.cache is None:
            raise ValueError(f"--cache-gb {self.cache_gb:g} is the size of a cache; it needs --cache")
        return self

    @model_validator(mode="after")
    def _held_labels_can_be_added(self) -> Self:
        if self.hold_out and not isinstance(self.head_config, LearnedGraphConfig):
            raise ValueError(f"--hold-out is for labels that lglm extend adds; it cannot to {self.head}")
        return self

    @model_validator(mode="after")
    def _vectors_are_named(self) -> Self:
        if self.head_config.needs_vectors and not self.label_embeddings:
            raise ValueError(f"the head {self.head} reads label vectors; name them with --label-embeddings")
        return self


class Extend(Options):
    """Add labels to a model by their names alone; no picture needs to be labelled with them."""

    model: Url
    """Model folder; one that learned its label graph from GloVe vectors."""
    label: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of the labels to add."""
    glove: Url
    """The GloVe text file that the model's label vectors came from, also in gzip or as ARCHIVE.zip/NAME."""
    alias: tuple[str, ...] = ()
    """'label=words': use other words for an added label; may be given several times."""
    alias_file: UrlOrNone = None
    """File of such aliases, a JSON object or one 'label=words' a line ('# …' is a comment); --alias wins
    over it. What it says of labels that the model has already does not count."""
    out: Url
    """Model folder to write."""


class Export(Options):
    """Write a model folded, to a backbone and one linear layer, and as ONNX."""

    model: Url
    """Model folder."""
    evaluation: UrlOrNone = None
    """Evaluation folder of this model, for the metrics on the model card."""
    out: Url
    """Model folder to write."""


class Complexity(Options):
    """Count parameters and multiply-accumulates of models; needs no data and no weights."""

    head: tuple[str, ...] = ("ml-gcn", "a-gcn", "lglm")
    """Heads; one with options of its own in quotes, as 'lglm m=358 group=358'."""
    backbone: str = "resnet101"
    """Any classification CNN of torchvision's, by name, or of timm's as timm/NAME."""
    image_size: Annotated[int, Field(ge=32)] = 448
    """Side of the square picture, in pixels."""
    labels: PositiveInt = 80
    """How many labels."""
    vector_width: PositiveInt = 300
    """Width of the labels' vectors."""


class OnSplit(OnRay):
    """Options of a job that applies a model to a split of a dataset."""

    model: Url
    """Model folder, as lglm train wrote it."""
    dataset: Url
    """Dataset folder."""
    split: str = "val"
    """Split of the dataset."""


class Evaluate(OnSplit):
    """Measure a model on a split and write a report."""

    out: Url
    """Evaluation folder to write."""


class Embed(OnSplit):
    """Write the features and scores of a split."""

    out: Url
    """Embeddings folder to write."""


class Search(Options):
    """Find the pictures of an embeddings folder that are nearest to a given one."""

    model: Url
    """Model folder that the embeddings were made with."""
    embeddings: Url
    """Embeddings folder."""
    query: Url
    """Image file."""
    k: PositiveInt = 5
    """How many neighbours."""
    out: UrlOrNone = None
    """HTML page to write."""


class Explain(Options):
    """Show where in pictures the scores of a model, or of two side by side, come from."""

    model: Url
    """Model folder; its head must fold."""
    compare: UrlOrNone = None
    """Model folder to show beside it; labels, backbone and picture size may be others."""
    image: Annotated[tuple[str, ...], IsUrl(), Field(min_length=1)]
    """Image files."""
    label: tuple[str, ...] = ()
    """Labels to explain; default: what the model tags a picture with, else its three highest."""
    out: Url
    """Folder to write: explain.html, the overlays as PNG files, and maps.safetensors."""


class Tag(OnRay):
    """Tag every file of a folder or bucket prefix."""

    model: Url
    """Model folder."""
    images: Url
    """Folder or s3:// prefix of pictures, searched to any depth; every file in it becomes a row."""
    out: Url
    """Tags folder to write."""
