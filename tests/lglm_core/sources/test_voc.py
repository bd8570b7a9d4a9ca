from collections import Counter
from pathlib import Path

import pytest

from lglm_core.errors import InputError
from lglm_core.sources.voc import CLASSES, VocSource

REAL = Path(__file__).parents[3].parent / "shared" / "data" / "voc" / "VOC2007"
TRAINED = {"000005": "-1", "000007": "-1", "2008_000002": "-1"}
MEASURED = {"000001": "-1", "000002": "-1"}


def write(root: Path, name: str, of: str, values: dict[str, str]) -> None:
    folder = root / "ImageSets" / "Main"
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{picture} {value:>2}\r\n" for picture, value in values.items())
    (folder / f"{name}_{of}.txt").write_bytes(lines.encode())


@pytest.fixture(params=[("trainval", "test"), ("train", "val")], ids=["2007", "2012"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A VOC folder that also holds lists of no class, like the real folders."""
    for name in CLASSES:
        write(tmp_path, name, request.param[0], TRAINED)
        write(tmp_path, name, request.param[1], MEASURED)
    write(tmp_path, "train", request.param[0], TRAINED | {"000007": "1"})  # the class of that name
    write(tmp_path, "cat", request.param[0], TRAINED | {"000007": "0", "000005": "1"})
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("000005\n")
    return tmp_path


def test_present_is_a_label_and_difficult_is_unknown(root: Path):
    images = {image.key: image for image in VocSource(str(root)).images()}
    assert (images["000005"].labels, images["000005"].unknown) == (("cat",), ())
    assert (images["000007"].labels, images["000007"].unknown) == (("train",), ("cat",))
    assert (images["000001"].labels, images["000001"].unknown) == ((), ())


def test_each_year_has_its_lists_for_training_and_validation(root: Path):
    splits: dict[str, list[str]] = {"train": [], "val": []}
    for image in VocSource(str(root)).images():
        splits[image.split].append(image.key)
        assert image.uri == f"{root}/JPEGImages/{image.key}.jpg"
    assert splits == {"train": [*TRAINED], "val": [*MEASURED]}


def test_a_wrong_root_is_refused_with_an_example_of_a_right_one(root: Path):
    of = VocSource(str(root)).lists["train"]
    with pytest.raises(InputError, match=r"Main: holds no aeroplane_train\.txt; point `root` .*VOC2007"):
        VocSource(str(root.parent))
    (root / "ImageSets" / "Main" / f"aeroplane_{of}.txt").unlink()
    with pytest.raises(InputError, match=rf"^{root}/ImageSets/Main: holds no aeroplane_{of}\.txt; point"):
        VocSource(str(root))


def test_lists_that_differ_are_refused(root: Path):
    of = VocSource(str(root)).lists["train"]
    write(root, "sofa", of, {"000005": "1"})
    why = rf"sofa_{of}\.txt: lists other pictures than .*_{of}\.txt; all classes must list the same"
    with pytest.raises(InputError, match=why):
        list(VocSource(str(root)).images())


@pytest.mark.parametrize("line", ["000005 2", "000005", "000005 yes no", "000001 1\n000001 1"])
def test_a_broken_line_is_refused_with_its_number(root: Path, line: str):
    of = VocSource(str(root)).lists["val"]
    (root / "ImageSets" / "Main" / f"dog_{of}.txt").write_text(line)
    with pytest.raises(InputError, match=rf"dog_{of}\.txt, line [12]: "):
        list(VocSource(str(root)).images())


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data/voc")
def test_the_real_lists_come_back_class_by_class():
    images = list(VocSource(str(REAL)).images())
    assert Counter(image.split for image in images) == {"train": 5011, "val": 4952}
    for split, of in (("train", "trainval"), ("val", "test")):
        for name in CLASSES:
            said = (REAL / "ImageSets" / "Main" / f"{name}_{of}.txt").read_text().split()[1::2]
            chosen = [image for image in images if image.split == split]
            assert sum(name in image.labels for image in chosen) == said.count("1")
            assert sum(name in image.unknown for image in chosen) == said.count("0")
