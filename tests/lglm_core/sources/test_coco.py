import gzip
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lglm_core.dataset.plan import make_plan
from lglm_core.errors import InputError
from lglm_core.sources.coco import CocoSource
from lglm_core.sources.source import key_of

REAL = Path(__file__).parents[3].parent / "shared" / "data" / "coco"

CATEGORIES = [  # neither by id nor by name
    {"id": 18, "name": "dog", "supercategory": "animal"},
    {"id": 1, "name": "person", "supercategory": "person"},
    {"id": 17, "name": "cat", "supercategory": "animal"},
]


def annotation(number: int, image: int, category: int, crowd: int = 0) -> dict[str, Any]:
    shape: Any = {"counts": [0, 4], "size": [2, 2]} if crowd else [[0, 0, 1, 0, 1, 1]]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "iscrowd": crowd,
        "area": 1.0,
        "bbox": [0, 0, 1, 1],
        "segmentation": shape,
    }


def picture(number: int) -> dict[str, Any]:
    return {"id": number, "file_name": f"{number:012d}.jpg", "width": 4, "height": 4}


TRAIN = {
    "info": {},
    "licenses": [],
    "images": [picture(9), picture(5), picture(7), picture(3)],
    "annotations": [
        annotation(1, 9, 18),
        annotation(2, 9, 1),
        annotation(3, 9, 18),
        annotation(4, 5, 17, crowd=1),
    ],
    "categories": CATEGORIES,
}
VAL = TRAIN | {"images": [picture(2), picture(4)], "annotations": [annotation(1, 2, 1)]}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(train: Any = TRAIN, val: Any = VAL, year: str = "2017") -> Path:
        (tmp_path / "annotations").mkdir(exist_ok=True)
        for split, content in (("train", train), ("val", val)):
            (tmp_path / f"{split}{year}").mkdir(exist_ok=True)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            (tmp_path / "annotations" / f"instances_{split}{year}.json").write_bytes(data)
        return tmp_path

    return write


def planned(source: CocoSource) -> list[str]:
    """The last digits of the keys in a plan."""
    return [image.key[-1] for shard in make_plan(source, 10).shards for image in shard.images]


def test_labels_are_the_categories_by_ascending_id(write: Write):
    assert CocoSource(str(write())).labels() == ("person", "cat", "dog")


def test_a_picture_has_every_category_annotated_in_it_once(write: Write):
    found = {image.source: image.labels for image in CocoSource(str(write())).images()}
    assert found["train2017/000000000009.jpg"] == ("person", "dog")


def test_a_crowd_counts_as_its_category(write: Write):
    found = {image.source: image.labels for image in CocoSource(str(write())).images()}
    assert found["train2017/000000000005.jpg"] == ("cat",)


def test_pictures_come_by_ascending_id_training_first(write: Write):
    keys = [(image.split, image.key) for image in CocoSource(str(write())).images()]
    assert keys == [("train", f"{n:012d}") for n in (3, 5, 7, 9)] + [("val", f"{n:012d}") for n in (2, 4)]


def test_a_picture_is_found_below_its_split(write: Write):
    root = write()
    assert next(iter(CocoSource(str(root)).images())).uri == f"{root}/train2017/000000000003.jpg"


def test_unlabelled_pictures_are_kept_by_default(write: Write):
    source = CocoSource(str(write()))
    assert sum(not image.labels for image in source.images()) == 3
    assert (planned(source), make_plan(source, 10).unlabelled_dropped) == (["3", "5", "7", "9", "2", "4"], 0)


def test_unlabelled_pictures_can_be_dropped_and_are_counted(write: Write):
    source = CocoSource(str(write()), unlabelled="drop")
    for _ in range(2):  # the count does not depend on how often the source was read
        assert planned(source) == ["5", "9", "2"]
        assert make_plan(source, 10).unlabelled_dropped == 3


def test_nothing_is_printed(write: Write, capsys: pytest.CaptureFixture[str]):
    list(CocoSource(str(write())).images())
    assert capsys.readouterr() == ("", "")


def test_the_year_is_found(write: Write):
    source = CocoSource(str(write(year="2014")))
    assert source.year == "2014"
    assert {image.source.partition("/")[0] for image in source.images()} == {"train2014", "val2014"}


def test_a_root_with_two_years_asks_for_the_year(write: Write):
    write(year="2014")
    root = write(year="2017")
    with pytest.raises(InputError, match="holds COCO 2014 and 2017; choose one with `year`"):
        CocoSource(str(root))
    assert CocoSource(str(root), year="2014").year == "2014"


