"""The benchmarks run, at sizes too small for meaningful numbers."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.benchmarks import (
    attribution,
    fusion,
    head,
    label_side,
    metrics,
    planning,
    reading,
    sharding,
    training_step,
)
from tests.benchmarks.__main__ import BENCHMARKS, main
from tests.benchmarks.registry import Measured, NotRun
from tests.benchmarks.timing import in_turns

FIELDS = ("name", "ours", "baseline", "unit", "higher_is_better", "ratio", "target", "met")
FUSION = {"images": 2, "labels": 3, "width": 8, "m": 4}
NETWORK = {"backbone": "mobilenet_v3_small", "image_size": 64}
SMALL: dict[str, Callable[[], Measured]] = {
    "folded-head": partial(head.folded_head, **FUSION),
    "folded-head-and-backbone": partial(head.folded_head_and_backbone, **NETWORK, labels=3),
    "fusion-80-loop": partial(fusion.fusion_80_loop, **FUSION),
    "fusion-5000-loop": partial(fusion.fusion_5000_loop, **FUSION, timed=2),
    "fusion-80-loop-of-batches": partial(fusion.fusion_80_loop_of_batches, **FUSION),
    "fusion-5000-loop-of-batches": partial(fusion.fusion_5000_loop_of_batches, **FUSION, timed=2),
    "fusion-80-at-once": partial(fusion.fusion_80_at_once, **FUSION),
    "fusion-80-at-once-few": partial(fusion.fusion_80_at_once_few, **FUSION),
    "fusion-5000-at-once": partial(fusion.fusion_5000_at_once, **FUSION),
    "fusion-memory-growth": partial(fusion.fusion_memory_growth, images=(2, 4), labels=50, width=8, m=32),
    "fusion-memory": partial(fusion.fusion_memory, images=4, labels=50, width=8, m=32),
    "label-side-per-step": partial(label_side.label_side_per_step, 5, 4, micro_batches=2, width=8, d_l=6),
    "label-side-order": partial(label_side.label_side_order, 5, width=8, d_l=6),
    "training-step-cpu": partial(training_step.training_step_cpu, **NETWORK, rounds=1),
    "metrics": partial(metrics.metrics, 50, 3),
    "metrics-in-a-second": partial(metrics.metrics_in_a_second, 50, 3),
    "plan-a-million": partial(planning.plan_a_million, 100, 300),
    "plan-a-million-memory": partial(planning.plan_a_million_memory, 100, 300),
    "shard-one-worker": partial(sharding.shard_one_worker, 2_000_000),
    "shard-all-cores": partial(sharding.shard_all_cores, 2_000_000),
    "loader-and-decoding": partial(reading.loader_and_decoding, 2_000_000),
    "loader-and-pillow": partial(reading.loader_and_pillow, 2_000_000),
    "loader-random-order": partial(reading.loader_random_order, 2_000_000),
    "loader-memory": partial(reading.loader_memory, 2_000_000),
    "attribution-error": partial(attribution.attribution_error, **NETWORK, labels=3),
}
ON_A_GPU = {"training-step-gpu", "training-step-gpu-rate"}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, measure in SMALL.items():
        monkeypatch.setitem(BENCHMARKS, name, replace(BENCHMARKS[name], measure=measure))
    for name in ON_A_GPU:
        monkeypatch.setitem(BENCHMARKS, name, replace(BENCHMARKS[name], measure=no_gpu))


def no_gpu() -> Measured:
    raise NotRun("no GPU on this machine")


@pytest.mark.usefixtures("small")
@pytest.mark.slow
def test_every_benchmark_gives_a_row_of_the_table_and_an_object_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert set(BENCHMARKS) == SMALL.keys() | ON_A_GPU
    main([], out=tmp_path / "build" / "bench.json")
    written = json.loads((tmp_path / "build" / "bench.json").read_text())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "ours", "baseline", "unit", "ratio", "target", "met"]
    assert [line.split()[0] for line in lines[1:]] == list(BENCHMARKS) == [row["name"] for row in written]
    for row in written:
        assert set(FIELDS) <= row.keys()
        if row["name"] in ON_A_GPU:
            assert row["ratio"] is row["met"] is None and row["note"] == "no GPU on this machine"
            continue
        better, worse = (row["ours"], row["baseline"])[:: 1 if row["higher_is_better"] else -1]
        assert row["ratio"] == pytest.approx(better / worse) and math.isfinite(row["ratio"])
        assert row["met"] is (None if row["target"] is None else row["ratio"] >= row["target"])


@pytest.mark.weighty
@pytest.mark.usefixtures("small")
def test_only_the_named_benchmarks_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main(["metrics", "folded-head"], out=tmp_path / "bench.json")
    assert [row["name"] for row in json.loads((tmp_path / "bench.json").read_text())] == [
        "metrics",
        "folded-head",
    ]
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_an_unknown_name_is_refused_with_the_known_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as refusal:
        main(["folded-heads"], out=tmp_path / "bench.json")
    assert refusal.value.code == 2
    message = capsys.readouterr().err
    assert "'folded-heads'" in message and ", ".join(BENCHMARKS) in message
    assert not list(tmp_path.iterdir())


def test_the_list_names_each_benchmark_and_what_it_measures(capsys: pytest.CaptureFixture[str]):
    main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(BENCHMARKS)
    assert all(len(line.split()) > 3 for line in lines)


def test_all_forms_of_the_fusion_give_the_same_scores():
    forms = (fusion.score_in_a_loop, fusion.score_per_label, fusion.score_at_once)
    ours = fusion.step(fusion.score_as_we_do, 3, 5, 8, 4)()
    for form in forms:
        torch.testing.assert_close(fusion.step(form, 3, 5, 8, 4)(), ours)


def test_peak_memory_counts_tensors_that_exist_at_the_same_time():
    """By hand: a, b, their sum and its double, of 400 bytes each."""
    a, b = torch.ones(100), torch.ones(100)

    def run() -> None:
        total = a + b
        for _ in range(3):
            total = total * 2

    assert fusion.peak_memory(run) == 4 * 400


def test_times_are_medians_of_functions_that_take_turns():
    calls: list[str] = []
    now = 0.0

    def function(name: str, seconds: list[float]) -> Callable[[], None]:
        def run() -> None:
            nonlocal now
            calls.append(name)
            now += seconds.pop(0)

        return run

    a, b = function("a", [9, 1, 5, 2]), function("b", [9, 7, 7, 8])
    assert in_turns(a, b, rounds=3, clock=lambda: now) == [2, 7]
    assert "".join(calls) == "ab" + "ababab"
