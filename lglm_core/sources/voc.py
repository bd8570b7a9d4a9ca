"""The Pascal VOC source, 2007 and 2012: lists of present, absent or difficult per class and split."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.rooms.canonical import digest
from lglm_core.sources.source import LabelledImage, Unlabelled, key_of

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable"),
    *("dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
PRESENT, DIFFICULT, ABSENT = "1", "0", "-1"


class VocSource:
    """Reads ``ROOT/JPEGImages/<ID>.jpg`` and ``ROOT/ImageSets/Main/<class>_<list>.txt`` of a ``VOC20xx``.

    2007, whose test labels are public, has the splits ``trainval`` for training and ``test`` for validation,
    as usual in the field; 2012 has ``train`` and ``val``. A class all of whose objects are difficult is
    unknown in that image, and left out of both loss and metrics; much published work trains it as present.

    Args:
        root: URL of a folder in VOC's layout.

    Raises:
        InputError: The folder holds no list of the first class.
    """

    keys_per_split = False
    unlabelled: Unlabelled = "keep"

    def __init__(self, root: str) -> None:
        self.root = root
        self.where = storage.redact_url(root)
        has_test = storage.is_file(self._url(CLASSES[0], "test"))
        self.lists = {"train": "trainval", "val": "test"} if has_test else {"train": "train", "val": "val"}
        training_list = self._url(CLASSES[0], self.lists["train"])
        if not storage.is_file(training_list):
            folder, _, name = training_list.rpartition("/")
            raise InputError(
                f"{folder}: holds no {name}; "
                "point `root` at a folder in VOC's layout, such as VOCdevkit/VOC2007"
            )

    def inputs(self) -> Mapping[str, str]:
        """Return the digest of every list."""
        return {
            f"{name}_{self.lists[split]}.txt": digest(data) for (split, name), data in self._bytes.items()
        }

    def options(self) -> Mapping[str, Any]:
        """Return the source's name; the digests of the lists cover all else."""
        return {"source": "voc"}

    def labels(self) -> Sequence[str]:
        """Return the twenty classes, in alphabetical order."""
        return CLASSES

    def images(self) -> Iterator[LabelledImage]:
        """Yield every image of both splits, in the order of the lists."""
        for split in self.lists:
            values = {name: self._parse(name, split) for name in CLASSES}
            pictures = list(values[CLASSES[0]])
            for name in CLASSES:
                if values[name].keys() != values[CLASSES[0]].keys():
                    raise InputError(
                        f"{self._url(name, self.lists[split])}: lists other pictures than "
                        f"{self._url(CLASSES[0], self.lists[split])}; all classes must list the same"
                    )
            for picture in pictures:
                source = f"JPEGImages/{picture}.jpg"
                yield LabelledImage(
                    key=key_of(picture),
                    split=split,
                    uri=storage.join(self.root, source),
                    source=source,
                    labels=tuple(name for name in CLASSES if values[name][picture] == PRESENT),
                    unknown=tuple(name for name in CLASSES if values[name][picture] == DIFFICULT),
                )

    def _url(self, name: str, suffix: str) -> str:
        return storage.join(self.root, "ImageSets", "Main", f"{name}_{suffix}.txt")

    @cached_property
    def _bytes(self) -> dict[tuple[str, str], bytes]:
        return {
            (split, name): storage.read_bytes(self._url(name, suffix))
            for split, suffix in self.lists.items()
            for name in CLASSES
        }

    def _parse(self, name: str, split: str) -> dict[str, str]:
        """Return the value that a list gives to each picture, by the picture's id."""
        values: dict[str, str] = {}
        for number, line in enumerate(
            self._bytes[split, name].decode(errors="replace").splitlines(), start=1
        ):
            picture, _, value = line.strip().partition(" ")
            if not picture:
                continue
            where = f"{self._url(name, self.lists[split])}, line {number}"
            if value.strip() not in (PRESENT, DIFFICULT, ABSENT):
                raise InputError(f"{where}: {line!r} found; a picture and -1, 0 or 1 were expected")
            if picture in values:
                raise InputError(f"{where}: {picture} is listed twice; each picture was expected once")
            values[picture] = value.strip()
        return values
