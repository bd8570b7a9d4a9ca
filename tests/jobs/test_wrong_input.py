"""Wrong input: exit code 2, one line on stderr that names the offender, and nothing half-written."""

import copy
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from lglm_core import rooms
from lglm_core.rooms import lease
from tests.jobs.commands import COCO_LABELS, Here, Result, contents, make_dataset, picture, write_coco
from tests.jobs.conftest import TINY_RECIPE

VECTORS = {"person": 1, "dog": 2, "parking": 3, "meter": 4, "cell": 5, "phone": 6}


def assert_refused(result: Result, *naming: object, out: Path | None = None) -> None:
    assert result.code == 2, result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    for name in naming:
        assert str(name) in result.stderr
    if out:
        assert not out.exists(), sorted(out.rglob("*"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where the refused command was to write."""
    return tmp_path / "out"


# --- COCO ---


def shard_coco(here: Here, root: Path, out: Path, *more: str) -> Result:
    return here("shard", "coco", "--root", root, "--out", out, *more)


def edited(content: Mapping[str, Any], *path: Any, to: Any) -> dict[str, Any]:
    """A copy of *content* with the value at *path* replaced."""
    result: Any = copy.deepcopy(content)
    place = result
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return result


GOOD = {
    "images": [{"id": 4711, "file_name": "a.jpg"}, {"id": 4712, "file_name": "b.jpg"}],
    "annotations": [{"id": 7, "image_id": 4711, "category_id": 1}],
    "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}],
}


@pytest.mark.parametrize(
    ("content", "naming"),
    [
        (b"\xff\xd8\xff\xe0 a picture", "JSON"),
        (b"", "JSON"),
        (b'{"images": [', "JSON"),
        ([GOOD], "images"),
        ("a string", "images"),
        ({}, "images"),
        ({**GOOD, "categories": {}}, "categories"),
        ({name: GOOD[name] for name in ("images", "annotations")}, "categories"),
        (edited(GOOD, "images", 1, to={"id": 2}), "file_name"),
        (edited(GOOD, "images", 1, to="b.jpg"), "images[1]"),
        (edited(GOOD, "annotations", 0, "image_id", to=99), "99"),
        (edited(GOOD, "annotations", 0, "category_id", to=98), "98"),
        (edited(GOOD, "images", 1, "file_name", to=5), "images[1]"),
        (edited(GOOD, "categories", 1, "id", to=[2]), "categories[1]"),
        (edited(GOOD, "images", 1, "id", to=4711), "4711"),
    ],
    ids=[
        *("no text", "empty", "cut short", "a list", "a string", "no tables", "a table is a mapping"),
        *("a table is missing", "a field is missing", "a row is no mapping", "dangling image_id"),
        *("dangling category_id", "file_name is a number", "id is a list", "two images of one id"),
    ],
)
def test_an_annotation_file_that_is_not_cocos(
    here: Here, tmp_path: Path, out: Path, content: Any, naming: str
):
    root = write_coco(tmp_path / "coco")
    for name in ("a.jpg", "b.jpg"):
        picture(root / "train2017" / name, 1)
    for split in ("train", "val"):
        path = root / "annotations" / f"instances_{split}2017.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    assert_refused(shard_coco(here, root, out), "instances_train2017.json", naming, out=out)


@pytest.mark.parametrize(
    ("path", "name"),
    [(("images", 1, "file_name"), "a.jpg"), (("categories", 1, "name"), "person")],
    ids=["images", "categories"],
)
def test_a_name_that_stands_twice(here: Here, tmp_path: Path, out: Path, path: tuple[Any, ...], name: str):
    root = write_coco(tmp_path / "coco")
    for split in ("train", "val"):
        text = json.dumps(edited(GOOD, *path, to=name))
        (root / "annotations" / f"instances_{split}2017.json").write_text(text)
    assert_refused(shard_coco(here, root, out), name, out=out)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_missing_image_folder(here: Here, tmp_path: Path, out: Path, split: str):
    root = write_coco(tmp_path / "coco")
    shutil.rmtree(root / f"{split}2017")
    assert_refused(shard_coco(here, root, out), root / f"{split}2017", out=out)


def test_a_missing_annotation_file(here: Here, tmp_path: Path, out: Path):
    root = write_coco(tmp_path / "coco")
    path = root / "annotations" / "instances_val2017.json"
    path.unlink()
    assert_refused(shard_coco(here, root, out), path, out=out)


def test_no_coco_at_all(here: Here, tmp_path: Path, out: Path):
    (tmp_path / "empty").mkdir()
    assert_refused(shard_coco(here, tmp_path / "empty", out), tmp_path / "empty", "instances_train", out=out)
    assert_refused(shard_coco(here, tmp_path / "nowhere", out), tmp_path / "nowhere", out=out)


def test_a_year_that_is_not_there(here: Here, coco: Path, out: Path):
    assert_refused(shard_coco(here, coco, out, "--year", "2014"), "2014", out=out)


def test_splits_with_other_categories(here: Here, tmp_path: Path, out: Path):
    root = write_coco(tmp_path / "coco")
    path = root / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text().replace('"dog"', '"cat"'))
    assert_refused(shard_coco(here, root, out), path, out=out)


# --- Tables ---


@pytest.mark.parametrize(
    ("name", "content", "naming"),
    [
        ("t.csv", b"picture,labels\na.jpg,dog\n", "image"),
        ("t.csv", b"image,tags\na.jpg,dog\n", "labels"),
        ("t.csv", b"", "t.csv"),
        ("t.csv", b"image,labels\na.jpg,dog,cat,cow\n", "t.csv"),
        ("t.csv", b"image,labels\na\xff.jpg,dog|cat\n", "t.csv"),
        ("t.csv", b"image,labels\n,dog|cat\n", "row 1"),
        ("t.csv", b"image,labels\na.jpg,dog|cat\na.jpg,dog\n", "row 2"),
        ("t.csv", b"image,labels\na.jpg,dog\n", "found 'dog' alone"),
        ("t.csv", b"image,labels,split\na.jpg,dog|cat,../up\n", "../up"),
        ("t.csv", b"image,labels,split\na.jpg,dog|cat,val\n", "train"),
        ("t.jsonl", b'{"image": "a.jpg"}\n', "labels"),
        ("t.jsonl", b'{"image": \n', "t.jsonl"),
        ("t.parquet", b"PAR1 or not", "t.parquet"),
        ("t.xlsx", b"PK", ".xlsx"),
        ("table", b"image,labels\n", "table"),
    ],
)
def test_a_table_that_is_none(here: Here, tmp_path: Path, out: Path, name: str, content: bytes, naming: str):
    (tmp_path / name).write_bytes(content)
    picture(tmp_path / "images" / "a.jpg", 1)
    arguments = ("--table", tmp_path / name, "--image-root", tmp_path / "images", "--out", out)
    assert_refused(here("shard", "table", *arguments), naming, out=out)


def test_a_table_or_its_folder_that_is_not_there(here: Here, tmp_path: Path, out: Path):
    table, images = tmp_path / "t.csv", tmp_path / "images"
    arguments = ("shard", "table", "--table", table, "--image-root", images, "--out", out)
    assert_refused(here(*arguments), images, out=out)
    images.mkdir()
    assert_refused(here(*arguments), table, out=out)


# --- Label embeddings ---


def write_glove(path: Path, vectors: Mapping[str, int] = VECTORS, width: int = 4) -> Path:
    """Write word vectors of the given width, numbers that depend on the word."""
    lines = [
        f"{word} " + " ".join(f"{value + column / 10:.1f}" for column in range(width))
        for word, value in vectors.items()
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def embed_labels(here: Here, dataset: Path, out: Path, *more: object) -> Result:
    return here("label-embeddings", "--dataset", dataset, "--out", out, *more)


def test_the_vectors_of_these_tests_are_fine(here: Here, tiny_dataset: Path, tmp_path: Path, out: Path):
    glove = write_glove(tmp_path / "glove.4d.txt")
    result = embed_labels(here, tiny_dataset, out, "--glove", glove, "--json")
    assert result.code == 0, result.stderr
    assert result.object["counts"]["width"] == 4


@pytest.mark.parametrize("line", ["cat 1.0 2.0 3.0", "cat 1.0 2.0 3.0 4.0 5.0", "cat", "\nbird 1 2 3 4"])
def test_a_glove_file_with_a_ragged_line(
    here: Here, tiny_dataset: Path, tmp_path: Path, out: Path, line: str
):
    glove = write_glove(tmp_path / "glove.txt")
    glove.write_text(glove.read_text() + line + "\n")
    assert_refused(embed_labels(here, tiny_dataset, out, "--glove", glove), glove, "line 7", out=out)


def test_a_glove_file_of_other_width_than_its_name_says(
    here: Here, tiny_dataset: Path, tmp_path: Path, out: Path
):
    glove = write_glove(tmp_path / "glove.6B.300d.txt")
    assert_refused(embed_labels(here, tiny_dataset, out, "--glove", glove), glove, "4", "300", out=out)


@pytest.mark.parametrize("value", ["many", "nan", "inf"])
def test_a_vector_that_is_not_all_numbers(
    here: Here, tiny_dataset: Path, tmp_path: Path, out: Path, value: str
):
    glove = write_glove(tmp_path / "glove.txt")
    glove.write_text(glove.read_text().replace("2.1", value))
    assert_refused(embed_labels(here, tiny_dataset, out, "--glove", glove), "line 2", "dog", out=out)


def test_words_that_the_glove_file_does_not_hold(here: Here, tiny_dataset: Path, tmp_path: Path, out: Path):
    known = {word: value for word, value in VECTORS.items() if word not in ("parking", "meter")}
    glove = write_glove(tmp_path / "glove.txt", known)
    result = embed_labels(here, tiny_dataset, out, "--glove", glove)
    assert_refused(result, glove, "'parking meter'", "--alias", "--oov", out=out)
    assert "'dog'" not in result.stderr


@pytest.mark.parametrize(
    "content", [None, b"", b"\x1f\x8b\xff\xfe packed", b"{}\n"], ids=["missing", "empty", "packed", "JSON"]
)
def test_a_glove_file_that_is_none(
    here: Here, tiny_dataset: Path, tmp_path: Path, out: Path, content: bytes | None
):
    glove = tmp_path / "glove.txt"
    if content is not None:
        glove.write_bytes(content)
    assert_refused(embed_labels(here, tiny_dataset, out, "--glove", glove), glove, out=out)


@pytest.mark.parametrize(
    ("alias", "naming"),
    [("phone", "phone"), ("=phone", "=phone"), ("cell phone=", "cell phone="), ("cat=dog", "cat")],
)
@pytest.mark.parametrize("with_glove", [True, False])
def test_a_bad_alias(
    here: Here, tiny_dataset: Path, tmp_path: Path, out: Path, alias: str, naming: str, with_glove: bool
):
    glove = ("--glove", write_glove(tmp_path / "glove.txt")) if with_glove else ()
    assert_refused(embed_labels(here, tiny_dataset, out, *glove, "--alias", alias), naming, out=out)


def test_an_alias_whose_words_are_not_there(here: Here, tiny_dataset: Path, tmp_path: Path, out: Path):
    glove = write_glove(tmp_path / "glove.txt")
    result = embed_labels(here, tiny_dataset, out, "--glove", glove, "--alias", "dog=hound")
    assert_refused(result, "'dog'", glove, out=out)


# --- Training ---


def train(here: Here, dataset: Path, labels: Path, out: Path, *more: object) -> Result:
    return here(
        "train", "--dataset", dataset, "--label-embeddings", labels, "--out", out, *TINY_RECIPE, *more
    )


def test_label_embeddings_of_another_data_set(here: Here, tiny_dataset: Path, tmp_path: Path, out: Path):
    from lglm_core.sources.coco import CocoSource

    others = write_coco(tmp_path / "coco", labels=("person", "parking meter", "cell phone", "cat"))
    dataset = make_dataset(CocoSource(str(others)), tmp_path / "dataset")
    labels = tmp_path / "labels"
    assert embed_labels(here, dataset, labels).code == 0
    result = train(here, tiny_dataset, labels, out)
    assert_refused(result, labels, tiny_dataset, "'cat'", "'dog'", out=out)


def test_label_embeddings_of_fewer_labels(here: Here, tiny_dataset: Path, tmp_path: Path, out: Path):
    from lglm_core.sources.coco import CocoSource

    others = write_coco(tmp_path / "coco", labels=COCO_LABELS[:3])
    dataset = make_dataset(CocoSource(str(others)), tmp_path / "dataset")
    assert embed_labels(here, dataset, tmp_path / "labels").code == 0
    assert_refused(train(here, tiny_dataset, tmp_path / "labels", out), tmp_path / "labels", out=out)


def test_an_unknown_backbone(here: Here, tiny_dataset: Path, tiny_labels: Path, out: Path):
    result = train(here, tiny_dataset, tiny_labels, out, "--backbone", "resnet1001")
    assert_refused(result, "resnet1001", "resnet101", out=out)
    result = train(here, tiny_dataset, tiny_labels, out, "--backbone", "vit_b_16")
    assert_refused(result, "vit_b_16", out=out)


def test_an_image_size_below_the_stride(here: Here, tiny_dataset: Path, tiny_labels: Path, out: Path):
    result = train(here, tiny_dataset, tiny_labels, out, "--backbone", "inception_v3")
    assert_refused(result, "32", "inception_v3", "stride", out=out)


@pytest.mark.parametrize(
    "content",
    [None, b"", b"no weights at all", b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R."],
    ids=["missing", "empty", "text", "a pickle that runs a command"],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_weights_file_that_is_none(
    here: Here,
    tiny_dataset: Path,
    tiny_labels: Path,
    tmp_path: Path,
    out: Path,
    content: bytes | None,
    suffix: str,
):
    weights = tmp_path / f"weights.{suffix}"
    if content is not None:
        weights.write_bytes(content)
    assert_refused(train(here, tiny_dataset, tiny_labels, out, "--weights", weights), weights, out=out)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_of_another_network(
    here: Here, tiny_dataset: Path, tiny_labels: Path, tmp_path: Path, out: Path, suffix: str
):
    import torch
    import torchvision
    from safetensors.torch import save_file

    state = torchvision.models.get_model("squeezenet1_1", weights=None).state_dict()
    weights = tmp_path / f"weights.{suffix}"
    save_file(state, weights) if suffix == "safetensors" else torch.save(state, weights)
    result = train(here, tiny_dataset, tiny_labels, out, "--weights", weights)
    assert_refused(result, weights, "shufflenet_v2_x0_5", out=out)


def test_weights_that_are_no_tensors(
    here: Here, tiny_dataset: Path, tiny_labels: Path, tmp_path: Path, out: Path
):
    import torch

    weights = tmp_path / "weights.pth"
    torch.save({"epoch": 3}, weights)
    assert_refused(train(here, tiny_dataset, tiny_labels, out, "--weights", weights), weights, out=out)


# --- Rooms that are none, or others ---


@pytest.mark.parametrize(
    "what", ["nothing", "an empty folder", "a file", "broken JSON", "a list", "other JSON"]
)
def test_a_dataset_folder_that_is_none(here: Here, tmp_path: Path, out: Path, what: str):
    room = tmp_path / "room"
    if what == "a file":
        room.write_text("text")
    elif what != "nothing":
        room.mkdir()
        texts = {"broken JSON": "{", "a list": "[1]", "other JSON": '{"name": "bert"}'}
        if what in texts:
            (room / "manifest.json").write_text(texts[what])
    assert_refused(embed_labels(here, room, out), room, out=out)


def test_a_room_of_another_kind(
    here: Here, tiny_dataset: Path, tiny_labels: Path, tiny_run: Path, tmp_path: Path, out: Path
):
    assert_refused(embed_labels(here, tiny_labels, out), tiny_labels, "label-embeddings", "dataset", out=out)
    assert_refused(train(here, tiny_dataset, tiny_dataset, out), tiny_dataset, "label-embeddings", out=out)
    assert_refused(train(here, tiny_labels, tiny_labels, out), tiny_labels, "dataset", out=out)
    images = picture(tmp_path / "images" / "a.jpg", 1).parent
    result = here("tag", "--model", tiny_run, "--images", images, "--out", out)
    assert_refused(result, tiny_run, "run", "model", out=out)


@pytest.mark.parametrize("verb", ["evaluate", "embed", "tag", "search"])
@pytest.mark.parametrize("what", ["nothing", "other files", "manifest.json"])
def test_a_model_folder_that_is_none(
    here: Here, tiny_dataset: Path, tmp_path: Path, out: Path, verb: str, what: str
):
    model, query = tmp_path / "model", picture(tmp_path / "images" / "a.jpg", 1)
    if what != "nothing":
        model.mkdir()
        (model / what).write_text("{}")
    inputs = {
        "evaluate": ("--dataset", tiny_dataset),
        "embed": ("--dataset", tiny_dataset),
        "tag": ("--images", query.parent),
        "search": ("--embeddings", tmp_path, "--query", query),
    }[verb]
    assert_refused(here(verb, "--model", model, *inputs, "--out", out), model, out=out)


def test_a_split_that_is_not_there(here: Here, tiny_dataset: Path, tiny_model: Path, out: Path):
    for verb in ("evaluate", "embed"):
        inputs = ("--model", tiny_model, "--dataset", tiny_dataset, "--split", "test")
        assert_refused(here(verb, *inputs, "--out", out), tiny_dataset, "'test'", "train", "val", out=out)


def test_a_dataset_of_other_labels_than_the_models(here: Here, tiny_model: Path, tmp_path: Path, out: Path):
    from lglm_core.sources.coco import CocoSource

    others = write_coco(tmp_path / "coco", labels=("person", "parking meter", "cell phone", "cat"))
    dataset = make_dataset(CocoSource(str(others)), tmp_path / "dataset")
    for verb in ("evaluate", "embed"):
        result = here(verb, "--model", tiny_model, "--dataset", dataset, "--out", out)
        assert_refused(result, tiny_model, dataset, "labels", out=out)


@pytest.fixture
def no_embeddings(tmp_path: Path, tiny_model: Path) -> Callable[[str | None], Path]:
    """An embeddings room without embeddings: its manifest alone, of the tiny model or of a named one."""

    def make(model: str | None = None) -> Path:
        room = tmp_path / "embeddings"
        found = rooms.require(str(tiny_model), rooms.ModelManifest)
        manifest = rooms.EmbeddingsManifest(
            fingerprint="0" * 64,
            inputs={"model": model or found.fingerprint, "dataset": "0" * 64},
            options={"split": "val"},
            counts={"images": 1, "width": 1024},
            dataset_url="",
        )
        rooms.Room(str(room), manifest.provenance).commit(manifest)
        return room

    return make


def test_embeddings_made_with_another_model(
    here: Here, tiny_model: Path, no_embeddings: Callable, tmp_path: Path, out: Path
):
    room, query = no_embeddings("1" * 64), picture(tmp_path / "a.jpg", 1)
    result = here("search", "--model", tiny_model, "--embeddings", room, "--query", query, "--out", out)
    assert_refused(result, room, tiny_model, "another model", out=out)


@pytest.mark.parametrize("content", [None, b"", b"no picture"], ids=["missing", "empty", "text"])
def test_a_query_that_is_no_image(
    here: Here, tiny_model: Path, no_embeddings: Callable, tmp_path: Path, out: Path, content: bytes | None
):
    query = tmp_path / "query.jpg"
    if content is not None:
        query.write_bytes(content)
    inputs = ("--model", tiny_model, "--embeddings", no_embeddings(), "--query", query)
    assert_refused(here("search", *inputs, "--out", out), query, out=out)


# --- Tagging ---


@pytest.mark.parametrize("what", ["nothing", "an empty folder", "folders alone", "a file"])
def test_an_images_folder_that_holds_none(here: Here, tiny_model: Path, tmp_path: Path, out: Path, what: str):
    images = tmp_path / "images"
    if what == "a file":
        images.write_text("text")
    elif what != "nothing":
        (images / "deeper" if what == "folders alone" else images).mkdir(parents=True)
    assert_refused(here("tag", "--model", tiny_model, "--images", images, "--out", out), images, out=out)


@pytest.mark.parametrize("inside", ["images", "images/tags", "images/../images/tags", "link/tags"])
def test_tags_inside_the_images_folder(here: Here, tiny_model: Path, tmp_path: Path, inside: str):
    images = picture(tmp_path / "images" / "a.jpg", 1).parent
    (tmp_path / "link").symlink_to(images)
    out = tmp_path / inside
    result = here("tag", "--model", tiny_model, "--images", images, "--out", out)
    assert_refused(result, out, images)
    assert list(contents(images)) == ["a.jpg"]


# --- Where something stands already ---


def test_an_output_folder_that_holds_other_files(
    here: Here, coco: Path, tiny_dataset: Path, tiny_labels: Path, tiny_model: Path, tmp_path: Path
):
    out = tmp_path / "mine"
    images = picture(tmp_path / "images" / "a.jpg", 1).parent
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    on_val = ("--model", tiny_model, "--dataset", tiny_dataset)
    for result in (
        shard_coco(here, coco, out),
        embed_labels(here, tiny_dataset, out),
        train(here, tiny_dataset, tiny_labels, out),
        here("evaluate", *on_val, "--out", out),
        here("embed", *on_val, "--out", out),
        here("tag", "--model", tiny_model, "--images", images, "--out", out),
        here("shard", "toy", "--out", out),
    ):
        assert_refused(result, out)
        assert list(contents(out)) == ["thesis.txt"]


@pytest.mark.parametrize("below", ["", "deeper"])
def test_an_output_folder_that_is_a_file(here: Here, tiny_dataset: Path, tmp_path: Path, below: str):
    (tmp_path / "file").write_text("text")
    assert_refused(embed_labels(here, tiny_dataset, tmp_path / "file" / below), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "text"


def test_a_place_that_cannot_be_reached(here: Here, tiny_dataset: Path):
    assert_refused(here("label-embeddings", "--dataset", tiny_dataset, "--out", "ftp://b/k"), "ftp://b/k")


def test_a_room_made_with_other_options_tells_the_difference(
    here: Here, coco: Path, tiny_dataset: Path, tiny_labels: Path, tiny_run: Path, tmp_path: Path
):
    before = [contents(room) for room in (tiny_dataset, tiny_labels, tiny_run)]
    result = shard_coco(here, coco, tiny_dataset, "--max-samples-per-shard", "7")
    assert_refused(result, tiny_dataset, "max_samples_per_shard was 1000, now 7")
    result = shard_coco(here, coco, tiny_dataset, "--unlabelled", "drop")
    assert_refused(result, tiny_dataset, "unlabelled")
    glove, labels = ("--glove", write_glove(tmp_path / "glove.txt")), tmp_path / "labels"
    assert embed_labels(here, tiny_dataset, labels, *glove).code == 0
    result = embed_labels(here, tiny_dataset, labels, *glove, "--oov", "zero")
    assert_refused(result, labels, 'oov was "error", now "zero"')
    result = train(here, tiny_dataset, tiny_labels, tiny_run, "--epochs", "2", "--seed", "5")
    assert_refused(result, tiny_run, "epochs was 1, now 2", "seed was 0, now 5")
    assert [contents(room) for room in (tiny_dataset, tiny_labels, tiny_run)] == before


def test_a_room_made_from_other_input_tells_the_difference(
    here: Here, tiny_dataset: Path, tiny_labels: Path, tmp_path: Path
):
    before = contents(tiny_dataset)
    other = write_coco(tmp_path / "coco", samples=16)
    assert_refused(shard_coco(here, other, tiny_dataset), tiny_dataset, "instances_train2017.json was")
    glove = write_glove(tmp_path / "glove.txt")
    assert_refused(embed_labels(here, tiny_dataset, tiny_labels, "--glove", glove), tiny_labels, "glove was")
    assert contents(tiny_dataset) == before


def test_a_room_of_another_kind_is_not_written_over(here: Here, tiny_dataset: Path, tiny_model: Path):
    before = contents(tiny_dataset)
    inputs = ("--model", tiny_model, "--dataset", tiny_dataset)
    result = here("evaluate", *inputs, "--out", tiny_dataset)
    assert_refused(result, tiny_dataset, "holds a dataset room")
    assert contents(tiny_dataset) == before


def test_a_room_begun_with_other_options_is_not_gone_on_with(
    here: Here, tiny_dataset: Path, tiny_labels: Path, out: Path
):
    begun = rooms.Provenance(rooms.RunManifest, {}, {"epochs": 50})
    rooms.Room(str(out), begun).begin()
    lease.release(str(out))  # as the command that began it does when it is interrupted
    before = contents(out)
    assert_refused(train(here, tiny_dataset, tiny_labels, out), out, "epochs was 50, now 1")
    assert contents(out) == before


# --- what a strict reader found ---


def test_cooccurrence_vectors_of_another_data_set_with_the_same_labels(
    here: Here, tiny_dataset: Path, tmp_path: Path, out: Path
):
    from lglm_core.sources.coco import CocoSource

    others = write_coco(tmp_path / "coco", samples=9)
    dataset = make_dataset(CocoSource(str(others)), tmp_path / "dataset")
    labels = tmp_path / "labels"
    assert here("label-embeddings", "--dataset", dataset, "--out", labels).code == 0
    assert_refused(train(here, tiny_dataset, labels, out), labels, "co-occurrence", tiny_dataset, out=out)


def test_one_picture_per_worker_and_batch(here: Here, tiny_dataset: Path, tiny_labels: Path, out: Path):
    assert_refused(train(here, tiny_dataset, tiny_labels, out, "--batch-size=1"), "--batch-size 1", out=out)


def test_pictures_too_small_for_a_backbone_whose_stride_they_exceed(
    here: Here, tiny_dataset: Path, tiny_labels: Path, out: Path
):
    result = train(here, tiny_dataset, tiny_labels, out, "--backbone=alexnet", "--image-size=48")
    assert_refused(result, "48", "alexnet", out=out)


@pytest.mark.parametrize("option", ["--seed=-1", "--seed=99999999999", "--samples=4", "--samples=1000000"])
def test_drawing_beyond_its_limits(here: Here, out: Path, option: str):
    assert_refused(here("shard", "toy", "--out", out, option), option.partition("=")[0], out=out)


def test_a_search_page_that_is_a_folder(here: Here, tiny_model: Path, tmp_path: Path):
    (tmp_path / "page").mkdir()
    result = here(
        "search", "--model", tiny_model, "--embeddings", tmp_path, "--query", "x", "--out", tmp_path / "page"
    )
    assert result.code == 2
    assert len(result.stderr.splitlines()) == 1


def test_labels_of_a_data_set_that_were_edited_are_damage(
    here: Here, tiny_dataset: Path, tmp_path: Path, out: Path
):
    dataset = tmp_path / "dataset"
    shutil.copytree(tiny_dataset, dataset)
    names = json.loads((dataset / "labels.json").read_text())
    (dataset / "labels.json").write_text(json.dumps(names[::-1]))
    result = here("label-embeddings", "--dataset", dataset, "--out", out)
    assert result.code == 1
    assert "labels.json" in result.stderr
    assert not out.exists()
