"""The servers of the tests are what they claim; otherwise every test that leans on them proves nothing."""

import io
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError

from tests.servers import process
from tests.servers.faulty import FaultyProxy
from tests.servers.prefect import ask, prefect_environment, prefect_server, prefect_worker
from tests.servers.process import Server, started
from tests.servers.ray_cluster import RAY, ray_cluster
from tests.servers.s3 import FaultyServer, S3Server, faulty, moto_s3, rclone_s3

pytestmark = pytest.mark.process

ONCE = {"total_max_attempts": 1}
OFTEN = {"total_max_attempts": 12}


@pytest.fixture
def rclone(tmp_path: Path) -> Iterator[S3Server]:
    with rclone_s3(tmp_path) as server:
        server.put_bucket("bucket")
        yield server


@pytest.fixture
def moto() -> Iterator[S3Server]:
    with moto_s3() as server:
        server.put_bucket("bucket")
        yield server


def keys(server: S3Server) -> list[str]:
    return [found["Key"] for found in server.client().list_objects_v2(Bucket="bucket").get("Contents", [])]


def test_rclone_refuses_a_wrong_secret(rclone: S3Server) -> None:
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        replace(rclone, secret="another secret").client().list_buckets()


def test_what_is_put_to_rclone_is_listed_at_once_and_a_plain_file(rclone: S3Server, tmp_path: Path) -> None:
    assert keys(rclone) == []  # from now on a cache could keep it
    rclone.client().put_object(Bucket="bucket", Key="folder/key", Body=b"word")
    assert keys(rclone) == ["folder/key"]
    assert (tmp_path / "bucket" / "folder" / "key").read_bytes() == b"word"


