"""The command surface that all verbs share: what is refused, what is read, what is printed."""

import json
import random
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest
import yaml
from pydantic import ValidationError

from jobs import command_line, options
from jobs.command_line import Outcome, to_arguments
from jobs.options import SOURCES, Options
from lglm_core.errors import DamageError, InputError, RunError
from pipelines.cli import FLOWS, JOBS
from pipelines.options import TagBucket, TrainLglm
from tests.jobs.commands import Commands, Result

KINDS: dict[tuple[str, ...], type[Options]] = {
    **{("shard", source): kind for source, kind in SOURCES.items()},
    ("dataset",): options.DescribeDataset,
    ("label-embeddings",): options.MakeLabelEmbeddings,
    ("train",): options.Train,
    ("evaluate",): options.Evaluate,
    ("embed",): options.Embed,
    ("search",): options.Search,
    ("verify",): options.Verify,
    ("explain",): options.Explain,
    ("tag",): options.Tag,
    ("extend",): options.Extend,
    ("export",): options.Export,
    ("complexity",): options.Complexity,
    ("flow", "train-lglm"): TrainLglm,
    ("flow", "tag-bucket"): TagBucket,
}
NAMES = [" ".join(name) for name in KINDS]
TRAIN = ("--dataset", "d", "--label-embeddings", "l", "--out", "o")
EMBED_LABELS = ("label-embeddings", "--dataset", "d", "--out", "o")

Here = Callable[..., Result]


@pytest.fixture
def cli(here: Here) -> Here:
    """``lglm …`` in this process."""
    return lambda *arguments: here("pipelines.cli", *arguments)


def assert_one_line(result: Result, *naming: str) -> None:
    assert result.code == 2, result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    for name in naming:
        assert name in result.stderr


def test_every_verb_and_flow_is_tested_here():
    assert {name[0] for name in KINDS} == {*JOBS, "flow"}
    assert {name[1] for name in KINDS if name[0] == "flow"} == set(FLOWS)


