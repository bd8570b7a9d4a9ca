import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lglm_core.inference.attribution import Explainer
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.pages.explanation_data import PNG_SIDE, describe, explain
from tests.lglm_core.inference.explained import load_for_maps

pytestmark = pytest.mark.weighty

KINDS = ("attribution", "activation", "bias", "logit")


@pytest.fixture(scope="module")
def explainer(model_room: Path) -> Callable[..., Explainer]:
    """Make the trained model with other labels, thresholds or another picture size."""

    def make(
        labels: tuple[str, ...] = ("bright", "red", "striped"), thresholds: float = 0.5, size: int = 96
    ) -> Explainer:
        bundle = replace(
            load_for_maps(model_room, size),
            labels=LabelVocabulary(labels),
            thresholds=(thresholds,) * len(labels),
        )
        return Explainer(bundle, torch.device("cpu"))

    return make


@pytest.fixture(scope="module")
def picture(encode: Callable[..., bytes]) -> bytes:
    rng = np.random.default_rng(0)
    return encode(Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)))


def test_by_default_the_labels_are_the_tags_or_else_the_three_highest(
    explainer: Callable[..., Explainer], picture: bytes
):
    tags_all, tags_none = explainer(thresholds=0.0), explainer(thresholds=1.1)
    order = np.argsort(-tags_all.explain(picture).probabilities)
    highest = [("bright", "red", "striped")[column] for column in order]
    for model, note in ((tags_all, "All labels given to it."), (tags_none, "the most probable")):
        found = explain({"model": model}, "a.jpg", picture)
        assert [each.label for each in found.picture.labels] == highest
        assert list(found.probabilities) == highest
        assert note in found.picture.note


def test_a_label_below_its_threshold_is_left_out_where_others_are_tags(
    explainer: Callable[..., Explainer], picture: bytes
):
    model = explainer()
    probabilities = sorted(model.explain(picture).probabilities)
    assert probabilities[1] < probabilities[2]
    between = explainer(thresholds=(probabilities[1] + probabilities[2]) / 2)
    assert len(explain({"model": between}, "a.jpg", picture).picture.labels) == 1


def test_with_two_models_only_labels_that_both_know_are_chosen(
    explainer: Callable[..., Explainer], picture: bytes
):
    models = {"model": explainer(thresholds=0.0), "compare": explainer(("red", "round", "bright"))}
    found = explain(models, "a.jpg", picture)
    assert {each.label for each in found.picture.labels} == {"red", "bright"}
    assert found.picture.note == "All labels given to it by the first model."
    red = {name: model.explain(picture).probabilities for name, model in models.items()}
    assert found.probabilities["red"] == pytest.approx(
        {"model": red["model"][1], "compare": red["compare"][0]}
    )


def test_arrays_of_every_model_add_up_to_its_logit(explainer: Callable[..., Explainer], picture: bytes):
    models = {"model": explainer(), "compare": explainer(size=160)}
    found = explain(models, "a.jpg", picture, ["red", "striped"])
    names = {f"a.jpg/{label}/{model}" for label in ("red", "striped") for model in models}
    assert set(found.arrays) == {f"{name}/{kind}" for name in names for kind in KINDS}
    for name in names:
        side = 3 if name.endswith("model") else 5
        assert found.arrays[f"{name}/attribution"].shape == (side, side)
        total = found.arrays[f"{name}/attribution"].sum(dtype=np.float64) + found.arrays[f"{name}/bias"]
        assert total == pytest.approx(float(found.arrays[f"{name}/logit"]), abs=1e-5)


def test_the_page_shows_the_same_sum(explainer: Callable[..., Explainer], picture: bytes):
    found = explain({"model": explainer()}, "a.jpg", picture, ["red"])
    (view,) = found.picture.labels[0].views
    assert view.positive >= 0 >= view.negative
    assert view.bias + view.positive + view.negative == pytest.approx(view.logit, abs=1e-5)
    assert view.logit == pytest.approx(float(found.arrays["a.jpg/red/model/logit"]))


def test_the_scale_is_the_larger_of_both_models_and_relative_to_the_area(
    explainer: Callable[..., Explainer], picture: bytes
):
    models = {"model": explainer(), "compare": explainer(size=160)}
    found = explain(models, "a.jpg", picture, ["red"])
    arrays = [{kind: found.arrays[f"a.jpg/red/{model}/{kind}"] for kind in KINDS} for model in models]
    (label,) = found.picture.labels
    by_area = [np.abs(each["attribution"]).max() * each["attribution"].size / 100 for each in arrays]
    assert label.attribution_limit == pytest.approx(max(by_area))
    assert label.activation_limit == pytest.approx(max(np.abs(each["activation"]).max() for each in arrays))


def test_no_name_chooses_a_path(explainer: Callable[..., Explainer], picture: bytes):
    labels = ("../../etc", "a/b", "птица 鳥")
    found = explain({"model": explainer(labels)}, "..", picture, labels)
    assert len(found.overlays) == 2 * len(labels)
    for path in found.overlays:
        assert re.fullmatch(r"[\w-]+/[\w-]+/model-(attribution|activation)\.png", path, re.ASCII)


def test_overlays_have_the_shape_of_the_picture_and_a_limited_size(
    explainer: Callable[..., Explainer], picture: bytes, encode: Callable[..., bytes]
):
    large = encode(Image.new("RGB", (3 * PNG_SIDE, 2 * PNG_SIDE), "teal"), "JPEG")
    for data, size in ((picture, (90, 60)), (large, (PNG_SIDE, round(PNG_SIDE * 2 / 3)))):
        found = explain({"model": explainer()}, "a.jpg", data, ["red"])
        assert {Image.open(io.BytesIO(png)).size for png in found.overlays.values()} == {size}


def test_models_with_the_same_head_and_backbone_are_named_with_their_fingerprints(
    explainer: Callable[..., Explainer],
):
    one, other = explainer(), explainer()
    (alone,) = describe({"model": one}, {"model": "a" * 64})
    assert alone.name == "lglm on mobilenet_v3_small"
    assert not alone.adds_up
    both = describe({"model": one, "compare": other}, {"model": "a" * 64, "compare": "b" * 64})
    assert [each.name for each in both] == [f"{alone.name} (aaaaaaaa)", f"{alone.name} (bbbbbbbb)"]
