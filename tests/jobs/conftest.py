"""What the tests of the jobs share: commands to run, and rooms that are made once for all of them."""

import fcntl
import importlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.jobs.commands import Commands, Result, make_dataset, module_of, write_coco
from tests.jobs.tables import PER_SHARD, table

TINY_RECIPE = (
    *("--backbone", "shufflenet_v2_x0_5", "--weights", "none", "--image-size", "32"),
    *("--batch-size", "16", "--num-workers", "0", "--epochs", "1"),
)


@pytest.fixture(scope="session")
def lglm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Verbs as processes of their own."""
    ray_temporary = Path(mkdtemp(prefix="lglm-test-", dir="/tmp"))  # Ray's sockets need a short path
    yield Commands(tmp_path_factory.mktemp("cwd"), tmp_path_factory.mktemp("tmp"), ray_temporary)
    shutil.rmtree(ray_temporary, ignore_errors=True)


@pytest.fixture
def here(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Verbs in this process, for those that need no Ray."""

    def call(verb: str, *arguments: object) -> Result:
        logging.getLogger("lglm").handlers.clear()  # it would hold on to the stderr of an earlier test
        capfd.readouterr()
        try:
            code = importlib.import_module(module_of(verb)).main([str(argument) for argument in arguments])
        except SystemExit as exit_:
            code = exit_.code
        return Result(code, *capfd.readouterr())

    return call


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """A folder that all workers of pytest-xdist share, held by one at a time.

    What makes a room in it may simply be run by each: the second finds it complete.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    @contextmanager
    def hold(name: str) -> Iterator[Path]:
        folder = base / "made-once"
        folder.mkdir(exist_ok=True)
        with (folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder / name

    return hold


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
def tiny_labels(made_once: Callable, lglm: Commands, tiny_dataset: Path) -> Path:
    """Its label embeddings, from co-occurrence."""
    with made_once("tiny-labels") as out:
        lglm.done("label-embeddings", "--dataset", tiny_dataset, "--out", out)
        return out


@pytest.fixture(scope="session")
def tiny_run(made_once: Callable, lglm: Commands, tiny_dataset: Path, tiny_labels: Path) -> Path:
    """A run of one epoch on it, without Ray."""
    with made_once("tiny-run") as out:
        inputs = ("--dataset", tiny_dataset, "--label-embeddings", tiny_labels)
        lglm.done("train", *inputs, "--out", out, *TINY_RECIPE)
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
