"""The MIRFLICKR-25K source: 25,000 images, and for each label a list of image numbers."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

from lglm_core import seeds, storage
from lglm_core.errors import InputError
from lglm_core.rooms.canonical import digest
from lglm_core.sources.source import LabelledImage, Unlabelled

IMAGES = 25_000
# Labels of what may be seen in an image and, in lists that end in _r1, of what the image is about.
POTENTIAL = (
    *("animals", "baby", "bird", "car", "clouds", "dog", "female", "flower", "food", "indoor", "lake"),
    *("male", "night", "people", "plant_life", "portrait", "river", "sea", "sky", "structures", "sunset"),
    *("transport", "tree", "water"),
)
RELEVANT = (
    *("baby_r1", "bird_r1", "car_r1", "clouds_r1", "dog_r1", "female_r1", "flower_r1", "male_r1"),
    *("night_r1", "people_r1", "portrait_r1", "river_r1", "sea_r1", "tree_r1"),
)


class MirflickrSource:
    """Reads ``ROOT/mirflickr/im<ID>.jpg`` and ``ROOT/annotations/<label>.txt``, one image number per line.

    There is no published split: a random half of the images is for training, the other for validation.

    Args:
        root: URL of the folder that holds ``mirflickr/`` and ``annotations/``.
        labels: "24": the potential labels; "38": the potential and the 14 relevant labels.
        unlabelled: Whether images without a label are kept or dropped.
        split_seed: The seed of the random halves.
        images: The number of images, which are numbered from 1.

    Raises:
        InputError: The folder holds no list of the first label.
    """

    keys_per_split = False

    def __init__(
        self,
        root: str,
        *,
        labels: Literal["24", "38"] = "24",
        unlabelled: Unlabelled = "keep",
        split_seed: int = 0,
        images: int = IMAGES,
    ) -> None:
        self.root = root
        self.where = storage.redact_url(root)
        self.names = sorted(POTENTIAL if labels == "24" else POTENTIAL + RELEVANT)
        self.unlabelled: Unlabelled = unlabelled
        self.split_seed = split_seed
        self.count = images
        if not storage.is_file(self._url(self.names[0])):
            raise InputError(
                f"{storage.join(root, 'annotations')}: holds no {self.names[0]}.txt; "
                "point `root` at the folder that holds mirflickr/ and annotations/"
            )

    def inputs(self) -> Mapping[str, str]:
        """Return the digest of every list."""
        return {f"{name}.txt": digest(data) for name, data in self._bytes.items()}

    def options(self) -> Mapping[str, Any]:
        """Return the seed of the split and whether unlabelled images are kept; the inputs name the labels."""
        return {"source": "mirflickr", "unlabelled": self.unlabelled, "split_seed": self.split_seed}

    def labels(self) -> Sequence[str]:
        """Return the names of the lists, in alphabetical order."""
        return self.names

    def images(self) -> Iterator[LabelledImage]:
        """Yield every image, by its number."""
        members = {name: self._numbers(name) for name in self.names}
        order = seeds.rng("mirflickr", self.split_seed).permutation(self.count) + 1
        training = set(map(int, order[: self.count // 2]))
        for number in range(1, self.count + 1):
            labels = tuple(name for name in self.names if number in members[name])
            source = f"mirflickr/im{number}.jpg"
            yield LabelledImage(
                key=f"im{number}",
                split="train" if number in training else "val",
                uri=storage.join(self.root, source),
                source=source,
                labels=labels,
            )

    def _url(self, name: str) -> str:
        return storage.join(self.root, "annotations", f"{name}.txt")

    @cached_property
    def _bytes(self) -> dict[str, bytes]:
        return {name: storage.read_bytes(self._url(name)) for name in self.names}

    def _numbers(self, name: str) -> set[int]:
        """Return the image numbers in a label's list."""
        numbers = set()
        for entry, text in enumerate(self._bytes[name].split(), start=1):
            if not text.isdigit() or not 1 <= int(text) <= self.count:
                raise InputError(
                    f"{self._url(name)}, entry {entry}: {text.decode(errors='replace')!r} found; "
                    f"the number of a picture, 1 to {self.count}, was expected"
                )
            numbers.add(int(text))
        return numbers
