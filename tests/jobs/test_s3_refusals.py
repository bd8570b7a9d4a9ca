"""Buckets, credentials and servers that are wrong: exit code 2 and one line, soon, from every verb."""

import copy
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lglm_core.rooms import (
    DatasetManifest,
    EmbeddingsManifest,
    FileRecord,
    LabelEmbeddingsManifest,
    ModelManifest,
    PartRecord,
    Room,
    SplitRecord,
)
from tests.jobs.commands import Commands, Here, Result, picture
from tests.servers.process import free_ports
from tests.servers.s3 import S3Server, reaching

Call = Callable[..., Result]
SECONDS_TO_REFUSE = 30.0
ABSENT = "s3://no-such-bucket/somewhere"


@pytest.fixture(scope="module")
def server(rclone: S3Server) -> S3Server:
    """A server that checks signatures, with one empty bucket."""
    rclone.put_bucket("empty")
    return rclone


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Rooms of which only the manifest is there: all that is looked at before the bucket."""
    folder = tmp_path_factory.mktemp("inputs")
    labels = "1" * 64
    common: dict[str, Any] = {"fingerprint": "f" * 64, "inputs": {}, "options": {}, "counts": {}}
    split = SplitRecord(8, (4, 4))
    part = PartRecord({}, {}, "", 2, {"train": 8, "val": 8}, (), {})
    manifests = (
        DatasetManifest(
            **common,
            labels=labels,
            splits={"train": split, "val": split},
            shards=(),
            files={"labels.json": FileRecord(0, "")},
            parts=(part,),
        ),
        LabelEmbeddingsManifest(**common, source="ppmi", of_note=()),
        ModelManifest(**common, head="", weights="", labels=labels, names=(), history=()),
        EmbeddingsManifest(**common | {"inputs": {"model": common["fingerprint"]}}, dataset_url=""),
    )
    for manifest in manifests:
        Room(str(folder / manifest.kind), manifest.provenance).commit(manifest)
    for name, text in {"thresholds": "{}", "config": "{}", "labels": '["dog", "cat"]'}.items():
        (folder / "model" / f"{name}.json").write_text(text)
    (folder / "dataset" / "labels.json").write_text('["dog", "cat"]')
    picture(folder / "images" / "a.jpg", 1)
    (folder / "table.csv").write_text("image,labels\na.jpg,dog\n")
    return {path.stem: path for path in folder.iterdir()}


ON_ROOMS = ("--dataset", "{dataset}", "--label-embeddings", "{label-embeddings}")
ON_SPLIT = ("--model", "{model}", "--dataset", "{dataset}")
# By verb and the option that leads to the bucket.
COMMANDS: dict[str, tuple[str, ...]] = {
    "shard coco --root": ("--root", ABSENT, "--out", "{out}"),
    "shard coco --out": ("--root", "{coco}", "--out", ABSENT),
    "shard table --table": ("--table", ABSENT, "--image-root", "{images}", "--out", "{out}"),
    "shard table --image-root": ("--table", "{table}", "--image-root", ABSENT, "--out", "{out}"),
    "shard toy --out": ("--out", ABSENT),
    "dataset --dataset": ("--dataset", ABSENT),
    "dataset --html": ("--dataset", "{dataset}", "--html", ABSENT),
    "label-embeddings --dataset": ("--dataset", ABSENT, "--out", "{out}"),
    "label-embeddings --glove": ("--dataset", "{dataset}", "--glove", ABSENT, "--out", "{out}"),
    "train --label-embeddings": ("--dataset", "{dataset}", "--label-embeddings", ABSENT, "--out", "{out}"),
    "train --weights": (*ON_ROOMS, "--weights", ABSENT, "--out", "{out}"),
    "train --out": (*ON_ROOMS, "--out", ABSENT),
    "evaluate --model": ("--model", ABSENT, "--dataset", "{dataset}", "--out", "{out}"),
    "embed --out": (*ON_SPLIT, "--out", ABSENT),
    "search --query": ("--model", "{model}", "--embeddings", "{embeddings}", "--query", ABSENT),
    "search --out": (
        *("--model", "{model}", "--embeddings", "{embeddings}", "--query", "{images}/a.jpg"),
        *("--out", ABSENT),
    ),
    "explain --compare": (
        *("--model", "{model}", "--compare", ABSENT, "--image", "{images}/a.jpg"),
        *("--out", "{out}"),
    ),
    "explain --image": ("--model", "{model}", "--image", ABSENT, "--out", "{out}"),
    "explain --out": ("--model", "{model}", "--image", "{images}/a.jpg", "--out", ABSENT),
    "tag --images": ("--model", "{model}", "--images", ABSENT, "--out", "{out}"),
    "tag --out": ("--model", "{model}", "--images", "{images}", "--out", ABSENT),
}


def arguments(name: str, inputs: dict[str, Path], out: Path) -> list[str]:
    """One of ``COMMANDS``, verb first, with its other rooms filled in."""
    filled = {kind: str(path) for kind, path in inputs.items()} | {"out": str(out)}
    options = [part.format_map(filled) for part in COMMANDS[name]]
    return [*name.rpartition(" --")[0].split(), *options]


@pytest.fixture
def call(here: Here, connect_to: Callable[..., None], server: S3Server) -> Call:
    """Run a verb in this process, connected to the server, with changed settings; it may not take long."""

    def run(verb: str, *options: object, **changed: str | None) -> Result:
        connect_to(server, **changed)
        started = time.monotonic()
        result = here(verb, *options)
        assert time.monotonic() - started < SECONDS_TO_REFUSE
        return result

    return run


def assert_refused(result: Result, verb: str, server: S3Server, out: Path) -> str:
    """The line that it was refused with."""
    assert result.code == 2, result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith(f"lglm {verb}: ")
    assert server.secret not in result.stderr and server.key not in result.stderr
    assert not out.exists()
    return result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_a_bucket_that_is_not_there(
    call: Call, server: S3Server, inputs: dict[str, Path], coco: Path, tmp_path: Path, name: str
):
    verb, *options = arguments(name, {**inputs, "coco": coco}, tmp_path / "out")
    result = call(verb, *options)
    line = assert_refused(result, verb, server, tmp_path / "out")
    assert ABSENT in line
    assert f"there is no bucket 'no-such-bucket' at {server.url}; create it, or mend the address" in line


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        (
            "tag --images",
            {"AWS_SECRET_ACCESS_KEY": "another-secret-of-ours"},
            "refuses the credentials (SignatureDoesNotMatch); check AWS_ACCESS_KEY_ID",
        ),
        (
            "train --out",
            {"AWS_SECRET_ACCESS_KEY": "another-secret-of-ours"},
            "refuses the credentials (SignatureDoesNotMatch); check AWS_ACCESS_KEY_ID",
        ),
        (
            "tag --images",
            {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
            "no S3 credentials (Unable to locate credentials); set AWS_ACCESS_KEY_ID",
        ),
        ("tag --out", {"AWS_PROFILE": "nobody"}, "S3 cannot be used as it is configured: "),
    ],
    ids=["a wrong secret to read", "a wrong secret to write", "none", "no such profile"],
)
def test_credentials_that_are_wrong(
    call: Call,
    server: S3Server,
    inputs: dict[str, Path],
    tmp_path: Path,
    name: str,
    changed: dict[str, str | None],
    words: str,
):
    verb, *options = arguments(name, inputs, tmp_path / "out")
    result = call(verb, *options, **changed)
    line = assert_refused(result, verb, server, tmp_path / "out")
    assert words in line
    assert "another-secret-of-ours" not in line


def test_an_address_where_nothing_listens(
    lglm: Commands, server: S3Server, inputs: dict[str, Path], coco: Path, tmp_path: Path
):
    """From processes of their own, as each tries for a while; so all of them at once."""
    nowhere, lost = f"127.0.0.1:{free_ports(1)[0]}", copy.copy(lglm)
    address = f"http://somebody:their-password@{nowhere}"
    lost.environment = reaching(server, lglm.environment, AWS_ENDPOINT_URL=address)
    started = time.monotonic()
    with ExitStack() as stack:
        running = {}
        for name in ("tag --images", "shard coco --out", "label-embeddings --glove"):
            verb, *options = arguments(name, {**inputs, "coco": coco}, tmp_path / "out")
            running[verb] = stack.enter_context(lost.started(verb, *options))
        for verb, command in running.items():
            result = command.wait(started + SECONDS_TO_REFUSE - time.monotonic())
            line = assert_refused(result, verb, server, tmp_path / "out")
            assert ABSENT in line
            assert f"no S3 server answers at http://{nowhere} (EndpointConnection)" in line
            assert "check AWS_ENDPOINT_URL and the network" in line
            assert "somebody" not in line and "their-password" not in line


def test_credentials_in_an_address_are_not_repeated(
    call: Call, server: S3Server, inputs: dict[str, Path], tmp_path: Path
):
    address = f"s3://{server.key}:{server.secret}@empty/images"
    options = ("--model", inputs["model"], "--images", address, "--out", tmp_path / "out")
    result = call("tag", *options)
    assert "AWS_ACCESS_KEY_ID" in assert_refused(result, "tag", server, tmp_path / "out")


def test_tags_inside_the_bucket_that_is_tagged(
    call: Call, server: S3Server, inputs: dict[str, Path], tmp_path: Path
):
    options = ("--model", inputs["model"], "--images", "s3://empty", "--out", "s3://empty/tags")
    result = call("tag", *options)
    line = assert_refused(result, "tag", server, tmp_path / "out")
    assert "s3://empty/tags: lies inside s3://empty" in line
