"""Rooms that lglm 0.4.0 wrote: they open as before, count as complete, and are written alike today."""

import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from lglm_core.dataset.reader import Dataset
from lglm_core.images.codec import decode
from lglm_core.images.transforms import squash
from lglm_core.inference.tagger import Tagger
from lglm_core.labels.embeddings import LabelEmbeddings
from lglm_core.model.bundle import load_bundle
from tests.jobs.commands import Here, contents, done_here
from tests.rooms_0_4_0.draw import COMMANDS, LABELS, LATER, WORDS
from tests.servers.ray_in_process import ray_in_process

ROOMS = Path(__file__).parent / "rooms.zip"
INPUTS = ("photos", "coco", "labels.csv", "more.csv", "words.txt", "weights.pth")
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # another machine may compute otherwise in the last bits
SAMPLES = {"train": 15, "val": 6}
LATER_PICTURES = "more.csv"

pytestmark = [pytest.mark.timeout(900), pytest.mark.weighty]


def out_of(command: tuple[str, ...]) -> str:
    return command[command.index("--out") + 1]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs, and all rooms that 0.4.0 made of them; not to be changed."""
    folder = tmp_path_factory.mktemp("0.4.0")
    with zipfile.ZipFile(ROOMS) as archive:
        archive.extractall(folder)
    for row in pq.read_table(folder / "tags" / "part-00000.parquet").to_pylist():
        changed = int(row["etag"].partition("-")[0], 16)  # a file's etag begins with the time of its change
        os.utime(folder / "photos" / Path(row["uri"]).name, ns=(changed, changed))
    return folder


@pytest.fixture(scope="module")
def today(before: Path, made_once: Callable) -> Path:
    """The same inputs, and the rooms that the same commands make of them now."""
    with made_once("rooms-of-today") as folder, ray_in_process():
        if not folder.exists():
            folder.mkdir()
            for name in INPUTS:
                copy = shutil.copytree if (before / name).is_dir() else shutil.copy
                copy(before / name, folder / name)
        with chdir(folder):
            for command in COMMANDS:
                if out_of(command) != "exported":  # seconds, for bytes that are the exporter's
                    done_here(*command)
    return folder


@pytest.fixture
def working_there(before: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(before)
    return before


# --- They open ---


@pytest.mark.parametrize(
    ("room", "part", "labels", "samples", "rejected", "duplicates"),
    [
        ("dataset", None, LABELS, SAMPLES, ["cut.jpg"], 1),
        ("dataset-grown", 0, LABELS, SAMPLES, ["cut.jpg"], 1),
        ("dataset-grown", None, (*LABELS, LATER), {"train": 19, "val": 8}, ["cut.jpg"], 1),
        ("dataset-coco", None, LABELS, {"train": 6, "val": 2}, [], 0),
    ],
)
def test_a_dataset_opens_whole(
    before: Path,
    room: str,
    part: int | None,
    labels: tuple[str, ...],
    samples: dict[str, int],
    rejected: list[str],
    duplicates: int,
):
    dataset = Dataset.open(before / room, part)
    dataset.check_files_without_samples()
    splits = {name: dataset.split(name) for name in samples}
    assert tuple(dataset.labels) == labels
    assert {name: len(split) for name, split in splits.items()} == samples
    assert dataset.rejects().column("source").to_pylist() == rejected
    assert dataset.duplicates().num_rows == duplicates
    for split in splits.values():
        assert all(decode(split.read_image(row)).shape == (3, 40, 40) for row in range(len(split)))


def test_targets_are_those_of_the_table_and_unknown_where_nobody_said(before: Path):
    split = Dataset.open(before / "dataset-grown").split("train")
    found = {key[:3]: row.tolist() for key, row in zip(split.keys, split.targets, strict=True)}
    assert found["p10"] == [1, 1, 1, -1]  # framed came later
    assert found["p13"] == [1, 1, -1, -1]
    assert found["p21"] == [0, 0, 1, 1]
    assert found["p24"] == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("room", "labels", "width", "source"),
    [
        ("labels", LABELS, WORDS, "glove"),
        ("labels-ppmi", LABELS, 3, "ppmi"),
        ("run/model", LABELS, WORDS, "glove"),
        ("extended", (*LABELS, LATER), WORDS, "glove"),
    ],
)
def test_label_embeddings_load(before: Path, room: str, labels: tuple[str, ...], width: int, source: str):
    embeddings = LabelEmbeddings.load(before / room / "label_embeddings.parquet")
    assert tuple(embeddings.labels) == labels
    assert embeddings.vectors.shape == (len(labels), width)
    assert embeddings.source == source


@pytest.mark.parametrize(
    ("room", "labels", "untrained"),
    [("run/model", LABELS, ()), ("extended", (*LABELS, LATER), (LATER,)), ("exported", LABELS, ())],
)
def test_a_model_loads_and_scores_as_it_did(
    before: Path, room: str, labels: tuple[str, ...], untrained: tuple[str, ...]
):
    bundle = load_bundle(before / room)
    assert (tuple(bundle.labels), bundle.untrained) == (labels, untrained)
    split = Dataset.open(before / "dataset").split("val")
    pixels = torch.stack([squash(decode(split.read_image(row)), 32) for row in range(len(split))])
    with torch.no_grad():
        scores = bundle.model(bundle.preprocessing.normalise(pixels)).logits.sigmoid()
    evaluated = pq.read_table(before / "evaluation" / "predictions" / "part-00000.parquet")
    assert evaluated.column("key").to_pylist() == split.keys
    expected = torch.tensor(evaluated.column("scores").to_pylist())
    torch.testing.assert_close(scores[:, : len(LABELS)], expected, **CLOSE)


def test_a_tagger_gives_the_tags_of_the_table(before: Path):
    tagger = Tagger.load(before / "run" / "model", threads=1)
    rows = pq.read_table(before / "tags" / "part-00000.parquet").to_pylist()
    for row in rows:
        predictions = tagger.predict([(before / "photos" / Path(row["uri"]).name).read_bytes()])
        if row["status"] != "ok":
            assert [error.reason for error in predictions.errors.values()] == [row["status"]]
            continue
        (columns,) = tagger.tags(predictions.scores)
        assert [tagger.labels[column] for column in columns] == row["labels"]
        np.testing.assert_allclose(predictions.scores[0][columns], row["scores"], **CLOSE)
    assert {row["status"] for row in rows} == {"ok", "corrupt"}


def test_a_search_finds_a_picture_among_the_embeddings(here: Here, working_there: Path):
    inputs = ("--model", "run/model", "--embeddings", "embeddings", "--query", "photos/p05.jpg")
    found = here("search", *inputs, "-k", 6)
    assert found.code == 0, found.stderr
    similarities = dict(re.findall(r"\d\. (p\d\d)-\S+  (\S+)", found.stdout))
    assert (len(similarities), similarities["p05"]) == (6, "1.000")


def test_a_checkpoint_is_gone_on_with_to_the_same_weights(here: Here, before: Path, tmp_path: Path):
    """As if training had been killed after its last epoch."""
    for name in ("dataset", "labels", "weights.pth", "words.txt", "run/checkpoints"):
        copy = shutil.copytree if (before / name).is_dir() else shutil.copy
        copy(before / name, tmp_path / name)
    manifest = json.loads((before / "run" / "manifest.json").read_text())
    begun = {name: manifest[name] for name in ("kind", "inputs", "options")}
    (tmp_path / "run" / "unfinished.json").write_text(json.dumps(begun))
    (train,) = (command for command in COMMANDS if command[0] == "train")
    with chdir(tmp_path):
        resumed = here(*train)
    assert resumed.code == 0, resumed.stderr
    assert "resumes after 2 of 2 epochs" in resumed.stderr
    weights = "run/model/model.safetensors"
    assert (tmp_path / weights).read_bytes() == (before / weights).read_bytes()


# --- They are complete ---


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command[0]} {out_of(command)}")
def test_the_same_command_again_finds_it_complete(here: Here, working_there: Path, command: tuple[str, ...]):
    """The provenance of a room is the same, so that nothing is made anew and nothing refused."""
    room = working_there / out_of(command)
    unchanged = contents(room)
    expected = "nothing new" if LATER_PICTURES in command else "already complete"
    assert here.done(*command)["status"] == expected
    assert contents(room) == unchanged


@pytest.mark.parametrize("room", ["dataset", "dataset-grown", "dataset-coco"])
def test_every_byte_of_a_dataset_is_verified(here: Here, before: Path, room: str):
    with ray_in_process():
        assert here.done("verify", "--dataset", before / room, "--full")["status"] == "done"


# --- They are written alike ---


@pytest.mark.parametrize("room", ["dataset", "dataset-grown", "dataset-coco", "labels", "labels-ppmi"])
def test_a_room_of_data_is_written_to_the_same_bytes(before: Path, today: Path, room: str):
    assert contents(today / room) == contents(before / room)


def test_a_dataset_of_then_grows_to_the_same_bytes(here: Here, before: Path, tmp_path: Path):
    for name in ("photos", "dataset"):
        shutil.copytree(before / name, tmp_path / name.replace("dataset", "dataset-grown"))
    shutil.copy(before / LATER_PICTURES, tmp_path)
    (append,) = (command for command in COMMANDS if LATER_PICTURES in command)
    with chdir(tmp_path), ray_in_process():
        assert here.done(*append)["status"] == "done"
    assert contents(tmp_path / "dataset-grown") == contents(before / "dataset-grown")


@pytest.mark.parametrize(
    "name",
    [
        *("run/model/labels.json", "run/model/label_embeddings.parquet", "run/model/thresholds.json"),
        *("extended/labels.json", "extended/label_embeddings.parquet", "extended/thresholds.json"),
    ],
)
def test_what_a_model_keeps_beside_its_weights_is_the_same(before: Path, today: Path, name: str):
    assert (today / name).read_bytes() == (before / name).read_bytes()


@pytest.mark.parametrize("room", ["run/model", "extended"])
def test_a_seeded_training_comes_to_the_same_weights(before: Path, today: Path, room: str):
    ours, theirs = (load_file(folder / room / "model.safetensors") for folder in (today, before))
    assert ours.keys() == theirs.keys()
    for name, weights in ours.items():
        torch.testing.assert_close(weights, theirs[name], **CLOSE)


def test_an_evaluation_comes_to_the_same_metrics(before: Path, today: Path):
    ours, theirs = (
        json.loads((folder / "evaluation/metrics.json").read_text()) for folder in (today, before)
    )
    assert flat(ours) == pytest.approx(flat(theirs))


def flat(metrics: dict[str, Any]) -> dict[str, float]:
    """Numbers by name, those of a group under its name."""
    top3 = {f"top3 {name}": value for name, value in metrics["top3"].items()}
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)} | top3


@pytest.mark.parametrize("room", ["evaluation/predictions", "embeddings", "tags"])
def test_a_table_of_scores_has_the_same_rows(before: Path, today: Path, room: str):
    ours, theirs = (pq.read_table(folder / room / "part-00000.parquet") for folder in (today, before))
    assert ours.schema == theirs.schema
    assert ours.num_rows == theirs.num_rows
    for one, other in zip(ours.to_pylist(), theirs.to_pylist(), strict=True):
        if room == "tags":
            assert (Path(one.pop("uri")).name, one.pop("etag")[-4:]) == (
                Path(other.pop("uri")).name,
                other.pop("etag")[-4:],
            )
        for column, value in one.items():
            if column in ("scores", "norm", "feature"):
                np.testing.assert_allclose(value, other[column], rtol=1e-3, atol=1e-5)  # of float16, too
            else:
                assert value == other[column]
