"""The contract of sources: what each source of labelled images offers to the sharding plan."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

MAX_KEY_LENGTH = 80  # characters, of the 100 that a ustar header has room for
Unlabelled = Literal["keep", "drop"]


@dataclass(frozen=True, slots=True)  # there are millions of them
class LabelledImage:
    """One image as its source describes it; nobody has opened it yet.

    ``key`` is unique, at least within the split. ``uri`` is the location of the bytes, and ``source`` the
    part of it that does not depend on the location of the raw folder. ``unknown`` names the labels whose
    presence nobody annotated.
    """

    key: str
    split: str
    uri: str
    source: str
    labels: tuple[str, ...]
    unknown: tuple[str, ...] = ()

    @property
    def is_unlabelled(self) -> bool:
        """Whether the image has no label, and none that is unknown."""
        return not self.labels and not self.unknown


class LabelledImages(Protocol):
    """Labelled images that a plan divides into shards."""

    @property
    def where(self) -> str:
        """The file or folder that lists the images, for messages."""

    @property
    def keys_per_split(self) -> bool:
        """Whether a key is unique within its split only; otherwise it is unique in the whole source."""

    @property
    def unlabelled(self) -> Unlabelled:
        """Whether the plan keeps the images that are unlabelled, or drops and counts them."""

    def labels(self) -> Sequence[str]:
        """Return all labels, in column order."""

    def images(self) -> Iterable[LabelledImage]:
        """Yield every image once, also the unlabelled ones, in the source's own order."""


class Source(LabelledImages, Protocol):
    """Labelled images in one format; a new format needs one new class of this kind."""

    def inputs(self) -> Mapping[str, str]:
        """Return the digests of the annotation files, by names that hold no path of this machine."""

    def options(self) -> Mapping[str, Any]:
        """Return the settings that decide which images and labels the source yields."""


def key_of(name: str) -> str:
    """Turn a source's name of an image into a key of letters, digits, ``_`` and ``-``.

    If the name holds other characters or is too long for a tar header, eight digits of its hash are
    appended, so that different names have different keys.
    """
    key = re.sub(r"[^A-Za-z0-9_-]", "-", name)[-MAX_KEY_LENGTH:]
    return key if key == name else f"{key}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def split_of(key: str, validation_fraction: float, seed: int = 0) -> str:
    """Assign an image to ``train`` or ``val`` by a hash of its key and the seed alone.

    Adding images never moves an image to another split.

    Args:
        key: The image's key.
        validation_fraction: The fraction of images that go to ``val``, in [0, 1].
        seed: Another seed gives another division.
    """
    position = int.from_bytes(hashlib.sha256(f"split:{seed}:{key}".encode()).digest()[:8]) / 2**64
    return "val" if position < validation_fraction else "train"
