"""The flows on real Prefect servers, one of its own first, with real jobs; test_flow_jobs.py starts none."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.servers.prefect import prefect_environment, prefect_server, without_prefect

pytestmark = [pytest.mark.process, pytest.mark.timeout(900)]

TINY = {
    "source": "toy",
    "samples": 40,
    "backbone": "shufflenet_v2_x0_5",
    "weights": "none",
    "image_size": 32,
    "epochs": 1,
    "batch_size": 16,
    "num_workers": 0,
}


ROOMS = {
    "dataset": "dataset",
    "labels": "label-embeddings",
    "run": "run",
    "evaluation": "evaluation",
    "embeddings": "embeddings",
    "tags": "tags",
}


def run_flow(
    out: Path,
    options: dict,
    *,
    module: tuple[str, ...] = ("pipelines.train_lglm",),
    server: Mapping[str, str] = {},
):
    """Run a flow that reports to a server, or without one to an ephemeral server of its own."""
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    temporary = out.parent / "tmp"
    temporary.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", *module, "--out", str(out), "--json", *arguments],
        capture_output=True,
        text=True,
        env={**without_prefect(os.environ), "TMPDIR": str(temporary), **server},
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The settings of one server for the flows that need none of their own, which take long to start."""
    home = tmp_path_factory.mktemp("prefect")
    with prefect_server(home / "server") as api_url:
        yield prefect_environment(home / "client", api_url)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("flow") / "work"
    return out, run_flow(out, TINY)


@pytest.mark.slow
def test_the_flow_writes_every_room(finished):
    out, process = finished
    assert process.returncode == 0, process.stderr[-2000:]
    kinds = {
        folder: json.loads((out / folder / "manifest.json").read_text())["kind"]
        for folder in (*ROOMS, "run/model")
    }
    assert kinds == {**ROOMS, "run/model": "model"}
    assert (out / "neighbours.html").exists()


@pytest.mark.slow
def test_it_ends_with_metrics_beside_the_prior_and_the_paths_of_the_rooms(finished):
    out, process = finished
    table = {line.split()[0]: line.split()[1:] for line in process.stdout.splitlines() if line.strip()}
    metrics = json.loads((out / "evaluation" / "metrics.json").read_text())
    for name in ("mAP", "CF1", "OF1"):
        assert table[name] == [f"{metrics[name]:.1f}", f"{metrics[f'prior_{name}']:.1f}"]
    assert table["report"] == [str(out / "evaluation" / "report.html")]


@pytest.mark.slow
def test_the_files_of_the_embedded_servers_are_removed_with_the_process(finished):
    out, _ = finished
    made = {*ROOMS, "raw", "neighbours.html"}
    assert {path.name for path in out.iterdir()} == made
    assert not list(out.parent.glob("tmp/lglm-*"))


@pytest.mark.slow
def test_a_second_run_by_its_other_name_repeats_nothing(finished, server):
    out, _ = finished
    process = run_flow(out, TINY, module=("pipelines.cli", "flow", "train-lglm"), server=server)
    assert process.returncode == 0, process.stderr[-2000:]
    assert json.loads(process.stdout.splitlines()[-1])["status"] == "already complete"


@pytest.mark.slow
def test_tag_bucket_sums_up_the_rows_per_status_and_label(finished, server):
    work, _ = finished
    (work / "run" / "model" / "thresholds.json").write_text(
        json.dumps(dict.fromkeys(json.loads((work / "dataset" / "labels.json").read_text()), 0.0))
    )  # so that every label is given
    out = work.parent / "tags-of-all"
    options = {"model": work / "run" / "model", "images": work / "raw" / "test2017"}
    process = run_flow(out, options, module=("pipelines.tag_bucket",), server=server)
    assert process.returncode == 0, process.stderr[-2000:]
    counts = json.loads((out / "manifest.json").read_text())["counts"]
    assert (
        json.loads(process.stdout.splitlines()[-1])["counts"]
        == counts
        == {
            "files": 24,
            "status_corrupt": 1,
            "status_ok": 23,
        }
    )
    table = [line.split() for line in process.stdout.splitlines()[:-1] if line.strip()]
    labels = json.loads((work / "dataset" / "labels.json").read_text())
    assert table[:2] == [["ok", "23"], ["corrupt", "1"]]
    assert sorted(table[2:-1]) == sorted([label, "23"] for label in labels)
    assert table[-1] == ["tags", str(out)]


def test_a_failing_job_ends_the_flow_with_its_own_line_and_code(tmp_path, server):
    options = {"source": "coco", "root": str(tmp_path / "nowhere")}
    process = run_flow(tmp_path / "work", options, server=server)
    assert process.returncode == 2
    lines = process.stderr.splitlines()
    assert "Traceback" not in process.stderr
    failed = [line for line in lines if line.startswith("lglm flow train-lglm: ")]
    assert len(failed) == 1
    assert "nowhere/annotations: holds no instances_train2014.json" in failed[0]


def test_a_source_without_its_folder_is_refused_before_anything_starts(tmp_path):
    process = run_flow(tmp_path / "work", {"source": "coco"})
    assert process.returncode == 2
    assert process.stderr.splitlines() == [
        "lglm flow train-lglm: source coco needs the option --root; see lglm flow train-lglm --help"
    ]
    assert not (tmp_path / "work").exists()


def test_a_server_that_does_not_answer_is_refused_in_one_line(tmp_path):
    command = [
        sys.executable,
        "-m",
        "pipelines.cli",
        "flow",
        "train-lglm",
        "--source=toy",
        f"--out={tmp_path}/work",
    ]
    environment = os.environ | {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert process.returncode == 2
    assert len(process.stderr.splitlines()) == 1
    assert "PREFECT_API_URL=http://127.0.0.1:9/api" in process.stderr
