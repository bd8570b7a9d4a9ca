"""Running ``lglm``, in this process or in a session of its own that ends with the call; and small inputs."""

import hashlib
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

TIMEOUT_S = 280
COCO_LABELS = ("person", "parking meter", "cell phone", "dog")


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def object(self) -> dict[str, Any]:
        """The last line on stdout, of a command that was given ``--json``."""
        return json.loads(self.stdout.splitlines()[-1])


class Running:
    """A command in a session of its own; ``lines`` grows with what it says on stderr."""

    def __init__(self, arguments: Sequence[str], cwd: Path, environment: dict[str, str]) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=cwd,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.session = self.process.pid
        self._stdout: list[str] = []
        self._readers = [
            threading.Thread(target=collected.extend, args=(stream,), daemon=True)
            for stream, collected in ((self.process.stdout, self._stdout), (self.process.stderr, self.lines))
        ]
        for reader in self._readers:
            reader.start()

    def wait(self, timeout: float = TIMEOUT_S) -> Result:
        code = self.process.wait(timeout)
        for reader in self._readers:
            reader.join(timeout=10)
        return Result(code, "".join(self._stdout), "".join(self.lines))

    def wait_until(self, condition: Callable[[], bool], timeout: float = TIMEOUT_S) -> None:
        """Wait for a moment within the run; failing to meet it is a failed test."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert self.process.poll() is None, f"it ended too soon: {''.join(self.lines)}"
            assert time.monotonic() < deadline, f"the moment never came: {''.join(self.lines)}"
            time.sleep(0.001)

    def kill_driver(self) -> None:
        """SIGKILL the one process that the user started."""
        self.process.kill()
        self.process.wait()

    def kill_session(self) -> None:
        """SIGKILL the process and everything it started, in whatever process groups."""
        while processes := processes_of(self.session):
            for pid in processes:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if self.process.poll() is None:
                self.process.wait()
            time.sleep(0.01)
        self.process.wait()


def processes_of(session: int) -> list[int]:
    """The living processes of a session, read from /proc."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(") ")[2].split()
        except OSError:
            continue  # ended meanwhile
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append(int(folder.name))
    return found


class Commands:
    """Starts verbs in a neutral folder, with the temporary files of Ray and Python below ours."""

    def __init__(self, cwd: Path, temporary: Path, ray_temporary: Path) -> None:
        self.cwd = cwd
        kept = {
            name: value
            for name, value in os.environ.items()
            if name != "PYTHONPATH" and not name.startswith("RAY_")
        }
        self.environment = {
            **kept,
            "OMP_NUM_THREADS": "1",
            "PYTHONFAULTHANDLER": "1",  # a crash of native code says where
            "RAY_TMPDIR": str(ray_temporary),
            "TMPDIR": str(temporary),
        }

    @contextmanager
    def started(self, verb: str, *arguments: object) -> Iterator[Running]:
        """Start a verb; when the block ends, nothing of it is left."""
        running = Running(["-m", module_of(verb), *map(str, arguments)], self.cwd, self.environment)
        try:
            yield running
        finally:
            running.kill_session()

    def __call__(self, verb: str, *arguments: object, timeout: float = TIMEOUT_S) -> Result:
        """Run a verb to its end, whatever it is; refuse leftovers."""
        with self.started(verb, *arguments) as running:
            result = running.wait(timeout)
            assert vanish(running.session), f"{verb} left processes behind"
        return result

    def done(self, verb: str, *arguments: object) -> dict[str, Any]:
        """Run a verb with ``--json``; it has to succeed."""
        return succeeded(self(verb, *arguments, "--json"))

    def python(self, code: str) -> Result:
        """Run a piece of Python in a fresh interpreter."""
        running = Running(["-c", code], self.cwd, self.environment)
        try:
            return running.wait()
        finally:
            running.kill_session()


class Here:
    """Verbs in this process; what they write is read where the file descriptors lead."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def __call__(self, verb: str, *arguments: object) -> Result:
        """Run a verb to its end, whatever it is."""
        self._capfd.readouterr()
        return Result(run_here(verb, *arguments), *self._capfd.readouterr())

    def done(self, verb: str, *arguments: object) -> dict[str, Any]:
        """Run a verb with ``--json``; it has to succeed."""
        return succeeded(self(verb, *arguments, "--json"))


def done_here(verb: str, *arguments: object) -> dict[str, Any]:
    """Run a verb with ``--json`` in this process, for a fixture of more than one test; it has to succeed."""
    with redirect_stdout(StringIO()) as stdout, redirect_stderr(StringIO()) as stderr:
        code = run_here(verb, *arguments, "--json")
    return succeeded(Result(code, stdout.getvalue(), stderr.getvalue()))


def run_here(verb: str, *arguments: object) -> int:
    logging.getLogger("lglm").handlers.clear()  # it would hold on to the stderr of an earlier test
    try:
        return int(importlib.import_module(module_of(verb)).main([str(argument) for argument in arguments]))
    except SystemExit as exit_:
        return int(exit_.code or 0)


def succeeded(result: Result) -> dict[str, Any]:
    assert result.code == 0, f"exit code {result.code}: {result.stderr}"
    return result.object


def module_of(verb: str) -> str:
    """``pipelines.cli`` as it is; of a verb, its module."""
    return verb if "." in verb else f"jobs.{verb.replace('-', '_')}"


def vanish(session: int, timeout: float = 30) -> bool:
    """Wait for the last process of a session to end by itself."""
    deadline = time.monotonic() + timeout
    while processes_of(session):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def contents(folder: Path) -> dict[str, str]:
    """Every file and folder below *folder*, files with their sha256."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in sorted(folder.rglob("*"))
    }


def picture(path: Path, seed: int) -> Path:
    """Write a small picture of its own colours, in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((48, 40)).save(path)
    return path


def write_coco(root: Path, *, samples: int = 12, labels: Sequence[str] = COCO_LABELS) -> Path:
    """Write a COCO of 2017 whose i-th picture shows labels i and i + 1; a quarter of it for val."""
    for split, numbers in (("train", range(samples * 3 // 4)), ("val", range(samples * 3 // 4, samples))):
        images, annotations = [], []
        for number in numbers:
            name = f"{number:012d}.jpg"
            picture(root / f"{split}2017" / name, number)
            images.append({"id": number, "file_name": name, "width": 48, "height": 40})
            for step in (0, 1):
                category = (number + step) % len(labels) + 1
                annotations.append({"id": 2 * number + step, "image_id": number, "category_id": category})
        categories = [{"id": number, "name": name} for number, name in enumerate(labels, start=1)]
        path = root / "annotations" / f"instances_{split}2017.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return root


def make_dataset(source: Any, out: Path, *, max_samples_per_shard: int = 1000) -> Path:
    """Write a dataset in this process, without Ray and without a command line."""
    from lglm_core.dataset.writer import DatasetWriter, WriteSettings

    settings = WriteSettings(max_samples_per_shard=max_samples_per_shard, max_rejected=1.0)
    DatasetWriter(str(out), settings).write(source)
    return out
