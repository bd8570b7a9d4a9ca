"""The frame of every job: what is printed, and which line and exit code an error becomes."""

import json
from pathlib import Path

import pytest

from jobs import command_line, options
from jobs.command_line import Outcome
from jobs.options import Options
from lglm_core.errors import DamageError, InputError, RunError
from pipelines.cli import JOBS
from tests.jobs.commands import Commands, Here
from tests.jobs.test_arguments import assert_one_line

TAG = ("--model=m", "--images=i", "--out=o")


def test_exit_codes_and_lines_are_those_of_the_process(lglm: Commands):
    assert_one_line(lglm("pipelines.cli", "frobnicate"), "lglm", "frobnicate")
    assert_one_line(lglm("pipelines.cli", "flow", "nope"), "nope")
    assert_one_line(lglm("pipelines.cli", "tag", "--frobnicate"), "--frobnicate")
    assert_one_line(lglm("train", "--frobnicate"), "--frobnicate")


# --- What comes out ---


def test_json_is_the_last_line_of_stdout(capfd: pytest.CaptureFixture[str]):
    def run(_: Options) -> Outcome:
        return Outcome("done", "o", "two\nlines", counts={"images": 3}, metrics={"mAP": 50.0, "worst": None})

    arguments = ["--dataset", "d", "--label-embeddings", "l", "--out", "o"]
    assert command_line.main("train", options.Train, run, [*arguments, "--json"]) == 0
    with_json = capfd.readouterr().out.splitlines()
    assert with_json[:-1] == ["two", "lines"]
    result = json.loads(with_json[-1])
    assert result.pop("seconds") >= 0
    assert result == {
        "verb": "train",
        "status": "done",
        "out": "o",
        "counts": {"images": 3},
        "metrics": {"mAP": 50.0, "worst": None},
    }
    assert command_line.main("train", options.Train, run, arguments) == 0
    assert capfd.readouterr().out.splitlines() == ["two", "lines"]


def test_a_real_verb_ends_with_one_json_object(here: Here, tiny_dataset: Path, tmp_path: Path):
    for status in ("done", "already complete"):
        result = here("label-embeddings", "--dataset", tiny_dataset, "--out", tmp_path / "l", "--json")
        assert result.code == 0
        assert set(result.object) == {"verb", "status", "out", "counts", "metrics", "seconds"}
        assert result.object["verb"] == "label-embeddings"
        assert result.object["status"] == status
        assert result.object["counts"]["labels"] == 4


class Wrapped(Exception):
    """An error that keeps its cause in ``cause`` or ``worker_failures``, as Ray's errors do."""

    def __init__(self, **attributes: object) -> None:
        super().__init__("a long\nRay traceback")
        self.__dict__.update(attributes)


def from_(error: Exception, cause: Exception) -> Exception:
    """Return *error* as ``raise error from cause`` raises it."""
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("bad.json: wrong"), 2),
        (DamageError("bad.json: wrong"), 1),
        (RunError("bad.json: wrong"), 1),
        (InputError("bad.json:\n wrong"), 2),
        (Wrapped(cause=InputError("bad.json: wrong")), 2),
        (from_(DamageError("bad.json: wrong"), InputError("wrong")), 1),
        (from_(OSError("a traceback"), InputError("bad.json: wrong")), 2),
        (Wrapped(worker_failures={1: Wrapped(cause=RunError("bad.json: wrong"))}), 1),
    ],
    ids=repr,
)
def test_an_error_of_a_job_becomes_one_line_and_a_code(
    capfd: pytest.CaptureFixture[str], error: Exception, code: int
):
    def run(_: Options) -> Outcome:
        raise error

    assert command_line.main("tag", options.Tag, run, TAG) == code
    assert capfd.readouterr() == ("", "lglm tag: bad.json: wrong\n")


def test_secrets_in_an_address_are_not_shown(capfd: pytest.CaptureFixture[str]):
    def run(_: Options) -> Outcome:
        raise InputError("http://me:secret@host/x.zip?sig=secret: no such file")

    assert command_line.main("tag", options.Tag, run, TAG) == 2
    assert capfd.readouterr().err == "lglm tag: http://host/x.zip: no such file\n"


def test_an_error_of_a_ray_task_becomes_one_line_too(capfd: pytest.CaptureFixture[str]):
    from ray.exceptions import RayTaskError

    def run(_: Options) -> Outcome:
        raise RayTaskError("f", "a traceback", InputError("bad.json: wrong")).as_instanceof_cause()

    assert command_line.main("tag", options.Tag, run, TAG) == 2
    assert capfd.readouterr() == ("", "lglm tag: bad.json: wrong\n")


def test_an_error_of_the_core_names_options_as_flags(capfd: pytest.CaptureFixture[str]):
    def run(_: Options) -> Outcome:
        raise InputError("d: 3 of 4 are unreadable, more than `max_rejected` = 0.2 allows; `this` stays")

    assert command_line.main("shard", {"toy": options.ShardToy}, run, ["toy", "--out=o"]) == 2
    shown = "more than --max-rejected = 0.2 allows; `this` stays"
    assert capfd.readouterr().err == f"lglm shard: d: 3 of 4 are unreadable, {shown}\n"


class MissingRoom(InputError):
    """No complete room of that kind is there."""

    missing_kind = "model"


def test_an_error_about_a_missing_room_ends_with_the_verb_that_writes_one(capfd: pytest.CaptureFixture[str]):
    def run(_: Options) -> Outcome:
        raise MissingRoom("m: no complete model room there")

    assert command_line.main("tag", options.Tag, run, TAG) == 2
    assert capfd.readouterr().err == "lglm tag: m: no complete model room there; lglm train writes one\n"


def test_a_verb_is_known_for_every_kind_of_room():
    assert set(command_line.WRITTEN_BY.values()) <= set(JOBS)


def test_a_fault_of_ours_ends_with_one_line_after_its_traceback(capfd: pytest.CaptureFixture[str]):
    def run(_: Options) -> Outcome:
        raise KeyError("surprise")

    assert command_line.main("tag", options.Tag, run, TAG) == 1
    stdout, stderr = capfd.readouterr()
    assert stdout == ""
    assert stderr.splitlines()[-1] == "lglm tag: failed: KeyError: 'surprise'"
    assert "Traceback" in stderr
