"""`make demo` as its user runs it: the whole flow, with the options that the Makefile names."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.process]


def run_demo(out: Path) -> tuple[dict, float]:
    started = time.perf_counter()
    command = [sys.executable, "-m", "pipelines.cli", "flow", "train-lglm", "--json"]
    command += ["--config", str(ROOT / "infra" / "demo.yaml"), "--out", str(out)]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(process.stdout.splitlines()[-1]), time.perf_counter() - started


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "demo"
    return out, *run_demo(out)


def test_the_makefile_runs_the_demo_with_these_options():
    assert "--config infra/demo.yaml" in (ROOT / "Makefile").read_text()


def test_it_learns_far_more_than_the_prior(demo):
    _, result, _ = demo
    assert result["metrics"]["mAP"] >= result["metrics"]["prior_mAP"] + 30


def test_it_takes_at_most_twelve_epochs(demo):
    out, _, _ = demo
    assert pq.read_table(out / "run" / "history.parquet").num_rows <= 12


def test_every_file_of_the_tagged_folder_is_a_row(demo):
    out, _, _ = demo
    rows = pq.read_table(out / "tags" / "part-00000.parquet").to_pylist()
    files = [str(path) for path in (out / "raw" / "test2017").iterdir()]
    assert sorted(row["uri"] for row in rows) == sorted(files)
    assert {Path(row["uri"]).name for row in rows if row["status"] != "ok"} == {"broken.jpg"}


def test_the_pages_are_there(demo):
    out, result, _ = demo
    assert f"{result['metrics']['mAP']:.1f}" in (out / "evaluation" / "report.html").read_text()
    assert "<img" in (out / "neighbours.html").read_text()


def test_run_again_it_repeats_nothing_and_is_quick(demo):
    out, first, _ = demo
    weights = out / "run" / "model" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    second, seconds = run_demo(out)
    assert second["status"] == "already complete"
    assert second["metrics"] == first["metrics"]
    assert weights.stat().st_mtime_ns == written
    assert seconds < 60
