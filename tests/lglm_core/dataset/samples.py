"""Drawn images, and datasets that grow."""

import io
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from lglm_core.dataset.append import (
    ImagesToAppend,
)
from lglm_core.dataset.plan import ShardPlan
from lglm_core.dataset.reader import Dataset
from lglm_core.dataset.writer import DatasetWriter, WriteSettings
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.sources.source import LabelledImage
from tests.lglm_core.conftest import ListedSource

COUNTED = ("planned", "written", "rejected")
Encode = Callable[..., bytes]
Listed = Callable[..., ListedSource]

LABELS = LabelVocabulary(["cat", "dog", "boat"])
GOOD = ["good", "rotated", "really-a-png"]


def writer_of(dataset: Dataset, max_rejected: float = 1.0) -> DatasetWriter:
    return DatasetWriter(dataset.url, WriteSettings(max_samples_per_shard=2, max_rejected=max_rejected))


def append(dataset: Dataset, source: ListedSource, *, extend_labels: bool = False) -> Dataset:
    writer_of(dataset).append(source, extend_labels=extend_labels)
    return Dataset.open(dataset.url)


def keys(images: ImagesToAppend) -> list[str]:
    return [image.key for image in images.images()]


def retry(dataset: Dataset, source: ListedSource) -> Dataset:
    """Retry what *source*, which is another state of it than the dataset's, has of the rejected images."""
    writer_of(dataset).retry(source)
    return Dataset.open(dataset.url)


def drawn(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def plan_of(raw: Path, names: list[str], fingerprint: str = "f1") -> ShardPlan:
    images = tuple(
        LabelledImage(name, "train", f"{raw}/{name}.jpg", f"{name}.jpg", ("dog", "cat"), ("boat",))
        for name in names
    )
    return ShardPlan("train", 0, images, fingerprint)


def shard(out: Path) -> Path:
    return out / "shards" / "train" / "train-000000.tar"
