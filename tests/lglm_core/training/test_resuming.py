"""A run that is interrupted and resumed ends as if it had never stopped."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lglm_core.errors import RunError
from lglm_core.training.loop import EpochProgress
from lglm_core.training.run import TrainingRun, load_trained
from tests.lglm_core.training.runs import (
    FEATURES,
    StartRun,
    Values,
    finish,
    history_without_times,
    same_weights,
)

pytestmark = pytest.mark.weighty


def stop_and_resume(start: Callable[[], TrainingRun], file: Path, after: int) -> TrainingRun:
    stopped = start()
    for end in stopped.epochs():
        if end.epoch + 1 == after:
            stopped.save(file)
            break
    torch.manual_seed(12345)  # as another process would have another state
    resumed = start()
    resumed.resume(file)
    return finish(resumed)


class Stopped(Exception):
    """A run that ends within an epoch."""


def stop_within_and_resume(start: Callable[[], TrainingRun], file: Path, steps: int) -> TrainingRun:
    """Stop after *steps* steps of the second epoch, and resume."""
    stopped = start()

    def on_checkpoint(progress: EpochProgress) -> None:
        stopped.save(file)
        if progress.state.epoch == 1:
            assert progress.steps == steps
            raise Stopped

    with pytest.raises(Stopped):
        for _ in stopped.epochs(checkpoint_steps=steps, on_checkpoint=on_checkpoint):
            pass
    torch.manual_seed(12345)  # as another process would have another state
    resumed = start()
    resumed.resume(file)
    taken: list[tuple[int, int]] = []
    for _ in resumed.epochs(lambda epoch, step: taken.append((epoch, step.number))):
        pass
    all_steps = [(epoch, step) for epoch in (1, 2) for step in range(resumed.training.steps)]
    assert taken == all_steps[steps:]
    return resumed


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("stop_at_and_resume", [stop_and_resume, stop_within_and_resume])
def test_resuming_equals_never_having_stopped(
    undisturbed: TrainingRun, start: StartRun, tmp_path: Path, stop_at_and_resume: Callable, at: int
):
    resumed = stop_at_and_resume(start, tmp_path / "checkpoint.pt", at)
    assert same_weights(resumed.model, undisturbed.model)
    assert history_without_times(resumed) == history_without_times(undisturbed)


def test_an_interrupted_epoch_reports_all_of_its_training_time(start: StartRun, tmp_path: Path):
    run = start()
    run.progress = EpochProgress(run.training.state(0, 1), 1, 1.0, 0.0, 1e-3, 1000.0)
    run.save(tmp_path / "checkpoint.pt")
    resumed = start()
    resumed.resume(tmp_path / "checkpoint.pt")
    end = next(resumed.epochs())
    assert 1000 < end.seconds < 1100 and end.images_per_s < 0.01


def test_time_spent_on_checkpoints_is_not_training_time(start: StartRun):
    run = start(epochs=1)
    end = next(run.epochs(checkpoint_steps=2, on_checkpoint=lambda _: time.sleep(3)))
    assert end.seconds < 3


def test_resuming_at_the_end_of_an_epoch_resets_the_progress_within_one(
    undisturbed: TrainingRun, start: StartRun, tmp_path: Path
):
    run = start()
    next(run.epochs(checkpoint_steps=1))
    run.save(tmp_path / "checkpoint.pt")
    run.progress = EpochProgress(run.training.state(0, 1), 1, 1.0, 0.0, 1e-3, 1.0)
    run.resume(tmp_path / "checkpoint.pt")
    assert run.progress is None
    assert history_without_times(finish(run)) == history_without_times(undisturbed)


def test_a_closed_form_has_no_checkpoints_within_an_epoch(start: StartRun):
    run = start("ridge", {"ridge": 0.1}, **FEATURES)
    checkpoints: list[EpochProgress] = []
    for _ in run.epochs(checkpoint_steps=1, on_checkpoint=checkpoints.append):
        pass
    assert checkpoints == [] and run.training.steps > 1


def test_checkpoints_within_epochs_change_nothing(undisturbed: TrainingRun, start: StartRun):
    run = start()
    checkpoints: list[tuple[int, int]] = []

    def on_checkpoint(progress: EpochProgress) -> None:
        checkpoints.append((progress.state.epoch, progress.steps))

    for _ in run.epochs(checkpoint_steps=1, on_checkpoint=on_checkpoint):
        assert run.progress is None
    steps = run.training.steps
    assert checkpoints == [(epoch, step) for epoch in range(3) for step in range(1, steps)]
    assert same_weights(run.model, undisturbed.model)
    assert history_without_times(run) == history_without_times(undisturbed)


RESUMED: dict[str, tuple[str, Values, Values]] = {
    "averaged model and one cycle": ("probe", {}, {"recipe": "modern", "ema": 0.9}),
    "momentum and step": ("lglm", {}, {"recipe": "paper"}),
    "features computed once": ("ml-gcn", {}, FEATURES),
    "closed form over several epochs": ("ridge", {"ridge": 0.1}, FEATURES),
}


@pytest.mark.parametrize("case", RESUMED)
def test_resuming_any_kind_of_run_equals_never_having_stopped(start: StartRun, tmp_path: Path, case: str):
    variant, options, values = RESUMED[case]

    def begin() -> TrainingRun:
        return start(variant, options, **values)

    whole = finish(begin())
    stopped = [stop_and_resume(begin, tmp_path / "checkpoint.pt", after=1)]
    if variant != "ridge":  # it has no checkpoints within an epoch
        stopped.append(stop_within_and_resume(begin, tmp_path / "checkpoint.pt", steps=2))
    for resumed in stopped:
        assert same_weights(resumed.model, whole.model) and same_weights(resumed.trained, whole.trained)
        assert history_without_times(resumed) == history_without_times(whole)


def test_a_finished_run_has_nothing_left_to_do(undisturbed: TrainingRun, start: StartRun, tmp_path: Path):
    undisturbed.save(tmp_path / "checkpoint.pt")
    run = start()
    run.resume(tmp_path / "checkpoint.pt")
    assert list(run.epochs()) == [] and same_weights(run.model, undisturbed.model)


def test_weights_and_history_can_be_read_alone(undisturbed: TrainingRun, start: StartRun, tmp_path: Path):
    undisturbed.save(tmp_path / "checkpoint.pt")
    model = start(seed=5).model
    assert load_trained(model, tmp_path / "checkpoint.pt") == undisturbed.history
    assert same_weights(model, undisturbed.model)


def test_a_loss_that_is_no_longer_finite_reaches_no_checkpoint(start: StartRun):
    kept: list[EpochProgress] = []
    run = start(lr=1e30, backbone_lr=1e30, batch_size=2)
    with pytest.raises(RunError, match="no longer finite in epoch 1"):
        for _ in run.epochs(checkpoint_steps=1, on_checkpoint=kept.append):
            pass
    assert len(kept) < run.training.steps - 1
    assert all(np.isfinite(progress.classification_loss) for progress in kept)
