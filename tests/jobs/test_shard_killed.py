"""``lglm shard`` is killed and run again: the dataset has the bytes that an undisturbed run writes."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from lglm_core.sources.table import TableSource
from tests.jobs.commands import Commands, contents, make_dataset, picture, vanish
from tests.matrix import matrix

SHARDS, PER_SHARD = 5, 6


class Table:
    """A table of pictures; one of them, in the middle of a shard, takes long to decode."""

    def __init__(self, folder: Path, slow_shard: int) -> None:
        self.images, self.table = folder / "images", folder / "table.csv"
        names = [f"{number:03d}.png" for number in range(SHARDS * PER_SHARD)]
        for seed, name in enumerate(names):
            picture(self.images / name, seed)
        slow = self.images / names[slow_shard * PER_SHARD + PER_SHARD // 2]
        Image.new("L", (12_000, 12_000)).save(slow, compress_level=1)
        rows = [f"{name},{'dog|cat' if seed % 3 else 'cow'},train" for seed, name in enumerate(names)]
        self.table.write_text("\n".join(["image,labels,split", *rows]) + "\n")
        source = TableSource(str(self.table), str(self.images))
        expected = make_dataset(source, folder / "expected", max_samples_per_shard=PER_SHARD)
        self.expected = contents(expected)

    def arguments(self, out: Path) -> tuple[object, ...]:
        inputs = ("--table", self.table, "--image-root", self.images)
        return ("table", *inputs, "--out", out, "--max-samples-per-shard", PER_SHARD)


def is_begun(out: Path, number: int) -> bool:
    """Tell whether the shard of this number is being written."""
    return bool(list(out.glob(f"shards/train/.partial-*/train-{number:06d}.tar")))


@pytest.mark.parametrize(
    ("number", "killed"),
    matrix(range(SHARDS), ["session", "driver"], lambda number: [] if number == 1 else [pytest.mark.slow]),
)
def test_killed_in_the_middle_of_a_shard_it_goes_on(lglm: Commands, tmp_path: Path, killed: str, number: int):
    """The whole session is killed, or the driver alone as by ``kill -9``; then it is run again at once."""
    table, out = Table(tmp_path, number), tmp_path / "out"
    with lglm.started("shard", *table.arguments(out)) as running:
        running.wait_until(lambda: is_begun(out, number))
        running.kill_driver() if killed == "driver" else running.kill_session()
        assert not (out / "shards" / "train" / f"train-{number:06d}.tar").exists()
        assert not (out / "manifest.json").exists()
        assert lglm.done("shard", *table.arguments(out))["status"] == "done"
    assert contents(out) == table.expected


@pytest.mark.slow
def test_the_processes_that_a_killed_driver_started_end_by_themselves(lglm: Commands, tmp_path: Path):
    table, out = Table(tmp_path, 1), tmp_path / "out"
    with lglm.started("shard", *table.arguments(out)) as running:
        running.wait_until(lambda: is_begun(out, 1))
        running.kill_driver()
        assert vanish(running.session, timeout=120), "processes outlived their driver"


TOY = ("--samples", 120, "--max-samples-per-shard", 20, "--seed", 3)


@pytest.fixture(scope="module")
def toy(lglm: Commands, made_once: Callable) -> tuple[Path, dict[str, str]]:
    """The drawn pictures, and the contents of the dataset of an undisturbed run."""
    with made_once("toy") as folder:
        lglm.done("shard", "toy", *TOY, "--root", folder / "raw", "--out", folder / "dataset")
    return folder / "raw", contents(folder / "dataset")


@pytest.mark.parametrize(
    "finished",
    [
        pytest.param(0, marks=pytest.mark.chaos),
        pytest.param(2, marks=pytest.mark.slow),
        pytest.param(5, marks=pytest.mark.chaos),
    ],
)
def test_killed_after_some_shards_it_goes_on(
    lglm: Commands, toy: tuple[Path, dict[str, str]], tmp_path: Path, finished: int
):
    (raw, expected), out = toy, tmp_path / "out"
    arguments = ("shard", "toy", *TOY, "--root", shutil.copytree(raw, tmp_path / "raw"), "--out", out)
    begun = ".partial-*" if not finished else "*.tar"
    with lglm.started(*arguments) as running:
        running.wait_until(lambda: len(list(out.glob(f"shards/*/{begun}"))) >= max(1, finished))
        running.kill_session()
    assert not (out / "manifest.json").exists()
    assert lglm.done(*arguments)["status"] == "done"
    assert contents(out) == expected


@pytest.mark.slow
def test_killed_while_it_draws_it_goes_on(lglm: Commands, toy: tuple[Path, dict[str, str]], tmp_path: Path):
    arguments = ("shard", "toy", *TOY, "--root", tmp_path / "raw", "--out", tmp_path / "out")
    with lglm.started(*arguments) as running:
        running.wait_until(lambda: len(list(tmp_path.glob("raw/train2017/*.jpg"))) >= 5)
        running.kill_session()
    assert lglm.done(*arguments)["status"] == "done"
    assert contents(tmp_path / "out") == toy[1]
    assert contents(tmp_path / "raw") == contents(toy[0])


@pytest.mark.slow
def test_killed_again_and_again_it_goes_on(lglm: Commands, toy: tuple[Path, dict[str, str]], tmp_path: Path):
    (raw, expected), out = toy, tmp_path / "out"
    arguments = ("shard", "toy", *TOY, "--root", raw, "--out", out)
    for finished in (1, 3):
        with lglm.started(*arguments) as running:
            running.wait_until(lambda least=finished: len(list(out.glob("shards/*/*.tar"))) >= least)
            running.kill_session()
    assert lglm.done(*arguments)["status"] == "done"
    assert contents(out) == expected
