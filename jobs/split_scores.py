"""What evaluate and embed share: a model over the pictures of a split."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from jobs.cluster import ray_cluster
from jobs.options import Embed, Evaluate, OnSplit
from jobs.parts import IMAGES_PER_BATCH, PartMaker, write_parts
from lglm_core import rooms
from lglm_core.data import storage
from lglm_core.errors import DamageError, InputError


@dataclass(frozen=True)
class SplitInputs:
    """The manifests of a model and a dataset that belong together."""

    model: rooms.Manifest
    dataset: rooms.Manifest
    samples: int

    def recipe(self, kind: str, split: str) -> rooms.Recipe:
        """What a room made from the two is made from."""
        inputs = {"model": self.model.fingerprint, "dataset": self.dataset.fingerprint}
        return rooms.Recipe(kind, inputs, {"split": split})


def open_inputs(options: OnSplit) -> SplitInputs:
    """Check, from manifests alone, that model, dataset and split fit together."""
    model = rooms.require(options.model, "model")
    dataset = rooms.require(options.dataset, "dataset")
    if model.details["labels"] != dataset.details["labels"]:
        raise InputError(
            f"{options.model}: the model's labels are not those of {options.dataset}; "
            "evaluate it on a dataset with the vocabulary it was trained on"
        )
    splits = dataset.details["splits"]
    if not splits.get(options.split, {}).get("samples"):
        raise InputError(
            f"{options.dataset}: no samples in a split {options.split!r}; it has {', '.join(splits)}"
        )
    return SplitInputs(model, dataset, splits[options.split]["samples"])


def write_split_parts(
    maker: type[PartMaker], options: Evaluate | Embed, inputs: SplitInputs, recipe: rooms.Recipe, folder: str
) -> None:
    """Write the rows that *maker* makes of every picture of the split, as parts in *folder*."""
    arguments = {
        "model": storage.absolute(options.model),
        "dataset": storage.absolute(options.dataset),
        "split": options.split,
    }
    with ray_cluster(options.ray_address):
        rooms.begin(options.out, recipe)
        write_parts(
            maker,
            arguments,
            folder=storage.absolute(folder),
            total=inputs.samples,
            recipe=recipe.fingerprint,
            progress=recipe.kind,
        )


class SplitTagger:
    """Scores pictures of a split by row; constructed once in each actor."""

    def __init__(self, model: str, dataset: str, split: str, threads: int) -> None:
        from lglm_core.data.dataset import Dataset
        from lglm_core.tagging import Tagger

        self.tagger = Tagger.load(model, threads=threads)
        self.readers = ThreadPoolExecutor(storage.READERS, thread_name_prefix="reader")
        self.split = Dataset.open(dataset).split(split)

    def recognise(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return features float32 [n, D] and probabilities float32 [n, C] of rows *start* to *stop*."""
        features, scores = [], []
        for first in range(start, stop, IMAGES_PER_BATCH):
            rows = range(first, min(first + IMAGES_PER_BATCH, stop))
            recognition = self.tagger.recognise(list(self.readers.map(self.split.read_image, rows)))
            for position, error in recognition.errors.items():
                key = self.split.keys[rows[position]]
                raise DamageError(f"{self.split.dataset}: the image {key} cannot be decoded: {error}")
            features.append(recognition.features)
            scores.append(recognition.scores)
        return np.concatenate(features), np.concatenate(scores)
