"""Which Ray a job refuses before it waits for it; clusters themselves are in test_on_a_cluster.py."""

import os
import socket
from collections.abc import Iterator
from unittest.mock import patch

import pytest

from jobs.cluster import ray_cluster, refuse_more_workers_than_cpus
from lglm_core.errors import InputError


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Take back what connecting to Ray puts into the environment."""
    with patch.dict(os.environ):
        yield


@pytest.mark.parametrize(
    ("address", "line"),
    [
        (
            "http://head:8265",
            "this is the address of a Jobs API; send this command there with",
        ),
        ("head", "not the address of a Ray cluster; host:6379 or ray://host:10001 was expected"),
        ("ray://head:port", "not the address of a Ray cluster"),
    ],
)
def test_an_address_that_is_no_clusters_is_refused(address: str, line: str):
    with pytest.raises(InputError, match=f"^{address}: {line}"), ray_cluster(address):
        pass


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_does_not_answer_is_refused_at_once(scheme: str):
    with socket.socket() as taken:  # bound, not listening
        taken.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match=f"^no Ray cluster answers at {address} "), ray_cluster(address):
            pass


def test_a_local_ray_gets_no_more_workers_than_this_machine_has_cpus(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    here = len(os.sched_getaffinity(0))
    refuse_more_workers_than_cpus(here, None)
    refuse_more_workers_than_cpus(here + 1, "head:6379")
    with pytest.raises(InputError, match=f"^--num-workers {here + 1}: this machine has {here} CPUs"):
        refuse_more_workers_than_cpus(here + 1, None)
