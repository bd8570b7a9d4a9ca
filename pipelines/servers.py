"""The servers that a flow uses: a Prefect of its own or one by address, and a cluster's Jobs API.

Prefect reads its settings when it is imported, so this module runs first and imports nothing of Prefect.
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
    """Keep the files of an ephemeral Prefect server and of local Rays in a folder of this process alone.

    The folder is removed when the process ends. With $PREFECT_API_URL set, flows report to that server, and
    the folder holds only Ray's files.
    """
    folder = Path(mkdtemp(prefix="lglm-flow-"))
    # Prefect registers its own cleaning up later, and it therefore runs earlier.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ.setdefault("RAY_TMPDIR", str(folder / "ray"))
    if url := os.environ.get("PREFECT_API_URL"):
        given = f"PREFECT_API_URL={without_secrets(url)}"
        refuse_unreachable(f"{url.rstrip('/')}/health", given, "Prefect server")
        return
    (folder / "prefect").mkdir()  # its server does not make parent folders
    os.environ.setdefault("PREFECT_HOME", str(folder / "prefect"))
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "true")
    # A busy machine takes longer than Prefect's default of 20 s.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    os.environ.setdefault("PREFECT_LOGGING_SERVER_LEVEL", "ERROR")


def refuse_unreachable(url: str, given: str, server: str) -> None:
    """Refuse an address at which nothing answers, before its client tries for a long time.

    Args:
        url: Requested with GET; an answer with any status will do.
        given: The address as the user gave it, for the refusal.
        server: The kind of server that was expected there.
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