def test_moto_refuses_a_second_put_where_there_should_be_none(moto: S3Server) -> None:
    client = moto.client()
    client.put_object(Bucket="bucket", Key="key", Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(Bucket="bucket", Key="key", Body=b"second", IfNoneMatch="*")
    assert client.get_object(Bucket="bucket", Key="key")["Body"].read() == b"first"


def test_another_process_reaches_a_server_by_its_environment_alone(rclone: S3Server) -> None:
    code = "import boto3; print(boto3.client('s3').list_buckets()['Buckets'][0]['Name'])"
    environment = {**os.environ, **rclone.environment}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == "bucket", found.stderr


def outcomes(server: FaultyServer, count: int) -> list[bool]:
    """Whether each of so many reads came through, without a second try."""
    client = server.client(retries=ONCE)

    def read() -> bool:
        try:
            return client.get_object(Bucket="bucket", Key="key")["Body"].read() == b"word" * 1000
        except (BotoCoreError, ClientError):
            return False

    return [read() for _ in range(count)]


def test_about_the_share_of_requests_fails_and_always_the_same(rclone: S3Server) -> None:
    rclone.client().put_object(Bucket="bucket", Key="key", Body=b"word" * 1000)
    with faulty(rclone, share=0.2, seed=1) as first, faulty(rclone, share=0.2, seed=1) as second:
        seen = outcomes(first, 200)
        assert seen == outcomes(second, 200)
    assert first.requests == 200
    assert seen.count(False) == first.faults
    assert 20 <= first.faults <= 60
    assert set(first.proxy.faults) == {"503", "drop_before", "drop_after", "drop_body"}


def test_a_request_without_an_answer_may_have_been_done(rclone: S3Server) -> None:
    with faulty(rclone, share=1, kinds=("drop_request",)) as server:
        client = server.client(retries=ONCE)
        for number in range(12):
            with pytest.raises(BotoCoreError):
                client.put_object(Bucket="bucket", Key=f"{number}", Body=b"word")
    done = len(keys(rclone))
    assert done == server.proxy.faults["drop_after"]
    assert 0 < done < 12


# To rclone an upload is unknown once it is complete, so there a lost answer to the completion is an error.
@pytest.mark.parametrize(
    ("name", "kinds"), [("rclone", ("503",)), ("moto", ("503", "drop_request", "drop_body"))]
)
def test_what_comes_through_is_the_same_byte_for_byte(
    name: str, kinds: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    body = random.Random(0).randbytes(20 << 20)
    parts = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20)
    with faulty(request.getfixturevalue(name), share=0.3, seed=2, kinds=kinds) as server:
        client = server.client(retries=OFTEN)
        client.upload_fileobj(io.BytesIO(body), "bucket", "key", Config=parts)
        client.download_fileobj("bucket", "key", received := io.BytesIO(), Config=parts)
    assert received.getvalue() == body
    assert server.faults > 0


def test_an_unknown_kind_of_fault_is_refused() -> None:
    with pytest.raises(ValueError, match="404"):
        FaultyProxy("127.0.0.1", 1, 0.1, 0, ["404"])


@pytest.mark.parametrize("start", [lambda folder: rclone_s3(folder), lambda folder: moto_s3()])
def test_a_port_that_was_taken_meanwhile_is_given_up_for_another(
    start: Callable[[Path], AbstractContextManager[S3Server]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken, free = other.getsockname()[1], process.free_ports(1)[0]
        drawn = iter([[taken], [free]])
        monkeypatch.setattr(process, "free_ports", lambda count: next(drawn))
        with start(tmp_path) as server:
            assert server.url.endswith(f":{free}")


def test_a_server_ends_with_all_that_it_started_also_when_the_test_fails() -> None:
    code = (
        "import subprocess, sys, time; print('up', flush=True);"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True);"
        "time.sleep(600)"
    )

    def test(server: Server) -> None:
        server.wait_until(lambda: len(server.processes()) == 2, timeout_s=30)
        raise AssertionError

    with (
        pytest.raises(AssertionError),
        started([sys.executable, "-c", code], os.environ, grace_s=1) as server,
    ):
        test(server)
    assert server.processes() == set()
    assert server.process.returncode == -signal.SIGTERM


@pytest.mark.slow
def test_a_cluster_of_two_nodes_lets_in_who_has_the_token(tmp_path: Path) -> None:
    with ray_cluster(tmp_path, nodes=2, token="a token of the tests") as cluster:
        assert cluster.nodes_alive() == 2
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urlopen(f"{cluster.jobs_url}/api/jobs/")

        job = [str(RAY), "job", "submit", "--address", cluster.jobs_url, "--", "python", "-c", "import ray"]
        without = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        without["HOME"] = str(tmp_path)  # Ray would look for a token there
        refused = subprocess.run(job, env=without, capture_output=True, text=True)
        assert (refused.returncode, "Missing authentication token" in refused.stderr) == (1, True)
        done = subprocess.run(job, env={**without, **cluster.environment}, capture_output=True, text=True)
        assert (done.returncode, "succeeded" in done.stdout) == (0, True), done.stdout

        cluster.nodes[1].end(grace_s=0)
        deadline = time.monotonic() + 60
        while cluster.nodes_alive() != 1:
            assert time.monotonic() < deadline, "a lost node still counts as alive"
            time.sleep(0.5)
    assert [node.processes() for node in cluster.nodes] == [set(), set()]


@pytest.mark.slow
def test_a_deployed_flow_is_run_by_the_worker(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(
        "from prefect import flow\n\n\n@flow\ndef hello():\n    open('said', 'w').write('hello')\n"
    )
    deploy = (
        f"from prefect import flow; flow.from_source({str(tmp_path)!r}, 'hello.py:hello')"
        ".deploy('default', work_pool_name='lglm', ignore_warnings=True)"
    )
    with prefect_server(tmp_path / "server") as api_url, prefect_worker(api_url, tmp_path / "worker"):
        assert ask(api_url, "/health") is True
        environment = {**os.environ, **prefect_environment(tmp_path / "client", api_url)}
        for command in (
            [sys.executable, "-c", deploy],
            [sys.executable, "-m", "prefect", "deployment", "run", "hello/default", "--watch"],
        ):
            done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        states = [run["state"]["type"] for run in ask(api_url, "/flow_runs/filter", {})]
        assert states == ["COMPLETED"]
