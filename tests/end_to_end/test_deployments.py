"""The flows as deployments: deployed, run and cancelled by the commands of the manual, by a real worker."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.servers.prefect import (
    PREFECT,
    ask,
    prefect_environment,
    prefect_server,
    prefect_worker,
    without_prefect,
)
from tests.servers.process import Server
from tests.servers.s3 import S3Server, rclone_s3

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.process]

TINY: dict[str, Any] = {"source": "toy", "samples": 40, "backbone": "shufflenet_v2_x0_5", "weights": "none"}
TINY |= {"image_size": 32, "epochs": 1, "batch_size": 16, "num_workers": 0}


@dataclass(frozen=True)
class Prefect:
    """A server with our deployments, and the worker that runs them."""

    api: str
    environment: dict[str, str]
    worker: Server
    home: Path

    def __call__(self, *arguments: object) -> str:
        """Run ``prefect …`` as a person does; it has to succeed."""
        done = self.finished(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def finished(self, *arguments: object) -> "subprocess.CompletedProcess[str]":
        command = [str(PREFECT), *map(str, arguments)]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=400
        )

    def run(self, deployment: str, *more: str, **parameters: Any) -> "subprocess.CompletedProcess[str]":
        """``prefect deployment run``."""
        given = (f"--param={name}={value}" for name, value in parameters.items())
        return self.finished("deployment", "run", deployment, *more, *given)

    def state(self, run: str) -> dict[str, Any]:
        return dict(ask(self.api, f"/flow_runs/{run}")["state"])

    def artifact(self, key: str) -> str:
        """The newest artifact of that key."""
        return str(ask(self.api, f"/artifacts/{key}/latest")["data"])

    def logs(self, run: str) -> list[str]:
        asked = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200}
        return [record["message"] for record in ask(self.api, "/logs/filter", asked)]


def id_of(started: "subprocess.CompletedProcess[str]") -> str:
    found = re.search(r"UUID: ([0-9a-f-]{36})", started.stdout)
    assert found, started.stdout + started.stderr
    return found[1]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with rclone_s3(tmp_path_factory.mktemp("buckets")) as server:
        server.put_bucket("bucket")
        yield server


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory, bucket: S3Server) -> Iterator[Prefect]:
    home = tmp_path_factory.mktemp("prefect")
    of_worker = {"OMP_NUM_THREADS": "1", **bucket.environment}
    with (
        prefect_server(home / "server") as api,
        prefect_worker(api, home / "worker", environment=of_worker) as worker,
    ):
        environment = {**without_prefect(os.environ), **prefect_environment(home / "client", api)}
        ours = Prefect(api, environment | {"PWD": str(home)}, worker, home)
        ours("--no-prompt", "deploy", "--prefect-file", "infra/prefect.yaml", "--all")
        yield ours


@pytest.fixture(scope="module")
def work(prefect: Prefect, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of train-lglm/default."""
    out = tmp_path_factory.mktemp("work") / "out"
    done = prefect.run("train-lglm/default", "--watch", out=out, **TINY)
    assert done.returncode == 0, done.stdout + done.stderr + prefect.worker.tail()
    return out


