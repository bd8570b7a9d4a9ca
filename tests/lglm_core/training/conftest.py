"""Training runs that several test files share."""

from typing import Any

import pytest

from lglm_core.dataset.reader import Dataset
from lglm_core.labels.embeddings import LabelEmbeddings
from lglm_core.training.run import TrainingRun
from tests.lglm_core.training.runs import StartRun, Values, finish, start_run


@pytest.fixture(scope="session")
def start(learnable: Dataset, shape_embeddings: LabelEmbeddings) -> StartRun:
    """Start a run of a variant of a head: ``start(variant, options of the head, **values of the recipe)``."""

    def start(variant: str = "lglm", options: Values | None = None, **values: Any) -> TrainingRun:
        given = {"feature_dropout": 0.3} if options is None else options
        return start_run(learnable, shape_embeddings, variant, given, **values)

    return start


@pytest.fixture(scope="session")
def undisturbed(start: StartRun) -> TrainingRun:
    """A finished run; do not change it."""
    return finish(start())
