"""A Prefect server with its database in a folder of the test, and a worker that starts what it schedules."""

import json
import os
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.servers.process import Server, listening, started, with_our_commands

SECONDS_TO_START = 120.0
PREFECT = Path(sys.executable).parent / "prefect"


def prefect_environment(home: Path, api_url: str | None = None) -> dict[str, str]:
    """What a Prefect command or flow needs to keep its files in *home*, and to talk to this server only."""
    ours = {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_CLI_COLORS": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    return ours if api_url is None else {**ours, "PREFECT_API_URL": api_url}


@contextmanager
def prefect_server(home: Path) -> Iterator[str]:
    """Start a server with a fresh SQLite database in *home* and yield the URL of its API."""
    home.mkdir(parents=True, exist_ok=True)

    def command(port: int) -> list[object]:
        return [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", port, "--no-ui"]

    def api(port: int) -> str:
        return f"http://127.0.0.1:{port}/api"

    def healthy(port: int) -> bool:
        try:
            return ask(api(port), "/health") is True
        except (OSError, ValueError):
            return False

    environment = {**without_prefect(os.environ), **prefect_environment(home)}
    with listening(command, environment, healthy, timeout_s=SECONDS_TO_START) as port:
        yield api(port)


@contextmanager
def prefect_worker(
    api_url: str, home: Path, pool: str = "lglm", environment: Mapping[str, str] = {}
) -> Iterator[Server]:
    """Start a worker that runs flows as processes, and with it the pool if there is none of that name.

    The flows find *environment* in theirs, and end with the worker.
    """
    name = f"worker-{uuid4().hex[:8]}"
    command = [PREFECT, "worker", "start", "--pool", pool, "--type", "process", "--name", name]
    theirs = {
        **without_prefect(with_our_commands(os.environ)),
        **prefect_environment(home, api_url),
        **environment,
    }

    def online() -> bool:
        try:
            workers = ask(api_url, f"/work_pools/{pool}/workers/filter", {})
        except (OSError, ValueError):  # no such pool yet
            return False
        return any(worker["name"] == name and worker["status"] == "ONLINE" for worker in workers)

    home.mkdir(parents=True, exist_ok=True)
    with started(command, theirs, cwd=home) as server:
        server.wait_until(online, SECONDS_TO_START)
        yield server


def ask(api_url: str, path: str, body: Any = None) -> Any:
    """GET a path of the API, or POST a body to it."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(api_url + path, data, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as answer:
        return json.load(answer)


def without_prefect(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without the user's own settings of Prefect."""
    return {name: value for name, value in environment.items() if not name.startswith("PREFECT_")}
