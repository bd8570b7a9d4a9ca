"""Rooms that are made once for all tests of the jobs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.jobs.commands import done_here, make_dataset, write_coco
from tests.jobs.tables import PER_SHARD, table

TINY_RECIPE = (
    *("--backbone", "shufflenet_v2_x0_5", "--weights", "none", "--image-size", "32"),
    *("--batch-size", "16", "--num-workers", "0", "--epochs", "1"),
)


@pytest.fixture(scope="session")
def coco(made_once: Callable) -> Path:
    """A COCO of twelve pictures and four labels."""
    with made_once("coco") as root:
        return root if root.exists() else write_coco(root)


@pytest.fixture(scope="session")
def tiny_dataset(made_once: Callable, coco: Path) -> Path:
    """The dataset room of that COCO, made without a command."""
    from lglm_core.sources.coco import CocoSource

    with made_once("tiny-dataset") as out:
        return out if out.exists() else make_dataset(CocoSource(str(coco)), out)


@pytest.fixture(scope="session")
def tiny_labels(made_once: Callable, tiny_dataset: Path) -> Path:
    """Its label embeddings, from co-occurrence."""
    with made_once("tiny-labels") as out:
        done_here("label-embeddings", "--dataset", tiny_dataset, "--out", out)
        return out


@pytest.fixture(scope="session")
def tiny_run(made_once: Callable, tiny_dataset: Path, tiny_labels: Path) -> Path:
    """A run of one epoch on it, without Ray."""
    with made_once("tiny-run") as out:
        inputs = ("--dataset", tiny_dataset, "--label-embeddings", tiny_labels)
        done_here("train", *inputs, "--out", out, *TINY_RECIPE)
        return out


@pytest.fixture(scope="session")
def tiny_model(tiny_run: Path) -> Path:
    return tiny_run / "model"


@pytest.fixture
def table_dataset(tmp_path: Path) -> Path:
    """A dataset of a table of twelve pictures, which lie beside it."""
    from lglm_core.sources.table import TableSource

    table(tmp_path, range(12))
    source = TableSource(str(tmp_path / "table.csv"), str(tmp_path / "images"))
    return make_dataset(source, tmp_path / "dataset", max_samples_per_shard=PER_SHARD)
