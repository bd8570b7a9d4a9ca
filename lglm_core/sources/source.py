"""What every source of labelled pictures offers the sharding plan."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

MAX_KEY_LENGTH = 80  # characters, of the 100 that a ustar header holds


@dataclass(frozen=True, slots=True)  # there are millions of them
class LabelledImage:
    """One picture as its source describes it, before anyone opened it.

    ``key`` is unique, at least within the split; ``uri`` is where the bytes lie and ``source`` the part of it
    that does not depend on where the raw folder stands; ``unknown`` names labels of which nobody
    said whether they are there.
    """

    key: str
    split: str
    uri: str
    source: str
    labels: tuple[str, ...]
    unknown: tuple[str, ...] = ()


class LabelledImages(Protocol):
    """Pictures to be divided into shards; ``where`` they are told of, for messages."""

    @property
    def where(self) -> str:
        """A file or a folder."""

    @property
    def keys_per_split(self) -> bool:
        """Whether one key may name another picture in each split; else it names one picture."""

    def labels(self) -> Sequence[str]:
        """All labels, in column order."""

    def images(self) -> Iterable[LabelledImage]:
        """Every picture once, in the source's own order."""


class Source(LabelledImages, Protocol):
    """Labelled pictures of one format; adding a format is adding one such class.

    ``dropped`` counts the unlabelled pictures that :meth:`images` left out on request.
    """

    @property
    def dropped(self) -> int:
        """How many there were so far."""

    def inputs(self) -> Mapping[str, str]:
        """Digests of the annotation files, by a name that holds no path of this machine."""

    def options(self) -> Mapping[str, Any]:
        """The settings that decide which images and labels come out."""


def key_of(name: str) -> str:
    """Turn a source's id into a key of letters, digits, ``_`` and ``-``.

    A name with anything else in it, or too long for a tar header, also gets eight digits of its
    hash, so that no two names meet.
    """
    key = re.sub(r"[^A-Za-z0-9_-]", "-", name)[-MAX_KEY_LENGTH:]
    return key if key == name else f"{key}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def split_of(key: str, validation_share: float, seed: int = 0) -> str:
    """Assign a picture to ``train`` or ``val`` by the hash of its key, and of the seed, alone.

    New pictures never move an old one to the other side.
    """
    position = int.from_bytes(hashlib.sha256(f"split:{seed}:{key}".encode()).digest()[:8]) / 2**64
    return "val" if position < validation_share else "train"
