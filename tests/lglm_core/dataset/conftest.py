"""A small dataset and a source of the same folder, for what appends and retries."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from lglm_core.dataset.reader import Dataset
from lglm_core.sources.source import LabelledImage
from tests.lglm_core.conftest import ListedSource

COUNTED = ("planned", "written", "rejected")
Encode = Callable[..., bytes]
Listed = Callable[..., ListedSource]


@pytest.fixture
def first(tmp_path: Path, encode: Encode, write_dataset: Callable[..., Dataset]) -> Dataset:
    """Five pictures, s0 to s4, the last of which cannot be read."""
    rows = [
        ("val" if n == 1 else "train", encode(Image.new("RGB", (5, 4), (n, 0, 0))), ["a"], ["b"] if n else [])
        for n in range(4)
    ]
    return write_dataset(tmp_path, ["a", "b"], [*rows, ("train", b"", ["a"], [])], per_shard=2)


@pytest.fixture
def listed(first: Dataset, encode: Encode, listed_source: Listed) -> Listed:
    """A source of the same folder with further pictures: ``listed({"s7": ["a"]}, labels)``."""

    def source(
        rows: dict[str, Sequence[str]], labels: Sequence[str] = ("a", "b"), split: str = "train"
    ) -> ListedSource:
        raw = Path(first.url).parent / "raw"
        images = []
        for key, present in rows.items():
            path = raw / key
            if not path.exists():
                path.write_bytes(encode(Image.new("RGB", (5, 4), (0, int(key[1:]), 0))))
            unknown = ("b",) if key in ("s1", "s2", "s3") else ()
            images.append(LabelledImage(key, split, str(path), key, tuple(present), unknown))
        return listed_source(tuple(labels), tuple(images))

    return source
