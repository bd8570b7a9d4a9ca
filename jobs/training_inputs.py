"""What a training reads: the dataset, and the label embeddings that its head needs.

Every worker opens the same inputs, so the checks run in each of them, and first in the driver.
"""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.options import Train
from lglm_core import rooms, storage
from lglm_core.errors import InputError

if TYPE_CHECKING:
    from lglm_core.dataset.reader import Dataset
    from lglm_core.labels.embeddings import LabelEmbeddings
    from lglm_core.model.recogniser import Recogniser
    from lglm_core.training.recipe import FullRecipe

CACHE_GB = 100.0
logger = logging.getLogger("lglm.train")


@dataclass(frozen=True)
class TrainingInputs:
    """The opened inputs of a training, without the labels that it holds out."""

    dataset: "Dataset"
    embeddings: "LabelEmbeddings | None"
    recipe: "FullRecipe"

    def build_model(self) -> "Recogniser":
        """Build the model with the recipe's random weights; every worker builds the same one."""
        from lglm_core.training.run import build_model, label_knowledge

        return build_model(self.recipe, label_knowledge(self.recipe, self.dataset, self.embeddings))


def open_inputs(options: Train, fingerprint: str) -> TrainingInputs:
    """Open the inputs of a training and check that they belong together.

    Args:
        options: The options of the job.
        fingerprint: The dataset's fingerprint when the job began.

    Raises:
        InputError: the dataset has changed, the embeddings belong to other labels or to another dataset, or
            a label cannot be held out.
    """
    from lglm_core.dataset.reader import Dataset

    whole = Dataset.open(options.dataset, fingerprint=fingerprint)
    if options.cache:
        from lglm_core.loading.cache import with_cache

        whole = with_cache(whole, options.cache, int((options.cache_gb or CACHE_GB) * 1e9))
    held_out = {*options.hold_out} & {*whole.labels}
    if len(whole.labels) - len(held_out) < 2:
        raise InputError(
            f"--hold-out names {len(held_out)} of the {len(whole.labels)} labels of {options.dataset}; "
            "training needs at least 2 others: hold out fewer"
        )
    dataset = whole.without(options.hold_out)
    room = embeddings_room(options)
    embeddings = _load_embeddings(options, room, whole).only(dataset.labels) if room else None
    return TrainingInputs(dataset, embeddings, options.filled_in())


def embeddings_room(options: Train) -> str | None:
    """Return the URL of the label embeddings, or None where the head does not read label vectors."""
    return options.label_embeddings if options.head_config.needs_vectors else None


def warn_without_validation(dataset: "Dataset") -> None:
    """Warn, before the hours that training takes, that no epoch will have an mAP."""
    if not dataset.has_split("val"):
        others = ", ".join(filter(dataset.has_split, sorted(dataset.manifest.splits)))
        logger.warning(f"{dataset.url}: no split 'val' (it has {others}): nothing is measured while training")


def _load_embeddings(options: Train, room: str, dataset: "Dataset") -> "LabelEmbeddings":
    """Load the label embeddings, and refuse those of other labels or of another dataset."""
    from lglm_core.labels.embeddings import FILE, LabelEmbeddings

    url = storage.join(room, FILE)
    embeddings = LabelEmbeddings.load(url)
    embeddings.check_labels(dataset.labels, url, options.dataset)
    made_from = rooms.require(room, rooms.LabelEmbeddingsManifest).inputs
    if embeddings.learned_from_pictures and made_from.get("dataset") != dataset.manifest.fingerprint:
        raise InputError(
            f"{room}: holds co-occurrence vectors of another dataset than {options.dataset}; "
            "run lglm label-embeddings for this one"
        )
    _refuse_to_hold_out(options, embeddings)
    return embeddings


def _refuse_to_hold_out(options: Train, embeddings: "LabelEmbeddings") -> None:
    """Refuse held-out labels that the vectors have learned from, or that lglm extend cannot add."""
    url = options.label_embeddings
    if options.hold_out and embeddings.source == "vectors":
        raise InputError(
            f"{url}: holds ready-made vectors, with which lglm extend cannot add held-out labels; to hold "
            "labels out, run lglm label-embeddings with --glove"
        )
    for name in options.hold_out:
        if (label := embeddings.learned_from(name)) and embeddings.source == "ppmi":
            raise InputError(
                f"{url}: the vectors come from co-occurrence and know which pictures show {name!r}; to hold "
                "labels out, run lglm label-embeddings with --glove"
            )
        if label:
            raise InputError(
                f"{url}: the vector of {label!r} comes from co-occurrence and knows which pictures show "
                f"{name!r}; to hold {name!r} out, give {label!r} words by --alias, or take --oov zero"
            )
