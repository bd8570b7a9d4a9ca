import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO
from sklearn.metrics import average_precision_score

from lglm_core.sources.toy.coco import BROKEN, TEST_IMAGES, render, write_toy_coco
from lglm_core.sources.toy.drawings import LABELS
from lglm_core.sources.toy.scenes import SETTINGS, compose

SAMPLES, SEED = 40, 3


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("toy")
    write_toy_coco(str(root), samples=SAMPLES, seed=SEED)
    return root


@pytest.fixture(scope="module")
def targets() -> NDArray[np.float64]:
    """Which labels 1,000 scenes hold, as 0 and 1; nothing is drawn."""
    rows = [{thing.label for thing in compose(0, index).things} for index in range(1000)]
    return np.array([[float(label in row) for label in LABELS] for row in rows])


def test_the_same_arguments_give_the_same_bytes(toy: Path, tmp_path: Path):
    write_toy_coco(str(tmp_path), samples=SAMPLES, seed=SEED)
    assert contents(tmp_path) == contents(toy)


def test_a_scene_does_not_depend_on_what_was_drawn_before_it(toy: Path):
    drawn = json.loads((toy / "annotations/instances_train2017.json").read_text())["images"][17]["file_name"]
    with Image.open(toy / "train2017" / drawn) as stored:
        difference = np.asarray(stored, float) - np.asarray(render(compose(SEED, 17)), float)
    assert np.abs(difference).mean() < 3  # what JPEG costs


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


def test_images_that_are_there_are_not_drawn_again(toy: Path, monkeypatch: pytest.MonkeyPatch):
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
    with pytest.raises(ValueError, match="samples is 4"):
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


def test_labels_are_neither_rare_nor_everywhere(targets: NDArray[np.float64]):
    prevalence = targets.mean(axis=0)
    assert 0.1 < prevalence.min() < prevalence.max() < 0.3
    assert 0.18 < prevalence.mean() < 0.24  # what a model that sees nothing scores as mAP
    assert 0 < (targets.sum(axis=1) == 0).mean() < 0.03


def test_some_labels_keep_company_and_others_avoid_each_other(targets: NDArray[np.float64]):
    prevalence = targets.mean(axis=0)
    lift = (targets.T @ targets / len(targets)) / np.outer(prevalence, prevalence)
    pairs = np.array([lift[a, b] for a, b in itertools.combinations(range(len(LABELS)), 2)])
    assert (pairs > 2).sum() >= 5
    assert (pairs < 0.5).sum() >= 5
    assert (pairs > 0).mean() > 0.9  # guests: hardly any pair is impossible


def test_every_label_has_a_setting():
    assert {label for setting in SETTINGS.values() for label in setting.companions} == set(LABELS)


def test_colours_do_not_give_the_labels_away(targets: NDArray[np.float64]):
    """Guessing earns the prior and, by the luck of 200 images, two points more; shapes earn fifty."""
    features = np.stack([colour_histogram(render(compose(0, index))) for index in range(1000)])
    features = (features - features[:800].mean(axis=0)) / (features[:800].std(axis=0) + 1e-6)
    best = max(probe(features, targets, strength) for strength in (10.0, 100.0, 1000.0))
    prior = 100 * targets[800:].mean()
    assert best < prior + 8


def colour_histogram(picture: Image.Image) -> NDArray[np.float64]:
    """The share of the picture that each of 4x4x4 colours covers."""
    levels = np.asarray(picture).reshape(-1, 3) // 64
    counts = np.bincount(levels @ (16, 4, 1), minlength=64)
    return counts / counts.sum()


def probe(features: NDArray[np.float64], targets: NDArray[np.float64], strength: float) -> float:
    """The mAP on the last 200 rows, in points, of a ridge regression fitted on the first 800."""
    train, val = features[:800], features[800:]
    gram = train.T @ train + strength * np.eye(train.shape[1])
    weights = np.linalg.solve(gram, train.T @ (targets[:800] - targets[:800].mean(axis=0)))
    return 100 * float(average_precision_score(targets[800:], val @ weights, average="macro"))
