"""Labels added by their names alone, from the command line; what is refused leaves nothing behind."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lglm_core.dataset.reader import Dataset
from lglm_core.labels.embeddings import LabelEmbeddings
from tests.jobs.commands import Here, Result, done_here
from tests.jobs.conftest import TINY_RECIPE

pytestmark = pytest.mark.weighty

WORDS = ("person", "parking", "meter", "cell", "phone", "dog", "cat", "red", "car")
SMALL = ("--head-option", "m=16", "d_l=16", "graph_width=16")


def write_glove(path: Path, seed: int = 0) -> Path:
    vectors = np.random.default_rng(seed).normal(size=(len(WORDS), 6)).round(4)
    lines = (" ".join([word, *map(str, vector)]) for word, vector in zip(WORDS, vectors, strict=True))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def glove(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_glove(tmp_path_factory.mktemp("glove") / "glove.txt")


@pytest.fixture(scope="module")
def without_dog(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path, glove: Path) -> Path:
    """A model of the tiny data set that was never shown the label dog."""
    folder = tmp_path_factory.mktemp("held-out")
    done_here("label-embeddings", "--dataset", tiny_dataset, "--glove", glove, "--out", folder / "labels")
    inputs = ("--dataset", tiny_dataset, "--label-embeddings", folder / "labels", "--hold-out", "dog")
    done_here("train", *inputs, "--out", folder / "run", *TINY_RECIPE, *SMALL)
    return folder / "run" / "model"


@pytest.fixture
def extend(here: Here, without_dog: Path, glove: Path, tmp_path: Path) -> Callable[..., Result]:
    """Extend that model, or another, into ``extended``."""

    def call(*labels: str, model: Path = without_dog, file: Path = glove, more: tuple = ()) -> Result:
        places = ("--model", model, "--glove", file, "--out", tmp_path / "extended")
        return here("extend", *places, "--label", *labels, *more)

    return call


def test_a_held_out_label_is_not_trained_and_extend_adds_it(
    extend: Callable[..., Result], without_dog: Path, tmp_path: Path
):
    assert json.loads((without_dog / "labels.json").read_text()) == ["person", "parking meter", "cell phone"]
    assert extend("dog", "red car").code == 0
    room = tmp_path / "extended"
    assert json.loads((room / "labels.json").read_text())[3:] == ["dog", "red car"]
    assert json.loads((room / "thresholds.json").read_text())["dog"] == 0.5
    card = (room / "README.md").read_text()
    assert "Never trained, known by their names alone: dog, red car." in card
    assert extend("dog", "red car").stdout.startswith(f"{room}: model, already complete")


@pytest.mark.usefixtures("without_ray")
def test_an_extended_model_is_evaluated_by_name_on_labels_it_never_saw(
    extend: Callable[..., Result], here: Here, tiny_dataset: Path, tmp_path: Path
):
    """The dataset lists dog last and has no red car; the model lists red car before dog."""
    assert extend("red car", "dog").code == 0
    evaluation = ("evaluate", "--model", tmp_path / "extended", "--dataset", tiny_dataset)
    metrics = here.done(*evaluation, "--out", tmp_path / "evaluation")["metrics"]
    assert metrics["untrained_labels"] == ["dog"]
    per_class = {row["label"]: row["ap"] for row in read_table(tmp_path / "evaluation" / "per_class.parquet")}
    assert metrics["untrained_mAP"] == pytest.approx(per_class["dog"])


@pytest.mark.usefixtures("without_ray")
def test_a_search_names_labels_as_the_dataset_does(
    here: Here, tiny_dataset: Path, glove: Path, tmp_path: Path
):
    """The dataset lists person first; the extended model lists it last."""
    labels, run = tmp_path / "labels", tmp_path / "run"
    here.done("label-embeddings", "--dataset", tiny_dataset, "--glove", glove, "--out", labels)
    inputs = ("--dataset", tiny_dataset, "--label-embeddings", labels, "--hold-out", "person")
    here.done("train", *inputs, "--out", run, *TINY_RECIPE, *SMALL, "--num-workers", "0")
    model, embeddings = ("--model", tmp_path / "extended"), tmp_path / "embeddings"
    added = ("--model", run / "model", "--glove", glove, "--label", "person")
    assert here("extend", *added, "--out", tmp_path / "extended").code == 0
    here.done("embed", *model, "--dataset", tiny_dataset, "--split", "val", "--out", embeddings)
    query = tmp_path / "query.jpg"
    dataset = Dataset.open(str(tiny_dataset))
    split = dataset.split("val")
    query.write_bytes(split.read_image(0))
    found = here("search", *model, "--embeddings", embeddings, "--query", query, "-k", len(split)).stdout
    for key, columns in zip(split.keys, split.index.column("labels").to_pylist(), strict=True):
        (line,) = [line for line in found.splitlines() if f". {key} " in line]
        assert line.split("  ")[-1] == ", ".join(split.labels.names[column] for column in columns)


def read_table(path: Path) -> list[dict]:
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


@pytest.mark.parametrize(
    ("labels", "naming"),
    [
        (("dog", "person"), "model has that label already; leave it out"),
        (("unicorn",), "unicorn"),
        (("dog", "dog"), "'dog' is named twice"),
    ],
    ids=["there already", "no such word", "twice"],
)
def test_a_label_that_cannot_be_added_is_refused(
    extend: Callable[..., Result], tmp_path: Path, labels: tuple[str, ...], naming: str
):
    refused(extend(*labels), naming, tmp_path)


def test_aliases_come_from_a_file_too_and_the_command_line_wins(
    extend: Callable[..., Result], tmp_path: Path
):
    (tmp_path / "aliases.txt").write_text("hydrant=dog\nhound=cat\nperson=phone\n")
    more = ("--alias-file", tmp_path / "aliases.txt", "--alias", "hound=dog")
    assert extend("hydrant", "hound", more=more).code == 0
    words = LabelEmbeddings.load(f"{tmp_path}/extended/label_embeddings.parquet").words
    assert words[-2:] == (("dog",), ("dog",))


def test_a_label_may_hold_what_separates_or_begins_an_alias(extend: Callable[..., Result], tmp_path: Path):
    (tmp_path / "aliases.txt").write_text("# ours\n#hash=dog\n")
    more = ("--alias-file", tmp_path / "aliases.txt", "--alias", "a=b=cat")
    assert extend("a=b", "#hash", more=more).code == 0
    words = LabelEmbeddings.load(f"{tmp_path}/extended/label_embeddings.parquet").words
    assert words[-2:] == (("cat",), ("dog",))


def test_an_alias_for_a_label_that_is_not_added_is_refused(extend: Callable[..., Result], tmp_path: Path):
    result = extend("dog", "red car", more=("--alias", "rad car=car"))
    refused(result, "--alias: 'rad car' is none of the 2 labels to add; closest: 'red car'", tmp_path)
    (tmp_path / "aliases.txt").write_text("rad car=car\n")
    result = extend("dog", "red car", more=("--alias-file", tmp_path / "aliases.txt"))
    refused(result, "aliases.txt: 'rad car' is none of the 5 labels, old and new; closest: 'red", tmp_path)


def test_other_word_vectors_than_the_models_are_refused(extend: Callable[..., Result], tmp_path: Path):
    other = write_glove(tmp_path / "other.txt", seed=1)
    refused(extend("dog", file=other), "not the word vectors that", tmp_path)


def test_word_vectors_may_be_packed_otherwise_than_for_the_training(
    extend: Callable[..., Result], glove: Path, tmp_path: Path
):
    with zipfile.ZipFile(tmp_path / "glove.zip", "w") as archive:
        archive.write(glove, "glove.txt")
    assert extend("dog").code == 0
    assert "already complete" in extend("dog", file=tmp_path / "glove.zip").stdout


def test_a_model_takes_labels_by_name_though_co_occurrence_filled_one_of_its_own(
    here: Here, tiny_dataset: Path, glove: Path, tmp_path: Path
):
    """parking meter has no word here; its vector is made of person's, an alias, and is in no file."""
    short = tmp_path / "short.txt"
    lines = glove.read_text().splitlines(keepends=True)
    short.write_text("".join(line for line in lines if not line.startswith(("parking", "meter"))))
    labels, run = tmp_path / "labels", tmp_path / "run"
    words = ("--glove", short, "--oov", "cooccurrence", "--alias", "person=car")
    here.done("label-embeddings", "--dataset", tiny_dataset, *words, "--out", labels)
    inputs = ("--dataset", tiny_dataset, "--label-embeddings", labels, "--hold-out", "dog")
    here.done("train", *inputs, "--out", run, *TINY_RECIPE, *SMALL)
    added = ("--model", run / "model", "--glove", short, "--label", "dog", "cat", "--alias", "cat=dog")
    assert here("extend", *added, "--out", tmp_path / "extended").code == 0
    origin = [row["origin"] for row in read_table(tmp_path / "extended" / "label_embeddings.parquet")]
    assert origin == ["alias", "cooccurrence", "glove", "glove", "alias"]
    card = (tmp_path / "extended" / "README.md").read_text()
    assert "GloVe word vectors; from co-occurrence in the training split: parking meter |" in card


def test_a_model_on_co_occurrence_vectors_is_refused(
    extend: Callable[..., Result], tiny_model: Path, tmp_path: Path
):
    refused(extend("cat", model=tiny_model), "train with GloVe vectors", tmp_path)


def test_a_label_to_hold_out_that_is_not_there_is_refused(
    here: Here, tiny_dataset: Path, tiny_labels: Path, tmp_path: Path
):
    inputs = ("--dataset", tiny_dataset, "--label-embeddings", tiny_labels, "--out", tmp_path / "extended")
    result = here("train", *inputs, *TINY_RECIPE, "--hold-out", "dgo")
    refused(result, "no label 'dgo'; the closest are dog", tmp_path)


def test_a_model_that_lacks_a_label_of_the_dataset_is_not_evaluated_on_it(
    here: Here, without_dog: Path, tiny_dataset: Path, tmp_path: Path
):
    inputs = ("--model", without_dog, "--dataset", tiny_dataset, "--out", tmp_path / "extended")
    refused(here("evaluate", *inputs), "does not know 1 of the labels", tmp_path)


def refused(result: Result, naming: str, folder: Path) -> None:
    assert result.code == 2, result.stderr
    assert naming in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert not (folder / "extended").exists()
