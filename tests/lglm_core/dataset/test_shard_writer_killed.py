"""Killed at any moment, with any number of workers, and resumed with another: the same bytes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.jobs.commands import contents, picture
from tests.matrix import matrix

pytestmark = pytest.mark.process

PICTURES = 18
MOMENTS = 20
RESUMED_WITH = {1: 2, 2: 4, 4: 1}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    rows = ["image,labels,split"]
    for number in range(PICTURES):
        picture(folder / "images" / f"{number}.png", number)
        rows.append(
            f"{number}.png,{'dog|cat' if number % 3 else 'cow'},{'val' if number % 5 == 0 else 'train'}"
        )
    (folder / "images" / "3.png").write_bytes(b"no picture")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    return folder


def write(raw: Path, out: Path, workers: int, moment: int = 0) -> int | None:
    """How many moments there were; None if it was killed."""
    command = [sys.executable, "-m", "tests.lglm_core.dataset.shard_workers"]
    arguments = [raw / "table.csv", raw / "images", out, workers, moment]
    ended = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, start_new_session=True, check=False
    )
    assert ended.returncode in (0, -9), ended.stderr
    return int(ended.stdout) if ended.returncode == 0 else None


@pytest.fixture(scope="module")
def undisturbed(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], int]:
    """Every file's digest, and the number of moments."""
    out = tmp_path_factory.mktemp("undisturbed") / "dataset"
    moments = write(raw, out, 1)
    assert moments
    return contents(out), moments


def chosen(moments: int, workers: int) -> list[int]:
    """Twenty moments, the first and the last of all among them."""
    rng = np.random.default_rng(workers)
    return [1, moments, *(rng.choice(moments - 2, MOMENTS - 2, replace=False) + 2).tolist()]


@pytest.mark.parametrize(
    ("which", "workers"),
    matrix(range(MOMENTS), [1, 2, 4], lambda which: [pytest.mark.slow] if which > 3 else []),
)
def test_the_bytes_are_the_same(
    raw: Path, undisturbed: tuple[dict[str, str], int], tmp_path: Path, workers: int, which: int
):
    expected, moments = undisturbed
    out = tmp_path / "dataset"
    assert write(raw, out, workers, chosen(moments, workers)[which]) is None
    write(raw, out, RESUMED_WITH[workers])
    assert contents(out) == expected
