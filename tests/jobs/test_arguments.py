"""From options to arguments and back, for every verb and flow: refusals, help, the config file."""

import random
import re
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self, Union, get_args, get_origin

import pytest
import yaml
from pydantic import ValidationError, model_validator
from pydantic.fields import FieldInfo

from jobs import command_line, options
from jobs.arguments import flag, parse, to_arguments, validate, with_flags
from jobs.command_line import Outcome
from jobs.options import APPEND, RETRY, SHARD, Options
from lglm_core.errors import InputError
from pipelines.cli import FLOWS, JOBS
from pipelines.options import JOB_OPTIONS, Sharding, TagBucket, TrainLglm
from tests.jobs.commands import Here, Result

BY_SOURCE: dict[str, Mapping[str, type[Options]]] = {"shard": SHARD, "append": APPEND, "retry": RETRY}
KINDS: dict[tuple[str, ...], type[Options]] = {
    **{(verb, source): kind for verb, kinds in BY_SOURCE.items() for source, kind in kinds.items()},
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
            "lglm shard coco: unknown option --split-seed; see lglm shard coco --help",
        ),
        (
            ["shard", "coco", "--root", "r", "--out", "o", "--quality", "80"],
            "--quality is of the pictures that --max-side scales down; it needs that",
        ),
        (["dataset", "ds_coco"], "unrecognized arguments: ds_coco; expected --dataset ds_coco; see"),
        (["verify", "ds_coco"], "expected --dataset ds_coco; see lglm verify --help"),
        (["verify", "--ds=coco"], "unknown option --ds; see lglm verify --help"),
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
def test_help_of_every_verb_shows_each_option(
    cli: Here, monkeypatch: pytest.MonkeyPatch, name: tuple[str, ...]
):
    monkeypatch.setenv("COLUMNS", "10000")  # nothing is wrapped
    result = cli(*name, "--help")
    assert result.code == 0
    assert result.stderr == ""
    for field, info in KINDS[name].model_fields.items():
        assert f"-{field}" if len(field) == 1 else f"--{field.replace('_', '-')}" in result.stdout
        assert info.description
        assert with_flags(" ".join(info.description.split()), KINDS[name]) in result.stdout
    assert "--config" in result.stdout
    assert "--json" in result.stdout


@pytest.mark.parametrize("verb", BY_SOURCE)
def test_help_of_a_verb_with_sources_lists_them(cli: Here, verb: str):
    result = cli(verb, "--help")
    assert result.code == 0, result.stderr
    for source, kind in BY_SOURCE[verb].items():
        assert f"  {source}" in result.stdout
        assert str(kind.__doc__) in result.stdout


@pytest.mark.parametrize("name", KINDS, ids=NAMES)
def test_help_names_the_required_options_first_and_without_brackets(cli: Here, name: tuple[str, ...]):
    usage, _, rest = cli(*name, "--help").stdout.partition("\n\n")
    required = [flag(field) for field, info in KINDS[name].model_fields.items() if info.is_required()]
    assert usage.startswith(f"usage: lglm {' '.join(name)} ")
    assert [word for word in usage.split() if word.startswith("-")] == required
    assert re.findall(r"\[.*?\]", usage) == ["[options]"]
    listed = re.findall(r"^  (--?[\w-]+)(.*)", rest, flags=re.MULTILINE)
    assert [option for option, _ in listed[: len(required)]] == required
    assert not any("[" in more for _, more in listed[: len(required)])
    if required:
        assert rest.index("required:") < rest.index("options:")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["train", *TRAIN, "--num-worker", "4"],
            "lglm train: unknown option --num-worker; did you mean --num-workers? see lglm train --help",
        ),
        (["train", *TRAIN, "--num-wrokers=4"], "did you mean --num-workers? see"),
        (["train", *TRAIN, "--no-freze-backbone"], "did you mean --no-freeze-backbone? see"),
        (["train", *TRAIN, "--jsno"], "unknown option --jsno; did you mean --json? see"),
        (
            ["train", *TRAIN, "--frobnicate", "--epoch=3"],
            "unknown option --frobnicate; see lglm train",
        ),
        (["append", "mirflikr"], "lglm append: unknown source 'mirflikr'; did you mean mirflickr? see"),
        (["shard", "cocoo"], "lglm shard: unknown source 'cocoo'; did you mean coco? see lglm shard --help"),
        (
            ["shard", "--out", "o", "toy"],
            "the source of the pictures comes first: lglm shard coco|",
        ),
        (
            ["shard", "toy", "--out", "o", "--sample", "9"],
            "lglm shard toy: unknown option --sample; did you mean --samples? see lglm shard toy --help",
        ),
        (
            ["train", *TRAIN, "--loss", "bcee"],
            "'bce' or 'asymmetric'; did you mean bce? see lglm train",
        ),
        (["flow", "train-lglm", "--out=o", "--source=tabel"], "'voc' or 'table'; did you mean table? see"),
        (
            ["flow", "train-lglm", "--soruce=toy"],
            "unknown option --soruce; did you mean --source? see",
        ),
    ],
)
def test_a_mistyped_name_gets_the_nearest_known_one(cli: Here, arguments: list[str], line: str):
    assert_one_line(cli(*arguments), line)


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
    code, seen = run_recorded(SHARD, "toy", "--config", config)
    assert code == 0
    assert seen == [options.ShardToy(out="o", max_samples_per_shard=5)]


