"""Which jobs the flows start, in which order and with which options; none is started here."""

from collections.abc import Callable
from typing import Any

import pytest

from jobs import options as jobs
from jobs.arguments import to_arguments
from jobs.options import SHARD, Options
from lglm_core.errors import InputError
from pipelines import tag_bucket, train_lglm
from pipelines.flow_jobs import Job, search_job, training_jobs
from pipelines.options import JOB_OPTIONS, Cluster, Sharding, TrainLglm

ON_SPLIT = {"model", "dataset", "split", "out", "ray_address"}
DECIDED: dict[type[Options], set[str]] = {
    **{kind: {"out", "ray_address"} for kind in SHARD.values()},
    jobs.MakeLabelEmbeddings: {"dataset", "out"},
    # The flow evaluates on all labels of the dataset, so it holds none out.
    jobs.Train: {"dataset", "label_embeddings", "out", "ray_address", "hold_out"},
    jobs.Evaluate: ON_SPLIT,
    jobs.Embed: ON_SPLIT,
    jobs.Tag: {"model", "images", "out", "ray_address"},
    jobs.Search: {"model", "embeddings", "query", "out"},
}
"""By job, the options that the flow decides itself; whoever runs it chooses all others."""

SEARCH = "search --model=o/run/model --embeddings=o/embeddings"
OTHER: dict[str, Any] = {
    "root": "r",
    "year": "2014",
    "crowds": "drop",
    "min_area": 2.5,
    "labels": "38",
    "unlabelled": "drop",
    "table": "t.csv",
    "image_root": "pictures",
    "label_order": "labels.json",
    "validation_share": 0.5,
    "split_seed": 7,
    "samples": 60,
    "draw_seed": 8,
    "max_samples_per_shard": 9,
    "max_bytes_per_shard": 10_000,
    "verify": "header",
    "max_side": 640,
    "quality": 80,
    "duplicates": "drop",
    "max_rejected": 0.5,
}
"""For every option of sharding, a value other than its default."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command lines of the jobs that flows start, which are not run, and what happens between them."""
    lines: list[str] = []

    def run_job(job: Job, cluster: Cluster) -> None:
        lines.append(" ".join([job.verb, *([job.source] if job.source else []), *to_arguments(job.options)]))

    def first_tagged(tags: str) -> str:
        return f"{tags}/first.jpg"

    for flow in (train_lglm, tag_bucket):
        monkeypatch.setattr(flow, "run_job", run_job)
        monkeypatch.setattr(flow, "create_markdown_artifact", lambda **_: lines.append("(artifact)"))
        monkeypatch.setattr(flow, "_artifact", lambda *_: "")
    monkeypatch.setattr(
        train_lglm, "refuse_without_validation", lambda dataset: lines.append(f"(validation in {dataset}?)")
    )
    monkeypatch.setattr(train_lglm, "first_tagged", first_tagged)
    return lines


def train(**options: Any) -> None:
    """Run the flow train-lglm without Prefect."""
    train_lglm.train_lglm.fn(**options)


def test_train_lglm_starts_every_job_in_turn(started: list[str]):
    train(source="toy", out="o")
    on_val = "--model=o/run/model --dataset=o/dataset"
    assert started == [
        "shard toy --out=o/dataset --root=o/raw",
        "(validation in o/dataset?)",
        "label-embeddings --dataset=o/dataset --out=o/labels",
        "train --dataset=o/dataset --label-embeddings=o/labels --out=o/run",
        f"evaluate {on_val} --out=o/evaluation",
        f"embed {on_val} --out=o/embeddings",
        "tag --model=o/run/model --images=o/raw/test2017 --out=o/tags",
        f"{SEARCH} --query=o/tags/first.jpg --out=o/neighbours.html",
        "(artifact)",
    ]


def test_tag_bucket_starts_one_job(started: list[str]):
    tag_bucket.tag_bucket.fn(model="m", images="s3://b/photos", out="t", ray_address="http://head:8265")
    assert started == ["tag --model=m --images=s3://b/photos --out=t", "(artifact)"]


def test_nothing_is_tagged_or_searched_where_there_is_no_new_picture(started: list[str]):
    train(source="voc", root="VOC2007", out="o")
    assert started[0] == "shard voc --root=VOC2007 --out=o/dataset"
    assert [line.split()[0] for line in started[-2:]] == ["embed", "(artifact)"]


def test_a_query_is_searched_for_without_any_tags(started: list[str]):
    train(source="voc", root="VOC2007", out="o", query="q.jpg", neighbours=9)
    assert started[-2] == f"{SEARCH} --query=q.jpg -k=9 --out=o/neighbours.html"


def test_named_pictures_are_tagged_instead_of_the_drawn_ones(started: list[str]):
    train(source="toy", root="drawn", images="mine", out="o")
    assert "shard toy --out=o/dataset --root=drawn" in started
    assert "tag --model=o/run/model --images=mine --out=o/tags" in started


