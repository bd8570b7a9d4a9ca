"""A flow's parameters are its options: one field each, with type, default and help."""

import inspect

import pytest
from prefect.utilities.callables import parameter_schema

from jobs.options import MakeLabelEmbeddings
from lglm_core.errors import InputError
from pipelines.flow_jobs import Job, training_jobs
from pipelines.form import with_form
from pipelines.options import TagBucket, TrainLglm


@with_form("tag-bucket", TagBucket)
def tag(options: TagBucket) -> TagBucket:
    """Return the options."""
    return options


def test_options_are_given_by_name():
    given = tag(model="m", images="s3://b/i", out="o")
    assert given == TagBucket(model="m", images="s3://b/i", out="o")


@pytest.mark.parametrize("kind", [TagBucket, TrainLglm])
def test_every_option_is_a_field_with_its_help_and_default(kind: type):
    schema = parameter_schema(with_form("flow", kind)(tag)).model_dump()
    assert set(schema["properties"]) == set(kind.model_fields)
    for name, info in kind.model_fields.items():
        field = schema["properties"][name]
        assert field["description"] == " ".join(info.description.split())
        if not info.is_required():
            assert field["default"] == (list(info.default) if info.default == () else info.default)
    assert set(schema["required"]) == {name for name, info in kind.model_fields.items() if info.is_required()}


def test_the_form_keeps_choices_and_bounds():
    fields = parameter_schema(with_form("train-lglm", TrainLglm)(tag)).properties
    assert fields["source"]["enum"] == ["toy", "coco", "mirflickr", "voc", "table"]
    assert fields["batch_size"]["exclusiveMinimum"] == 0


def test_required_options_come_first_and_shared_ones_last():
    names = list(inspect.signature(with_form("train-lglm", TrainLglm)(tag)).parameters)
    assert names[:2] == ["out", "source"]
    assert names[-2:] == ["ray_address", "code"]


def test_a_wrong_value_is_refused_as_on_the_command_line():
    with pytest.raises(
        InputError, match=r"^unknown option --imags; did you mean --images\? see lglm flow tag-bucket --help$"
    ):
        tag(model="m", imags="i", out="o")


def test_options_of_label_vectors_reach_their_job():
    words = {"glove": "g.zip/g.txt", "alias": ("a=b",), "alias_file": "aliases", "oov": "cooccurrence"}
    for given in (words, {"vectors": "v.csv"}):
        _, embed_labels, *_ = training_jobs(TrainLglm(source="toy", out="o", **given))
        expected = MakeLabelEmbeddings(dataset="o/dataset", out="o/labels", **given)
        assert embed_labels == Job("label-embeddings", expected)


def test_sources_of_label_vectors_that_do_not_go_together_are_refused_before_anything_runs():
    flow = with_form("train-lglm", TrainLglm)(lambda options: options)
    with pytest.raises(InputError, match="--glove and --vectors both"):
        flow(source="toy", out="o", glove="g", vectors="v.csv")
