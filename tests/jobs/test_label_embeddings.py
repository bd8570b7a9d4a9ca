"""The verb label-embeddings: what was used for each label is reported, and what else a room is made from."""

import gzip
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs import label_embeddings
from lglm_core.labels.embeddings import LabelEmbeddings
from lglm_core.rooms.manifest import read_manifest
from lglm_core.sources.coco import CocoSource
from tests.jobs.commands import COCO_LABELS, Here, Result, make_dataset, write_coco
from tests.jobs.conftest import TINY_RECIPE
from tests.jobs.test_wrong_input import VECTORS, assert_refused, write_glove

Embed = Callable[..., Result]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "labels"


@pytest.fixture
def embed(here: Here, tiny_dataset: Path, out: Path) -> Embed:
    """Embed the labels of the tiny dataset, or of another."""

    def call(*arguments: object, dataset: Path = tiny_dataset) -> Result:
        return here("label-embeddings", "--dataset", dataset, "--out", out, *arguments)

    return call


@pytest.fixture
def glove(tmp_path: Path) -> Path:
    """All words of the tiny dataset."""
    return write_glove(tmp_path / "glove.txt")


@pytest.fixture
def without_meter(tmp_path: Path) -> Path:
    """No word of its label parking meter, which goes together with person more often than by chance."""
    return write_glove(tmp_path / "short.txt", without("parking", "meter"))


def without(*words: str) -> Mapping[str, int]:
    return {word: value for word, value in VECTORS.items() if word not in words}


def rows(room: Path) -> dict[str, dict]:
    table = pq.read_table(room / "label_embeddings.parquet").to_pylist()
    return {row["label"]: row for row in table}


def report(result: Result) -> list[list[str]]:
    """The lines of the table that a verb printed, as words."""
    return [line.split() for line in result.stdout.splitlines()[1:] if line.startswith("  ")]


# --- The report ---


def test_with_all_words_there_the_report_is_one_line(embed: Embed, glove: Path, out: Path):
    result = embed("--glove", glove)
    assert result.stdout == f"{out}: label embeddings, done: 4 labels, 4 wide, from GloVe word vectors\n"
    assert {row["origin"] for row in rows(out).values()} == {"glove"}


def test_each_label_that_is_not_simply_its_words_is_named_with_what_was_used(
    embed: Embed, tmp_path: Path, out: Path
):
    glove = write_glove(tmp_path / "g.txt", without("parking", "dog"))
    arguments = ("--glove", glove, "--alias", "cell phone=phone", "--oov", "zero")
    result = embed(*arguments, "--json")
    assert report(result) == [
        ["label", "from", "words", "used", "missing"],
        ["parking", "meter", "its", "name", "meter", "parking"],
        ["cell", "phone", "an", "alias", "phone"],
        ["dog", "zeros", "dog"],
    ]
    counts = {"labels": 4, "width": 4, "partly_missing": 1, "by_alias": 1, "by_cooccurrence": 0}
    assert result.object["counts"] == {**counts, "without_vector": 1}
    assert report(embed(*arguments)) == report(result)  # also of a room that is complete already
    assert [rows(out)[label]["origin"] for label in COCO_LABELS] == ["glove", "glove", "alias", "zero"]


# --- How GloVe may be packed ---


def test_the_same_text_in_gzip_or_zip_makes_the_same_room(embed: Embed, glove: Path, tmp_path: Path):
    assert embed("--glove", glove).code == 0
    packed, archive = tmp_path / "glove.txt.gz", tmp_path / "glove.zip"
    packed.write_bytes(gzip.compress(glove.read_bytes()))
    with zipfile.ZipFile(archive, "w") as opened:
        opened.write(glove, "glove.txt")
        opened.writestr("other.txt", "other 1 2 3")
    for url in (packed, f"{archive}/glove.txt"):
        assert "already complete" in embed("--glove", url).stdout


def test_an_archive_of_several_texts_needs_the_name_of_one(embed: Embed, tmp_path: Path, out: Path):
    with zipfile.ZipFile(tmp_path / "glove.6B.zip", "w") as archive:
        for width in (50, 300):
            archive.writestr(f"glove.6B.{width}d.txt", "x")
    result = embed("--glove", tmp_path / "glove.6B.zip")
    assert_refused(result, "glove.6B.50d.txt", "glove.6B.300d.txt", "name one", out=out)


# --- Aliases ---