def test_the_seed_is_the_trainings_and_the_drawing_has_its_own(started: list[str]):
    train(source="toy", out="o", seed=3)
    assert started[0] == "shard toy --out=o/dataset --root=o/raw"
    assert started[3].startswith("train --seed=3 ")
    started.clear()
    train(source="toy", out="o", draw_seed=4)
    assert started[0] == "shard toy --out=o/dataset --seed=4 --root=o/raw"
    assert "--seed" not in started[3]


def test_options_of_the_recipe_reach_the_training_and_the_labels(started: list[str]):
    recipe = {"epochs": 2, "head_option": ("m=8", "group=2"), "num_workers": 0}
    cache = {"cache": "c", "cache_gb": 5.0, "checkpoint_steps": 10}
    train(source="toy", out="o", glove="g.txt", alias=("a=b",), oov="zero", **recipe, **cache)
    assert started[2] == (
        "label-embeddings --glove=g.txt --alias=a=b --oov=zero --dataset=o/dataset --out=o/labels"
    )
    assert {
        *("--epochs=2", "--head-option=m=8", "--head-option=group=2", "--num-workers=0"),
        *("--cache=c", "--cache-gb=5.0", "--checkpoint-steps=10"),
    } < {*started[3].split()}


@pytest.mark.parametrize("kind", DECIDED, ids=lambda kind: kind.__name__)
def test_every_option_of_a_job_can_be_chosen_but_for_those_the_flow_decides(kind: type[Options]):
    chosen = JOB_OPTIONS.get(kind, {})
    assert {*kind.model_fields} - {*chosen.values()} == DECIDED[kind]
    assert len({*chosen.values()}) == len(chosen)


def values_of(kind: type[Options], name: str) -> dict[str, Any]:
    """Return which values an option takes, and its default, as JSON schema."""
    schema = dict(kind.model_json_schema()["properties"][name])
    return {key: value for key, value in schema.items() if key not in ("title", "description")}


@pytest.mark.parametrize("kind", JOB_OPTIONS, ids=lambda kind: kind.__name__)
def test_an_option_of_the_flow_has_the_type_and_default_that_it_has_in_the_job(kind: type[Options]):
    for name, option in JOB_OPTIONS[kind].items():
        ours, theirs = values_of(TrainLglm, name), values_of(kind, option)
        if kind.model_fields[option].is_required():  # the flow needs it with one source alone
            theirs = {"anyOf": [theirs, {"type": "null"}], "default": None}
        assert ours == theirs, name


def test_every_option_of_sharding_is_given_another_value_here():
    assert {*OTHER} == {*Sharding.model_fields} - {"source"}
    assert not [name for name, value in OTHER.items() if Sharding.model_fields[name].default == value]


@pytest.mark.parametrize("source", SHARD)
def test_every_option_that_a_source_takes_reaches_its_job(source: Any):
    taken = JOB_OPTIONS[SHARD[source]]
    shard, *_ = training_jobs(TrainLglm(source=source, out="o", **{name: OTHER[name] for name in taken}))
    assert (shard.verb, shard.source) == ("shard", source)
    assert {name: getattr(shard.options, option) for name, option in taken.items()} == {
        name: OTHER[name] for name in taken
    }


@pytest.mark.parametrize("source", SHARD)
def test_an_option_that_the_source_does_not_take_is_refused_by_name(started: list[str], source: str):
    taken = JOB_OPTIONS[SHARD[source]]
    given = {name: OTHER[name] for name in ("root", "table", "image_root") if name in taken}
    for name in {*OTHER} - {*taken}:
        flag = f"--{name.replace('_', '-')}"
        with pytest.raises(InputError, match=f"^source {source} takes no option {flag}; see lglm flow"):
            train(source=source, out="o", **given, **{name: OTHER[name]})
        train(source=source, out="o", **given, **{name: Sharding.model_fields[name].default})
    assert started


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"quality": 80}, "--quality is of the pictures that --max-side scales down"),
        ({"cache_gb": 5}, "--cache-gb 5 is the size of a cache; it needs --cache"),
    ],
)
@pytest.mark.parametrize("start", [train, lambda **options: train_lglm.run(TrainLglm(**options))])
def test_options_that_a_job_refuses_are_refused_before_any_job_starts(
    started: list[str], start: Callable[..., None], options: dict[str, Any], line: str
):
    with pytest.raises(InputError, match=f"^{line}.*; see lglm flow train-lglm --help$"):
        start(source="toy", out="o", **options)
    assert started == []


@pytest.mark.parametrize(("source", "name", "value"), [("coco", "year", 2014), ("mirflickr", "labels", 38)])
def test_a_number_that_yaml_reads_is_taken_as_text(source: str, name: str, value: int):
    options = TrainLglm.model_validate({"source": source, "root": "r", "out": "o", name: value})
    shard, *_ = training_jobs(options)
    assert shard.options.model_dump()[name] == str(value)


def test_a_search_is_for_as_many_neighbours_as_are_asked_for():
    job = search_job(TrainLglm(source="toy", out="o", neighbours=3), "q.jpg")
    assert job == Job(
        "search",
        jobs.Search(
            model="o/run/model", embeddings="o/embeddings", query="q.jpg", out="o/neighbours.html", k=3
        ),
    )
