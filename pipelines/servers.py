"""The servers a flow speaks to: a Prefect of its own or one by address, and a cluster's Jobs API.

Prefect reads its settings while it is imported, so this runs first and imports nothing of it.
"""

import atexit
import os
import shutil
from pathlib import Path
from tempfile import mkdtemp
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from lglm_core.errors import InputError

TIMEOUT_S = 10.0


def use_embedded_prefect() -> None:
    """Keep what an ephemeral Prefect server and local Rays write in a folder that goes with this process.

    With $PREFECT_API_URL set, flows report to that server, and only Ray's files are placed.
    """
    folder = Path(mkdtemp(prefix="lglm-flow-"))
    atexit.register(
        shutil.rmtree, folder, ignore_errors=True
    )  # after Prefect's own, which it registers later
    os.environ.setdefault("RAY_TMPDIR", str(folder / "ray"))
    if url := os.environ.get("PREFECT_API_URL"):
        given = f"PREFECT_API_URL={without_secrets(url)}"
        refuse_silence(f"{url.rstrip('/')}/health", given, "Prefect server")
        return
    (folder / "prefect").mkdir()  # its server does not make the parents
    os.environ.setdefault("PREFECT_HOME", str(folder / "prefect"))
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "true")
    # A busy machine takes longer than Prefect's 20 s.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    os.environ.setdefault("PREFECT_LOGGING_SERVER_LEVEL", "ERROR")


def refuse_silence(url: str, given: str, server: str) -> None:
    """Refuse an address that nothing answers at, before its client tries at length.

    Args:
        url: Asked with GET; whatever the answer, it is one.
        given: What the caller gave, for the refusal.
        server: What was expected there.
    """
    try:
        with urlopen(url, timeout=TIMEOUT_S):
            pass
    except HTTPError:
        pass
    except (OSError, ValueError) as error:
        raise InputError(f"{given}: no {server} answers there ({error})") from error


def without_secrets(url: str) -> str:
    """Return a URL without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
