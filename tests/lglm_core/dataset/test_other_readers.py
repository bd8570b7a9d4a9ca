"""The shards, opened as others open them: by webdataset, and by Hugging Face's datasets."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lglm_core.dataset.reader import Dataset

SAMPLES = 14


@pytest.fixture(scope="module")
def dataset(
    tmp_path_factory: pytest.TempPathFactory,
    encode: Callable[..., bytes],
    write_dataset: Callable[..., Dataset],
) -> Dataset:
    """JPEG, PNG and WebP; the first ones without label, and nothing unknown before the last ones."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(SAMPLES):
        picture = Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8))
        data = encode(picture, ("JPEG", "PNG", "WEBP")[number % 3])
        rows.append(("train", data, ["a"] if number > 6 else [], ["b"] if number > 10 else []))
    return write_dataset(tmp_path_factory.mktemp("other"), ["a", "b"], rows)


@pytest.fixture(scope="module")
def shards(dataset: Dataset) -> list[str]:
    return sorted(map(str, Path(dataset.url, "shards", "train").iterdir()))


def expected(dataset: Dataset) -> list[tuple[str, bytes, list[str], list[str]]]:
    """Key, image, labels and unknown labels of every sample, by our own reader."""
    split = dataset.split("train")
    names = np.array(dataset.labels.names)
    return [
        (
            split.keys[row],
            split.read_image(row),
            names[split.targets[row] == 1].tolist(),
            names[split.targets[row] == -1].tolist(),
        )
        for row in range(len(split))
    ]


@pytest.mark.filterwarnings("ignore")
def test_webdataset(dataset: Dataset, shards: list[str]):
    import webdataset

    pipeline = webdataset.WebDataset(shards, shardshuffle=False).to_tuple("__key__", "jpg", "json")
    found = [(key, data, json.loads(text)) for key, data, text in pipeline]
    assert [(k, d, t["labels"], t["unknown"]) for k, d, t in found] == expected(dataset)


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Hugging Face's reader, as the manual tells to use it."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    from datasets import Features, List, Value, load_dataset
    from datasets import Image as Picture

    text = {"labels": List(Value("string")), "unknown": List(Value("string")), "source": Value("string")}
    features = Features(
        {"jpg": Picture(decode=False), "json": text, "__key__": Value("string"), "__url__": Value("string")}
    )

    def load(shards: list[str], streaming: bool) -> Any:
        return load_dataset(
            "webdataset",
            data_files={"train": shards},
            split="train",
            features=features,
            streaming=streaming,
            cache_dir=str(tmp_path / "cache"),
        )

    return load


@pytest.mark.parametrize("streaming", [False, True])
def test_hugging_face_datasets(
    dataset: Dataset, shards: list[str], load: Callable[..., Any], streaming: bool
):
    found = [
        (row["__key__"], row["jpg"]["bytes"], row["json"]["labels"], row["json"]["unknown"])
        for row in load(shards, streaming)
    ]
    assert found == expected(dataset)


def test_hugging_face_decodes_every_format(shards: list[str], load: Callable[..., Any]):
    from datasets import Image as Picture

    decoded = load(shards, False).cast_column("jpg", Picture())
    assert {row["jpg"].size for row in decoded} == {(10, 12)} and len(decoded) == SAMPLES


def test_plain_tar(dataset: Dataset, shards: list[str]):
    images = {}
    for path in shards:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    file = tar.extractfile(member)
                    assert file
                    images[member.name.removesuffix(".jpg")] = file.read()
    assert images == {key: data for key, data, *_ in expected(dataset)}
    assert all(Image.open(io.BytesIO(data)).size == (10, 12) for data in images.values())
