"""The options of every job: one class each, from which command line, config file and form are derived.

The module imports nothing heavy, so that help, refusals and flows start fast.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

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
    """Mark an option whose value is a path or URL, or one of ``keywords``."""

    keywords: tuple[str, ...] = ()


Url = Annotated[str, IsUrl()]
UrlOrNone = Annotated[str | None, IsUrl()]


class Options(BaseModel):
    """Base of all options: they are frozen, and an unknown one is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    now_verbs: ClassVar[Mapping[str, str]] = {}
    """Flags of earlier versions, and the verb that does now what each of them did."""

    def absolute(self) -> Self:
        """Return the same options with absolute paths, for processes in another working directory."""
        urls = {
            name: value
            for name, info in type(self).model_fields.items()
            for mark in info.metadata
            if isinstance(mark, IsUrl) and (value := getattr(self, name)) and value not in mark.keywords
        }
        absolute = {
            name: tuple(map(storage.absolute, value)) if isinstance(value, tuple) else storage.absolute(value)
            for name, value in urls.items()
        }
        return self.model_copy(update=absolute)


class OnRay(Options):
    """Options of a job that runs on Ray."""

    ray_address: str | None = None
    """Ray cluster to run on; default $RAY_ADDRESS, else a local Ray of its own."""


class WriteDataset(OnRay):
    """Options that the verbs that write a dataset share."""

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
    """Options of a source of labelled pictures; they are the arguments of the source's class."""

    source_class: ClassVar[str]
    """The class of the source, as ``module:name``; it is imported when it is needed."""


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

    now_verbs = {"--append": "append", "--extend-labels": "append", "--retry-rejected": "retry"}


class AppendSource(WriteDataset, Source):
    """Add what a source has and a complete dataset lacks, as new shards; no existing file changes."""

    extend_labels: bool = False
    """Allow labels that the dataset does not have; they are unknown in older pictures."""


class RetrySource(WriteDataset, Source):
    """Read again the pictures that could not be read when a dataset was written."""

    extend_labels: bool = False
    """Allow labels of these pictures that the dataset does not have; they are unknown in older pictures."""


OfVerb = TypeVar("OfVerb", bound=WriteDataset)


def _combined(verb: type[OfVerb], source: type[Source]) -> type[OfVerb]:
    bases: Any = (verb, source)
    return create_model(f"{verb.__name__}{source.__name__}", __base__=bases, __doc__=source.__doc__)


def _by_source(verb: type[OfVerb]) -> dict[str, type[OfVerb]]:
    """Return the options of a verb for each source: those of the verb, and those of the source."""
    return {source.__name__.lower(): _combined(verb, source) for source in (Coco, Mirflickr, Voc, Table)}


SHARD: dict[str, type[WriteDataset]] = {**_by_source(ShardSource), "toy": ShardToy}
APPEND = _by_source(AppendSource)
RETRY = _by_source(RetrySource)


class Verify(OnRay):
    """Check that the files of a dataset are as they were written."""

    dataset: Url
    """Dataset folder."""
    full: bool = False
    """Read every byte and decode every picture; by default, only names and sizes are compared."""


class DescribeDataset(Options):
    """Describe a dataset: its splits, labels, sizes and rejects, as text and as a page."""

    dataset: Url
    """Dataset folder."""
    html: UrlOrNone = None
    """HTML page to write, with pictures."""
    examples: Annotated[int, Field(ge=1, le=1000)] = 36
    """Number of pictures of each split that the page shows, chosen at random."""
    top: PositiveInt = 10
    """Number of labels and pairs of each kind that the text names."""


class LabelVectors(Options):
    """Options that say where the labels' vectors come from."""

    glove: UrlOrNone = None
    """GloVe text file, also in gzip or as ARCHIVE.zip/NAME; with neither this nor ready-made vectors, the
    vectors come from label co-occurrence in the training split."""
    vectors: UrlOrNone = None
    """Ready-made vectors by label name: .parquet (label, vector), .json, or .csv with a header."""
    alias: tuple[str, ...] = ()
    """'label=words': use other words for a label; may be given several times."""
    alias_file: UrlOrNone = None
    """File of such aliases, a JSON object or one 'label=words' a line ('# …' is a comment); --alias wins
    over it."""
    oov: Literal["error", "zero", "cooccurrence"] = "error"
    """For a label without any word in GloVe: refuse it, take a zero vector, or the mean vector of the labels
    that it co-occurs with in the training split."""

    @model_validator(mode="after")
    def _sources_go_together(self) -> Self:
        if self.glove and self.vectors:
            raise ValueError("--glove and --vectors both give label vectors; give one of them")
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
    """Make a vector for each label of a dataset."""

    dataset: Url
    """Dataset folder with the labels."""
    out: Url
    """Label embeddings folder to write."""


class RecipeOptions(TrainingRecipe, Options):
    """How to train, without what to train on."""

    weights: Annotated[str, IsUrl(keywords=("imagenet", "none"))] = "imagenet"
    """Weights the backbone starts from: imagenet, none, or a file."""


