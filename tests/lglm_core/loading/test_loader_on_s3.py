"""Reading from a bucket over a bad connection: every sample once, on any number of workers."""

import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lglm_core.dataset.reader import Dataset
from lglm_core.loading.cache import with_cache
from lglm_core.loading.loader import Batch, Loader
from lglm_core.storage import retry
from lglm_core.storage.s3_client import connect
from tests.servers.faulty import ALL_KINDS
from tests.servers.s3 import FaultyServer, faulty, rclone_s3

pytestmark = [pytest.mark.process, pytest.mark.chaos, pytest.mark.diagonal]

SAMPLES, BITS = 23, 5
WORLDS = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, numbered: Dataset) -> Iterator[FaultyServer]:
    """A server that holds the numbered pictures and fails in a tenth of its answers."""
    folder = tmp_path_factory.mktemp("buckets")
    shutil.copytree(numbered.url, folder / "bucket" / "dataset")
    with rclone_s3(folder) as good, faulty(good, share=0.1, seed=3, kinds=ALL_KINDS) as bad:
        yield bad


@pytest.fixture
def dataset(server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dataset]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(retry, "FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(retry, "READ_TIMEOUT_S", 0.5)
    connect.cache_clear()
    yield Dataset.open("s3://bucket/dataset")
    connect.cache_clear()


def loader_of(dataset: Dataset, world_size: int, rank: int) -> Loader:
    fingerprint = dataset.manifest.fingerprint
    return Loader(
        split=dataset.split("train"),
        fingerprint=fingerprint,
        image_size=6,
        batch_size=4,
        rank=rank,
        world_size=world_size,
        threads=4,
    )


def shown(batches: Iterator[Batch]) -> list[int]:
    """Return the numbers of the pictures of weight 1, after a check of their labels."""
    seen: list[int] = []
    for batch in batches:
        red = batch.images[:, 0].flatten(1)[:, 0].long()
        assert torch.equal((red[:, None] >> torch.arange(BITS) & 1).to(torch.int8), batch.targets)
        np.testing.assert_array_equal(red.numpy(), batch.rows)
        seen += red[batch.weights == 1].tolist()
    return seen


@pytest.mark.parametrize("world_size", WORLDS)
@pytest.mark.parametrize("kept", [False, True], ids=["direct", "cached"])
def test_every_sample_is_shown_once_with_its_labels(
    dataset: Dataset, world_size: int, kept: bool, tmp_path: Path
):
    if kept:
        dataset = with_cache(dataset, str(tmp_path / "cache"), 10**9)
    for epoch in range(2):
        seen = [
            number
            for rank in range(world_size)
            for number in shown(loader_of(dataset, world_size, rank).training_epoch(epoch))
        ]
        assert sorted(seen) == list(range(SAMPLES))


@pytest.mark.parametrize("world_size", WORLDS)
def test_stopped_at_a_random_step_and_restarted_on_another_world_size(dataset: Dataset, world_size: int):
    rng = np.random.default_rng(world_size)
    others = [other for other in WORLDS if other != world_size]
    steps, other = int(rng.integers(1, 6)), others[int(rng.integers(len(others)))]
    seen = []
    for rank in range(world_size):
        seen += shown(itertools.islice(loader_of(dataset, world_size, rank).training_epoch(5), steps))
    state = loader_of(dataset, world_size, 0).state(5, steps)
    for rank in range(other):
        seen += shown(replace(loader_of(dataset, other, rank), batch_size=5).resume(state))
    assert sorted(seen) == list(range(SAMPLES))


def test_the_connection_was_as_bad_as_it_should_be(dataset: Dataset, server: FaultyServer):
    """In this test alone, whichever tests ran before."""
    while server.requests < 200 or (len(server.proxy.faults) < 5 and server.requests < 2000):
        shown(loader_of(dataset, 1, 0).training_epoch(0))
    assert 0.04 < server.faults / server.requests < 0.2
    assert len(server.proxy.faults) >= 5
