"""The verbs on real S3 servers, as users run them.

What they leave in a bucket is what they leave in a folder, over a bad connection too, after a kill too;
and nothing secret stays anywhere.
"""

import asyncio
import base64
import io
import json
import os
import re
import stat
import threading
from asyncio import StreamReader, StreamWriter
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.jobs.commands import Commands, Result
from tests.servers.faulty import FaultyProxy, Head, proxied
from tests.servers.s3 import S3Server, faulty, moto_s3, rclone_s3

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.process]

TOY = ("--samples", 60, "--max-samples-per-shard", 20)
RECIPE = (
    *("--backbone", "shufflenet_v2_x0_5", "--weights", "none", "--image-size", 32, "--batch-size", 16),
    *("--lr", "3e-3", "--num-workers", 2),
)
EPOCHS = 2
QUERY = "000000000061.jpg"
ROOMS = {
    "shard": "dataset",
    "label-embeddings": "labels",
    "train": "run",
    "evaluate": "evaluation",
    "embed": "embeddings",
    "tag": "tags",
}
VERBS = (*ROOMS, "search")
LOW_THRESHOLD = 0.2  # at the usual one, a model of two epochs would give no tag to compare

SHARE = 0.1
SEED = 46  # the 4th request goes wrong, and the 7th, the 12th and the 16th: no verb makes so few
BUCKET = "lglm-rooms"
SECONDS_BETWEEN_LOOKS = 0.25
LONGEST_SECRET = 200  # bytes, in base64 too


# --- Where rooms lie ---


class Store(Protocol):
    """What lies below one address, read without the code under test."""

    root: str

    def names(self, below: str = "") -> list[str]:
        """Every file, relative to the address."""

    def read(self, name: str) -> bytes: ...

    def write(self, name: str, data: bytes) -> None: ...


