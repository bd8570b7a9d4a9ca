"""The data of an evaluation's report."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lglm_core import rooms
from lglm_core.dataset.reader import Dataset
from lglm_core.metrics.per_label import per_label_table
from lglm_core.model.bundle import Bundle, load_bundle
from lglm_core.model.head import LabelKnowledge
from lglm_core.pages.report import Report
from lglm_core.pages.report_data import EDGES_SHOWN, EXAMPLES, SCORES_SHOWN, gather_report, strongest_edges
from lglm_core.training.recipe import TrainingRecipe
from lglm_core.training.run import build_model

HISTORY = (rooms.EpochRecord(epoch=1, loss=2.0, val_map=None, seconds=1.0),)


@pytest.fixture(scope="module")
def bundle(model_room: Path) -> Bundle:
    return load_bundle(model_room)


@pytest.fixture(scope="module")
def scores(learnable: Dataset) -> np.ndarray:
    """Scores that are right for every sample but the second, which is completely wrong."""
    targets = learnable.split("val").targets
    right = np.where(targets == 1, 0.9, 0.2).astype(np.float32)
    right[1] = np.where(targets[1] == 1, 0.01, 0.99)
    return right


@pytest.fixture(scope="module")
def report(bundle: Bundle, learnable: Dataset, scores: np.ndarray) -> Report:
    split = learnable.split("val")
    model = rooms.ModelManifest(
        fingerprint="f" * 64,
        inputs={},
        options={},
        counts={"parameters": 1_234_567},
        head="lglm",
        weights="w" * 64,
        labels=learnable.labels.digest,
        names=tuple(learnable.labels),
        history=HISTORY,
    )
    per_label = per_label_table(scores, split.targets, learnable.labels)
    return gather_report(bundle, model, learnable, split, scores, {"mAP": 50.0}, per_label)


def test_the_report_names_model_data_and_metrics(report: Report, learnable: Dataset, bundle: Bundle):
    assert (report.title, report.split) == ("mobilenet_v3_small + lglm", "val")
    assert report.metrics == {"mAP": 50.0}
    assert [result.label for result in report.labels] == list(learnable.labels)
    assert [(row.epoch, row.loss) for row in report.history] == [(1, 2.0)]
    assert report.facts["Parameters"] == "1.2 M"
    assert report.facts["Labels"] == "3, vectors from GloVe"
    assert report.facts["Trained on"] == "not recorded"
    assert report.facts["Model fingerprint"] == bundle.fingerprint[:16]
    assert report.facts["Evaluated on dataset"] == learnable.manifest.fingerprint[:16]


def test_examples_are_samples_with_their_labels_and_highest_scores(
    report: Report, learnable: Dataset, scores: np.ndarray
):
    split = learnable.split("val")
    assert len(report.examples) == min(EXAMPLES, len(split))
    for example in report.examples:
        row = split.keys.index(example.key)
        assert set(example.labels) == {
            name for name, target in zip(split.labels.names, split.targets[row], strict=True) if target == 1
        }
        highest = sorted(scores[row].tolist(), reverse=True)[:SCORES_SHOWN]
        assert list(example.scores.values()) == highest
        assert example.jpeg[:2] == b"\xff\xd8"


def test_the_sample_with_the_largest_loss_is_the_first_of_the_hardest(report: Report, learnable: Dataset):
    assert report.hardest[0].key == learnable.split("val").keys[1]


def test_the_edges_are_the_largest_entries_off_the_diagonal(bundle: Bundle):
    side = bundle.model.head.label_weights()
    assert side is not None
    graph = side.graph.detach().numpy()
    edges = strongest_edges(bundle)
    assert len(edges) == 6 <= EDGES_SHOWN
    names = bundle.labels.names
    for source, target, weight in edges:
        assert source != target
        assert weight == pytest.approx(float(graph[names.index(source), names.index(target)]))
    sizes = [abs(weight) for _, _, weight in edges]
    assert sizes == sorted(sizes, reverse=True)


def test_a_model_without_a_label_graph_has_no_edges(bundle: Bundle):
    recipe = TrainingRecipe(head="plain", backbone="mobilenet_v3_small", image_size=32).filled_in()
    plain = build_model(recipe, LabelKnowledge(3))
    assert strongest_edges(replace(bundle, model=plain)) == []
