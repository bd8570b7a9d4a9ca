"""Pascal VOC, 2007 and 2012: per class and split a list that says yes, no, or difficult."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.rooms.canonical import digest
from lglm_core.sources.source import LabelledImage, key_of

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable"),
    *("dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
PRESENT, DIFFICULT, ABSENT = "1", "0", "-1"


class VocSource:
    """``ROOT/JPEGImages/<ID>.jpg`` and ``ROOT/ImageSets/Main/<class>_<list>.txt``, ROOT being a ``VOC20xx``.

    2007, whose test labels are public, is trained on ``trainval`` and measured on ``test``, as the field
    does; 2012 on ``train`` and ``val``. Where all objects of a class are difficult, it is unknown,
    and left out of loss and metrics alike; much published work trains them as there.
    """

    keys_per_split = False

    def __init__(self, root: str) -> None:
        self.root = root
        self.where = storage.redact_url(root)
        self.dropped = 0
        tested = storage.is_file(self._url(CLASSES[0], "test"))
        self.lists = {"train": "trainval", "val": "test"} if tested else {"train": "train", "val": "val"}
        trained = self._url(CLASSES[0], self.lists["train"])
        if not storage.is_file(trained):
            folder, _, name = trained.rpartition("/")
            raise InputError(
                f"{folder}: holds no {name}; "
                "point --root at a folder in VOC's layout, such as VOCdevkit/VOC2007"
            )

    def inputs(self) -> Mapping[str, str]:
        """The digest of every list."""
        return {
            f"{name}_{self.lists[split]}.txt": digest(data) for (split, name), data in self._bytes.items()
        }

    def options(self) -> Mapping[str, Any]:
        """Which source it is; the lists say the rest."""
        return {"source": "voc"}

    def labels(self) -> Sequence[str]:
        """The twenty classes, in alphabetical order."""
        return CLASSES

    def images(self) -> Iterator[LabelledImage]:
        """Every picture of both splits, in the order of the lists."""
        for split in self.lists:
            said = {name: self._parse(name, split) for name in CLASSES}
            pictures = list(said[CLASSES[0]])
            for name in CLASSES:
                if said[name].keys() != said[CLASSES[0]].keys():
                    raise InputError(
                        f"{self._url(name, self.lists[split])}: not the pictures that "
                        f"{self._url(CLASSES[0], self.lists[split])} lists; all classes must list the same"
                    )
            for picture in pictures:
                source = f"JPEGImages/{picture}.jpg"
                yield LabelledImage(
                    key=key_of(picture),
                    split=split,
                    uri=storage.join(self.root, source),
                    source=source,
                    labels=tuple(name for name in CLASSES if said[name][picture] == PRESENT),
                    unknown=tuple(name for name in CLASSES if said[name][picture] == DIFFICULT),
                )

    def _url(self, name: str, of: str) -> str:
        return storage.join(self.root, "ImageSets", "Main", f"{name}_{of}.txt")

    @cached_property
    def _bytes(self) -> dict[tuple[str, str], bytes]:
        return {
            (split, name): storage.read_bytes(self._url(name, of))
            for split, of in self.lists.items()
            for name in CLASSES
        }

    def _parse(self, name: str, split: str) -> dict[str, str]:
        """What a list says of each picture."""
        said: dict[str, str] = {}
        for number, line in enumerate(
            self._bytes[split, name].decode(errors="replace").splitlines(), start=1
        ):
            picture, _, value = line.strip().partition(" ")
            if not picture:
                continue
            where = f"{self._url(name, self.lists[split])}, line {number}"
            if value.strip() not in (PRESENT, DIFFICULT, ABSENT):
                raise InputError(f"{where}: {line!r}; a picture and -1, 0 or 1 were expected")
            if picture in said:
                raise InputError(f"{where}: {picture} is listed twice")
            said[picture] = value.strip()
        return said