@pytest.mark.parametrize(
    ("text", "offenders"),
    [
        (
            "dataset: d\nlabel-embeddings: l\nout: o\nfrobnicate: 1\n",
            ["config.yaml: unknown option --frobnicate; see lglm probe --help"],
        ),
        (  # the typo is named, not the required option that is missing because of it
            "dataset: d\nlabel-embedings: l\nout: o\n",
            ["unknown option --label-embedings; did you mean --label-embeddings? see lglm probe --help"],
        ),
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


def test_a_wrong_argument_is_not_blamed_on_the_config_file(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    config = tmp_path / "config.yaml"
    config.write_text("dataset: d\nepochs: 3\n")
    code, _ = run_recorded(options.Train, "--config", config, "--epochs", "ten")
    result = Result(code, *capfd.readouterr())
    assert_one_line(result, "lglm probe: --epochs: 'ten' was given")


# --- Options → arguments → options ---

TEXTS = ["plain", "two words", "-dash", "--dashes", "a=b", "100%", "птица 鳥", "'\"", "", "s3://b/k", "1"]


def values_of(annotation: Any, rng: random.Random) -> Iterator[Any]:
    """Yield values that may suit an annotation, without end."""
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
            yield rng.randrange(0, rng.choice([12, 2000]))  # some options allow few values
        else:
            annotation = get_args(kind)[0]  # Annotated[...] within a union


def random_options(kind: type[Options], rng: random.Random, *, every: bool = True) -> Options:
    """Return options of *kind* whose fields, all or some, have another value than their default."""

    def draw(name: str) -> Any:
        info = kind.model_fields[name]
        return next(value for value in values_of(info.annotation, rng) if value != info.default)

    def given(info: FieldInfo, fraction: float) -> bool:
        return info.is_required() or rng.random() < fraction

    values: dict[str, Any] = {}
    wrong: set[str] = set()
    while True:
        if wrong:  # a value of theirs alone is refused, so that the others can stay
            values |= {name: draw(name) for name in wrong}
        else:
            fraction = 1 if every else rng.random()
            names = [name for name, info in kind.model_fields.items() if given(info, fraction)]
            values = {name: draw(name) for name in names}
        if "head_option" in kind.model_fields:  # which must suit the head
            values |= {"head": "lglm", "head_option": ("pooling=average", "feature_dropout=0.25")}
        if kind is TrainLglm:  # whose source takes only some of the options
            others = {*Sharding.model_fields} - {"source", *JOB_OPTIONS[SHARD[values["source"]]]}
            values = {name: value for name, value in values.items() if name not in others}
        try:
            return kind(**values)
        except ValidationError as error:
            wrong = {str(fault["loc"][0]) for fault in error.errors() if fault["loc"]}


@pytest.mark.parametrize("name", KINDS, ids=NAMES)
def test_options_survive_the_way_through_their_arguments(name: tuple[str, ...]):
    kind, rng = KINDS[name], random.Random(f"{name}")
    given: Any = BY_SOURCE.get(name[0], kind)
    choice = [name[1]] if name[0] in BY_SOURCE else []
    for _ in range(50):
        wanted = random_options(kind, rng)
        parsed, as_json = parse(name[0], given, [*choice, *to_arguments(wanted)])
        assert parsed == wanted
        assert not as_json


@pytest.mark.parametrize("name", KINDS, ids=NAMES)
def test_options_survive_the_way_through_values_and_json(name: tuple[str, ...]):
    kind, rng = KINDS[name], random.Random(f"{name}")
    for _ in range(50):
        wanted = random_options(kind, rng, every=False)
        assert kind(**wanted.model_dump()) == wanted
        assert kind.model_validate_json(wanted.model_dump_json()) == wanted


def test_options_at_their_defaults_need_no_arguments():
    assert to_arguments(options.ShardToy(out="o")) == ["--out=o"]


# --- Parameters of the core, options of a job ---


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("more than `max_rejected` = 0.2 allows", "more than --max-rejected = 0.2 allows"),
        ("add `freeze_backbone`, or `k` of them", "add `freeze_backbone`, or `k` of them"),
        ("`max_side` and `quality`", "--max-side and --quality"),
        ("max_side, `max_side pixels`, ``max_side``", "max_side, `max_side pixels`, `--max-side`"),
        ("a name with ` in it", "a name with ` in it"),
    ],
)
def test_an_option_that_a_message_names_in_backticks_is_shown_as_its_flag(message: str, shown: str):
    assert with_flags(message, options.ShardToy) == shown


def test_the_flag_of_one_letter_has_one_dash():
    assert with_flags("take `k` of them", options.Search) == "take -k of them"


class Named(Options):
    """Options whose `few` and many are explained."""

    few: int = 1
    """Fewer than `many_more`."""
    many_more: int = 2

    @model_validator(mode="after")
    def _few_are_fewer(self) -> Self:
        if self.few >= 10:
            raise InputError(f"`few` = {self.few} is too many")
        if self.few >= self.many_more:
            raise ValueError(f"`few` = {self.few} is not below `many_more` = {self.many_more}")
        return self


@pytest.mark.parametrize(
    ("few", "line"),
    [
        (5, "--few = 5 is not below --many-more = 2; see lglm probe --help"),
        (10, "--few = 10 is too many"),
    ],
)
def test_rules_that_name_parameters_are_shown_with_flags(few: int, line: str):
    with pytest.raises(InputError, match=f"^{re.escape(line)}$"):
        validate("lglm probe", Named, {"few": few})


def test_help_shows_parameters_as_flags_too(capfd: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        parse("probe", Named, ["--help"])
    assert "Fewer than --many-more. (default 1)" in capfd.readouterr().out
