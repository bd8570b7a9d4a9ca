"""Small drawn datasets and models that the tests of the core share, and a web server."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lglm_core import rooms
from lglm_core.dataset.image_policy import ImagePolicy
from lglm_core.dataset.reader import Dataset
from lglm_core.dataset.writer import DatasetWriter, WriteSettings
from lglm_core.images.transforms import Preprocessing
from lglm_core.labels.embeddings import LabelEmbeddings
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.model.backbone import Backbone
from lglm_core.model.bundle import save_bundle
from lglm_core.model.config import LglmConfig
from lglm_core.model.head import LabelKnowledge
from lglm_core.model.heads import build_head
from lglm_core.model.recogniser import Recogniser
from lglm_core.sources.source import LabelledImage, Unlabelled
from tests.servers.web import Website, website

Encode = Callable[..., bytes]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Several test processes share few cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def encode() -> Encode:
    """Encode a Pillow image: ``encode(image, "PNG", **options)``."""

    def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        return buffer.getvalue()

    return encoded


@dataclass(frozen=True)
class ListedSource:
    """A source that holds what it is told."""

    names: tuple[str, ...]
    listed: tuple[LabelledImage, ...]
    unlabelled: Unlabelled = "keep"
    keys_per_split: bool = False
    where: str = "the list"

    def inputs(self) -> dict[str, str]:
        return {"list": rooms.digest([image.source for image in self.listed])}

    def options(self) -> dict[str, Any]:
        return {"source": "listed"}

    def labels(self) -> Sequence[str]:
        return self.names

    def images(self) -> tuple[LabelledImage, ...]:
        return self.listed


@pytest.fixture(scope="session")
def listed_source() -> type[ListedSource]:
    return ListedSource


@pytest.fixture(scope="session")
def write_dataset() -> Callable[..., Dataset]:
    """Shard and commit pictures: ``write_dataset(folder, labels, rows)``.

    Each row is (split, encoded bytes or None for a missing file, label names, unknown names); the
    keys are s0, s1, …
    """

    def write(
        folder: Path,
        labels: Sequence[str],
        rows: Sequence[tuple[str, bytes | None, Sequence[str], Sequence[str]]],
        per_shard: int = 4,
        policy: ImagePolicy | None = None,
    ) -> Dataset:
        raw = folder / "raw"
        raw.mkdir(parents=True)
        images = []
        for number, (split, data, present, unknown) in enumerate(rows):
            path = raw / f"s{number}"
            if data is not None:
                path.write_bytes(data)
            images.append(
                LabelledImage(f"s{number}", split, str(path), path.name, tuple(present), tuple(unknown))
            )
        source = ListedSource(tuple(labels), tuple(images))
        url = str(folder / "dataset")
        settings = WriteSettings(
            max_samples_per_shard=per_shard, images=policy or ImagePolicy(), max_rejected=1.0
        )
        DatasetWriter(url, settings).write(source)
        return Dataset.open(url)

    return write


BITS = ("bit0", "bit1", "bit2", "bit3", "bit4")


@pytest.fixture(scope="session")
def numbered(
    tmp_path_factory: pytest.TempPathFactory, encode: Encode, write_dataset: Callable[..., Dataset]
) -> Dataset:
    """Pictures of one colour each: red is the sample's number, and its labels are that number's bits."""
    rows = []
    for number in range(23):
        picture = Image.new("RGB", (9, 7), (number, 255 - number, 5 * number))
        present = [name for bit, name in enumerate(BITS) if number >> bit & 1]
        rows.append(("train", encode(picture), present, ()))
    rows += [("val", data, present, unknown) for _, data, present, unknown in rows[:5]]
    return write_dataset(tmp_path_factory.mktemp("numbered"), BITS, rows)


SHAPES = ("bright", "red", "striped")


@pytest.fixture(scope="session")
def learnable(
    tmp_path_factory: pytest.TempPathFactory, encode: Encode, write_dataset: Callable[..., Dataset]
) -> Dataset:
    """Ten training and six validation pictures of 32 pixels whose labels can be seen in them."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(16):
        present = [name for name in SHAPES if rng.random() < 0.5]
        pixels = rng.normal(160 if "bright" in present else 60, 20, (32, 32, 3))
        pixels[..., 0] += 60 if "red" in present else 0
        pixels[::4] -= 50 if "striped" in present else 0
        picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        rows.append(("train" if number < 10 else "val", encode(picture), present, ()))
    return write_dataset(tmp_path_factory.mktemp("learnable"), SHAPES, rows)


