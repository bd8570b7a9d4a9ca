"""Verbs and flows on a Ray cluster of two nodes that asks for a token."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import gettempdir, mkdtemp
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.options import Tag, Train
from lglm_core import __version__
from lglm_core.errors import InputError
from pipelines import ray_jobs
from pipelines.launch import launch
from pipelines.options import Cluster
from tests.jobs.commands import picture
from tests.servers.ray_cluster import RAY, RayCluster, ray_cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.process]

PLANTED = "planted-secret-0123456789abcdef"
RECIPE: dict[str, Any] = {"backbone": "shufflenet_v2_x0_5", "weights": "none", "image_size": 32}
RECIPE |= {"batch_size": 16}


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    folder = Path(mkdtemp(prefix="lglm-cluster-", dir="/tmp"))
    with ray_cluster(folder, nodes=2, token="token-" + "x" * 32, environment={"OMP_NUM_THREADS": "1"}) as it:
        yield it
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def let_in(cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put the token into the environment, and return the address of the Jobs API."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return cluster.jobs_url


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for seed in range(5):
        picture(folder / f"{seed}.png", seed)
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


def submit(cluster: RayCluster, *command: object, token: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run ``ray job submit -- COMMAND``, as a person types it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["HOME"] = gettempdir()  # the user's own may hold a token
    return subprocess.run(
        [str(RAY), "job", "submit", "--address", cluster.jobs_url, "--", *map(str, command)],
        capture_output=True,
        text=True,
        env=environment | (cluster.environment if token else {}),
        timeout=300,
    )


def log_of(cluster: RayCluster, submitted: "subprocess.CompletedProcess[str]") -> list[str]:
    """Return the lines that the job itself wrote."""
    (job,) = set(re.findall(r"raysubmit_\w+", submitted.stdout + submitted.stderr))
    return str(cluster.get(f"/api/jobs/{job}/logs")["logs"]).strip().splitlines()


def test_a_submitted_job_runs_on_the_cluster(
    cluster: RayCluster, tiny_model: Path, images: Path, tmp_path: Path
):
    assert cluster.nodes_alive() == 2
    done = submit(
        cluster, "lglm", "tag", "--model", tiny_model, "--images", images, "--out", tmp_path / "tags"
    )
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(tmp_path / "tags" / "part-00000.parquet").to_pylist()
    assert len(rows) == 6
    assert [row["status"] for row in rows].count("ok") == 5


def test_every_verb_is_the_same_line_behind_ray_job_submit(cluster: RayCluster, images: Path, tmp_path: Path):
    dataset, model = ("--dataset", tmp_path / "dataset"), ("--model", tmp_path / "run" / "model")
    recipe = [f"--{name.replace('_', '-')}={value}" for name, value in RECIPE.items()]
    lines: list[tuple[object, ...]] = [
        ("shard", "toy", "--samples", 40, "--out", tmp_path / "dataset"),
        ("label-embeddings", *dataset, "--out", tmp_path / "labels"),
        (
            *("train", *dataset, "--label-embeddings", tmp_path / "labels", "--out", tmp_path / "run"),
            *(*recipe, "--epochs", 1, "--num-workers", 2),
        ),
        ("evaluate", *model, *dataset, "--out", tmp_path / "evaluation"),
        ("embed", *model, *dataset, "--out", tmp_path / "embeddings"),
        (
            *("search", *model, "--embeddings", tmp_path / "embeddings"),
            *("--query", images / "0.png", "--out", tmp_path / "page.html"),
        ),
        ("tag", *model, "--images", images, "--out", tmp_path / "tags"),
    ]
    for line in lines:
        done = submit(cluster, "lglm", *line)
        assert done.returncode == 0, (line[0], done.stdout[-2000:])
    kinds = {
        path.parent.name: json.loads(path.read_text())["kind"] for path in tmp_path.glob("*/manifest.json")
    }
    same = {name: name for name in ("dataset", "run", "evaluation", "embeddings", "tags")}
    assert kinds == {**same, "labels": "label-embeddings"}
    assert (tmp_path / "page.html").exists()


def test_a_submission_without_the_token_names_what_is_missing(
    cluster: RayCluster, tiny_model: Path, images: Path, tmp_path: Path
):
    line = ("lglm", "tag", "--model", tiny_model, "--images", images, "--out", tmp_path / "tags")
    refused = submit(cluster, *line, token=False)
    assert refused.returncode != 0
    assert "RAY_AUTH_TOKEN" in refused.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "tags").exists()


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ({}, "none is given"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong" * 8}, "the given one is wrong"),
    ],
)
def test_a_flow_without_the_right_token_names_what_is_missing(
    cluster: RayCluster, monkeypatch: pytest.MonkeyPatch, token: dict[str, str], reason: str
):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in token.items():
        monkeypatch.setenv(name, value)
    script = (  # a process of its own: Ray reads its authentication once
        "from jobs.options import Tag\nfrom pipelines.launch import launch\n"
        "from pipelines.options import Cluster\n"
        f"launch('tag', Tag(model='m', images='i', out='o'), Cluster(ray_address={cluster.jobs_url!r}))"
    )
    refused = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    last = refused.stderr.strip().splitlines()[-1]
    assert (
        f"{cluster.jobs_url}: the Ray cluster asks for a token, and {reason}; set RAY_AUTH_MODE=token" in last
    )


@pytest.mark.parametrize("token", [{}, {"RAY_AUTH_MODE": "token"}])
def test_a_verb_without_the_token_names_what_is_missing(
    cluster: RayCluster, tiny_model: Path, images: Path, tmp_path: Path, token: dict[str, str]
):
    started = time.monotonic()
    command = [*("-m", "jobs.tag", "--model", tiny_model, "--images", images, "--out", tmp_path / "tags")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    refused = subprocess.run(
        [sys.executable, *map(str, command), "--ray-address", cluster.address],
        capture_output=True,
        text=True,
        env={**environment, **token, "HOME": str(tmp_path)},
        timeout=120,
    )
    assert refused.returncode == 2
    assert "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" in refused.stderr.strip().splitlines()[-1]
    assert time.monotonic() - started < 30
    assert not (tmp_path / "tags").exists()


def test_a_failing_job_ends_with_its_one_line(cluster: RayCluster, images: Path, tmp_path: Path):
    line = ("lglm", "tag", "--model", tmp_path / "nowhere", "--images", images, "--out", tmp_path / "tags")
    failed = submit(cluster, *line)
    assert failed.returncode != 0
    assert log_of(cluster, failed)[-1] == (
        f"lglm tag: {tmp_path}/nowhere: no complete model room there (no manifest.json); "
        "lglm train writes one"
    )


def test_a_job_that_fails_while_ray_runs_ends_with_its_one_line_too(
    cluster: RayCluster, tiny_dataset: Path, tiny_model: Path, tmp_path: Path
):
    damaged = shutil.copytree(tiny_dataset, tmp_path / "dataset")
    (tar,) = (damaged / "shards" / "val").glob("*.tar")
    tar.write_bytes(bytes(tar.stat().st_size))
    line = ("lglm", "evaluate", "--model", tiny_model, "--dataset", damaged, "--out", tmp_path / "evaluation")
    failed = submit(cluster, *line)
    assert failed.returncode != 0
    last = log_of(cluster, failed)[-1]
    assert last.startswith(f"lglm evaluate: {tar}, sample ")
    assert "is not the one that was written" in last


def tag_options(model: Path, images: Path, out: Path) -> Tag:
    return Tag(model=str(model), images=str(images), out=str(out))


def test_a_flow_sends_its_jobs_with_its_code(
    let_in: str,
    tiny_model: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cluster: RayCluster,
):
    """The code that is sent has another version than the one installed on the nodes."""
    sent = tmp_path / "sent"
    for package in ray_jobs.PACKAGES:
        shutil.copytree(Path(__file__).parents[2] / package, sent / package)
    init = sent / "lglm_core" / "__init__.py"
    init.write_text(init.read_text().replace(f'__version__ = "{__version__}"', '__version__ = "9.9.9"'))
    monkeypatch.setattr(ray_jobs, "_folders", lambda: iter(sent / package for package in ray_jobs.PACKAGES))
    monkeypatch.setattr(ray_jobs, "__version__", "9.9.9")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PLANTED)
    lines: list[str] = []
    options = tag_options(tiny_model, images, tmp_path / "tags")
    launch("tag", options, Cluster(ray_address=let_in), on_line=lines.append)
    assert pq.read_table(tmp_path / "tags" / "part-00000.parquet").num_rows == 6
    assert any("tags, done: 6 rows" in line for line in lines)
    assert PLANTED not in json.dumps(cluster.get("/api/jobs/"))

    with pytest.raises(InputError, match=rf"lglm {__version__} is installed here, but .* is lglm 9\.9\.9"):
        launch("tag", options, Cluster(ray_address=let_in, code="image"))


def test_the_code_in_the_image_is_used_if_its_version_is_the_same(
    let_in: str, tiny_model: Path, images: Path, tmp_path: Path
):
    options = tag_options(tiny_model, images, tmp_path / "tags")
    launch("tag", options, Cluster(ray_address=let_in, code="image"))
    assert (tmp_path / "tags" / "manifest.json").exists()


def test_a_relative_path_means_the_same_on_the_cluster(
    let_in: str, tiny_model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    launch("tag", tag_options(tiny_model, images, Path("tags")), Cluster(ray_address=let_in))
    assert (tmp_path / "tags" / "manifest.json").exists()


def test_a_running_job_is_attached_to_and_an_ended_one_runs_again(
    let_in: str, cluster: RayCluster, tiny_model: Path, images: Path, tmp_path: Path
):
    options = tag_options(tiny_model, images, tmp_path / "tags")
    before = {job["submission_id"] for job in cluster.get("/api/jobs/")}
    logs: list[list[str]] = [[], []]

    def run(number: int) -> None:
        launch("tag", options, Cluster(ray_address=let_in), on_line=logs[number].append)

    first = threading.Thread(target=run, args=(0,))
    first.start()
    while not logs[0]:  # its first line names the job, once it is submitted
        time.sleep(0.05)
    run(1)
    first.join()
    (job,) = {job["submission_id"] for job in cluster.get("/api/jobs/")} - before
    assert logs[0] == logs[1]
    launch("tag", options, Cluster(ray_address=let_in), on_line=(third := list[str]()).append)
    assert third[0] == logs[0][0]  # with the same id
    assert job in third[0]
    assert "tags, already complete" in third[-1]


def test_a_failing_job_fails_the_flow_with_its_own_line(let_in: str, images: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"^lglm tag: .*nowhere: no complete model room there"):
        launch("tag", tag_options(tmp_path / "nowhere", images, tmp_path / "t"), Cluster(ray_address=let_in))


def test_a_flow_that_is_cancelled_stops_its_job(
    let_in: str, cluster: RayCluster, tiny_dataset: Path, tiny_labels: Path, tmp_path: Path
):
    rooms = {"dataset": str(tiny_dataset), "label_embeddings": str(tiny_labels), "out": f"{tmp_path}/run"}
    options = Train(**rooms, **RECIPE, epochs=100_000, num_workers=2)
    script = (
        "import signal\nfrom jobs.options import Train\nfrom pipelines.launch import launch\n"
        "from pipelines.options import Cluster\n"
        # A shell starts what it puts in the background with SIGINT ignored, and children inherit that.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"launch('train', Train.model_validate_json({options.model_dump_json()!r}), "
        f"Cluster(ray_address={let_in!r}), on_line=lambda line: print(line, flush=True))"
    )
    flow = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert flow.stdout
    job = flow.stdout.readline().split()[0]
    assert any(line.startswith("epoch 2/") for line in flow.stdout)
    cancelled = time.monotonic()
    flow.send_signal(signal.SIGINT)
    flow.wait(timeout=60)
    assert time.monotonic() - cancelled < 15
    assert cluster.get(f"/api/jobs/{job}")["status"] == "STOPPED"
    assert not list(tmp_path.rglob("manifest.json"))
    assert (tmp_path / "run" / "unfinished.json").exists()
