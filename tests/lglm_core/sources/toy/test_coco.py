import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from lglm_core.sources.toy.coco import BROKEN, TEST_IMAGES, render, write_toy_coco
from lglm_core.sources.toy.drawings import LABELS
from lglm_core.sources.toy.scenes import compose

SAMPLES, SEED = 40, 3


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("toy")
    write_toy_coco(str(root), samples=SAMPLES, seed=SEED)
    return root


def test_the_same_arguments_give_the_same_bytes(toy: Path, tmp_path: Path):
    write_toy_coco(str(tmp_path), samples=SAMPLES, seed=SEED)
    assert contents(tmp_path) == contents(toy)


def test_a_scene_does_not_depend_on_what_was_drawn_before_it(toy: Path):
    drawn = json.loads((toy / "annotations/instances_train2017.json").read_text())["images"][17]["file_name"]
    with Image.open(toy / "train2017" / drawn) as stored:
        difference = np.asarray(stored, float) - np.asarray(render(compose(SEED, 17)), float)
    assert np.abs(difference).mean() < 3  # the error of JPEG


def test_other_seeds_share_neither_names_nor_scenes(toy: Path, tmp_path: Path):
    write_toy_coco(str(tmp_path), samples=SAMPLES, seed=SEED + 1)
    ours = {name: data for name, data in contents(toy).items() if name.endswith(".jpg")}
    theirs = {name: data for name, data in contents(tmp_path).items() if name.endswith(".jpg")}
    assert set(ours) & set(theirs) == {f"test2017/{BROKEN}"}
    assert not set(ours.values()) & set(theirs.values())


def test_an_interrupted_folder_is_completed(toy: Path, tmp_path: Path):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt  # as Ctrl-C after 50 images

    with pytest.raises(KeyboardInterrupt):
        write_toy_coco(str(tmp_path), samples=SAMPLES, seed=SEED, progress=stop)
    killed = min((tmp_path / "train2017").iterdir())
    killed.unlink()
    half = killed.parent / ".partial-x1y2" / killed.name
    half.parent.mkdir()
    half.write_bytes(b"half an ima")  # as kill -9 leaves it
    assert not (tmp_path / "annotations").exists()  # they are written last
    write_toy_coco(str(tmp_path), samples=SAMPLES, seed=SEED)
    assert contents(tmp_path) == contents(toy)


def test_existing_images_are_not_drawn_again(toy: Path, monkeypatch: pytest.MonkeyPatch):
    before = contents(toy)
    monkeypatch.setattr("lglm_core.sources.toy.coco.render", lambda scene: pytest.fail("drawn again"))
    write_toy_coco(str(toy), samples=SAMPLES, seed=SEED)
    assert contents(toy) == before


def test_a_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(self: Path, target: Path) -> None:
        raise OSError("no space")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_toy_coco(str(tmp_path), samples=SAMPLES, seed=SEED)
    assert contents(tmp_path) == {}


def test_progress_ends_at_the_total(tmp_path: Path):
    reports: list[tuple[int, int]] = []
    write_toy_coco(str(tmp_path), samples=SAMPLES, seed=SEED, progress=lambda *report: reports.append(report))
    assert reports == [(50, SAMPLES + TEST_IMAGES), (SAMPLES + TEST_IMAGES, SAMPLES + TEST_IMAGES)]


def test_too_few_samples_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="`samples` is 4"):
        write_toy_coco(str(tmp_path), samples=4, seed=0)


@pytest.mark.parametrize(("split", "images"), [("train2017", 32), ("val2017", 8)])
def test_pycocotools_reads_it(toy: Path, split: str, images: int, capsys: pytest.CaptureFixture[str]):
    coco = COCO(toy / f"annotations/instances_{split}.json")
    assert tuple(coco.cats[number]["name"] for number in sorted(coco.cats)) == LABELS
    assert len(coco.imgs) == images == len(list((toy / split).iterdir()))
    for image in coco.imgs.values():
        with Image.open(toy / split / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])
    for annotation in coco.anns.values():
        assert coco.annToMask(annotation).sum() == pytest.approx(annotation["area"], rel=0.1)


def test_boxes_lie_inside_their_images(toy: Path):
    described = json.loads((toy / "annotations/instances_train2017.json").read_text())
    image = described["images"][0]
    boxes = np.array([annotation["bbox"] for annotation in described["annotations"]])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= (image["width"] + 0.01, image["height"] + 0.01)).all()
    assert len({annotation["id"] for annotation in described["annotations"]}) == len(boxes)


def test_exactly_one_test_image_is_broken(toy: Path):
    broken = []
    for path in sorted((toy / "test2017").iterdir()):
        try:
            with Image.open(path) as picture:
                picture.load()
        except OSError:
            broken.append(path.name)
    assert broken == [BROKEN]
    assert len(list((toy / "test2017").iterdir())) == TEST_IMAGES
