"""From pictures to tags: training on two workers, evaluation and tagging on a real Ray."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import average_precision_score

from tests.jobs.commands import Commands, Here, contents, done_here, picture
from tests.servers.ray_in_process import ray_in_process

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
]  # the first test to ask for a room waits until it is made

TOY = ("--samples", 60, "--max-samples-per-shard", 20)
RECIPE = (
    *("--backbone", "shufflenet_v2_x0_5", "--weights", "none", "--image-size", 32, "--batch-size", 16),
    *("--lr", "3e-3"),
)
EPOCHS = 2
ON_RAY = ("train", "evaluate", "tag")
FIELD = {"CP", "CR", "CF1", "OP", "OR", "OF1"}

Rooms = dict[str, Path]
Again = Callable[[str], tuple[Any, ...]]


@pytest.fixture(scope="module")
def base(made_once: Callable) -> Path:
    """Return the folder of all rooms of this module."""
    with made_once("way") as folder:
        folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def again(base: Path) -> Again:
    """Return the arguments of every verb, by name, to run it or to run it again."""
    model, dataset = ("--model", base / "run" / "model"), ("--dataset", base / "dataset")
    commands: dict[str, tuple[Any, ...]] = {
        "shard": ("toy", *TOY, "--root", base / "raw"),
        "label-embeddings": dataset,
        "train": (
            *(*dataset, "--label-embeddings", base / "labels", *RECIPE),
            *("--epochs", EPOCHS, "--num-workers", 2),
        ),
        "evaluate": (*model, *dataset),
        "embed": (*model, *dataset, "--split", "val"),
        "tag": (*model, "--images", base / "images"),
    }
    rooms = {"shard": "dataset", "label-embeddings": "labels", "train": "run", "tag": "tags"}
    rooms |= {"evaluate": "evaluation", "embed": "embeddings"}
    return lambda verb: (verb, *commands[verb], "--out", base / rooms[verb])


@pytest.fixture(scope="module")
def made(lglm: Commands, made_once: Callable, again: Again) -> Callable[[str], Path]:
    """Run a verb, unless it has run here or in another worker of pytest, and return its room."""

    def make(verb: str) -> Path:
        arguments = again(verb)
        with made_once(f"way-{verb}") as report, ray_in_process():
            if not report.exists():
                run = lglm.done if verb in ON_RAY else done_here
                report.write_text(json.dumps(run(*arguments)))
        return arguments[-1]

    return make


@pytest.fixture(scope="module")
def dataset(made: Callable[[str], Path]) -> Path:
    return made("shard")


@pytest.fixture(scope="module")
def labels(made: Callable[[str], Path], dataset: Path) -> Path:
    return made("label-embeddings")


@pytest.fixture(scope="module")
def run(made: Callable[[str], Path], labels: Path) -> Path:
    return made("train")


@pytest.fixture(scope="module")
def evaluation(made: Callable[[str], Path], run: Path) -> Path:
    return made("evaluate")


@pytest.fixture(scope="module")
def embeddings(made: Callable[[str], Path], run: Path) -> Path:
    return made("embed")


GOOD = ("a.jpg", "sub folder/deeper/b.png", "with space.jpg", "птица 鳥.webp", "no_suffix")
BROKEN = {
    "cut.jpg": "corrupt",
    "empty.jpg": "empty",
    "notes.txt": "not_an_image",
    "sub folder/page.html": "not_an_image",
    "dangling.jpg": "unreadable",
}


@pytest.fixture(scope="module")
def images(made_once: Callable, base: Path) -> Path:
    """Return a folder of pictures, broken files and other files, with names of all kinds."""
    folder = base / "images"
    with made_once("way-images"):
        if not folder.exists():
            for seed, name in enumerate(GOOD):
                path = folder / name
                picture(path.with_suffix(path.suffix or ".jpg"), seed).rename(path)
            whole = (folder / "a.jpg").read_bytes()
            (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
            (folder / "empty.jpg").touch()
            (folder / "notes.txt").write_text("milk, eggs")
            (folder / "sub folder" / "page.html").write_text("<html></html>")
            (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    return folder


@pytest.fixture(scope="module")
def tags(made: Callable[[str], Path], run: Path, images: Path) -> Path:
    return made("tag")


def read_manifest(room: Path) -> dict[str, Any]:
    return json.loads((room / "manifest.json").read_text())


def read_rows(room: Path) -> pa.Table:
    """Return the rows of all parts of a table, in the order of their names."""
    return pa.concat_tables([pq.read_table(path) for path in sorted(room.glob("part-*.parquet"))])


def read_index(dataset: Path, split: str = "val") -> pa.Table:
    return pq.read_table(dataset / "index" / f"{split}.parquet")


# --- Training ---


def test_training_leaves_a_run_and_a_model(run: Path, dataset: Path, labels: Path):
    manifest = read_manifest(run)
    assert manifest["kind"] == "run"
    assert manifest["inputs"]["dataset"] == read_manifest(dataset)["fingerprint"]
    assert manifest["inputs"]["label_embeddings"] == read_manifest(labels)["fingerprint"]
    assert manifest["counts"]["epochs"] == EPOCHS
    assert manifest["counts"]["workers"] == 2
    history = pq.read_table(run / "history.parquet").to_pylist()
    assert [row["epoch"] for row in history] == list(range(EPOCHS))
    assert all(np.isfinite(row["loss"]) and 0 <= row["val_map"] <= 100 for row in history)
    files = {"model.safetensors", "config.json", "labels.json", "label_embeddings.parquet"}
    files |= {"thresholds.json", "README.md", "manifest.json"}
    assert set(contents(run / "model")) == files
    assert (run / "model" / "labels.json").read_bytes() == (dataset / "labels.json").read_bytes()


def test_label_embeddings_say_where_they_come_from(labels: Path, dataset: Path):
    table = pq.read_table(labels / "label_embeddings.parquet")
    assert table.schema.metadata[b"source"] == b"ppmi"
    assert table.column("label").to_pylist() == json.loads((dataset / "labels.json").read_text())


# --- Evaluation ---


def test_metrics_have_the_names_of_the_field(evaluation: Path, dataset: Path):
    metrics = json.loads((evaluation / "metrics.json").read_text())
    assert {"mAP", *FIELD, "top3", "n_images", "prior_mAP"} <= set(metrics)
    assert set(metrics["top3"]) >= FIELD
    assert metrics["n_images"] == read_index(dataset).num_rows
    percentages = [metrics["mAP"], metrics["prior_mAP"], *(metrics[name] for name in FIELD)]
    assert all(0 <= value <= 100 for value in [*percentages, *(metrics["top3"][name] for name in FIELD)])


def test_predictions_cover_each_key_once_and_carry_its_labels(evaluation: Path, dataset: Path):
    index, predictions = read_index(dataset), read_rows(evaluation / "predictions")
    keys = predictions.column("key").to_pylist()
    assert len(keys) == len(set(keys))
    assert keys == index.column("key").to_pylist()
    assert predictions.column("labels").to_pylist() == index.column("labels").to_pylist()


def test_map_is_sklearns(evaluation: Path, dataset: Path):
    predictions = read_rows(evaluation / "predictions")
    scores = np.array(predictions.column("scores").to_pylist())
    names = json.loads((dataset / "labels.json").read_text())
    assert scores.shape == (predictions.num_rows, len(names))
    present = np.zeros(scores.shape, dtype=bool)
    for row, columns in enumerate(predictions.column("labels").to_pylist()):
        present[row, columns] = True
    ap = {
        name: 100 * average_precision_score(present[:, column], scores[:, column])
        for column, name in enumerate(names)
        if present[:, column].any()
    }
    metrics = json.loads((evaluation / "metrics.json").read_text())
    assert metrics["mAP"] == pytest.approx(np.mean(list(ap.values())), abs=1e-6)
    per_class = {row["label"]: row for row in pq.read_table(evaluation / "per_class.parquet").to_pylist()}
    assert list(per_class) == names
    assert {name: row["ap"] for name, row in per_class.items() if row["positives"]} == pytest.approx(ap)
    assert all(row["ap"] is None for row in per_class.values() if not row["positives"])


def test_the_model_trained_and_the_model_loaded_agree(evaluation: Path, run: Path):
    """The folded model of evaluation measures what training measured after its last epoch."""
    metrics = json.loads((evaluation / "metrics.json").read_text())
    last = pq.read_table(run / "history.parquet").to_pylist()[-1]
    assert metrics["mAP"] == pytest.approx(last["val_map"], abs=0.5)


def test_the_report_is_a_page(evaluation: Path):
    page = (evaluation / "report.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert f"{json.loads((evaluation / 'metrics.json').read_text())['mAP']:.1f}" in page


# --- Embeddings and search ---


def test_embeddings_have_their_schema(embeddings: Path, evaluation: Path, dataset: Path):
    table, index = read_rows(embeddings), read_index(dataset)
    width = table.schema.field("feature").type.list_size
    classes = len(json.loads((dataset / "labels.json").read_text()))
    assert width == read_manifest(embeddings)["counts"]["width"]
    expected = {
        "key": pa.string(),
        "uri": pa.string(),
        "feature": pa.list_(pa.float16(), width),
        "norm": pa.float32(),
        "scores": pa.list_(pa.float32(), classes),
    }
    assert {field.name: field.type for field in table.schema} == expected
    assert table.column("key").to_pylist() == index.column("key").to_pylist()
    features = np.array(table.column("feature").to_pylist(), dtype=np.float32)
    norms = table.column("norm").to_numpy()
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), norms, rtol=2e-3)
    predicted = np.array(read_rows(evaluation / "predictions").column("scores").to_pylist())
    np.testing.assert_allclose(np.array(table.column("scores").to_pylist()), predicted, atol=1e-6)


def test_a_search_for_a_picture_of_the_split_finds_it(
    here: Here, embeddings: Path, run: Path, dataset: Path, base: Path, tmp_path: Path
):
    """A model of two epochs tells pictures apart badly, so this one need not be the very first."""
    keys, page = read_index(dataset).column("key").to_pylist(), tmp_path / "pages" / "page.html"
    (query,) = base.glob(f"raw/val2017/{keys[3]}.*")
    arguments = ("--model", run / "model", "--embeddings", embeddings, "--query", query)
    result = here("search", *arguments, "-k", len(keys), "--out", page, "--json")
    assert result.code == 0, result.stderr
    assert result.object["counts"] == {"neighbours": len(keys)}
    lines = [line.split() for line in result.stdout.splitlines() if line.split()[0][:-1].isdigit()]
    similarities = {line[1]: float(line[2]) for line in lines}
    assert set(similarities) == set(keys)
    assert list(similarities.values()) == sorted(similarities.values(), reverse=True)
    assert similarities[keys[3]] == pytest.approx(1, abs=1e-3)
    html = page.read_text()
    assert html.lstrip().lower().startswith("<!doctype html>")
    assert html.count("data:image/jpeg") == 1 + len(keys)  # the query and its neighbours


def test_more_neighbours_than_pictures_are_all_of_them(
    here: Here, embeddings: Path, run: Path, images: Path, dataset: Path
):
    arguments = ("--model", run / "model", "--embeddings", embeddings, "--query", images / "a.jpg")
    assert here.done("search", *arguments, "-k", 500)["counts"]["neighbours"] == read_index(dataset).num_rows


# --- Tags ---


def test_every_file_is_one_row_with_its_status(tags: Path, images: Path, run: Path):
    rows = {row["uri"].removeprefix(f"{images}/"): row for row in read_rows(tags).to_pylist()}
    assert read_rows(tags).num_rows == len(rows)
    assert {uri: row["status"] for uri, row in rows.items()} == {**dict.fromkeys(GOOD, "ok"), **BROKEN}
    assert all(row["error"] and not row["labels"] for uri, row in rows.items() if uri in BROKEN)
    assert all(not row["error"] for uri, row in rows.items() if uri in GOOD)
    sizes = {uri: (images / uri).stat().st_size for uri in rows if uri != "dangling.jpg"}
    assert {uri: rows[uri]["size"] for uri in sizes} == sizes
    assert len({row["etag"] for row in rows.values()}) > 1
    names = set(json.loads((run / "model" / "labels.json").read_text()))
    thresholds = json.loads((run / "model" / "thresholds.json").read_text())
    for uri in GOOD:
        found, scores = rows[uri]["labels"], rows[uri]["scores"]
        assert set(found) <= names
        assert len(found) == len(scores)
        assert scores == sorted(scores, reverse=True)
        assert all(score >= thresholds[name] for name, score in zip(found, scores, strict=True))
    counts = read_manifest(tags)["counts"]
    assert counts["files"] == len(GOOD) + len(BROKEN)
    assert sum(count for name, count in counts.items() if name.startswith("status_")) == counts["files"]


def test_a_new_file_in_the_folder_is_not_mixed_into_old_tags(
    here: Here, again: Again, tags: Path, images: Path, made_once: Callable
):
    with made_once("way-tag-again"):  # no other worker of pytest lists the folder meanwhile
        before = contents(tags)
        try:
            picture(images / "new.jpg", 99)
            result = here(*again("tag"))
        finally:
            (images / "new.jpg").unlink()
    assert result.code == 2
    assert len(result.stderr.splitlines()) == 1
    assert str(tags) in result.stderr
    assert "images was" in result.stderr
    assert contents(tags) == before


# --- Again ---


def test_every_verb_finds_its_room_complete_when_it_runs_again(
    here: Here,
    again: Again,
    dataset: Path,
    labels: Path,
    run: Path,
    evaluation: Path,
    embeddings: Path,
    tags: Path,
    base: Path,
):
    rooms = (dataset, labels, run, evaluation, embeddings, tags)
    before = [contents(room) for room in rooms]
    for verb in ("shard", "label-embeddings", "train", "evaluate", "embed"):
        first = json.loads((base.parent / f"way-{verb}").read_text())
        result = here.done(*again(verb))
        assert (first["status"], result["status"]) == ("done", "already complete")
        assert result["counts"] == first["counts"]
        assert result["metrics"] == first["metrics"]
        assert result["seconds"] < 5
    assert [contents(room) for room in rooms] == before


def test_tagging_again_is_complete_already(here: Here, again: Again, tags: Path, made_once: Callable):
    with made_once("way-tag-again"):
        assert here.done(*again("tag"))["status"] == "already complete"


# --- Interrupted training ---


def train_here(dataset: Path, labels: Path, out: Path) -> tuple[Any, ...]:
    """Return the arguments of a training without Ray, whose weights are the same every time."""
    inputs = ("--dataset", dataset, "--label-embeddings", labels, "--out", out)
    return ("train", *inputs, *RECIPE, "--epochs", 4, "--num-workers", 0)


@pytest.mark.parametrize("within", [False, True], ids=["after an epoch", "within an epoch"])
def test_training_that_was_killed_ends_as_if_it_had_not_been(
    lglm: Commands, here: Here, dataset: Path, labels: Path, tmp_path: Path, within: bool
):
    disturbed, undisturbed = tmp_path / "disturbed", tmp_path / "undisturbed"
    smaller: tuple[Any, ...] = ("--batch-size", 4) if within else ()
    often: tuple[Any, ...] = ("--checkpoint-steps", 2) if within else ()
    with lglm.started(*train_here(dataset, labels, disturbed), *smaller, *often) as running:
        running.wait_until((disturbed / "checkpoints/checkpoint.pt").exists)
        running.kill_session()
    assert not (disturbed / "manifest.json").exists()
    resumed = here(*train_here(dataset, labels, disturbed), *smaller)
    assert resumed.code == 0, resumed.stderr
    resumed_at = re.search(r"resumes after (\d) of 4 epochs(?: and (\d+) of \d+ steps)?", resumed.stderr)
    assert resumed_at and (resumed_at[2] is not None) == within
    epochs = re.findall(r"^epoch (\d)/4", resumed.stderr, flags=re.MULTILINE)
    assert epochs == ["1", "2", "3", "4"][int(resumed_at[1]) :]
    assert here.done(*train_here(dataset, labels, undisturbed), *smaller)["status"] == "done"
    weights = [room / "model" / "model.safetensors" for room in (disturbed, undisturbed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    manifests = [read_manifest(room)["fingerprint"] for room in (disturbed, undisturbed)]
    assert manifests[0] == manifests[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kept", "often"), [("epoch-0001", ()), ("epoch-0001-step-", ("--checkpoint-steps", 1))]
)
def test_training_on_two_workers_that_was_killed_ends_as_if_it_had_not_been(
    lglm: Commands, again: Again, run: Path, tmp_path: Path, kept: str, often: tuple[Any, ...]
):
    out = tmp_path / "run"
    arguments = (*again("train")[:-1], out)

    def is_kept() -> bool:
        snapshots = out.glob("checkpoints/*/checkpoint_manager_snapshot.json")
        return any(kept in path.read_text() for path in snapshots)

    with lglm.started(*arguments, *often) as running:
        running.wait_until(is_kept)
        running.kill_session()
    if not (out / "manifest.json").exists():
        resumed = lglm(*arguments)
        assert resumed.code == 0, resumed.stderr
        assert "resumes after " in resumed.stderr
        assert "epoch 1/" not in resumed.stderr or (often and "resumes after 0 of" in resumed.stderr)
    ours, theirs = (room / "model" / "model.safetensors" for room in (out, run))
    assert ours.read_bytes() == theirs.read_bytes()
