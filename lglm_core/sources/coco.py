"""The COCO source, 2014 and 2017: an image's labels are the categories of its annotated objects."""

import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from functools import cached_property
from posixpath import splitext
from typing import Any, Literal

from pycocotools.coco import COCO

from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.rooms.canonical import digest
from lglm_core.sources.source import LabelledImage, Unlabelled, key_of

YEARS = ("2014", "2017")
SPLITS = ("train", "val")
FIELDS: dict[str, dict[str, type]] = {  # the fields that are used of each table, with their types
    "images": {"id": int, "file_name": str},
    "annotations": {"id": int, "image_id": int, "category_id": int},
    "categories": {"id": int, "name": str},
}


class CocoSource:
    """Reads ``ROOT/{train,val}20xx/`` and ``ROOT/annotations/instances_{train,val}20xx.json`` (or ``.gz``).

    Images and annotations may also be in the zip files that COCO publishes, ``ROOT/train2017.zip`` and
    ``ROOT/annotations_trainval2017.zip``; the resulting dataset is the same.

    The labels are the categories by ascending id. An image has a label if it has any annotation of that
    category that counts; by default all annotations count, crowds included, as usual in the field.

    Args:
        root: URL of a folder in COCO's layout.
        unlabelled: Whether images without any annotation that counts are kept or dropped.
        crowds: Whether annotations of crowds count ("keep") or not ("drop").
        min_area: The smallest area of an annotation that counts, in square pixels.
        year: The year of COCO to read, if the root holds both.

    Raises:
        InputError: The folder does not have COCO's layout, or holds both years and *year* is not given.
    """

    keys_per_split = True

    def __init__(
        self,
        root: str,
        *,
        unlabelled: Unlabelled = "keep",
        crowds: Literal["keep", "drop"] = "keep",
        min_area: float = 0.0,
        year: str | None = None,
    ) -> None:
        self.root = root
        self.where = storage.redact_url(root)
        self.unlabelled: Unlabelled = unlabelled
        self.crowds = crowds
        self.min_area = min_area
        self.year = year or self._find_year()
        self.folders = {split: self._find_pictures(split) for split in SPLITS}

    def inputs(self) -> Mapping[str, str]:
        """Return the digests of both annotation files, decompressed."""
        return self._digests

    def options(self) -> Mapping[str, Any]:
        """Return the year, the filters of annotations, and whether unlabelled images are kept."""
        filters: dict[str, Any] = {} if self.crowds == "keep" else {"crowds": self.crowds}
        filters |= {} if self.min_area == 0 else {"min_area": self.min_area}
        return {"source": "coco", "year": self.year, "unlabelled": self.unlabelled, **filters}

    def labels(self) -> Sequence[str]:
        """Return the categories of the training file, by ascending id.

        Raises:
            InputError: The validation file has other categories.
        """
        names = {split: tuple(self._categories(split).values()) for split in SPLITS}
        if names["train"] != names["val"]:
            raise InputError(
                f"{self._url('val')}: its categories are not those of {self._url('train')}; "
                "both must list the same names in the same order"
            )
        return names["train"]

    def images(self) -> Iterator[LabelledImage]:
        """Yield every image of both splits, by ascending image id."""
        for split in SPLITS:
            coco, categories = self._annotations[split], self._categories(split)
            stems: dict[str, str] = {}  # a.jpg and a.png are two images
            for image_id in sorted(coco.imgs):
                file_name = coco.imgs[image_id]["file_name"]
                stem = splitext(file_name)[0]
                name = stem if stems.setdefault(stem, file_name) == file_name else file_name
                found = {a["category_id"] for a in coco.imgToAnns[image_id] if self._counts(a, split)}
                yield LabelledImage(
                    key=key_of(name),
                    split=split,
                    uri=storage.join(self.folders[split], file_name),
                    source=f"{split}{self.year}/{file_name}",
                    labels=tuple(name for category, name in categories.items() if category in found),
                )

    def _counts(self, annotation: dict[str, Any], split: str) -> bool:
        for used, name in ((self.crowds == "drop", "iscrowd"), (self.min_area > 0, "area")):
            if used and not isinstance(annotation.get(name), int | float):
                raise InputError(
                    f"{self._url(split)}: annotation {annotation['id']} has no number {name!r} to go by"
                )
        if self.crowds == "drop" and annotation["iscrowd"]:
            return False
        return self.min_area == 0 or annotation["area"] >= self.min_area

    def _find_year(self) -> str:
        found = [year for year in YEARS if storage.is_file(self._url("train", year))]
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(f"{self.root}: holds COCO {' and '.join(found)}; choose one with `year`")
        raise InputError(
            f"{storage.join(self.root, 'annotations')}: holds no instances_train2014.json or "
            "instances_train2017.json, nor is there an annotations_trainval zip; "
            "point `root` at a folder in COCO's layout"
        )

    def _find_pictures(self, split: str) -> str:
        name = f"{split}{self.year}"
        folder, zipped = storage.join(self.root, name), storage.join(self.root, f"{name}.zip", name)
        if storage.is_folder(folder):
            return folder
        if storage.is_folder(zipped):
            return zipped
        raise InputError(
            f"{folder}: no such folder; COCO's {split} pictures, or {name}.zip, were expected there"
        )

    def _url(self, split: str, year: str | None = None) -> str:
        """Return the URL of an annotation file: plain or, if only that exists, compressed."""
        year = year or self.year
        name = f"instances_{split}{year}.json"
        url = storage.join(self.root, "annotations", name)
        zipped = storage.join(self.root, f"annotations_trainval{year}.zip", "annotations", name)
        return next((found for found in (url, f"{url}.gz", zipped) if storage.is_file(found)), url)

    def _categories(self, split: str) -> dict[int, str]:
        return {
            number: self._annotations[split].cats[number]["name"]
            for number in sorted(self._annotations[split].cats)
        }

    @cached_property
    def _bytes(self) -> dict[str, bytes]:
        return {split: _read(self._url(split)) for split in SPLITS}

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {f"instances_{split}{self.year}.json": digest(self._bytes[split]) for split in SPLITS}

    @cached_property
    def _annotations(self) -> dict[str, COCO]:
        """The parsed annotations by split; each file's bytes are released first, to save memory."""
        self.inputs()
        return {split: _parse(self._bytes.pop(split), self._url(split)) for split in SPLITS}


