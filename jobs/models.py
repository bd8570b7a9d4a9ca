"""What the verbs that read or write a model share: what they record of it, and how its card shows its use."""

from lglm_core import storage
from lglm_core.rooms import ModelManifest, require

CARD_USAGE = "lglm tag --model . --images FOLDER --out TAGS"
"""The command that a model card names for the model beside it."""


def require_model(url: str) -> tuple[ModelManifest, dict[str, str]]:
    """Return the manifest of the model at *url*, and the inputs that a room made with the model records.

    The thresholds are an input of their own: people may edit them, which leaves the model's fingerprint as
    it is.

    Raises:
        InputError: no complete model is there.
    """
    manifest = require(url, ModelManifest)
    thresholds = storage.sha256(storage.join(url, "thresholds.json"))
    return manifest, {"model": manifest.fingerprint, "thresholds": thresholds}