def written(folder: Path) -> dict[str, int]:
    """When every file below was written."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_both_flows_are_deployed_with_a_form_that_helps(prefect: Prefect):
    deployments = ask(prefect.api, "/deployments/filter", {})
    flows = {ask(prefect.api, f"/flows/{found['flow_id']}")["name"]: found for found in deployments}
    assert {(name, found["name"]) for name, found in flows.items()} == {
        ("train-lglm", "default"),
        ("tag-bucket", "default"),
    }
    for found in flows.values():
        fields = found["parameter_openapi_schema"]["properties"]
        assert all(field["description"] for field in fields.values())
        assert {"out", "ray_address"} < set(fields)


def test_prefect_yaml_says_nothing_that_prefect_would_ignore():
    """It ignores what it does not know, so a misspelt key would go unnoticed."""
    content = yaml.safe_load((ROOT / "infra" / "prefect.yaml").read_text())
    assert set(content) == {"name", "prefect-version", "pull", "definitions", "deployments"}
    known = {"name", "entrypoint", "description", "tags", "work_pool", "schedules", "parameters"}
    for deployment in content["deployments"]:
        assert set(deployment) == known
        assert set(deployment["work_pool"]) == {"name", "job_variables"}


def test_a_run_trains_a_model_and_publishes_how_good_it_is(prefect: Prefect, work: Path):
    assert json.loads((work / "run" / "model" / "manifest.json").read_text())["kind"] == "model"
    metrics = json.loads((work / "evaluation" / "metrics.json").read_text())
    assert f"| mAP | {metrics['mAP']:.1f} | {metrics['prior_mAP']:.1f} |" in prefect.artifact("train-lglm")


def test_run_again_it_repeats_nothing(prefect: Prefect, work: Path):
    before = written(work)
    again = prefect.run("train-lglm/default", "--watch", out=work, **TINY)
    assert again.returncode == 0, again.stdout + again.stderr
    page = str(work / "neighbours.html")  # it is drawn anew each time
    assert {path for path, when in written(work).items() if before.get(path) != when} == {page}
    assert sum("already complete" in line for line in prefect.logs(id_of(again))) == 6


def test_a_relative_place_is_where_it_was_deployed_from(prefect: Prefect, work: Path):
    (prefect.home / "pictures").mkdir(exist_ok=True)
    (prefect.home / "pictures" / "broken.jpg").write_bytes(b"no picture")
    done = prefect.run(
        "tag-bucket/default", "--watch", model=work / "run/model", images="pictures", out="tags"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (prefect.home / "tags" / "manifest.json").exists()


def test_tag_bucket_tags_a_bucket_and_shows_no_secret(prefect: Prefect, work: Path, bucket: S3Server):
    client = bucket.client()
    for path in (work / "raw" / "test2017").iterdir():
        client.upload_file(str(path), "bucket", f"new pictures/{path.name}")
    places = {
        "model": work / "run" / "model",
        "images": "s3://bucket/new pictures",
        "out": "s3://bucket/tags",
    }
    done = prefect.run("tag-bucket/default", "--watch", **places)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.load(client.get_object(Bucket="bucket", Key="tags/manifest.json")["Body"])["counts"]
    assert counts == {"files": 24, "status_corrupt": 1, "status_ok": 23}
    artifact = prefect.artifact("tag-bucket")
    assert "24 objects of `s3://bucket/new pictures`" in artifact
    assert "| ok | 23 |\n| corrupt | 1 |" in artifact
    records = [done.stdout, done.stderr, artifact, *prefect.logs(id_of(done)), prefect.worker.tail(10_000)]
    records += [path.read_bytes().decode("latin-1") for path in prefect.home.rglob("*") if path.is_file()]
    assert any("new pictures" in record for record in records)  # it looks where things are written
    assert not any(bucket.secret in record or bucket.key in record for record in records)


def test_a_run_that_cannot_go_on_fails_with_the_one_line_of_its_job(prefect: Prefect, tmp_path: Path):
    places = {"model": tmp_path / "nowhere", "images": tmp_path, "out": tmp_path / "tags"}
    failed = prefect.run("tag-bucket/default", "--watch", **places)
    assert failed.returncode != 0
    state = prefect.state(id_of(failed))
    assert state["type"] == "FAILED"
    assert f"lglm tag: {tmp_path}/nowhere: no complete model room there" in state["message"]
    assert not any("Traceback" in line for line in prefect.logs(id_of(failed)))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_cancelled_while_it_trains_its_job_ends_and_nothing_looks_complete(
    prefect: Prefect, work: Path, tmp_path: Path, num_workers: int
):
    out = tmp_path / "out"
    parameters = TINY | {"epochs": 100_000, "num_workers": num_workers}
    run = id_of(prefect.run("train-lglm/default", out=out, **parameters))
    wait_until(lambda: any("epoch 2/" in line for line in prefect.logs(run)), 120)
    assert training(prefect.worker)
    cancelled = time.monotonic()
    prefect("flow-run", "cancel", run)
    wait_until(lambda: not training(prefect.worker), 60)
    assert time.monotonic() - cancelled < 15
    wait_until(lambda: prefect.state(run)["type"] == "CANCELLED", 60)
    rooms = {path.parent.relative_to(out).as_posix() for path in out.rglob("manifest.json")}
    assert rooms == {"dataset", "labels"}
    assert (out / "run" / "unfinished.json").exists()


def training(worker: Server) -> list[str]:
    """The processes below the worker that train, or serve a Ray that does."""
    commands = [command_of(pid) for pid in worker.processes()]
    return [
        line for line in commands if "jobs.train" in line or re.search(r"\bray::|raylet|gcs_server", line)
    ]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""  # ended meanwhile


def wait_until(condition: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the moment never came"
        time.sleep(0.2)