def test_aliases_come_from_a_file_too_and_the_command_line_wins(
    embed: Embed, glove: Path, tmp_path: Path, out: Path
):
    (tmp_path / "aliases").write_text("# ours\ncell phone=phone\ndog=cell\n")
    assert embed("--glove", glove, "--alias-file", tmp_path / "aliases", "--alias", "dog=person").code == 0
    assert [rows(out)[label]["words"] for label in ("cell phone", "dog")] == [["phone"], ["person"]]


def test_a_label_may_hold_what_separates_or_begins_an_alias(
    embed: Embed, glove: Path, tmp_path: Path, out: Path
):
    coco = write_coco(tmp_path / "coco", labels=("a", "a=b", "#hash", "dog"))
    dataset = make_dataset(CocoSource(str(coco)), tmp_path / "dataset")
    (tmp_path / "aliases").write_text("# ours\n#hash=phone\na=cell\n")
    more = ("--alias-file", tmp_path / "aliases", "--alias", "a=b=person")
    assert embed("--glove", glove, *more, dataset=dataset).code == 0
    assert [rows(out)[label]["words"] for label in ("a", "a=b", "#hash")] == [["cell"], ["person"], ["phone"]]


def test_an_alias_for_no_label_is_refused_with_the_closest_and_with_what_gave_it(
    embed: Embed, glove: Path, tmp_path: Path, out: Path
):
    (tmp_path / "aliases").write_text("dog=cell\ncel phone=phone\n")
    named = "'cel phone' is none of the 4 labels; closest: 'cell phone'"
    from_file = embed("--glove", glove, "--alias-file", tmp_path / "aliases", "--alias", "dog=person")
    assert_refused(from_file, f"--alias-file {tmp_path / 'aliases'}: {named}", out=out)
    assert_refused(embed("--glove", glove, "--alias", "cel phone=phone"), f"--alias: {named}", out=out)


def test_it_is_the_meaning_of_an_alias_file_that_counts(embed: Embed, glove: Path, tmp_path: Path, out: Path):
    (tmp_path / "aliases").write_text("dog=person\n")
    assert embed("--glove", glove, "--alias-file", tmp_path / "aliases").code == 0
    assert "already complete" in embed("--glove", glove, "--alias", "dog=person").stdout
    (tmp_path / "aliases").write_text("dog=phone\n")
    result = embed("--glove", glove, "--alias-file", tmp_path / "aliases")
    assert_refused(result, out, 'alias was {"dog": "person"}, now {"dog": "phone"}')


@pytest.mark.parametrize(
    ("more", "naming"),
    [
        (("--alias-file", "aliases"), "--alias-file aliases is for word vectors; it needs --glove"),
        (("--oov", "zero"), "--oov zero is for word vectors; it needs --glove"),
        (("--vectors", "v.json", "--oov", "cooccurrence"), "--oov cooccurrence is for word vectors"),
        (("--vectors", "v.json", "--glove", "g.txt"), "--glove and --vectors both"),
    ],
)
def test_options_that_do_not_go_together(embed: Embed, out: Path, more: tuple[str, ...], naming: str):
    assert_refused(embed(*more), naming, out=out)


# --- Co-occurrence for labels without words ---


def test_a_label_without_words_is_filled_from_the_labels_it_goes_with(
    embed: Embed, without_meter: Path, out: Path
):
    result = embed("--glove", without_meter, "--oov", "cooccurrence", "--json")
    assert report(result)[1:] == [
        ["parking", "meter", "co-occurrence", "person", "parking,", "meter"],
    ]
    assert (result.object["counts"]["by_cooccurrence"], result.object["counts"]["without_vector"]) == (1, 0)
    assert result.object["counts"]["partly_missing"] == 0
    assert rows(out)["parking meter"]["vector"] == rows(out)["person"]["vector"]


def test_the_dataset_is_an_input_only_where_its_pictures_may_give_a_vector(
    embed: Embed, tiny_dataset: Path, glove: Path, out: Path
):
    for oov, inputs in (("zero", {"labels", "glove"}), ("cooccurrence", {"labels", "glove", "dataset"})):
        assert embed("--glove", glove, "--oov", oov).code == 0
        assert read_manifest(str(out)).inputs.keys() == inputs
        shutil.rmtree(out)


def train(here: Here, dataset: Path, labels: Path, out: Path, *more: object) -> Result:
    inputs = ("--dataset", dataset, "--label-embeddings", labels, "--out", out)
    return here("train", *inputs, *TINY_RECIPE, *more)


