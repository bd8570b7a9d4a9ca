"""Datasets of pictures that lie in archives are those of the same pictures in folders."""

import io
import shutil
import tarfile
from pathlib import Path

from lglm_core.dataset.plan import make_plan
from lglm_core.dataset.shard_writer import write_shard
from lglm_core.sources.coco import CocoSource
from lglm_core.sources.toy.coco import write_toy_coco
from lglm_core.sources.voc import CLASSES, VocSource


def dataset(source: CocoSource | VocSource, out: Path) -> tuple[str, list[bytes]]:
    plan = make_plan(source, 8)
    for shard in plan.shards:
        write_shard(shard, plan.labels, str(out))
    return plan.fingerprint, [path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()]


def test_coco_from_the_zips_it_is_published_as_is_the_same_dataset(tmp_path: Path):
    folder, zipped = tmp_path / "folder", tmp_path / "zipped"
    write_toy_coco(str(folder), samples=30, seed=0)
    zipped.mkdir()
    year = CocoSource(str(folder)).year
    for name in (f"train{year}", f"val{year}", "annotations"):
        target = f"annotations_trainval{year}" if name == "annotations" else name
        shutil.make_archive(str(zipped / target), "zip", folder, name)
    assert {path.suffix for path in zipped.iterdir()} == {".zip"}
    sources = CocoSource(str(folder)), CocoSource(str(zipped))
    assert sources[0].inputs() == sources[1].inputs()
    expected = dataset(sources[0], tmp_path / "a")
    assert len(expected[1]) > 4
    assert dataset(sources[1], tmp_path / "b") == expected
    shutil.make_archive(str(tmp_path / "all"), "tar", folder)
    assert dataset(CocoSource(f"{tmp_path}/all.tar"), tmp_path / "c") == expected


def test_voc_is_read_from_a_tar(tmp_path: Path):
    files = {
        f"VOCdevkit/VOC2007/ImageSets/Main/{name}_{of}.txt": f"{of} {1 if name == 'cat' else -1}\n".encode()
        for name in CLASSES
        for of in ("trainval", "test")
    }
    with tarfile.open(tmp_path / "VOC.tar", "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    url = f"{tmp_path}/VOC.tar"
    images = list(VocSource(f"{url}/VOCdevkit/VOC2007").images())
    assert [(image.split, image.labels) for image in images] == [("train", ("cat",)), ("val", ("cat",))]
    assert images[0].uri == f"{url}/VOCdevkit/VOC2007/JPEGImages/trainval.jpg"
