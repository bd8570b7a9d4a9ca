from dataclasses import replace
from typing import Any

import pytest

from lglm_core.labels.embeddings import LabelEmbeddings
from lglm_core.model.card import NOTEBOOK_USAGE, model_card

METRICS: dict[str, Any] = {
    "n_images": 200,
    "mAP": 71.23,
    "mAP_low": 69.87,
    "mAP_high": 72.64,
    "prior_mAP": 21.0,
    "CP": 74.1,
    "CR": 62.8,
    "CF1": 68.0,
    "OP": 80.4,
    "OR": 70.1,
    "OF1": 74.9,
    "top3": {"CP": 76.0, "CR": 59.3, "CF1": 66.6, "OP": 81.9, "OR": 66.2, "OF1": 73.2},
    "labels_without_positives": ["striped"],
}


def card(embeddings: LabelEmbeddings, **values: Any) -> str:
    return model_card({"backbone": "resnet101"}, embeddings.labels, embeddings, head="lglm", **values)


def test_the_card_names_head_facts_and_labels(shape_embeddings: LabelEmbeddings):
    text = card(shape_embeddings)
    assert "| head | lglm |\n| backbone | resnet101 |\n" in text
    assert "| label vectors | 8 wide, from GloVe word vectors |" in text
    assert "Says which of 3 labels a picture shows." in text
    assert text.endswith("Labels: bright, red, striped.\n")


def test_vectors_that_do_not_come_from_the_source_are_named(shape_embeddings: LabelEmbeddings):
    embeddings = replace(shape_embeddings, origin=("glove", "zero", "cooccurrence"))
    assert (
        "from GloVe word vectors; from co-occurrence in the training split: striped; "
        "zeros, for want of a vector: red |"
    ) in card(embeddings)


def test_a_head_without_label_vectors_has_no_row_for_them(shape_embeddings: LabelEmbeddings):
    assert "label vectors" not in model_card({}, shape_embeddings.labels, None, head="plain")


def test_labels_added_after_training_are_named(shape_embeddings: LabelEmbeddings):
    assert "Never trained" not in card(shape_embeddings)
    assert "Never trained, known by their names alone: red, striped." in card(
        shape_embeddings, untrained=("red", "striped")
    )


def test_the_card_shows_metrics_at_one_half_and_among_the_top_3(shape_embeddings: LabelEmbeddings):
    text = card(shape_embeddings, metrics=METRICS)
    assert (
        "Measured on 200 pictures: mAP 71.2 (95% interval 69.9 to 72.6; predicting the prior: 21.0)." in text
    )
    assert "| at one half | 74.1 | 62.8 | 68.0 | 80.4 | 70.1 | 74.9 |" in text
    assert "| and among the top 3 | 76.0 | 59.3 | 66.6 | 81.9 | 66.2 | 73.2 |" in text
    assert "Not measured, for want of a picture that shows them: striped." in text


def test_without_an_interval_the_card_shows_none(shape_embeddings: LabelEmbeddings):
    text = card(shape_embeddings, metrics={**METRICS, "mAP_low": None, "mAP_high": None})
    assert "mAP 71.2 (predicting the prior: 21.0)." in text


@pytest.mark.parametrize("usage", [NOTEBOOK_USAGE, "lglm tag --model ."])
def test_the_usage_is_an_indented_block(shape_embeddings: LabelEmbeddings, usage: str):
    block = "\n".join(f"    {line}" for line in usage.splitlines())
    assert f"Use it:\n\n{block}\n\nLabels:" in card(shape_embeddings, usage=usage)


def test_the_usage_is_one_for_notebooks_by_default(shape_embeddings: LabelEmbeddings):
    assert card(shape_embeddings) == card(shape_embeddings, usage=NOTEBOOK_USAGE)
