"""What evaluate and embed share: the scores of a model for the pictures of a split."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from jobs.cluster import ray_cluster
from jobs.options import Embed, Evaluate, OnSplit
from jobs.parts import IMAGES_PER_BATCH, PartMaker, write_parts
from lglm_core import storage
from lglm_core.dataset.layout import load_labels
from lglm_core.errors import InputError
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.rooms import DatasetManifest, M, ModelManifest, Provenance, Room, require


@dataclass(frozen=True)
class SplitInputs:
    """The manifests of a model and a dataset that belong together."""

    model: ModelManifest
    dataset: DatasetManifest
    samples: int
    columns: tuple[int, ...]
    """The model's column of each label of the dataset."""

    def provenance(self, kind: type[M], split: str) -> Provenance[M]:
        """Return the provenance of a room made from the model and a split of the dataset."""
        inputs = {"model": self.model.fingerprint, "dataset": self.dataset.fingerprint}
        return Provenance(kind, inputs, {"split": split})


def open_inputs(options: OnSplit) -> SplitInputs:
    """Read the manifests of model and dataset, and check that they and the split fit together.

    Raises:
        InputError: the model lacks a label of the dataset, or the split has no samples.
    """
    model = require(options.model, ModelManifest)
    dataset = require(options.dataset, DatasetManifest)
    dataset_labels = load_labels(options.dataset, dataset)
    model_labels = LabelVocabulary.load(storage.join(options.model, "labels.json"))
    known = set(model_labels)
    missing = [name for name in dataset_labels if name not in known]
    if missing:
        raise InputError(
            f"{options.model}: does not know {len(missing)} of the labels of {options.dataset}, such as "
            f"{missing[0]!r}; take a dataset whose labels it was trained on, or add them with lglm extend"
        )
    if not dataset.has_samples(options.split):
        raise InputError(
            f"{options.dataset}: no samples in a split {options.split!r}; it has {', '.join(dataset.splits)}"
        )
    columns = tuple(model_labels.column(name) for name in dataset_labels)
    return SplitInputs(model, dataset, dataset.splits[options.split].samples, columns)


def write_split_parts(
    maker: type[PartMaker],
    options: Evaluate | Embed,
    inputs: SplitInputs,
    room: Room[M],
    folder: str,
) -> None:
    """Begin *room* and write the rows that *maker* makes of the split, as parts of a table in *folder*."""
    absolute = options.absolute()
    arguments = {
        "model": absolute.model,
        "dataset": absolute.dataset,
        "fingerprint": inputs.dataset.fingerprint,
        "split": options.split,
        "columns": inputs.columns,
    }
    with ray_cluster(options.ray_address):
        room.begin()
        write_parts(
            maker,
            arguments,
            folder=storage.absolute(folder),
            total=inputs.samples,
            provenance=room.provenance.fingerprint,
            progress=room.provenance.kind,
        )


class SplitTagger:
    """Scores the pictures of a split; constructed once in each actor.

    Args:
        model: URL of the model.
        dataset: URL of the dataset.
        fingerprint: The dataset's fingerprint when the job began.
        split: Name of the split.
        columns: The model's column of each label of the dataset.
        threads: CPU threads of the actor.
    """

    def __init__(
        self, model: str, dataset: str, fingerprint: str, split: str, columns: tuple[int, ...], threads: int
    ) -> None:
        from lglm_core.dataset.reader import Dataset
        from lglm_core.inference.tagger import Tagger

        self.tagger = Tagger.load(model, threads=threads)
        self.columns = list(columns)
        self.readers = ThreadPoolExecutor(storage.READERS, thread_name_prefix="reader")
        self.split = Dataset.open(dataset, fingerprint=fingerprint).split(split)

    def predict(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return features, float32 [n, D], and probabilities, float32 [n, C], of a range of rows."""
        features, scores = [], []
        for first in range(start, stop, IMAGES_PER_BATCH):
            rows = range(first, min(first + IMAGES_PER_BATCH, stop))
            predictions = self.tagger.predict(list(self.readers.map(self.split.read_image, rows)))
            for position, error in predictions.errors.items():
                raise self.split.undecodable(rows[position], error)
            features.append(predictions.features)
            scores.append(predictions.scores)
        return np.concatenate(features), np.concatenate(scores)