def test_another_folder_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"holds no instances_train2014\.json or instances_train2017\.json"):
        CocoSource(str(tmp_path))


def test_a_missing_picture_folder_is_refused_by_name(write: Write):
    root = write()
    (root / "val2017").rmdir()
    with pytest.raises(InputError, match="val2017: no such folder; COCO's val pictures"):
        CocoSource(str(root))


def test_a_missing_annotation_file_is_refused_by_name(write: Write):
    root = write()
    (root / "annotations" / "instances_val2017.json").unlink()
    with pytest.raises(InputError, match=r"instances_val2017\.json: cannot be read"):
        list(CocoSource(str(root)).images())


BROKEN = [
    (b"{not json", "not JSON"),
    (json.dumps(TRAIN).encode()[:-40], "not JSON"),
    (b"\xff\xfe\x00", "not JSON"),
    ([1, 2], "no list 'images'"),
    ({"images": [], "categories": []}, "no list 'annotations'"),
    (TRAIN | {"categories": {"1": "cat"}}, "no list 'categories'"),
    (TRAIN | {"images": [{"id": 3}]}, r"images\[0\] has no 'file_name'"),
    (
        TRAIN | {"images": [{"id": 3, "file_name": "a\udcff.jpg"}]},
        r"images\[0\] has a .* that is not text",
    ),
    (TRAIN | {"images": [picture(9), "x"]}, r"images\[1\] has no 'id'"),
    (TRAIN | {"annotations": [{"id": 1, "image_id": 9}]}, r"annotations\[0\] has no 'category_id'"),
    (
        TRAIN | {"annotations": [annotation(8, 77, 1)]},
        "annotation 8 has image_id 77, which is not among the file's 4",
    ),
    (TRAIN | {"annotations": [annotation(8, 9, 99)]}, "annotation 8 has category_id 99"),
]


@pytest.mark.parametrize(("content", "complaint"), BROKEN)
def test_a_malformed_file_is_refused_by_name(write: Write, content: Any, complaint: str):
    source = CocoSource(str(write(train=content)))
    with pytest.raises(InputError, match=rf"instances_train2017\.json: .*{complaint}"):
        source.labels()


def test_categories_that_differ_between_the_splits_are_refused(write: Write):
    other = VAL | {"categories": [*CATEGORIES[:2], {"id": 17, "name": "kitten"}]}
    with pytest.raises(InputError, match=r"instances_val2017\.json: its categories are not those of"):
        CocoSource(str(write(val=other))).labels()


def test_the_order_in_which_categories_are_listed_does_not_matter(write: Write):
    turned = VAL | {"categories": CATEGORIES[::-1]}
    assert CocoSource(str(write(val=turned))).labels() == ("person", "cat", "dog")


def test_two_pictures_with_one_id_are_refused(write: Write):
    """Otherwise one of them would be lost silently."""
    twice = TRAIN | {"images": [*TRAIN["images"], picture(9) | {"file_name": "other.jpg"}]}
    source = CocoSource(str(write(train=twice)))
    with pytest.raises(InputError, match=r"instances_train2017\.json: .*\b9\b"):
        list(source.images())


def test_a_file_listed_under_two_ids_is_refused(write: Write):
    """Otherwise one key would have two sets of labels."""
    twice = TRAIN | {"images": [*TRAIN["images"], picture(9) | {"id": 10}]}
    with pytest.raises(InputError, match="000000000009"):
        make_plan(CocoSource(str(write(train=twice))), 10)


def test_names_that_differ_by_more_than_a_suffix_are_different_keys(write: Write):
    names = ["a.jpg", "a.png", "v1.0/i1", "v1.0/i2", "b.c.jpg"]
    more = [picture(20 + number) | {"file_name": name} for number, name in enumerate(names)]
    plan = make_plan(CocoSource(str(write(train=TRAIN | {"images": [*TRAIN["images"], *more]}))), 100)
    (train,) = (shard for shard in plan.shards if shard.split == "train")
    keys = {image.source: image.key for image in train.images}
    assert [keys[f"train2017/{name}"] for name in names] == [
        "a",
        key_of("a.png"),
        key_of("v1.0/i1"),
        key_of("v1.0/i2"),
        key_of("b.c"),
    ]


