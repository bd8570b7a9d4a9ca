"""The verb explain: one model or two, pictures and labels of choice, and what it refuses."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from jobs.options import Explain
from lglm_core.rooms import ModelManifest, Provenance, Room
from tests.jobs.commands import COCO_LABELS, Commands, Here, Result, contents, picture
from tests.servers.s3 import S3Server, download, upload

pytestmark = pytest.mark.timeout(900)  # the first test to ask for a room waits until it is made

MAPS = ("attribution", "activation")
OTHER_LABELS = ("dog", "bench", "person")


def save_model(
    out: Path, *, head: str, backbone: str, labels: Sequence[str], size: int, threshold: float = 0.5
) -> Path:
    """A model room with weights as drawn."""
    import torch

    from lglm_core.images.transforms import Preprocessing
    from lglm_core.labels.vocabulary import LabelVocabulary
    from lglm_core.model.backbone import Backbone
    from lglm_core.model.bundle import save_bundle
    from lglm_core.model.config import head_config
    from lglm_core.model.head import LabelKnowledge
    from lglm_core.model.heads import build_head
    from lglm_core.model.recogniser import Recogniser

    torch.manual_seed(0)
    cnn = Backbone(backbone)
    config = head_config(head, {"pooling": "average"} if head == "plain" else {"width": 8})
    model = Recogniser(cnn, build_head(head, config, cnn.width, LabelKnowledge(len(labels))))
    save_bundle(
        Room(str(out), Provenance(ModelManifest, {"dataset": "d" * 64}, {})),
        model,
        LabelVocabulary(labels),
        embeddings=None,
        preprocessing=Preprocessing(size),
        facts={},
        thresholds=[threshold] * len(labels),
    )
    return out


@pytest.fixture(scope="session")
def other_model(made_once: Callable) -> Path:
    """Of another head, backbone, pooling and picture size, with other labels."""
    with made_once("explain-other-model") as out:
        if not out.exists():
            save_model(out, head="plain", backbone="squeezenet1_1", labels=OTHER_LABELS, size=64)
        return out


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return picture(tmp_path / "pictures" / "a street.png", 1)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "explanation"


def assert_refused(result: Result, *naming: object, out: Path) -> None:
    assert result.code == 2, result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    for name in naming:
        assert str(name) in result.stderr
    assert not out.exists()


def rows_of(out: Path) -> list[dict]:
    return json.loads((out / "manifest.json").read_text())["details"]["probabilities"]


# --- What it writes ---


def test_two_models_side_by_side_and_the_same_again(
    lglm: Commands, here: Here, tiny_model: Path, other_model: Path, image: Path, out: Path, tmp_path: Path
):
    second = picture(tmp_path / "pictures" / "b.jpg", 2)
    arguments = (
        *("--model", tiny_model, "--compare", other_model, "--image", image, second),
        *("--label", "dog", "person", "--out", out),
    )
    first = lglm("explain", *arguments, "--json")  # a process of its own: nothing is imported yet
    assert first.code == 0, first.stderr
    assert first.object["status"] == "done"
    assert first.object["counts"] == {"images": 2, "overlays": 2 * 2 * 2 * 2}
    assert first.stderr.splitlines() == ["a street.png: dog, person", "b.jpg: dog, person"]
    assert "lglm on shufflenet_v2_x0_5 beside plain on squeezenet1_1" in first.stdout

    tensors = load_file(out / "maps.safetensors")
    names = {
        f"{each}/{label}/{model}"
        for each in ("a street.png", "b.jpg")
        for label in ("dog", "person")
        for model in ("model", "compare")
    }
    assert set(tensors) == {f"{name}/{what}" for name in names for what in (*MAPS, "bias", "logit")}
    probabilities = {
        f"{row['image']}/{row['label']}/{model}": row[model]
        for row in rows_of(out)
        for model in ("model", "compare")
    }
    for name in names:
        side = 1 if name.endswith("/model") else 3
        assert tensors[f"{name}/attribution"].shape == tensors[f"{name}/activation"].shape == (side, side)
        total = tensors[f"{name}/attribution"].sum(dtype=np.float64) + tensors[f"{name}/bias"]
        assert total == pytest.approx(float(tensors[f"{name}/logit"]), abs=1e-5)
        assert probabilities[name] == pytest.approx(1 / (1 + np.exp(-total)), abs=1e-5)

    overlays = sorted((out / "overlays").rglob("*.png"))
    assert len(overlays) == first.object["counts"]["overlays"]
    assert {path.name for path in overlays} == {
        f"{m}-{kind}.png" for m in ("model", "compare") for kind in MAPS
    }
    assert {Image.open(path).size for path in overlays} == {(48, 40)}

    page = (out / "explain.html").read_text()
    assert page.count("<figure") == 2 * 2 * 2
    assert f"{100 * probabilities['b.jpg/dog/compare']:.1f}%" in page
    assert not list(out.rglob("*.pkl")) + list(out.rglob("*.pt"))

    before = contents(out)
    again = here("explain", *arguments, "--json")
    assert again.code == 0, again.stderr
    assert again.object["status"] == "already complete"
    assert again.object["counts"] == first.object["counts"]
    assert again.stdout.splitlines()[1:-1] == first.stdout.splitlines()[1:-1]
    assert contents(out) == before


def test_what_is_complete_is_known_without_torch(
    lglm: Commands, here: Here, tiny_model: Path, image: Path, out: Path
):
    arguments = ["--model", str(tiny_model), "--image", str(image), "--out", str(out)]
    assert here("explain", *arguments).code == 0
    code = (
        f"import sys; from jobs.explain import main; assert main({arguments!r}) == 0; "
        "print({'torch', 'PIL', 'ray', 'pyarrow'} & set(sys.modules))"
    )
    result = lglm.python(code)
    assert result.code == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "set()"


def test_scores_are_those_that_tagging_gives(here: Here, tiny_model: Path, image: Path, out: Path):
    from lglm_core.inference.tagger import Tagger

    result = here("explain", "--model", tiny_model, "--image", image, "--label", *COCO_LABELS, "--out", out)
    assert result.code == 0, result.stderr
    (scores,) = Tagger.load(str(tiny_model), threads=1).predict([image.read_bytes()]).scores
    assert [row["label"] for row in rows_of(out)] == list(COCO_LABELS)
    assert [row["model"] for row in rows_of(out)] == pytest.approx(list(map(float, scores)), abs=1e-5)


@pytest.mark.parametrize(("threshold", "expected"), [(0.0, 4), (1.0, 3)], ids=["tags", "the three highest"])
def test_without_labels_it_takes_the_tags_or_else_the_three_highest(
    here: Here, tmp_path: Path, image: Path, out: Path, threshold: float, expected: int
):
    model = save_model(
        tmp_path / "model",
        head="plain",
        backbone="squeezenet1_1",
        labels=COCO_LABELS,
        size=64,
        threshold=threshold,
    )
    result = here("explain", "--model", model, "--image", image, "--out", out)
    assert result.code == 0, result.stderr
    found = rows_of(out)
    assert len(found) == expected
    assert [row["model"] for row in found] == sorted((row["model"] for row in found), reverse=True)


def test_without_labels_two_models_are_compared_by_those_they_share(
    here: Here, tiny_model: Path, other_model: Path, image: Path, out: Path
):
    result = here("explain", "--model", tiny_model, "--compare", other_model, "--image", image, "--out", out)
    assert result.code == 0, result.stderr
    assert {row["label"] for row in rows_of(out)} <= {"dog", "person"}


def test_pictures_of_one_name_keep_apart_and_one_named_twice_is_one(
    here: Here, tiny_model: Path, tmp_path: Path, image: Path, out: Path
):
    other = picture(tmp_path / "elsewhere" / image.name, 7)
    arguments = ("--image", image, other, image, "--label", "dog", "dog")
    result = here("explain", "--model", tiny_model, *arguments, "--out", out, "--json")
    assert result.object["counts"] == {"images": 2, "overlays": 4}
    assert [row["image"] for row in rows_of(out)] == ["a street.png", "a street.png (2)"]
    assert len({path.parent.parent for path in (out / "overlays").rglob("*.png")}) == 2


def test_a_file_name_need_not_be_text(here: Here, tiny_model: Path, image: Path, out: Path):
    odd = image.with_name(os.fsdecode(b"stra\xdfe.png"))
    image.rename(odd)
    result = here("explain", "--model", tiny_model, "--image", odd, "--label", "dog", "--out", out)
    assert result.code == 0, result.stderr
    assert rows_of(out)[0]["image"] == "stra\\xdfe.png"


def test_interrupted_and_run_again_it_is_as_if_it_had_not_been(
    here: Here, tiny_model: Path, image: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import lglm_core.pages.explanation as pages

    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    arguments = ("--model", tiny_model, "--image", image, "--label", "dog")
    with monkeypatch.context() as patched:
        patched.setattr(pages, "explanation_page", interrupted)
        assert here("explain", *arguments, "--out", out).code == 130
    assert not (out / "manifest.json").exists()
    assert list(out.rglob("*.png"))
    assert here("explain", *arguments, "--out", out).code == 0
    assert here("explain", *arguments, "--out", tmp_path / "undisturbed").code == 0
    assert contents(out) == contents(tmp_path / "undisturbed")


def test_relative_places_become_absolute_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    given = Explain(model="m", image=("a.jpg", "s3://bucket/b.jpg"), label=("dog",), out="o")
    assert given.absolute() == Explain(
        model=f"{tmp_path}/m",
        image=(f"{tmp_path}/a.jpg", "s3://bucket/b.jpg"),
        label=("dog",),
        out=f"{tmp_path}/o",
    )


# --- In a bucket ---


def test_models_pictures_and_explanation_in_a_bucket(
    here: Here,
    connect_to: Callable[..., None],
    rclone: S3Server,
    tiny_model: Path,
    other_model: Path,
    image: Path,
    out: Path,
    tmp_path: Path,
):
    bucket = tmp_path / "as-in-the-bucket"
    shutil.copytree(tiny_model, bucket / "model")
    shutil.copytree(other_model, bucket / "other")
    shutil.copytree(image.parent, bucket / "pictures")
    address = rclone.put_bucket("explain")
    upload(rclone, bucket, "explain")

    def arguments(root: object, folder: object) -> tuple[str, ...]:
        models = ("--model", f"{root}/model", "--compare", f"{root}/other")
        return (*models, "--image", f"{root}/pictures/{image.name}", "--label", "dog", "--out", f"{folder}")

    connect_to(rclone)
    done = here.done("explain", *arguments(address, f"{address}/explained"))
    assert done["status"] == "done"
    again = here.done("explain", *arguments(address, f"{address}/explained"))
    assert again["status"] == "already complete"
    local = here.done("explain", *arguments(bucket, out))
    assert local["counts"] == done["counts"]
    explained = download(rclone, "explain", "explained/", tmp_path / "explained")
    assert contents(explained) == contents(out)


# --- What it refuses ---


def test_a_head_that_does_not_fold(here: Here, tiny_model: Path, tmp_path: Path, image: Path, out: Path):
    model = save_model(
        tmp_path / "model", head="add-gcn", backbone="squeezenet1_1", labels=COCO_LABELS, size=64
    )
    arguments = ("--image", image, "--label", "dog", "--out", out)
    assert_refused(here("explain", "--model", model, *arguments), model, "add-gcn", "lglm", out=out)
    compared = here("explain", "--model", tiny_model, "--compare", model, *arguments)
    assert_refused(compared, model, "add-gcn", out=out)


def test_a_label_that_a_model_does_not_know(
    here: Here, tiny_model: Path, other_model: Path, image: Path, out: Path
):
    rest = ("--image", image, "--out", out)
    result = here("explain", "--model", tiny_model, "--label", "dog", "phone", *rest)
    assert_refused(result, tiny_model, "'phone'", "cell phone", out=out)
    both = ("--model", tiny_model, "--compare", other_model)
    result = here("explain", *both, "--label", "dog", "cell phone", *rest)
    assert_refused(result, other_model, "'cell phone'", "dog", out=out)


def test_two_models_without_a_label_in_common(
    here: Here, tiny_model: Path, tmp_path: Path, image: Path, out: Path
):
    strange = save_model(
        tmp_path / "strange", head="plain", backbone="squeezenet1_1", labels=("cat", "hat"), size=64
    )
    result = here("explain", "--model", tiny_model, "--compare", strange, "--image", image, "--out", out)
    assert_refused(result, tiny_model, strange, "common", out=out)


@pytest.mark.parametrize("content", [None, b"", b"no picture", b"\xff\xd8\xff\xe0 cut"])
def test_a_file_that_is_no_picture_among_good_ones(
    here: Here, tiny_model: Path, tmp_path: Path, image: Path, out: Path, content: bytes | None
):
    bad = tmp_path / "bad.jpg"
    if content is not None:
        bad.write_bytes(content)
    result = here("explain", "--model", tiny_model, "--image", image, bad, "--out", out)
    assert_refused(result, bad, out=out)


def test_a_folder_of_pictures(here: Here, tiny_model: Path, image: Path, out: Path):
    result = here("explain", "--model", tiny_model, "--image", image.parent, "--out", out)
    assert_refused(result, image.parent, out=out)


@pytest.mark.parametrize("role", ["--model", "--compare"])
@pytest.mark.parametrize("what", ["nothing", "a run", "a broken config"])
def test_a_model_folder_that_is_none(
    here: Here, tiny_run: Path, tiny_model: Path, tmp_path: Path, image: Path, out: Path, role: str, what: str
):
    bad = tiny_run if what == "a run" else tmp_path / "bad"
    if what == "a broken config":
        shutil.copytree(tiny_model, bad)
        (bad / "config.json").write_text("[]")
    models = ("--model", bad) if role == "--model" else ("--model", tiny_model, "--compare", bad)
    assert_refused(here("explain", *models, "--image", image, "--out", out), bad, out=out)


def test_an_explanation_of_something_else_tells_the_difference(
    here: Here, tiny_model: Path, other_model: Path, tmp_path: Path, image: Path, out: Path
):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    given = ("--image", image, "--label", "dog", "--out", out)
    assert here("explain", "--model", model, *given).code == 0
    before = contents(out)
    for changed, difference in (
        (("--model", other_model, *given), "model was"),
        (("--model", model, "--compare", other_model, *given), "compare was null"),
        (("--model", model, *given, "--label", "person"), 'labels was ["dog"], now ["dog", "person"]'),
        (("--model", model, *given, "--image", picture(tmp_path / "b.jpg", 3)), "images was"),
    ):
        result = here("explain", *changed)
        assert result.code == 2
        assert len(result.stderr.splitlines()) == 1
        assert difference in result.stderr
    thresholds = json.loads((model / "thresholds.json").read_text())
    (model / "thresholds.json").write_text(json.dumps({**thresholds, "dog": 0.9}))
    assert "thresholds of model was" in here("explain", "--model", model, *given).stderr
    assert contents(out) == before


def test_a_folder_that_holds_something_else(
    here: Here, tiny_model: Path, tiny_dataset: Path, image: Path, tmp_path: Path
):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for place, words in ((tmp_path / "mine", "other files"), (tiny_dataset, "holds a dataset room")):
        before = contents(place)
        result = here("explain", "--model", tiny_model, "--image", image, "--out", place)
        assert result.code == 2
        assert words in result.stderr
        assert contents(place) == before


def test_an_explanation_is_no_model(here: Here, tiny_model: Path, image: Path, out: Path, tmp_path: Path):
    assert here("explain", "--model", tiny_model, "--image", image, "--out", out).code == 0
    result = here("explain", "--model", out, "--image", image, "--out", tmp_path / "next")
    assert_refused(result, out, "explanation", "model", out=tmp_path / "next")
