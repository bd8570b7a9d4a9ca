"""A small dataset and a source of the same folder, for what appends and retries."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lglm_core.dataset.reader import Dataset
from lglm_core.dataset.receipt import Receipt
from lglm_core.dataset.shard_writer import write_shard
from lglm_core.sources.source import LabelledImage
from tests.lglm_core.conftest import ListedSource
from tests.lglm_core.dataset.samples import GOOD, LABELS, plan_of

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


@pytest.fixture
def raw(tmp_path: Path, encode: Encode) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (30, 20, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    (folder / "good.jpg").write_bytes(encode(noise, "JPEG"))
    (folder / "rotated.jpg").write_bytes(encode(noise, "JPEG", exif=exif))
    (folder / "really-a-png.jpg").write_bytes(encode(noise, "PNG"))
    (folder / "empty.jpg").touch()
    (folder / "truncated.jpg").write_bytes((folder / "good.jpg").read_bytes()[:400])
    (folder / "letter.jpg").write_text("Dear Sir or Madam")
    (folder / "folder.jpg").mkdir()
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "dataset"


@pytest.fixture
def receipt(raw: Path, out: Path) -> Receipt:
    return write_shard(plan_of(raw, GOOD), LABELS, str(out))