def test_a_key_does_not_depend_on_which_pictures_have_labels(write: Write):
    more = [
        picture(20 + number) | {"file_name": f"a.{suffix}"} for number, suffix in enumerate(("png", "jpg"))
    ]
    root = str(write(train=TRAIN | {"images": [*TRAIN["images"], *more]}))
    kept = {image.source: image.key for image in CocoSource(root).images()}
    labelled = [*TRAIN["annotations"], annotation(99, 21, 1)]
    root = str(write(train=TRAIN | {"images": [*TRAIN["images"], *more], "annotations": labelled}))
    plan = make_plan(CocoSource(root, unlabelled="drop"), 100)
    dropped = {image.source: image.key for shard in plan.shards for image in shard.images}
    assert "train2017/a.png" not in dropped
    assert dropped["train2017/a.jpg"] == kept["train2017/a.jpg"] == key_of("a.jpg")


def test_inputs_are_the_digests_of_both_files_without_their_location(write: Write):
    import hashlib

    root = write()
    expected = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (root / "annotations").iterdir()
    }
    assert CocoSource(str(root)).inputs() == expected


def test_keeping_or_dropping_unlabelled_pictures_is_an_option(write: Write):
    root = str(write())
    assert CocoSource(root).options() != CocoSource(root, unlabelled="drop").options()


def test_crowds_may_count_for_nothing(write: Write):
    root = str(write())
    labels = {image.key: image.labels for image in CocoSource(root, crowds="drop").images()}
    assert labels["000000000005"] == ()
    assert labels["000000000009"] == ("person", "dog")
    assert CocoSource(root, crowds="drop").options() != CocoSource(root).options()


def test_small_annotations_may_count_for_nothing(write: Write):
    small = annotation(2, 9, 1) | {"area": 0.5}
    root = str(write(TRAIN | {"annotations": [annotation(1, 9, 18), small]}))
    labels = {image.key: image.labels for image in CocoSource(root, min_area=1).images()}
    assert labels["000000000009"] == ("dog",)
    assert CocoSource(root, min_area=1).options() != CocoSource(root).options()


def test_pictures_left_without_an_annotation_that_counts_are_unlabelled(write: Write):
    source = CocoSource(str(write()), crowds="drop", unlabelled="drop")
    plan = make_plan(source, 10)
    keys = [image.key for shard in plan.shards for image in shard.images]
    assert keys == ["000000000009", "000000000002"]
    assert plan.unlabelled_dropped == 4


@pytest.mark.parametrize(("options", "name"), [({"crowds": "drop"}, "iscrowd"), ({"min_area": 1}, "area")])
def test_a_field_that_a_filter_needs_must_exist(write: Write, options: Any, name: str):
    without = {key: value for key, value in annotation(7, 9, 18).items() if key != name}
    source = CocoSource(str(write(TRAIN | {"annotations": [without]})), **options)
    with pytest.raises(InputError, match=rf"instances_train2017\.json: annotation 7 has no number '{name}'"):
        list(source.images())


def test_compressed_annotations_are_the_same_dataset(write: Write):
    plain = CocoSource(str(write()))
    expected = list(plain.images()), plain.inputs(), plain.options()
    for path in Path(plain.root, "annotations").iterdir():
        Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = CocoSource(plain.root)
    assert (list(packed.images()), packed.inputs(), packed.options()) == expected


@pytest.mark.parametrize("keep", [5, 10, 60])
def test_a_truncated_compressed_file_is_refused_by_name(write: Write, keep: int):
    root = write()
    path = root / "annotations" / "instances_val2017.json"
    Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes())[:keep])
    path.unlink()
    with pytest.raises(InputError, match=r"instances_val2017\.json\.gz: not a whole gzip file"):
        list(CocoSource(str(root)).images())


needs_real_coco = pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data/coco, the real subset")


@needs_real_coco
@pytest.mark.parametrize(("split", "number"), [("train", 343), ("val", 206)])
def test_real_coco_has_the_labels_of_an_independent_count(split: str, number: int):
    content = json.loads((REAL / "annotations" / f"instances_{split}2017.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    expected: dict[str, set[str]] = defaultdict(set)
    files = {image["id"]: image["file_name"] for image in content["images"]}
    for a in content["annotations"]:
        expected[files[a["image_id"]]].add(names[a["category_id"]])
    found = [image for image in CocoSource(str(REAL)).images() if image.split == split]
    assert len(found) == number == len(files)
    assert {image.source.split("/")[1]: set(image.labels) for image in found} == {
        file: expected[file] for file in files.values()
    }


@needs_real_coco
def test_real_coco_has_80_labels_and_5_pictures_without():
    source = CocoSource(str(REAL))
    labels = source.labels()
    assert (len(labels), labels[0], labels[-1]) == (80, "person", "toothbrush")
    assert sum(not image.labels for image in source.images()) == 5


@needs_real_coco
def test_every_picture_of_real_coco_exists():
    assert all(Path(image.uri).is_file() for image in CocoSource(str(REAL)).images())