def _read(url: str) -> bytes:
    data = storage.read_bytes(url)
    if not url.endswith(".gz"):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{url}: not a whole gzip file ({error})") from error


def _is_text(name: str) -> bool:
    """Tell whether a name can be encoded: JSON can hold half a character, \\ud800, and UTF-8 cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parse(data: bytes, url: str) -> COCO:
    """Parse and index one annotation file.

    Raises:
        InputError: The file is not in COCO's instances format.
    """
    try:
        content = json.loads(data)
    except ValueError as error:
        raise InputError(f"{url}: not JSON ({error}); COCO's instances annotations were expected") from error
    for table, fields in FIELDS.items():
        rows = content.get(table) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise InputError(f"{url}: not COCO's instances format: it has no list {table!r}")
        for number, row in enumerate(rows):
            for name, kind in fields.items():
                if not isinstance(row, dict) or not isinstance(row.get(name), kind):
                    raise InputError(
                        f"{url}: not COCO's instances format: "
                        f"{table}[{number}] has no {name!r} of type {kind.__name__}"
                    )
                if kind is str and not _is_text(row[name]):
                    raise InputError(
                        f"{url}: {table}[{number}] has a {name!r} that is not text: {row[name]!a}"
                    )
    _check_references(content, url)
    for annotation in content["annotations"]:  # only their categories are used, so save memory
        annotation.pop("segmentation", None)
        annotation.pop("bbox", None)
    coco = COCO()
    coco.dataset = content
    with redirect_stdout(io.StringIO()):  # pycocotools prints its progress on stdout
        coco.createIndex()
    return coco


def _check_references(content: dict[str, Any], url: str) -> None:
    """Raise an InputError if an id is given twice, or an annotation refers to one that does not exist."""
    for table in ("images", "categories"):
        ids = Counter(row["id"] for row in content[table])
        twice = [number for number, times in ids.items() if times > 1]
        if twice:
            raise InputError(f"{url}: {ids[twice[0]]} {table} have the id {twice[0]}; ids must be unique")
    images = {image["id"] for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    for annotation in content["annotations"]:
        for field, known in (("image_id", images), ("category_id", categories)):
            if annotation[field] not in known:
                raise InputError(
                    f"{url}: annotation {annotation['id']} has {field} {annotation[field]}, "
                    f"which is not among the file's {len(known)}"
                )
