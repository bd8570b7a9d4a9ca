"""The verb export: a model room that every other verb takes, and model.onnx in it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from jobs import export as job
from lglm_core.images.codec import decode
from lglm_core.images.transforms import Preprocessing, squash
from lglm_core.labels.embeddings import LabelEmbeddings
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.model import bundle as bundles
from lglm_core.model.backbone import Backbone
from lglm_core.model.bundle import load_bundle, save_bundle
from lglm_core.model.config import HEADS, head_config
from lglm_core.model.extend import extend
from lglm_core.model.head import LabelKnowledge
from lglm_core.model.heads import BUILDERS, build_head
from lglm_core.model.recogniser import Recogniser
from lglm_core.rooms import EpochRecord, ModelManifest, Provenance, Room, digest
from tests.jobs.commands import COCO_LABELS, Commands, Here, Result, contents, done_here
from tests.servers.ray_in_process import ray_in_process

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.weighty,
]  # the first test to ask for a room waits until it is made


@pytest.fixture(scope="module")
def model(made_once: Callable) -> Path:
    """The room of a model that is quickly written as ONNX: five convolutions, and a head as drawn."""
    with made_once("export-model") as out:
        return out if out.exists() else save_small_model(out)


def save_small_model(out: Path) -> Path:
    torch.manual_seed(0)
    labels = LabelVocabulary(COCO_LABELS)
    vectors = np.random.default_rng(1).normal(size=(len(labels), 6)).astype(np.float32)
    backbone = Backbone("alexnet")
    knowledge = LabelKnowledge(len(labels), torch.from_numpy(vectors.copy()))
    config = head_config("lglm", {"d_l": 8, "graph_width": 8, "m": 8, "group": 2})
    save_bundle(
        Room(str(out), Provenance(ModelManifest, {}, {})),
        Recogniser(backbone, build_head("lglm", config, backbone.width, knowledge)),
        labels,
        embeddings=by_name(labels, vectors),
        preprocessing=Preprocessing(64),
        facts={"epochs": 1},
        history=[EpochRecord(1, 2.0, None, 0.5)],
    )
    return out


def by_name(labels: LabelVocabulary, vectors: np.ndarray) -> LabelEmbeddings:
    """Word vectors whose labels are their own words."""
    words, count = tuple((name,) for name in labels), len(labels)
    return LabelEmbeddings(labels, vectors, words, ((),) * count, ("glove",) * count, "glove")


@pytest.fixture(scope="module")
def evaluation(made_once: Callable, tiny_dataset: Path, model: Path) -> Path:
    with made_once("export-evaluation") as out, ray_in_process():
        done_here("evaluate", "--model", model, "--dataset", tiny_dataset, "--out", out)
        return out


@pytest.fixture(scope="module")
def exported(made_once: Callable, lglm: Commands, model: Path, evaluation: Path) -> Path:
    with made_once("exported") as out:
        result = lglm("export", "--model", model, "--evaluation", evaluation, "--out", out)
        assert result.code == 0, result.stderr
        assert "parameters are left" in result.stdout
        assert result.stderr.splitlines() in (["writing model.onnx"], [])  # [] where it was made before
        return out


@pytest.fixture
def images(coco: Path) -> list[Path]:
    return sorted(coco.glob("*2017/*.jpg"))


def read_manifest(room: Path) -> dict[str, Any]:
    return json.loads((room / "manifest.json").read_text())


def read_scores(folder: Path) -> dict[str, list[Any]]:
    """By key or uri, what a room of predictions or tags says."""
    table = pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("part-*.parquet"))])
    return {row.get("key") or row["uri"]: row for row in table.to_pylist()}


def run_onnx(room: Path, images: list[Path]) -> tuple[np.ndarray, dict[str, str]]:
    """Score pictures as somebody would who has nothing but the file."""
    session = onnxruntime.InferenceSession(str(room / "model.onnx"), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    size = int(metadata["image_size"])
    squashed = np.stack([squash(decode(path.read_bytes()), size).numpy() for path in images])
    return session.run(["logits"], {"images": squashed})[0], metadata


# --- What is written ---


def test_the_room_holds_a_folded_model_and_its_onnx(exported: Path, model: Path, evaluation: Path):
    names = {"model.safetensors", "model.onnx", "config.json", "labels.json", "thresholds.json"}
    assert set(contents(exported)) == {*names, "README.md", "manifest.json"}
    manifest, trained = read_manifest(exported), read_manifest(model)
    thresholds = digest((model / "thresholds.json").read_bytes())
    assert manifest["kind"] == "model"
    assert manifest["inputs"] == {
        "model": trained["fingerprint"],
        "thresholds": thresholds,
        "evaluation": read_manifest(evaluation)["fingerprint"],
    }
    assert manifest["details"]["files"] == {"model.onnx": digest((exported / "model.onnx").read_bytes())}
    assert manifest["details"]["history"] == trained["details"]["history"]
    config, before = (json.loads((room / "config.json").read_text()) for room in (exported, model))
    assert (config["head"], config["head_config"]) == ("folded", {"pooling": "max"})
    assert config["preprocessing"] == before["preprocessing"]
    assert before["facts"].items() <= config["facts"].items()
    assert trained["fingerprint"][:12] in config["facts"]["folded from"]
    for name in ("labels.json", "thresholds.json"):
        assert (exported / name).read_bytes() == (model / name).read_bytes()
    width, labels = config["feature_width"], 4
    backbone = sum(p.numel() for p in load_bundle(str(model)).model.backbone.parameters())
    assert manifest["counts"]["parameters"] == backbone + (width + 1) * labels


def test_the_card_tells_the_evaluations_metrics(exported: Path, evaluation: Path, model: Path):
    card, metrics = (
        (exported / "README.md").read_text(),
        json.loads((evaluation / "metrics.json").read_text()),
    )
    assert f"mAP {metrics['mAP']:.1f}" in card
    assert "| at one half |" in card
    assert "| head | folded |" in card
    assert "| at one half |" not in (model / "README.md").read_text()


def test_the_loaded_model_gives_the_same_logits(exported: Path, model: Path):
    images = torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = (load_bundle(str(room)).model(images).logits for room in (exported, model))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("without_ray")
def test_onnx_and_tags_agree(
    here: Here, exported: Path, model: Path, coco: Path, images: list[Path], tmp_path: Path
):
    """Both models tag alike, and as the file alone does with its own labels and thresholds."""
    for room in (model, exported):
        edited = Path(shutil.copytree(room, tmp_path / room.name))
        everything = dict.fromkeys(json.loads((edited / "labels.json").read_text()), 0.0)
        (edited / "thresholds.json").write_text(json.dumps(everything))
        tags = tmp_path / f"tags-{room.name}"
        here.done("tag", "--model", edited, "--images", coco / "val2017", "--out", tags)
    ours, theirs = (read_scores(tmp_path / f"tags-{room.name}") for room in (exported, model))
    images = [path for path in images if path.parent.name == "val2017"]
    assert set(ours) == set(theirs) == set(map(str, images))
    logits, metadata = run_onnx(exported, images)
    names = json.loads(metadata["labels"])
    for path, row in zip(images, logits, strict=True):
        found = dict(zip(ours[str(path)]["labels"], ours[str(path)]["scores"], strict=True))
        before = dict(zip(theirs[str(path)]["labels"], theirs[str(path)]["scores"], strict=True))
        assert found == pytest.approx(before, abs=1e-5)
        assert found == pytest.approx(dict(zip(names, 1 / (1 + np.exp(-row)), strict=True)), abs=1e-4)


@pytest.mark.usefixtures("without_ray")
def test_an_evaluation_of_it_measures_the_same(
    here: Here, exported: Path, evaluation: Path, tiny_dataset: Path, tmp_path: Path
):
    out = tmp_path / "evaluation"
    here.done("evaluate", "--model", exported, "--dataset", tiny_dataset, "--out", out)
    ours, theirs = (read_scores(room / "predictions") for room in (out, evaluation))
    assert list(ours) == list(theirs)
    for key, row in ours.items():
        np.testing.assert_allclose(row["scores"], theirs[key]["scores"], rtol=0, atol=1e-5)
    measured = [json.loads((room / "metrics.json").read_text())["mAP"] for room in (out, evaluation)]
    assert measured[0] == pytest.approx(measured[1])


def test_thresholds_as_people_set_them_come_along(here: Here, model: Path, tmp_path: Path):
    room = Path(shutil.copytree(model, tmp_path / "model"))
    thresholds = dict(zip(json.loads((room / "labels.json").read_text()), (0.1, 0.2, 0.3, 0.4), strict=True))
    (room / "thresholds.json").write_text(json.dumps(thresholds))
    assert here("export", "--model", room, "--out", tmp_path / "out").code == 0
    assert load_bundle(str(tmp_path / "out")).thresholds == (0.1, 0.2, 0.3, 0.4)
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    assert json.loads(session.get_modelmeta().custom_metadata_map["thresholds"]) == [0.1, 0.2, 0.3, 0.4]
    (room / "thresholds.json").write_text(json.dumps(thresholds | {"dog": 0.9}))
    result = here("export", "--model", room, "--out", tmp_path / "out")
    assert result.code == 2
    assert "thresholds was" in result.stderr


def test_a_model_with_labels_added_by_name_is_exported_with_them(
    here: Here, model: Path, images: list[Path], tmp_path: Path
):
    before = load_bundle(str(model))
    assert before.embeddings is not None
    rng = np.random.default_rng(0)
    added = rng.normal(size=(2, before.embeddings.vectors.shape[1])).astype(np.float32)
    labels = LabelVocabulary([*before.labels, "skateboard", "fire hydrant"])
    vectors = np.concatenate([before.embeddings.vectors, added])
    save_bundle(
        Room(str(tmp_path / "model"), Provenance(ModelManifest, {}, {})),
        extend(before.model, torch.from_numpy(added)),
        labels,
        embeddings=by_name(labels, vectors),
        preprocessing=before.preprocessing,
        facts={"epochs": 1},
        untrained=["skateboard", "fire hydrant"],
    )
    result = here("export", "--model", tmp_path / "model", "--out", tmp_path / "out", "--json")
    assert result.code == 0, result.stderr
    assert result.object["counts"]["labels"] == 6
    assert result.object["counts"]["untrained_labels"] == 2
    ours, theirs = (load_bundle(str(tmp_path / name)) for name in ("out", "model"))
    assert ours.untrained == ("skateboard", "fire hydrant")
    assert "known by their names alone: skateboard, fire hydrant" in (tmp_path / "out/README.md").read_text()
    pixels = torch.stack([squash(decode(path.read_bytes()), 64) for path in images])
    with torch.no_grad():
        expected = theirs.model(theirs.preprocessing.normalise(pixels)).logits.numpy()
    logits, metadata = run_onnx(tmp_path / "out", images)
    assert json.loads(metadata["labels"]) == list(labels)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


# --- Again, and interrupted ---


def test_it_is_complete_already(here: Here, exported: Path, model: Path, evaluation: Path):
    before = contents(exported)
    arguments = ("--model", model, "--evaluation", evaluation, "--out", exported, "--json")
    result = here("export", *arguments)
    assert result.object["status"] == "already complete"
    assert result.stderr == ""
    assert contents(exported) == before
    without = here("export", "--model", model, "--out", exported)
    assert without.code == 2
    assert "evaluation was" in without.stderr


def test_the_manifest_comes_last_and_an_interrupted_export_goes_on(
    here: Here,
    exported: Path,
    model: Path,
    evaluation: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    arguments = ("--model", model, "--evaluation", evaluation, "--out", tmp_path / "out")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Room, "commit", interrupted)
        assert here("export", *arguments).code == 130
    assert (tmp_path / "out" / "model.onnx").exists()
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert here("export", *arguments).code == 0
    assert contents(tmp_path / "out") == contents(exported)


# --- Refusals ---


def assert_refused(result: Result, out: Path, *naming: str) -> None:
    assert result.code == 2, result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    for name in naming:
        assert name in result.stderr
    assert not out.exists()


def test_an_evaluation_of_another_model_is_refused(
    here: Here, exported: Path, evaluation: Path, model: Path, tmp_path: Path
):
    out = tmp_path / "out"
    result = here("export", "--model", exported, "--evaluation", evaluation, "--out", out)
    assert_refused(result, out, str(evaluation), "another model", str(exported))
    result = here("export", "--model", model, "--evaluation", model, "--out", out)
    assert_refused(result, out, "a model room was found where an evaluation room was expected")


def test_no_model_is_refused(here: Here, tiny_dataset: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert_refused(here("export", "--model", tmp_path / "no", "--out", out), out, "no complete model room")
    assert_refused(here("export", "--model", tiny_dataset, "--out", out), out, "dataset room was found")


@pytest.mark.parametrize("package", job.PACKAGES)
def test_without_onnx_it_refuses_before_any_work(
    here: Here, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
):
    def find(name: str) -> object | None:
        return None if name == package else object()

    monkeypatch.setattr(job.importlib.util, "find_spec", find)
    monkeypatch.setattr(bundles, "load_bundle", pytest.fail)
    result = here("export", "--model", model, "--out", tmp_path / "out")
    assert_refused(result, tmp_path / "out", f"with {package}, which", "pip install 'lglm[onnx]'")


@pytest.mark.parametrize("name", [name for name in BUILDERS if not HEADS[name].foldable])
def test_a_head_that_does_not_fold_is_refused(here: Here, model: Path, tmp_path: Path, name: str):
    before = load_bundle(str(model))
    assert before.embeddings is not None
    backbone = before.model.backbone
    vectors = torch.from_numpy(before.embeddings.vectors.copy())
    knowledge = LabelKnowledge(4, vectors, torch.eye(4, dtype=torch.int64))
    save_bundle(
        Room(str(tmp_path / "model"), Provenance(ModelManifest, {}, {})),
        Recogniser(backbone, build_head(name, head_config(name), backbone.width, knowledge)),
        before.labels,
        embeddings=before.embeddings if HEADS[name].needs_vectors else None,
        preprocessing=before.preprocessing,
        facts={},
    )
    result = here("export", "--model", tmp_path / "model", "--out", tmp_path / "out")
    assert_refused(result, tmp_path / "out", f"the head {name} does not fold")
