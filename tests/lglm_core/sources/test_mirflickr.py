from collections import Counter
from pathlib import Path

import pytest

from lglm_core.dataset.plan import make_plan
from lglm_core.errors import InputError
from lglm_core.sources.mirflickr import POTENTIAL, RELEVANT, MirflickrSource

REAL = Path(__file__).parents[3].parent / "shared" / "data" / "mirflickr"
NUMBERS = {"baby": "2\n5\n", "sky": "1\r\n2\r\n", "baby_r1": "5\n"}


@pytest.fixture
def root(tmp_path: Path) -> str:
    annotations = tmp_path / "annotations"
    annotations.mkdir()
    for name in POTENTIAL + RELEVANT:
        (annotations / f"{name}.txt").write_text(NUMBERS.get(name, ""))
    (annotations / "README.txt").write_text("not a list")
    return str(tmp_path)


def test_a_picture_has_the_labels_whose_lists_name_it(root: str):
    labels = {image.key: image.labels for image in MirflickrSource(root, images=6).images()}
    assert labels == {
        "im1": ("sky",),
        "im2": ("baby", "sky"),
        "im3": (),
        "im4": (),
        "im5": ("baby",),
        "im6": (),
    }


def test_with_the_relevant_labels_there_are_38(root: str):
    source = MirflickrSource(root, labels="38", images=6)
    assert len(source.labels()) == 38
    assert [image.labels for image in source.images()][4] == ("baby", "baby_r1")
    assert len(MirflickrSource(root).labels()) == 24


def test_half_of_the_pictures_train_by_the_seed(root: str):
    def training(seed: int) -> set[str]:
        images = list(MirflickrSource(root, split_seed=seed, images=1000).images())
        return {image.key for image in images if image.split == "train"}

    assert len(training(0)) == 500
    assert training(0) == training(0)
    assert 150 < len(training(0) & training(1)) < 350
    options = [MirflickrSource(root, split_seed=seed).options() for seed in (0, 1)]
    assert options[0] != options[1]


def test_dropping_unlabelled_pictures_moves_no_other_picture(root: str):
    kept, dropped = (MirflickrSource(root, unlabelled=u, images=6) for u in ("keep", "drop"))
    labelled = [image for image in kept.images() if image.labels]
    plan = make_plan(dropped, 10)
    planned = [image for shard in plan.shards for image in shard.images]
    assert sorted(planned, key=lambda image: image.key) == labelled
    assert plan.unlabelled_dropped == 3


@pytest.mark.parametrize("number", ["0", "7", "x", "-1", "1.5"])
def test_an_entry_that_is_no_picture_is_refused_by_file_and_position(root: str, number: str):
    Path(root, "annotations", "sky.txt").write_text(f"1\n{number}\n")
    why = rf"sky\.txt, entry 2: '{number}' found; the number of a picture, 1 to 6"
    with pytest.raises(InputError, match=why):
        list(MirflickrSource(root, images=6).images())


def test_a_missing_list_is_refused_by_name(root: str):
    Path(root, "annotations", "water.txt").unlink()
    with pytest.raises(InputError, match=r"annotations/water\.txt"):
        list(MirflickrSource(root).images())


def test_a_wrong_root_is_refused_with_an_example_of_a_right_one(root: str):
    with pytest.raises(
        InputError, match=r"^.*/annotations: holds no animals\.txt; point `root` at the folder"
    ):
        MirflickrSource(f"{root}/mirflickr")


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data/mirflickr")
@pytest.mark.parametrize(("labels", "mean"), [("24", 3.716), ("38", 4.716)])
def test_the_real_lists_come_back_label_by_label(labels: str, mean: float):
    source = MirflickrSource(str(REAL), labels=labels)
    images = list(source.images())
    assert Counter(image.split for image in images) == {"train": 12_500, "val": 12_500}
    counts = Counter(name for image in images for name in image.labels)
    assert counts == {
        name: len((REAL / "annotations" / f"{name}.txt").read_text().split()) for name in source.labels()
    }
    assert sum(counts.values()) / 25_000 == pytest.approx(mean, abs=5e-4)
    assert sum(not image.labels for image in images) == 419
