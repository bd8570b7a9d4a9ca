"""The embedded Prefect: an ephemeral server whose state lies in a folder of ours.

Prefect reads its settings while it is imported, so this runs first and imports nothing of it.
"""

import os
from urllib.request import urlopen

from lglm_core.data import storage
from lglm_core.errors import InputError

SERVER_TIMEOUT_S = 10.0


def use_embedded_prefect(state: str) -> None:
    """Keep the state of the ephemeral Prefect server and of local Ray below *state*.

    With $PREFECT_API_URL set, flows report to that server, and only Ray's state is placed.
    """
    folder = storage.local_path(state).absolute()
    os.environ.setdefault("RAY_TMPDIR", str(folder / "ray"))
    if os.environ.get("PREFECT_API_URL"):
        return
    (folder / "prefect").mkdir(parents=True, exist_ok=True)  # its server does not make the parents
    os.environ.setdefault("PREFECT_HOME", str(folder / "prefect"))
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "true")
    # A busy machine takes longer than Prefect's 20 s.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    os.environ.setdefault("PREFECT_LOGGING_SERVER_LEVEL", "ERROR")


def check_server() -> None:
    """Refuse a $PREFECT_API_URL that nothing answers at, before Prefect tries at length."""
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return
    try:
        with urlopen(f"{url.rstrip('/')}/health", timeout=SERVER_TIMEOUT_S):
            pass
    except (OSError, ValueError) as error:
        raise InputError(f"PREFECT_API_URL={url}: no Prefect server answers there ({error})") from error