@pytest.mark.parametrize(
    ("arguments", "offender"),
    [
        (["frobnicate"], "frobnicate"),
        (["--frobnicate"], "--frobnicate"),
        (["flow", "nope"], "nope"),
        (["flow"], "no flow"),
        (["shard"], "coco|mirflickr|voc|table|toy"),
        (["shard", "imagenet"], "imagenet"),
        (["shard", "toy", "--out", "o", "--samples", "0"], "--samples"),
        (["shard", "toy", "--out", "o", "--samples", "3"], "samples"),
        (["shard", "toy", "--out", "o", "--samples", "1e3"], "--samples"),
        (["shard", "toy", "--out", "o", "--max-samples-per-shard=-1"], "--max-samples-per-shard"),
        (["shard", "coco", "--root", "r", "--out", "o", "--unlabelled", "maybe"], "--unlabelled"),
        (["shard", "coco", "--root", "r", "--out", "o", "--year", "2015"], "--year"),
        (
            ["shard", "table", "--table", "t", "--image-root", "r", "--out", "o", "--validation-share", "1"],
            "1",
        ),
        (["dataset", "--dataset", "d", "--examples", "0"], "--examples"),
        (["dataset", "--dataset", "d", "--top", "ten"], "--top"),
        ([*EMBED_LABELS, "--oov", "guess"], "--oov"),
        (["label-embeddings", "--datas", "d", "--out", "o"], "--datas"),
        (["train", *TRAIN, "--epochs", "ten"], "--epochs"),
        (["train", *TRAIN, "--epochs", "0"], "--epochs"),
        (["train", *TRAIN, "--epochs"], "--epochs"),
        (["train", *TRAIN, "--epochs", "2", "3"], "unrecognized arguments: 3; see lglm train --help"),
        (
            ["shard", "coco", "--root", "r", "--out", "o", "--split-seed", "3"],
            "lglm shard coco: unrecognized arguments: --split-seed 3; see lglm shard coco --help",
        ),
        (
            ["shard", "coco", "--root", "r", "--out", "o", "--quality", "80"],
            "--quality is of the pictures that --max-side scales down; it needs that",
        ),
        (["dataset", "ds_coco"], "unrecognized arguments: ds_coco; expected --dataset ds_coco; see"),
        (["verify", "ds_coco"], "expected --dataset ds_coco; see lglm verify --help"),
        (["verify", "--ds=coco"], "unrecognized arguments: --ds=coco; see lglm verify --help"),
        (["tag", "m"], "unrecognized arguments: m; see lglm tag --help"),
        (["train", *TRAIN, "--image-size", "8"], "--image-size"),
        (["train", *TRAIN, "--lr", "0"], "--lr"),
        (["train", *TRAIN, "--lr", "fast"], "--lr"),
        (["train", *TRAIN, "--head-option", "feature_dropout=1"], "feature_dropout=1"),
        (["train", *TRAIN, "--head-option", "n=3"], "d_l"),
        (["train", *TRAIN, "--head-option", "m=10", "group=3"], "g = 3"),
        (["train", *TRAIN, "--head", "resnet"], "ml-gcn"),
        (["train", *TRAIN, "--head", "folded"], "'folded'"),
        (["train", *TRAIN, "--head", "ridge"], "--freeze-backbone"),
        (["train", *TRAIN, "--recipe", "mine"], "simple"),
        (["train", "--dataset", "d", "--out", "o"], "--label-embeddings"),
        (["extend", "--model", "m", "--glove", "g", "--out", "o"], "--label"),
        (["train", *TRAIN, "--num-workers=-1"], "--num-workers"),
        (["train", *TRAIN, "--freeze-backbone=yes"], "--freeze-backbone"),
        (["train", *TRAIN, "--cache-gb", "5"], "--cache-gb 5 is the size of a cache; it needs --cache"),
        (["train", *TRAIN, "--batch", "2"], "--batch"),
        (["export", "--model", "m", "--out", "o", "--onnx"], "--onnx"),
        (["complexity", "--head", "lglm", "nope"], "nope"),
        (["complexity", "--head", "lglm n=3"], "'n'"),
        (["complexity", "--head", "lglm m"], "NAME=VALUE"),
        (["complexity", "--head", " "], "--head"),
        (["complexity", "--head", "lglm", "--head-option", "m=3"], "--head-option"),
        (["complexity", "--image-size", "8"], "--image-size"),
        (["complexity", "--backbone", "resnet100"], "resnet101"),
        (["search", "--model", "m", "--embeddings", "e", "--query", "q", "-k", "0"], "-k"),
        (["explain", "--model", "m", "--image", "--out", "o"], "--image"),
        (["flow", "train-lglm", "--out", "o", "--source", "imagenet"], "--source"),
        (["flow", "train-lglm", "--out", "o", "--source", "coco"], "--root"),
        (["tag", "--model", "m", "--frob\nnicate"], "nicate"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_usage_is_one_line_that_names_the_offender(
    cli: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], offender: str
):
    monkeypatch.chdir(tmp_path)
    assert_one_line(cli(*arguments), offender)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", KINDS, ids=NAMES)
def test_an_unknown_option_is_refused_by_every_verb(cli: Here, name: tuple[str, ...]):
    assert_one_line(cli(*name, "--frobnicate", "1"), "--frobnicate")


@pytest.mark.parametrize("name", KINDS, ids=NAMES)
def test_a_missing_option_is_named_by_every_verb(cli: Here, name: tuple[str, ...]):
    required = [field for field, info in KINDS[name].model_fields.items() if info.is_required()]
    assert required or name == ("complexity",)
    for missing in required:
        others = [f"--{field.replace('_', '-')}=toy" for field in required if field != missing]
        assert_one_line(cli(*name, *others), f"--{missing.replace('_', '-')}")


@pytest.mark.parametrize("name", KINDS, ids=NAMES)
def test_help_of_every_verb_tells_each_option(
    cli: Here, monkeypatch: pytest.MonkeyPatch, name: tuple[str, ...]
):
    monkeypatch.setenv("COLUMNS", "10000")  # nothing is wrapped
    result = cli(*name, "--help")
    assert result.code == 0
    assert result.stderr == ""
    for field, info in KINDS[name].model_fields.items():
        assert f"-{field}" if len(field) == 1 else f"--{field.replace('_', '-')}" in result.stdout
        assert info.description
        assert " ".join(info.description.split()) in result.stdout
    assert "--config" in result.stdout
    assert "--json" in result.stdout


@pytest.mark.parametrize("arguments", [(), ("--help",), ("flow", "--help"), ("shard", "--help")])
def test_help_lists_what_there_is(cli: Here, arguments: tuple[str, ...]):
    result = cli(*arguments)
    assert result.code == 0, result.stderr
    expected = {(): {*JOBS, *FLOWS}, ("--help",): {*JOBS, *FLOWS}, ("flow", "--help"): set(FLOWS)}
    for name in expected.get(arguments, set(SOURCES)):
        assert name in result.stdout


def test_exit_codes_and_lines_are_those_of_the_process(lglm: Commands):
    assert_one_line(lglm("pipelines.cli", "frobnicate"), "lglm", "frobnicate")
    assert_one_line(lglm("pipelines.cli", "flow", "nope"), "nope")
    assert_one_line(lglm("pipelines.cli", "tag", "--frobnicate"), "--frobnicate")
    assert_one_line(lglm("train", "--frobnicate"), "--frobnicate")


# --- The config file ---


def run_recorded(kind: Any, *arguments: object) -> tuple[int, list[Options]]:
    """Run a verb named ``probe`` that does nothing but keep its options."""
    seen: list[Options] = []

    def run(given: Options) -> Outcome:
        seen.append(given)
        return Outcome("done", None, "well")

    return command_line.main("probe", kind, run, [str(argument) for argument in arguments]), seen


@pytest.mark.parametrize("separator", ["-", "_"])
def test_options_come_from_the_config_file_and_the_command_line_wins(tmp_path: Path, separator: str):
    values = {"dataset": "d", "label_embeddings": "l", "out": "o", "epochs": 3, "freeze_backbone": True}
    config = tmp_path / "train.yaml"
    config.write_text(yaml.safe_dump({name.replace("_", separator): value for name, value in values.items()}))
    code, seen = run_recorded(options.Train, "--config", config, "--epochs", "7", "--no-freeze-backbone")
    assert code == 0
    assert seen == [options.Train(dataset="d", label_embeddings="l", out="o", epochs=7)]


def test_a_list_in_the_config_file_is_a_repeated_option(tmp_path: Path):
    config = tmp_path / "labels.yaml"
    config.write_text("dataset: d\nout: o\nglove: g.txt\nalias: [a=b, c=d e]\n")
    _, from_file = run_recorded(options.MakeLabelEmbeddings, "--config", config)
    _, from_line = run_recorded(
        options.MakeLabelEmbeddings,
        "--dataset=d",
        "--out=o",
        "--glove=g.txt",
        "--alias",
        "a=b",
        "--alias",
        "c=d e",
    )
    assert from_file == from_line
    assert from_file[0].alias == ("a=b", "c=d e")


def test_the_config_file_serves_the_kinds_of_source_too(tmp_path: Path):
    config = tmp_path / "toy.yaml"
    config.write_text("out: o\nmax-samples-per-shard: 5\n")
    code, seen = run_recorded(SOURCES, "toy", "--config", config)
    assert code == 0
    assert seen == [options.ShardToy(out="o", max_samples_per_shard=5)]


@pytest.mark.parametrize(
    ("text", "offenders"),
    [
        (
            "dataset: d\nlabel-embeddings: l\nout: o\nfrobnicate: 1\n",
            ["config.yaml: unknown option --frobnicate"],
        ),
        ("dataset: d\nlabel-embedings: l\nout: o\n", ["--label-embedings"]),  # the typo, not what it hides
        ("dataset: d\nepochs: ten\n", ["config.yaml: --epochs: 'ten' was given"]),
        ("dataset: d\nepochs: 0\n", ["--epochs"]),
        ("dataset: [d]\n", ["--dataset"]),
        ("dataset: d\n", ["probe: the option --out is required"]),
        ("- dataset\n", ["config.yaml"]),
        ("just words\n", ["config.yaml"]),
        ("", ["config.yaml"]),
        ("dataset: [d\n", ["config.yaml"]),
        ("dataset: \x00\n", ["config.yaml"]),
        (None, ["config.yaml"]),
    ],
)
def test_a_wrong_config_is_one_line(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, text: str | None, offenders: list[str]
):
    config = tmp_path / "config.yaml"
    if text is not None:
        config.write_text(text)
    code, seen = run_recorded(options.Train, "--config", config)
    assert seen == []
    assert_one_line(Result(code, *capfd.readouterr()), *offenders)


def test_what_the_command_line_got_wrong_is_not_blamed_on_the_config(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
):
    config = tmp_path / "config.yaml"
    config.write_text("dataset: d\nepochs: 3\n")
    code, _ = run_recorded(options.Train, "--config", config, "--epochs", "ten")
    result = Result(code, *capfd.readouterr())
    assert_one_line(result, "lglm probe: --epochs: 'ten' was given")


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
    """As Ray's errors do, it keeps what happened in ``cause`` or ``worker_failures``."""

    def __init__(self, **attributes: object) -> None:
        super().__init__("a long\nRay traceback")
        self.__dict__.update(attributes)


def from_(error: Exception, cause: Exception) -> Exception:
    """As ``raise error from cause`` leaves it."""
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
def test_what_a_job_raises_becomes_one_line_and_a_code(
    capfd: pytest.CaptureFixture[str], error: Exception, code: int
):
    def run(_: Options) -> Outcome:
        raise error

    arguments = ["--model", "m", "--images", "i", "--out", "o"]
    assert command_line.main("tag", options.Tag, run, arguments) == code
    assert capfd.readouterr() == ("", "lglm tag: bad.json: wrong\n")


def test_what_is_secret_in_an_address_is_not_told(capfd: pytest.CaptureFixture[str]):
    def run(_: Options) -> Outcome:
        raise InputError("http://me:secret@host/x.zip?sig=secret: no such file")

    assert command_line.main("tag", options.Tag, run, ["--model=m", "--images=i", "--out=o"]) == 2
    assert capfd.readouterr().err == "lglm tag: http://host/x.zip: no such file\n"


def test_what_a_task_of_ray_raises_becomes_one_line_too(capfd: pytest.CaptureFixture[str]):
    from ray.exceptions import RayTaskError

    def run(_: Options) -> Outcome:
        raise RayTaskError("f", "a traceback", InputError("bad.json: wrong")).as_instanceof_cause()

    assert command_line.main("tag", options.Tag, run, ["--model=m", "--images=i", "--out=o"]) == 2
    assert capfd.readouterr() == ("", "lglm tag: bad.json: wrong\n")


def test_a_fault_of_ours_ends_with_a_line_after_its_story(capfd: pytest.CaptureFixture[str]):
    def run(_: Options) -> Outcome:
        raise KeyError("surprise")

    assert command_line.main("tag", options.Tag, run, ["--model=m", "--images=i", "--out=o"]) == 1
    stdout, stderr = capfd.readouterr()
    assert stdout == ""
    assert stderr.splitlines()[-1] == "lglm tag: failed: KeyError: 'surprise'"
    assert "Traceback" in stderr


# --- Options → arguments → options ---

TEXTS = ["plain", "two words", "-dash", "--dashes", "a=b", "100%", "птица 鳥", "'\"", "", "s3://b/k", "1"]


def values_of(annotation: Any, rng: random.Random) -> Iterator[Any]:
    """Values that may suit an annotation, without end."""
    while True:
        kinds = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else [annotation]
        kind = rng.choice([kind for kind in kinds if kind is not type(None)])
        if get_origin(kind) is Literal:
            yield rng.choice(get_args(kind))
        elif get_origin(kind) is tuple:
            yield tuple(rng.choice(TEXTS) for _ in range(rng.randrange(1, 4)))
        elif kind is bool:
            yield rng.random() < 0.5
        elif kind is str:
            yield rng.choice(TEXTS)
        elif kind is float:
            yield rng.choice([rng.random(), 10 ** rng.uniform(-9, 0), 1e-05, 0.1 + 0.2])
        elif kind is int:
            yield rng.randrange(0, 2000)
        else:
            annotation = get_args(kind)[0]  # Annotated[...] within a union


def random_options(kind: type[Options], rng: random.Random, *, every: bool = True) -> Options:
    """Options of *kind* with a value other than the default in every field, or some, that has another one."""
    while True:
        values, share = {}, 1 if every else rng.random()
        for name, info in kind.model_fields.items():
            if not info.is_required() and rng.random() >= share:
                continue
            candidates = values_of(info.annotation, rng)
            values[name] = next(value for value in candidates if value != info.default)
        if "head_option" in kind.model_fields:  # which must suit the head
            values |= {"head": "lglm", "head_option": ("pooling=average", "feature_dropout=0.25")}
        try:
            return kind(**values)
        except ValidationError:
            continue


@pytest.mark.parametrize("name", KINDS, ids=NAMES)
def test_options_survive_the_way_through_their_arguments(name: tuple[str, ...]):
    kind, rng = KINDS[name], random.Random(f"{name}")
    given: Any = SOURCES if name[0] == "shard" else kind
    choice = [name[1]] if name[0] == "shard" else []
    for _ in range(50):
        wanted = random_options(kind, rng)
        parsed, as_json = command_line.parse(name[0], given, [*choice, *to_arguments(wanted)])
        assert parsed == wanted
        assert not as_json


@pytest.mark.parametrize("name", KINDS, ids=NAMES)
def test_options_survive_being_told_as_values(name: tuple[str, ...]):
    kind, rng = KINDS[name], random.Random(f"{name}")
    for _ in range(50):
        wanted = random_options(kind, rng, every=False)
        assert kind(**wanted.model_dump()) == wanted
        assert kind.model_validate_json(wanted.model_dump_json()) == wanted


def test_options_at_their_defaults_need_no_arguments():
    assert to_arguments(options.ShardToy(out="o")) == ["--out=o"]
