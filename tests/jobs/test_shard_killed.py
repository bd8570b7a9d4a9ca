"""SIGKILL of ``lglm shard``, then the same command again: the dataset of an undisturbed run, to the byte."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lglm_core.data.table import TableSource
from tests.jobs.commands import Commands, Running, contents, make_dataset, picture, vanish

SHARDS, PER_SHARD = 5, 6


class Table:
    """A table of pictures of which one is a named pipe: who shards it halts in the midst of that shard."""

    def __init__(self, folder: Path, halt_in: int) -> None:
        self.images, self.table = folder / "images", folder / "table.csv"
        names = [f"{number:03d}.jpg" for number in range(SHARDS * PER_SHARD)]
        for seed, name in enumerate(names):
            picture(self.images / name, seed)
        rows = [f"{name},{'dog|cat' if seed % 3 else 'cow'},train" for seed, name in enumerate(names)]
        self.table.write_text("\n".join(["image,labels,split", *rows]) + "\n")
        self.expected = contents(
            make_dataset(
                TableSource(str(self.table), str(self.images)),
                folder / "expected",
                max_samples_per_shard=PER_SHARD,
            )
        )
        self.pipe = self.images / names[halt_in * PER_SHARD + PER_SHARD // 2]
        self.kept = self.pipe.rename(folder / "kept.jpg")
        os.mkfifo(self.pipe)

    def arguments(self, out: Path) -> tuple[object, ...]:
        inputs = ("--table", self.table, "--image-root", self.images)
        return ("table", *inputs, "--out", out, "--max-samples-per-shard", PER_SHARD)

    def is_being_read(self) -> bool:
        """Whether a writer of shards has reached the pipe: only then can it be opened to write."""
        try:
            os.close(os.open(self.pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    def mend(self) -> None:
        """Put the picture where the pipe was."""
        self.pipe.unlink()
        self.kept.rename(self.pipe)


KILLED: dict[str, Callable[[Running], None]] = {
    "the whole session": Running.kill_session,
    "the driver alone": Running.kill_driver,
}


@pytest.mark.parametrize(
    ("killed", "halt_in"),
    [
        ("the driver alone", 1),
        pytest.param("the whole session", 0, marks=pytest.mark.slow),
        pytest.param("the whole session", 2, marks=pytest.mark.slow),
        pytest.param("the whole session", SHARDS - 1, marks=pytest.mark.slow),
        pytest.param("the driver alone", SHARDS - 1, marks=pytest.mark.slow),
    ],
)
def test_killed_in_the_midst_of_a_shard(lglm: Commands, tmp_path: Path, killed: str, halt_in: int):
    table, out = Table(tmp_path, halt_in), tmp_path / "out"
    with lglm.started("shard", *table.arguments(out)) as running:
        running.wait_until(lambda: bool(list(out.glob("shards/*/.partial-*"))) and table.is_being_read())
        KILLED[killed](running)
        assert vanish(running.session), "processes outlived their driver"
    assert not (out / "manifest.json").exists()
    assert not (out / "shards" / "train" / f"train-{halt_in:06d}.tar").exists()
    table.mend()
    assert lglm.done("shard", *table.arguments(out))["status"] == "done"
    assert contents(out) == table.expected


TOY = ("--samples", 120, "--max-samples-per-shard", 20, "--seed", 3)


@pytest.fixture(scope="module")
def toy(lglm: Commands, made_once: Callable) -> tuple[Path, dict[str, str]]:
    """The drawn pictures and the contents of an undisturbed run."""
    with made_once("toy") as folder:
        lglm.done("shard", "toy", *TOY, "--root", folder / "raw", "--out", folder / "dataset")
    return folder / "raw", contents(folder / "dataset")


@pytest.mark.parametrize(
    "finished", [pytest.param(0, marks=pytest.mark.slow), 2, pytest.param(5, marks=pytest.mark.slow)]
)
def test_killed_when_so_many_shards_are_there(
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
def test_killed_while_it_draws(lglm: Commands, toy: tuple[Path, dict[str, str]], tmp_path: Path):
    arguments = ("shard", "toy", *TOY, "--root", tmp_path / "raw", "--out", tmp_path / "out")
    with lglm.started(*arguments) as running:
        running.wait_until(lambda: len(list(tmp_path.glob("raw/train2017/*.jpg"))) >= 5)
        running.kill_session()
    assert lglm.done(*arguments)["status"] == "done"
    assert contents(tmp_path / "out") == toy[1]
    assert contents(tmp_path / "raw") == contents(toy[0])


@pytest.mark.slow
def test_killed_again_and_again(lglm: Commands, toy: tuple[Path, dict[str, str]], tmp_path: Path):
    (raw, expected), out = toy, tmp_path / "out"
    arguments = ("shard", "toy", *TOY, "--root", raw, "--out", out)
    for finished in (1, 3):
        with lglm.started(*arguments) as running:
            running.wait_until(lambda least=finished: len(list(out.glob("shards/*/*.tar"))) >= least)
            running.kill_session()
    assert lglm.done(*arguments)["status"] == "done"
    assert contents(out) == expected