@pytest.fixture(scope="session")
def shape_embeddings() -> LabelEmbeddings:
    """Eight-dimensional vectors for the labels of ``learnable``."""
    vectors = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    return LabelEmbeddings(
        LabelVocabulary(SHAPES), vectors, tuple((n,) for n in SHAPES), ((),) * 3, ("glove",) * 3, "glove"
    )


SMALL = LglmConfig(d_l=16, graph_width=16, m=12, group=3)


@pytest.fixture(scope="session")
def small_head() -> LglmConfig:
    return SMALL


@pytest.fixture(scope="session")
def randomise() -> Callable[[torch.nn.Module], None]:
    """Give weights, biases and running statistics random values, as if something had been learned."""

    @torch.no_grad()
    def randomise(module: torch.nn.Module, seed: int = 0) -> None:
        rng = torch.Generator().manual_seed(seed)
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=rng) + 0.5)
            elif "score" in name or (tensor.ndim > 1 and not tensor.any()):
                tensor.copy_(torch.randn(tensor.shape, generator=rng) / tensor.shape[-1] ** 0.5)
            elif name.endswith("running_mean") or tensor.ndim == 1:
                tensor.add_(torch.randn(tensor.shape, generator=rng) * 0.3)

    return randomise


@pytest.fixture(scope="session")
def trained_model(shape_embeddings: LabelEmbeddings, randomise: Callable[..., None]) -> Recogniser:
    """A small LGLM with weights as if trained, in eval mode; do not change it."""
    torch.manual_seed(0)
    backbone = Backbone("mobilenet_v3_small")
    knowledge = LabelKnowledge(3, torch.from_numpy(shape_embeddings.vectors.copy()))
    model = Recogniser(backbone, build_head("lglm", SMALL, backbone.width, knowledge))
    randomise(model.head)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0  # one pass sets the statistics, and activations stay in range
    with torch.no_grad():
        model((torch.rand(32, 3, 32, 32) - 0.45) / 0.225)
    return model.eval()


@pytest.fixture(scope="session")
def model_room(
    tmp_path_factory: pytest.TempPathFactory, trained_model: Recogniser, shape_embeddings: LabelEmbeddings
) -> Path:
    """The model room of ``trained_model``; copy it before changing anything."""
    url = tmp_path_factory.mktemp("model") / "model"
    provenance = rooms.Provenance(rooms.ModelManifest, {"dataset": "d" * 64}, {"seed": 0})
    save_bundle(
        rooms.Room(str(url), provenance),
        trained_model,
        shape_embeddings.labels,
        embeddings=shape_embeddings,
        preprocessing=Preprocessing(32),
        facts={"epochs": 3},
    )
    return url


@pytest.fixture
def fresh_web(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Reach web servers without a proxy, retry them at once, and forget those of other tests."""
    from lglm_core.storage import http_client, retry

    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(retry, "FIRST_DELAY_S", 0.01)  # otherwise the tests wait most of their time
    for cached in (http_client.connect, http_client._pool):
        cached.cache_clear()
    yield
    for cached in (http_client.connect, http_client._pool):
        cached.cache_clear()


@pytest.fixture
def site(fresh_web: None) -> Iterator[Website]:
    """A web server of the test's own; its ``files`` are what a test puts there."""
    with website() as served:
        yield served
