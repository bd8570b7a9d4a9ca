"""A Ray cluster that asks for a token: a head and further nodes, each a `ray start` of its own."""

import json
import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tests.servers.process import ATTEMPTS, EndedEarly, Server, free_ports, started, with_our_commands

HOST = "127.0.0.1"
SECONDS_TO_START = 120.0
SECONDS_TO_END = 8.0
OBJECT_STORE = 128 << 20
RAY = Path(sys.executable).parent / "ray"


@dataclass(frozen=True)
class RayCluster:
    """Where a cluster is reached, and what it takes to be let in."""

    address: str
    """Of the GCS, for ``ray.init`` on this machine."""
    jobs_url: str
    """Of the Jobs API, for ``ray job submit``."""
    token: str
    nodes: Sequence[Server] = field(repr=False, compare=False)
    """The processes of the nodes, the head first: ``nodes[1].end(0)`` is the loss of a machine."""

    @property
    def environment(self) -> dict[str, str]:
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def get(self, path: str) -> Any:
        """What the dashboard answers to a request with the token."""
        headers = {"Authorization": f"Bearer {self.token}"}
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(self.jobs_url + path, headers=headers), timeout=10) as answer:
            return json.load(answer)

    def nodes_alive(self) -> int:
        summary = self.get("/nodes?view=summary")["data"]["summary"]
        return sum(node["raylet"].get("state") == "ALIVE" for node in summary)


@contextmanager
def ray_cluster(
    folder: Path,
    *,
    nodes: int = 1,
    token: str,
    cpus_per_node: int = 2,
    environment: Mapping[str, str] = {},
) -> Iterator[RayCluster]:
    """Start a cluster; it stands once its Jobs API answers and all nodes are alive.

    Args:
        folder: The home and working folder of the nodes and their jobs.
        nodes: The head counts as one.
        token: At least some characters; what comes without it is refused.
        cpus_per_node: As Ray counts them; the machine's cores are shared.
        environment: Added to that of the nodes, and so of the jobs.
    """
    ours = {
        **{
            name: value
            for name, value in with_our_commands(os.environ).items()
            if not name.startswith("RAY_") and name != "TMPDIR"
        },
        "HOME": str(folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        **environment,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, ATTEMPTS + 1):
        with ExitStack() as stack:
            try:
                cluster = start(stack, folder, nodes, token, cpus_per_node, ours)
            except EndedEarly:
                if attempt == ATTEMPTS:
                    raise
                continue  # most likely a port was taken meanwhile: the reason is in one of Ray's many logs
            yield cluster
            return


def start(
    stack: ExitStack, folder: Path, nodes: int, token: str, cpus: int, environment: Mapping[str, str]
) -> RayCluster:
    gcs, dashboard, client = free_ports(3)
    head = [
        *("--head", "--port", gcs, "--ray-client-server-port", client),
        *("--dashboard-host", HOST, "--dashboard-port", dashboard, "--include-dashboard", "true"),
    ]
    servers = [stack.enter_context(node(head, folder, cpus, environment))]
    cluster = RayCluster(f"{HOST}:{gcs}", f"http://{HOST}:{dashboard}", token, servers)
    servers[0].wait_until(lambda: servers[0].listens(dashboard) and answers(cluster), SECONDS_TO_START)
    for _ in range(nodes - 1):
        servers.append(stack.enter_context(node(["--address", cluster.address], folder, cpus, environment)))
    for server in servers:
        server.wait_until(lambda: cluster.nodes_alive() == nodes, SECONDS_TO_START)
    return cluster


@contextmanager
def node(role: Sequence[object], folder: Path, cpus: int, environment: Mapping[str, str]) -> Iterator[Server]:
    """One `ray start`, with its files in a folder whose path leaves room for the names of its sockets."""
    manager, objects, agent_http, agent_grpc, runtime_env, metrics = free_ports(6)
    temporary = Path(mkdtemp(prefix="lglm-", dir="/tmp"))
    command = [
        *(RAY, "start", "--block", *role, "--node-ip-address", HOST, "--temp-dir", temporary),
        *("--num-cpus", cpus, "--num-gpus", 0, "--object-store-memory", OBJECT_STORE),
        *("--node-manager-port", manager, "--object-manager-port", objects),
        *("--dashboard-agent-listen-port", agent_http, "--dashboard-agent-grpc-port", agent_grpc),
        *("--runtime-env-agent-port", runtime_env, "--metrics-export-port", metrics),
        *("--min-worker-port", 0, "--max-worker-port", 0),  # whichever the kernel gives
        *("--disable-usage-stats", "--log-color", "false"),
    ]
    try:
        with started(
            command, {"TMPDIR": str(temporary), **environment}, cwd=folder, grace_s=SECONDS_TO_END
        ) as server:
            yield server
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def answers(cluster: RayCluster) -> bool:
    try:
        cluster.get("/api/jobs/")
    except (OSError, ValueError):
        return False
    return True
