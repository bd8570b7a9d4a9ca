"""LGLM: multi-label image recognition with a learned label graph and cross-modal fusion.

Usable from a notebook, without a cluster: ``from lglm_core import Tagger``. Names are imported when they are
first used, so that what needs no torch starts without it.
"""

import importlib
from typing import Any

__version__ = "0.2.0"

_HOMES = {
    "Dataset": "lglm_core.data.dataset",
    "InputError": "lglm_core.errors",
    "DamageError": "lglm_core.errors",
    "LabelEmbeddings": "lglm_core.label_embeddings",
    "LabelVocabulary": "lglm_core.labels",
    "Lglm": "lglm_core.model.lglm",
    "LglmConfig": "lglm_core.model.lglm",
    "Loader": "lglm_core.data.loader",
    "RunSettings": "lglm_core.run",
    "Tagger": "lglm_core.tagging",
    "TrainingRun": "lglm_core.run",
    "build_model": "lglm_core.run",
    "fold": "lglm_core.model.fold",
    "load_bundle": "lglm_core.model.bundle",
}
__all__ = [*sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lglm_core' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