@pytest.mark.parametrize("held", ["parking meter", "person"])
def test_neither_a_filled_label_nor_one_it_is_filled_from_can_be_held_out(
    here: Here, embed: Embed, tiny_dataset: Path, without_meter: Path, tmp_path: Path, out: Path, held: str
):
    assert embed("--glove", without_meter, "--oov", "cooccurrence").code == 0
    result = train(here, tiny_dataset, out, tmp_path / "run", "--hold-out", "dog", held)
    naming = f"the vector of 'parking meter' comes from co-occurrence and knows which pictures show {held!r}"
    assert_refused(result, out, naming, "--alias", "--oov zero", out=tmp_path / "run")


def test_filled_vectors_belong_to_one_dataset_and_those_of_words_to_all(
    here: Here, embed: Embed, without_meter: Path, glove: Path, tmp_path: Path, out: Path
):
    other = make_dataset(CocoSource(str(write_coco(tmp_path / "coco", samples=9))), tmp_path / "dataset")
    assert embed("--glove", without_meter, "--oov", "cooccurrence").code == 0
    assert_refused(train(here, other, out, tmp_path / "run"), out, "co-occurrence vectors of another dataset")
    shutil.rmtree(out)
    assert embed("--glove", glove, "--oov", "cooccurrence").code == 0  # which is not needed
    late = train(here, other, out, tmp_path / "run", "--backbone", "resnet1001")
    assert_refused(late, "resnet1001")  # the vectors were taken by then


# --- Ready-made vectors ---


def test_ready_made_vectors_are_taken_by_name(embed: Embed, tmp_path: Path, out: Path):
    vectors = {name: [float(len(name)), 1.0] for name in (*COCO_LABELS[::-1], "cat", "yeti")}
    (tmp_path / "v.json").write_text(json.dumps(vectors))
    result = embed("--vectors", tmp_path / "v.json", "--json")
    assert result.stdout.splitlines()[:-1] == [
        f"{out}: label embeddings, done: 4 labels, 2 wide, from ready-made vectors; 2 more belong to no label"
    ]
    assert result.object["counts"]["vectors_of_no_label"] == 2
    assert {name: row["vector"] for name, row in rows(out).items()} == {n: vectors[n] for n in COCO_LABELS}
    assert LabelEmbeddings.load(f"{out}/label_embeddings.parquet").source == "vectors"


def test_a_room_of_another_order_is_read_by_name(embed: Embed, glove: Path, tmp_path: Path, out: Path):
    """The error that positions would make: the same labels, ordered otherwise."""
    assert embed("--glove", glove).code == 0
    before = rows(out)
    out.rename(tmp_path / "before")
    reordered = write_coco(tmp_path / "coco", labels=COCO_LABELS[::-1])
    dataset = make_dataset(CocoSource(str(reordered)), tmp_path / "dataset")
    vectors = tmp_path / "before" / "label_embeddings.parquet"
    assert embed("--vectors", vectors, dataset=dataset).code == 0
    assert list(rows(out)) == list(COCO_LABELS[::-1])
    for label, row in rows(out).items():
        np.testing.assert_array_equal(row["vector"], before[label]["vector"])


def test_labels_without_a_ready_made_vector_are_named(embed: Embed, tmp_path: Path, out: Path):
    (tmp_path / "v.csv").write_text("label,x\nperson,1\ndogs,2\nparking meter,3\ncell phone,4\n")
    result = embed("--vectors", tmp_path / "v.csv")
    assert_refused(result, tmp_path / "v.csv", "no vector of 'dog' (closest: dogs)", out=out)


def test_nothing_can_be_held_out_that_extend_could_not_add(
    here: Here, embed: Embed, tiny_dataset: Path, tmp_path: Path, out: Path
):
    (tmp_path / "v.json").write_text(json.dumps({name: [1.0, 2.0] for name in COCO_LABELS}))
    assert embed("--vectors", tmp_path / "v.json").code == 0
    result = train(here, tiny_dataset, out, tmp_path / "run", "--hold-out", "dog")
    assert_refused(result, out, "ready-made vectors", "--glove", out=tmp_path / "run")


def test_of_very_many_labels_the_first_are_told(
    embed: Embed, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(label_embeddings, "ROWS_SHOWN", 1)
    short = write_glove(tmp_path / "short.txt", without("parking", "meter", "dog"))
    told = embed("--glove", short, "--oov", "zero").stdout.splitlines()
    assert told[-1] == f"  and 1 more labels: {out}/label_embeddings.parquet"
    assert len(told) == 4  # what it is, the heads of the columns, one label, and this
