"""LGLM: multi-label image recognition with a learned label graph and cross-modal fusion.

The package works in a notebook, without a cluster: ``from lglm_core import Tagger``. A name's module is
imported when the name is first used, so that code without need of torch starts without it.
"""

import importlib
from typing import Any

__version__ = "0.4.0"

_MODULES = {
    "Dataset": "lglm_core.dataset.reader",
    "InputError": "lglm_core.errors",
    "DamageError": "lglm_core.errors",
    "LabelEmbeddings": "lglm_core.labels.embeddings",
    "LabelVocabulary": "lglm_core.labels.vocabulary",
    "LabelKnowledge": "lglm_core.model.head",
    "LglmConfig": "lglm_core.model.config",
    "Loader": "lglm_core.loading.loader",
    "Recogniser": "lglm_core.model.recogniser",
    "Tagger": "lglm_core.inference.tagger",
    "TrainingRecipe": "lglm_core.training.recipe",
    "TrainingRun": "lglm_core.training.run",
    "build_head": "lglm_core.model.heads",
    "build_model": "lglm_core.training.run",
    "evaluate": "lglm_core.metrics.multi_label",
    "extend": "lglm_core.model.extend",
    "fold": "lglm_core.model.fold",
    "load_bundle": "lglm_core.model.bundle",
}
__all__ = [*sorted(_MODULES)]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'lglm_core' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
