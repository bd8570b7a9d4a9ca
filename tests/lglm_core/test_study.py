"""The study of all heads runs, on data too small for meaningful numbers."""

import numpy as np
import pytest
import torch

from lglm_core.dataset.reader import Dataset
from lglm_core.labels.embeddings import LabelEmbeddings
from tests.benchmarks import study as module
from tests.benchmarks.study import PROBE, RESIDUAL, Study, System, measure, never_trained, table_of

pytestmark = pytest.mark.weighty


@pytest.fixture
def study(learnable: Dataset, shape_embeddings: LabelEmbeddings, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study of ten training pictures, of which six or all are used, with random features."""
    for name, value in {"STEPS": 2, "SIZES": (6, None), "SEEDS": 2, "HELD_OUT": 1}.items():
        monkeypatch.setattr(module, name, value)
    rng = torch.Generator().manual_seed(0)
    maps = {
        name: torch.rand(2, len(learnable.split(name)), 1280, 2, 2, generator=rng)
        for name in ("train", "val")
    }
    return Study(learnable, shape_embeddings, maps)


def test_systems_are_measured_on_every_number_of_pictures_and_listed_in_a_table(study: Study):
    systems = (
        System(PROBE, "probe", lrs=(1e-3,), folds=1),
        System(RESIDUAL, "lglm", ("residual=true", "d_l=8", "m=8", "graph_width=8"), (None,), (1e-3,)),
    )
    results = {system.name: measure(study, system) for system in systems}
    targets = study.dataset.split("val").targets
    for result in results.values():
        for row in result["sizes"].values():
            assert np.array(row["scores"]).shape == (2, *targets.shape)
            assert all(0 <= value <= 100 for value in row["mAP"])
    choice = results[RESIDUAL]["sizes"]["all"]["choice"]
    results[RESIDUAL]["never trained"] = never = never_trained(study, systems[1], choice)
    assert never.keys() == {"word vectors", "permuted vectors", "random scores"}
    table = table_of(results, targets)
    assert table.count(PROBE) >= 2 and table.count(RESIDUAL) >= 2


def test_a_subset_is_a_dataset_with_the_chosen_rows(study: Study):
    subset = study.subset([3, 5], [1])
    assert (subset.url, subset.labels, subset.cache) == (study.dataset.url, study.dataset.labels, None)
    assert subset.split("train").index["key"].to_pylist() == [
        study.dataset.split("train").index["key"][row].as_py() for row in (3, 5)
    ]
    assert len(subset.split("val")) == 1