class Train(RecipeOptions, OnRay):
    """Train a model on a dataset."""

    dataset: Url
    """Dataset folder."""
    label_embeddings: UrlOrNone = None
    """Label embeddings folder for the same labels; needed by heads that read label vectors."""
    out: Url
    """Run folder to write; the model is in its folder model."""
    hold_out: tuple[str, ...] = ()
    """Labels to leave out of the training, as if no picture had them; lglm extend adds them by name later."""
    num_workers: Annotated[int, Field(ge=0)] = 1
    """Ray Train workers; 0 trains in this process, without Ray."""
    cache: UrlOrNone = None
    """Folder on each worker's own disk that keeps pictures once they are read from a bucket."""
    cache_gb: Annotated[float, Field(gt=0)] | None = None
    """Limit of the cache's size, in units of 10^9 bytes; copies of other datasets are removed to make room;
    default 100."""
    checkpoint_steps: Annotated[int, Field(ge=0)] = 1000
    """Steps between checkpoints within an epoch, from which an interrupted training resumes; 0: checkpoints
    at the ends of epochs only."""

    @model_validator(mode="after")
    def _cache_size_needs_a_cache(self) -> Self:
        if self.cache_gb is not None and self.cache is None:
            raise ValueError(f"--cache-gb {self.cache_gb:g} is the size of a cache; it needs --cache")
        return self

    @model_validator(mode="after")
    def _held_out_labels_can_be_added(self) -> Self:
        if self.hold_out and not isinstance(self.head_config, LearnedGraphConfig):
            raise ValueError(f"--hold-out is for labels that lglm extend adds; it adds none to {self.head}")
        return self

    @model_validator(mode="after")
    def _vectors_are_given(self) -> Self:
        if self.head_config.needs_vectors and not self.label_embeddings:
            raise ValueError(f"the head {self.head} reads label vectors; name them with --label-embeddings")
        return self


class Extend(Options):
    """Add labels to a model by their names alone; no picture needs to be labelled with them."""

    model: Url
    """Model folder, of a model that learned its label graph from GloVe vectors."""
    label: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of the labels to add."""
    glove: Url
    """GloVe text file that the model's label vectors come from, also in gzip or as ARCHIVE.zip/NAME."""
    alias: tuple[str, ...] = ()
    """'label=words': use other words for an added label; may be given several times."""
    alias_file: UrlOrNone = None
    """File of such aliases, a JSON object or one 'label=words' a line ('# …' is a comment); --alias wins
    over it. Aliases of labels that the model already has are ignored."""
    out: Url
    """Model folder to write."""


class Export(Options):
    """Write a model folded into a backbone and one linear layer, and as ONNX."""

    model: Url
    """Model folder."""
    evaluation: UrlOrNone = None
    """Evaluation folder of this model; its metrics go on the model card."""
    out: Url
    """Model folder to write."""


class Complexity(Options):
    """Count the parameters and multiply-accumulates of models, without data or weights."""

    head: tuple[str, ...] = ("ml-gcn", "a-gcn", "lglm")
    """Heads to compare; a head with options is given in quotes, as 'lglm m=358 group=358'."""
    backbone: str = "resnet101"
    """Any classification CNN of torchvision's, by name, or of timm's as timm/NAME."""
    image_size: Annotated[int, Field(ge=32)] = 448
    """Side of the square picture, in pixels."""
    labels: PositiveInt = 80
    """Number of labels."""
    vector_width: PositiveInt = 300
    """Width of the label vectors."""


class OnSplit(OnRay):
    """Options of a job that applies a model to a split of a dataset."""

    model: Url
    """Model folder, as lglm train wrote it."""
    dataset: Url
    """Dataset folder."""
    split: str = "val"
    """Name of the split."""


class Evaluate(OnSplit):
    """Measure a model on a split and write a report."""

    out: Url
    """Evaluation folder to write."""


class Embed(OnSplit):
    """Write the features and scores of a split."""

    out: Url
    """Embeddings folder to write."""


class Search(Options):
    """Find the pictures of an embeddings folder that are nearest to a given picture."""

    model: Url
    """Folder of the model that made the embeddings."""
    embeddings: Url
    """Embeddings folder."""
    query: Url
    """Image file whose neighbours to find."""
    k: PositiveInt = 5
    """Number of neighbours."""
    out: UrlOrNone = None
    """HTML page to write."""


class Explain(Options):
    """Show where in pictures a model's scores come from; two models can be compared."""

    model: Url
    """Model folder; its head must be one that folds."""
    compare: UrlOrNone = None
    """Folder of a second model to show beside it; its labels, backbone and picture size may differ."""
    image: Annotated[tuple[str, ...], IsUrl(), Field(min_length=1)]
    """Image files."""
    label: tuple[str, ...] = ()
    """Labels to explain; default: the tags of a picture, or its three highest scores if it has none."""
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