class Folder:
    def __init__(self, path: Path) -> None:
        self.root = str(path)

    def names(self, below: str = "") -> list[str]:
        found = Path(self.root, below).rglob("*")
        return sorted(path.relative_to(self.root).as_posix() for path in found if path.is_file())

    def read(self, name: str) -> bytes:
        return Path(self.root, name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        Path(self.root, name).write_bytes(data)


class Bucket:
    """A prefix in a bucket."""

    def __init__(self, server: S3Server, prefix: str) -> None:
        self.server, self.prefix = server, f"{prefix}/"
        self.root = f"s3://{BUCKET}/{prefix}"
        self._client = server.client()

    def listing(self, below: str = "") -> dict[str, tuple[Any, ...]]:
        """Every object with what changes when it is written again."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=BUCKET, Prefix=f"{self.prefix}{below}"
        )
        return {
            found["Key"].removeprefix(self.prefix): (found["ETag"], found["LastModified"], found["Size"])
            for page in pages
            for found in page.get("Contents", [])
        }

    def names(self, below: str = "") -> list[str]:
        return sorted(self.listing(f"{below}/" if below else ""))

    def read(self, name: str) -> bytes:
        return self._client.get_object(Bucket=BUCKET, Key=f"{self.prefix}{name}")["Body"].read()

    def write(self, name: str, data: bytes) -> None:
        self._client.put_object(Bucket=BUCKET, Key=f"{self.prefix}{name}", Body=data)


# --- Secrets, and where they could stay ---


class Secrets:
    """Words that may be found nowhere; known also in base64, and inside compressed Parquet."""

    def __init__(self, *words: str) -> None:
        plain = [word.encode() for word in words]
        self.forms = [form for word in plain for form in (word, *_in_base64(word))]

    def are_in(self, data: bytes) -> bool:
        if data.startswith(b"PAR1"):
            data += _text_of_parquet(data)
        return any(form in data for form in self.forms)


def _in_base64(word: bytes) -> Iterator[bytes]:
    """How *word* shows in the base64 of a longer text, at each of the three places it can begin."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + word)
        yield encoded[-(-8 * before // 6) : 8 * (before + len(word)) // 6]


def _text_of_parquet(data: bytes) -> bytes:
    try:
        return str(pq.read_table(io.BytesIO(data)).to_pylist()).encode()
    except (OSError, pa.ArrowInvalid):  # half-written
        return b""


class Watch:
    """Looks for secrets, again and again, in folders that are tidied up before one could look at the end.

    ``found`` names the files that held one, and the command lines; ``seen`` the files looked into.
    """

    def __init__(self, secrets: Secrets, *folders: Path) -> None:
        self.secrets, self.folders = secrets, folders
        self.found: set[str] = set()
        self._known: dict[str, tuple[int, int]] = {}

    @property
    def seen(self) -> set[str]:
        return set(self._known)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Look while the block runs, and once more when it has."""
        end = threading.Event()

        def look_on() -> None:
            while not end.wait(SECONDS_BETWEEN_LOOKS):
                self.look()

        with ThreadPoolExecutor(1) as pool:
            looking = pool.submit(look_on)
            try:
                yield
            finally:
                end.set()
            looking.result()
        self.look()

    def look(self) -> None:
        for path in (path for folder in self.folders for path in _files(folder)):
            try:
                self._look_into(path)
            except OSError:
                continue  # gone meanwhile
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = path.read_bytes()
            except OSError:
                continue
            if not command.split(b"\0")[0].endswith(b"rclone"):  # the server has to be told
                self._look_at(str(path), command)

    def _look_into(self, path: Path) -> None:
        state = path.lstat()
        now, before = (state.st_size, state.st_mtime_ns), self._known.get(str(path), (0, 0))
        if not stat.S_ISREG(state.st_mode) or now == before:
            return
        with path.open("rb") as file:
            if now[0] > before[0]:  # it has grown: the rest, and what may stand across the seam
                file.seek(max(0, before[0] - LONGEST_SECRET))
            self._look_at(str(path), file.read())
        self._known[str(path)] = now

    def _look_at(self, name: str, data: bytes) -> None:
        if self.secrets.are_in(data):
            self.found.add(name)


def _files(folder: Path) -> Iterator[Path]:
    """Every file below, whatever vanishes meanwhile."""
    return (Path(place, name) for place, _, names in os.walk(folder) for name in names)


# --- A way through all verbs ---


@dataclass(frozen=True)
class Workplace:
    """Where commands run, and the folders that they and Ray may leave something in."""

    lglm: Commands
    secrets: Secrets
    watch: Watch
    folder: Path
    ray_temporary: Path


@contextmanager
def workplace(folder: Path, server: S3Server | None) -> Iterator[Workplace]:
    """Folders of their own, nothing of the environment's S3, and secrets that nobody has seen before."""
    token = f"token-{uuid4().hex}"
    for name in ("cwd", "home", "tmp"):
        (folder / name).mkdir(parents=True)
    with TemporaryDirectory(prefix="lglm-s3-", dir="/tmp", ignore_cleanup_errors=True) as ray_temporary:
        lglm = Commands(folder / "cwd", folder / "tmp", Path(ray_temporary))
        kept = {name: value for name, value in lglm.environment.items() if not name.startswith("AWS_")}
        lglm.environment = {**kept, "HOME": str(folder / "home")}
        secrets = Secrets()
        if server:
            lglm.environment |= {**server.environment, "AWS_SESSION_TOKEN": token}
            secrets = Secrets(server.key, server.secret, token)
        watch = Watch(secrets, folder, Path(ray_temporary))
        yield Workplace(lglm, secrets, watch, folder, Path(ray_temporary))


def through(lglm: Commands, server: S3Server) -> Commands:
    """The same commands, which reach their bucket through another address."""
    other = copy(lglm)
    other.environment = lglm.environment | server.environment
    return other


class Way:
    """All verbs below one address, one after another, and what each of them said."""

    def __init__(self, store: Store, workplace: Workplace, *, share: float = 0.0) -> None:
        self.store, self.workplace, self.share = store, workplace, share
        self.results: dict[str, Result] = {}
        self.faults: dict[str, Counter[str]] = {}

    def arguments(self, verb: str) -> tuple[object, ...]:
        root = self.store.root
        model, dataset = ("--model", f"{root}/run/model"), ("--dataset", f"{root}/dataset")
        pictures = f"{root}/raw/test2017"
        chosen: dict[str, tuple[object, ...]] = {
            "shard": ("toy", *TOY, "--root", f"{root}/raw"),
            "label-embeddings": dataset,
            "train": (*dataset, "--label-embeddings", f"{root}/labels", *RECIPE, "--epochs", EPOCHS),
            "evaluate": (*model, *dataset),
            "embed": (*model, *dataset),
            "tag": (*model, "--images", pictures),
            "search": (*model, "--embeddings", f"{root}/embeddings", "--query", f"{pictures}/{QUERY}"),
        }
        return (*chosen[verb], "--out", f"{root}/{ROOMS.get(verb, 'page.html')}")

    def walk(self) -> None:
        with self.workplace.watch.on():
            for verb in VERBS:
                with self._connection(verb) as lglm:
                    self.results[verb] = lglm(verb, *self.arguments(verb), "--json")
                assert self.results[verb].code == 0, f"{verb}: {self.results[verb].stderr}"
                if verb == "train":
                    self._lower_thresholds()

    @contextmanager
    def _connection(self, verb: str) -> Iterator[Commands]:
        if not (self.share and isinstance(self.store, Bucket)):
            yield self.workplace.lglm
            return
        with faulty(self.store.server, share=self.share, seed=SEED) as connection:
            yield through(self.workplace.lglm, connection)
            self.faults[verb] = connection.proxy.faults

    def _lower_thresholds(self) -> None:
        name = "run/model/thresholds.json"
        lowered = dict.fromkeys(json.loads(self.store.read(name)), LOW_THRESHOLD)
        self.store.write(name, json.dumps(lowered).encode())

    def files(self, room: str) -> dict[str, bytes]:
        return {name.removeprefix(f"{room}/"): self.store.read(name) for name in self.store.names(room)}

    def manifest(self, room: str) -> dict[str, Any]:
        return json.loads(self.store.read(f"{room}/manifest.json"))

    def table(self, name: str) -> pa.Table:
        return pq.read_table(io.BytesIO(self.store.read(name)))


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Way]]:
    """In a folder; in a bucket of rclone, which checks signatures; in one of moto, over a bad connection."""
    folder = tmp_path_factory.mktemp("buckets")
    (folder / "served").mkdir()
    with ExitStack() as stack:
        rclone = stack.enter_context(rclone_s3(folder / "served"))
        moto = replace(
            stack.enter_context(moto_s3()), key=f"key-{uuid4().hex}", secret=f"secret-{uuid4().hex}"
        )

        def way(name: str, server: S3Server | None, share: float = 0.0) -> Way:
            place = stack.enter_context(workplace(folder / name, server))
            if not server:
                return Way(Folder(folder / "rooms"), place)
            server.put_bucket(BUCKET)
            return Way(Bucket(server, "way"), place, share=share)

        found = {
            "folder": way("folder", None),
            "rclone": way("rclone", rclone),
            "moto": way("moto", moto, SHARE),
        }
        with ThreadPoolExecutor(len(found)) as pool:
            for walked in [pool.submit(way.walk) for way in found.values()]:
                walked.result()
        yield found


@pytest.fixture
def here(ways: dict[str, Way]) -> Way:
    """The way in folders."""
    return ways["folder"]


@pytest.fixture(params=["rclone", "moto"])
def there(ways: dict[str, Way], request: pytest.FixtureRequest) -> Way:
    """A way in a bucket: over a good connection to rclone, over a bad one to moto."""
    return ways[request.param]


# --- The same as in a folder ---


def test_a_bucket_holds_the_files_that_a_folder_holds(here: Way, there: Way):
    names = here.store.names()
    assert there.store.names() == names
    assert {name.partition("/")[0] for name in names} == {"raw", "page.html", *ROOMS.values()}


@pytest.mark.parametrize("room", ["raw", "dataset"])
def test_pictures_and_dataset_are_those_of_a_folder_to_the_byte(here: Way, there: Way, room: str):
    assert there.files(room) == here.files(room)


def test_label_embeddings_are_those_of_a_folder(here: Way, there: Way):
    ours, theirs = (way.table("labels/label_embeddings.parquet") for way in (there, here))
    assert ours.equals(theirs, check_metadata=True)
    assert there.manifest("labels") == here.manifest("labels")


def test_training_goes_as_in_a_folder(here: Way, there: Way):
    timed = ("seconds", "images_per_s")
    ours, theirs = (way.table("run/history.parquet").drop_columns(timed) for way in (there, here))
    assert ours.num_rows == EPOCHS
    assert ours.to_pylist() == theirs.to_pylist()


def test_the_model_is_that_of_a_folder(here: Way, there: Way):
    ours, theirs = there.files("run/model"), here.files("run/model")
    manifests = [json.loads(files.pop("manifest.json")) for files in (ours, theirs)]
    assert ours == theirs
    for manifest in manifests:
        del manifest["digest"]  # which is of the seconds, too
        for epoch in manifest["details"]["history"]:
            del epoch["seconds"]
    assert manifests[0] == manifests[1]


def test_checkpoints_lie_in_the_bucket(here: Way, there: Way):
    names = [name for name in there.store.names("run/checkpoints") if name.endswith(".pt")]
    (run,) = {name.split("/")[2] for name in names}
    assert run.startswith("run-")
    assert names == [
        f"run/checkpoints/{run}/epoch-{epoch:04d}/checkpoint.pt" for epoch in range(1, EPOCHS + 1)
    ]
    ours, theirs = (
        torch.load(io.BytesIO(way.store.read(names[-1])), weights_only=True) for way in (there, here)
    )
    assert [record["epoch"] for record in ours["history"]] == list(range(EPOCHS))
    torch.testing.assert_close(ours["model"], theirs["model"], rtol=0, atol=0)


def test_the_evaluation_is_that_of_a_folder(here: Way, there: Way):
    ours, theirs = there.files("evaluation"), here.files("evaluation")
    pages = [_without_seconds(files.pop("report.html").decode()) for files in (ours, theirs)]
    assert {"metrics.json", "per_class.parquet", "predictions/part-00000.parquet"} < set(ours)
    assert ours == theirs
    assert pages[0] == pages[1]


def _without_seconds(report: str) -> str:
    without, times = re.subn(r'(<tr><th scope="row">\d+</th>.*)<td>[\d.]+</td></tr>', r"\1", report)
    assert times == EPOCHS  # each has a row, of which they are the last column
    return without


def test_embeddings_are_those_of_a_folder(here: Way, there: Way):
    table = there.table("embeddings/part-00000.parquet")
    assert {"key", "uri", "feature", "norm", "scores"} == set(table.column_names)
    assert table.equals(here.table("embeddings/part-00000.parquet"), check_metadata=True)
    manifests = [way.manifest("embeddings") for way in (there, here)]
    assert all(manifest.pop("digest") for manifest in manifests)  # which is of the address, too
    urls = [manifest["details"].pop("dataset_url") for manifest in manifests]
    assert urls == [f"{way.store.root}/dataset" for way in (there, here)]
    assert manifests[0] == manifests[1]


def test_tags_are_those_of_a_folder_but_for_addresses_and_etags(here: Way, there: Way):
    tables = [way.table("tags/part-00000.parquet") for way in (there, here)]
    names = [
        [uri.removeprefix(f"{way.store.root}/raw/test2017/") for uri in table.column("uri").to_pylist()]
        for way, table in zip((there, here), tables, strict=True)
    ]
    assert (
        names[0] == names[1] == sorted(path.name for path in Path(here.store.root, "raw/test2017").iterdir())
    )
    ours, theirs = (table.drop_columns(["uri", "etag"]).to_pylist() for table in tables)
    assert ours == theirs
    assert Counter(row["status"] for row in ours) == {"ok": len(ours) - 1, "corrupt": 1}
    assert all(row["labels"] for row in ours if row["status"] == "ok")


def test_tags_carry_the_etags_of_the_objects(there: Way):
    assert isinstance(there.store, Bucket)
    etags = [etag.strip('"') for etag, _, _ in there.store.listing("raw/test2017/").values()]
    assert there.table("tags/part-00000.parquet").column("etag").to_pylist() == etags


@pytest.mark.parametrize("room", ROOMS.values())
def test_a_manifest_counts_and_was_told_what_it_is_in_a_folder(here: Way, there: Way, room: str):
    ours, theirs = there.manifest(room), here.manifest(room)
    for manifest in (ours, theirs):
        manifest["inputs"].pop("images", None)  # a digest of etags
    for part in ("kind", "format_version", "inputs", "options", "counts"):
        assert ours[part] == theirs[part], part


def test_a_search_finds_what_it_finds_in_a_folder(here: Way, there: Way):
    ours, theirs = (
        way.results["search"].stdout.replace(way.store.root, "").splitlines()[:-1] for way in (there, here)
    )
    assert len(ours) == 1 + 5 + 1
    assert ours == theirs
    assert there.store.read("page.html") == here.store.read("page.html")


def test_every_verb_run_again_is_complete_already_and_writes_nothing(there: Way):
    assert isinstance(there.store, Bucket)
    before = there.store.listing()
    for verb in ROOMS:
        result = there.workplace.lglm.done(verb, *there.arguments(verb))
        first = there.results[verb].object
        assert (first["status"], result["status"]) == ("done", "already complete"), verb
        assert (result["counts"], result["metrics"]) == (first["counts"], first["metrics"]), verb
    assert there.store.listing() == before


def test_nothing_stays_on_this_machine(there: Way):
    """Neither where the command runs nor at home nor among the temporary files."""
    assert list(_files(there.workplace.folder)) == []


# --- A bad connection ---


def test_requests_of_every_verb_went_wrong(ways: dict[str, Way]):
    """What the tests above compare was made in spite of it."""
    faults = ways["moto"].faults
    assert set(faults) == set(VERBS)
    assert all(found.total() > 0 for found in faults.values())
    assert set(sum(faults.values(), Counter())) == {"503", "drop_before", "drop_after", "drop_body"}


# --- Killed ---


class HoldingProxy(FaultyProxy):
    """Passes everything on, but to who writes one certain object it gives no answer."""

    def __init__(self, server: S3Server, held: str) -> None:
        host, _, port = server.url.removeprefix("http://").partition(":")
        super().__init__(host, int(port), share=0.0, seed=0, kinds=())
        self.held = held.encode()
        self.holds, self.released = threading.Event(), threading.Event()

    async def _answer(
        self, request: Head, server: StreamReader, writer: StreamWriter, fault: str | None
    ) -> bool:
        if request.start[0] in (b"PUT", b"POST") and self.held in request.start[1]:
            self.holds.set()
            while not self.released.is_set():
                await asyncio.sleep(0.05)
            return False
        return await super()._answer(request, server, writer, fault)


@contextmanager
def holding(server: S3Server, held: str) -> Iterator[tuple[S3Server, HoldingProxy]]:
    """Reach a server by way of one that holds back the object in whose address *held* occurs."""
    with proxied(HoldingProxy(server, held)) as proxy:
        try:
            yield replace(server, url=f"http://127.0.0.1:{proxy.port}"), proxy
        finally:
            proxy.released.set()


@pytest.fixture
def elsewhere(ways: dict[str, Way], tmp_path: Path) -> Iterator[tuple[Workplace, Bucket]]:
    """Rclone's server once more, with another prefix of the bucket, and temporary folders to die in."""
    server = ways["rclone"].store.server
    with workplace(tmp_path, server) as place:
        yield place, Bucket(server, f"killed-{uuid4().hex[:8]}")


def test_a_shard_killed_in_the_midst_is_completed_to_the_byte(
    ways: dict[str, Way], elsewhere: tuple[Workplace, Bucket]
):
    """Over a bad connection."""
    way, (place, killed) = ways["rclone"], elsewhere
    raw, out = f"{way.store.root}/raw", f"{killed.root}/dataset"
    arguments = ("shard", "toy", *TOY, "--root", raw, "--out", out)
    with (
        holding(killed.server, "train-000001.tar") as (address, proxy),
        through(place.lglm, address).started(*arguments) as running,
    ):
        running.wait_until(lambda: proxy.holds.is_set() and len(killed.names("dataset/receipts")) == 3)
        running.kill_session()
    assert "dataset/manifest.json" not in killed.names()
    finished = killed.listing("dataset/receipts/")
    assert "dataset/receipts/train-000001.json" not in finished
    with faulty(killed.server, share=SHARE, seed=SEED) as connection:
        assert through(place.lglm, connection).done(*arguments)["status"] == "done"
        assert connection.faults
    assert killed.listing().items() >= finished.items()
    assert {name.removeprefix("dataset/"): killed.read(name) for name in killed.names()} == way.files(
        "dataset"
    )


def test_a_training_killed_after_its_first_epoch_goes_on_with_the_second(
    ways: dict[str, Way], elsewhere: tuple[Workplace, Bucket]
):
    """Over a bad connection; and it ends as one that was never killed."""
    way, (place, killed) = ways["rclone"], elsewhere
    root = way.store.root
    inputs = ("--dataset", f"{root}/dataset", "--label-embeddings", f"{root}/labels")
    arguments = ("train", *inputs, *RECIPE, "--epochs", EPOCHS, "--out", f"{killed.root}/run")

    def first_epoch_is_kept() -> bool:
        snapshots = [name for name in killed.names() if name.endswith("checkpoint_manager_snapshot.json")]
        return any(b"epoch-0001" in killed.read(name) for name in snapshots)

    with (
        holding(killed.server, "/epoch-0002/") as (address, proxy),
        through(place.lglm, address).started(*arguments) as running,
    ):
        running.wait_until(lambda: proxy.holds.is_set() and first_epoch_is_kept())
        running.kill_session()
    assert [name.split("/")[-2] for name in killed.names() if name.endswith(".pt")] == ["epoch-0001"]
    assert "run/manifest.json" not in killed.names()
    _no_secret_in_what_is_left(place)
    with faulty(killed.server, share=SHARE, seed=SEED) as connection:
        resumed = through(place.lglm, connection)(*arguments)
        assert connection.faults
    assert resumed.code == 0, resumed.stderr
    assert re.findall(r"^epoch (\d+)/", resumed.stderr, flags=re.MULTILINE) == ["2"]
    assert killed.read("run/model/model.safetensors") == way.store.read("run/model/model.safetensors")


def _no_secret_in_what_is_left(place: Workplace) -> None:
    """Among it all of Ray's logs: where everything is killed at once, nobody tidies up."""
    place.watch.look()
    assert {"raylet.out", "gcs_server.out"} <= {Path(name).name for name in place.watch.seen}
    assert place.watch.found == set()


# --- Secrets ---


def test_no_verb_says_a_secret(there: Way):
    for verb, result in there.results.items():
        said = f"{result.stdout}{result.stderr}".encode()
        assert said
        assert not there.workplace.secrets.are_in(said), verb


def test_no_object_holds_a_secret(there: Way):
    names = there.store.names()
    assert [name for name in names if there.workplace.secrets.are_in(there.store.read(name))] == []


def test_no_temporary_file_and_no_command_line_ever_held_a_secret(there: Way):
    watch = there.workplace.watch
    assert watch.found == set()
    assert {"raylet.out", "gcs_server.out"} <= {Path(name).name for name in watch.seen}


PLANTED = f"planted-{uuid4().hex}"


@pytest.mark.parametrize(
    "data",
    [
        f"worker started with {{'AWS_SECRET_ACCESS_KEY': '{PLANTED}'}}".encode(),
        bytes(1 << 20) + PLANTED.encode(),
        *(base64.b64encode(f"{'x' * before}:{PLANTED}:and more".encode()) for before in range(3)),
    ],
    ids=["text", "binary", "base64-0", "base64-1", "base64-2"],
)
def test_a_planted_secret_is_found(data: bytes):
    assert Secrets("another", PLANTED).are_in(data)
    assert not Secrets(f"planted-{uuid4().hex}").are_in(data)


def test_a_planted_secret_is_found_in_a_table_whose_bytes_do_not_show_it():
    texts = ["at first", PLANTED[:25], PLANTED[15:], f"refused for {PLANTED}", "where it ends"]
    file = io.BytesIO()
    pq.write_table(pa.table({"error": texts}), file, compression="zstd")
    assert PLANTED.encode() not in file.getvalue()
    assert Secrets(PLANTED).are_in(file.getvalue())


def test_a_secret_is_found_in_a_file_that_is_gone_when_its_process_ends(tmp_path: Path):
    code = (
        "import os, pathlib, sys, tempfile, time\n"
        "folder = pathlib.Path(tempfile.gettempdir(), 'deep', 'below'); folder.mkdir(parents=True)\n"
        "file = folder / 'worker.log'; file.write_text(os.environ['AWS_SECRET_ACCESS_KEY'])\n"
        "print(file.read_text(), file=sys.stderr); time.sleep(2); file.unlink()\n"
    )
    server = S3Server("http://127.0.0.1:9", f"key-{uuid4().hex}", f"secret-{uuid4().hex}")
    with workplace(tmp_path, server) as place:
        with place.watch.on():
            result = place.lglm.python(code)
        assert result.code == 0, result.stderr
        assert place.secrets.are_in(result.stderr.encode())
        assert {Path(name).name for name in place.watch.found} == {"worker.log"}
        assert list(_files(tmp_path)) == []


def test_a_secret_is_found_in_a_command_line(tmp_path: Path):
    server = S3Server("http://127.0.0.1:9", f"key-{uuid4().hex}", f"secret-{uuid4().hex}")
    with workplace(tmp_path, server) as place:
        with place.watch.on():
            place.lglm.python(f"import time; time.sleep(2)  # {server.secret}")
        assert {Path(name).name for name in place.watch.found} == {"cmdline"}
