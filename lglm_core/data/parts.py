"""The parts of a dataset that was added to: each has files of its own, and none is ever written again."""

from collections.abc import Mapping
from typing import Any

from lglm_core.data import storage
from lglm_core.labels import LabelVocabulary
from lglm_core.rooms import Manifest


def in_part(name: str, part: int) -> str:
    """Return what a file of the first part, 0, is called in a later one: ``index/train.0001.parquet``."""
    stem, _, suffix = name.rpartition(".")
    return name if part == 0 else f"{stem}.{part:04d}.{suffix}"


def latest(name: str, details: Mapping[str, Any]) -> str:
    """Return the file that counts now of those called *name*: that of the last part that has one.

    Args:
        details: Those of the dataset's manifest.
    """
    every = [in_part(name, part) for part in range(len(details["parts"]))]
    return next(each for each in reversed(every) if each in details["files"])


def load_labels(url: str, manifest: Manifest) -> LabelVocabulary:
    """Read all labels of the dataset at *url*, by its manifest; a wrong byte is not noticed here."""
    return LabelVocabulary.load(storage.join(url, latest("labels.json", manifest.details)))


def earlier_manifest(part: int) -> str:
    """Return where the manifest is kept of the dataset as it was when *part* was its last."""
    return f"manifests/{part:04d}.json"
