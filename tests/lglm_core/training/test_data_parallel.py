"""Two processes that average their gradients train the same weights as one."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from lglm_core.dataset.reader import Dataset
from lglm_core.labels.embeddings import LabelEmbeddings
from lglm_core.training.loop import EpochProgress
from lglm_core.training.run import TrainingRun
from tests.lglm_core.training.runs import (
    FEATURES,
    SQUEEZENET,
    Values,
    finish,
    history_without_times,
    start_run,
)

# Two processes train what one does, in every case.
pytestmark = [pytest.mark.slow, pytest.mark.process]

CASES: dict[str, tuple[str, Values]] = {
    "label side": ("lglm text", FEATURES),
    "label side, micro-batches": ("lglm text", {**FEATURES, "accumulate": 2}),
    "label side and backbone": ("lglm text", {**SQUEEZENET, "batch_size": 5}),
    "label side, clipped gradients": ("lglm text", {**FEATURES, "clip": 0.01, "optimizer": "sgd"}),
    "no label side": ("plain", FEATURES),
    "no label side, micro-batches": ("plain", {**FEATURES, "accumulate": 2}),
    "no label side, and backbone": ("plain", {**SQUEEZENET, "batch_size": 5}),
    "nothing to train on the image side": ("ml-gcn text", FEATURES),
    "mirror images": ("vacit", {**FEATURES, "head_option": ("conditioning=text",)}),
    "an averaged model": ("plain", {**FEATURES, "ema": 0.8}),
    "closed form": ("ridge", {**FEATURES, "head_option": ("ridge=0.1",), "epochs": 2}),
}
WITH_BATCH_STATISTICS = {  # which differ between workers
    "learned graph": ("lglm", {}),
    "counted graph": ("ml-gcn", {"accumulate": 1}),
    "averaged": ("probe", {"ema": 0.9}),
    # Of six validation pictures in batches of four, the second process has none in the last batch.
    "a graph per picture": ("add-gcn", FEATURES),
    "words that attend to the picture": ("ss-grl", FEATURES),
}
RESUMED = ("ridge", {**FEATURES, "head_option": ("ridge=0.1",), "epochs": 3})
WITHIN: dict[str, Values] = {"within": {}, "within, dropout": {"feature_dropout": 0.3}}
REPOSITORY = Path(__file__).parents[3]
NEARLY = {"rtol": 1e-3, "atol": 2e-5}  # Adam's first steps are as long for tiny gradients as for large ones


def result(run: TrainingRun) -> dict[str, Any]:
    return {"weights": run.trained.state_dict(), "history": history_without_times(run)}


def work(rank: int, folder: str, dataset: str) -> None:
    """Train every case in one of two processes, and save the results."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    opened = Dataset.open(dataset)
    embeddings = LabelEmbeddings.load(f"{folder}/embeddings.parquet")

    def start(variant: str, values: Values, options: Values | None = None) -> TrainingRun:
        return start_run(
            opened,
            embeddings,
            variant,
            options or {},
            rank=rank,
            world_size=2,
            parallel=DistributedDataParallel,
            **values,
        )

    for name, (variant, values) in {**CASES, **WITH_BATCH_STATISTICS}.items():
        torch.save(result(finish(start(variant, values))), Path(folder, f"{name} {rank}.pt"))

    diverging = start(*CASES["label side"])
    with torch.no_grad():  # as rounding on unlike GPUs does after some time
        for parameter in diverging.model.head.label_side.parameters():
            parameter += 1e-3 * rank
    torch.save(result(finish(diverging)), Path(folder, f"diverging {rank}.pt"))

    stopped = start(*RESUMED)
    next(stopped.epochs())
    if rank == 0:  # as Ray Train does
        stopped.save(Path(folder, "checkpoint.pt"))
    dist.barrier()
    resumed = start(*RESUMED)
    resumed.resume(Path(folder, "checkpoint.pt"))
    torch.save(result(finish(resumed)), Path(folder, f"resumed {rank}.pt"))

    for name, options in WITHIN.items():
        variant, values = CASES["label side"]

        def begin(variant: str = variant, options: Values = options, values: Values = values) -> TrainingRun:
            return start(variant, values, options)

        torch.save(result(finish(begin())), Path(folder, f"{name}, undisturbed {rank}.pt"))
        stopped = begin()

        def keep(progress: EpochProgress, run: TrainingRun = stopped, name: str = name) -> None:
            if rank == 0 and progress.state.epoch == 1:
                run.save(Path(folder, f"{name}.pt"))

        for _ in stopped.epochs(checkpoint_steps=2, on_checkpoint=keep):
            pass
        dist.barrier()
        resumed = begin()
        resumed.resume(Path(folder, f"{name}.pt"))
        torch.save(result(finish(resumed)), Path(folder, f"{name} {rank}.pt"))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(
    learnable: Dataset, shape_embeddings: LabelEmbeddings, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with the results of every case on both processes."""
    folder = tmp_path_factory.mktemp("two")
    shape_embeddings.save(f"{folder}/embeddings.parquet")
    command = [sys.executable, "-m", "tests.lglm_core.training.test_data_parallel"]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(folder), learnable.url], cwd=REPOSITORY, stderr=subprocess.PIPE
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            errors = process.communicate(timeout=250)[1].decode()
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return folder


def load(folder: Path, name: str, rank: int = 0) -> dict[str, Any]:
    return dict(torch.load(folder / f"{name} {rank}.pt", weights_only=True))


def assert_nearly(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    for name, tensor in ours["weights"].items():
        torch.testing.assert_close(
            tensor, theirs["weights"][name], msg=lambda m, n=name: f"{n}: {m}", **NEARLY
        )
    for one, other in zip(ours["history"], theirs["history"], strict=True):
        np.testing.assert_allclose(np.array(one, float), np.array(other, float), rtol=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_the_same_as_one(
    two: Path, learnable: Dataset, shape_embeddings: LabelEmbeddings, case: str
):
    variant, values = CASES[case]
    run = start_run(learnable, shape_embeddings, variant, {}, **values)
    before = {name: parameter.detach().clone() for name, parameter in run.model.head.named_parameters()}
    alone = result(finish(run))
    assert not any(torch.equal(alone["weights"][f"head.{name}"], tensor) for name, tensor in before.items())
    assert_nearly(load(two, case), alone)


@pytest.mark.parametrize("case", [*CASES, *WITH_BATCH_STATISTICS, "diverging", "resumed", *WITHIN])
def test_all_processes_end_with_the_same_weights_and_history(two: Path, case: str):
    first, second = load(two, case, 0), load(two, case, 1)
    assert repr(first["history"]) == repr(second["history"])
    assert [name for name, t in first["weights"].items() if not torch.equal(t, second["weights"][name])] == []


@pytest.mark.parametrize("case", WITHIN)
def test_two_processes_stopped_within_an_epoch_end_as_if_they_had_never_stopped(two: Path, case: str):
    resumed, undisturbed = load(two, case), load(two, f"{case}, undisturbed")
    assert repr(resumed["history"]) == repr(undisturbed["history"])
    for name, tensor in undisturbed["weights"].items():
        assert torch.equal(tensor, resumed["weights"][name]), name


def test_one_process_resumes_where_two_were_stopped_within_an_epoch(
    two: Path, learnable: Dataset, shape_embeddings: LabelEmbeddings
):
    variant, values = CASES["label side"]
    alone = start_run(learnable, shape_embeddings, variant, {}, **values)
    resumed = start_run(learnable, shape_embeddings, variant, {}, **values)
    resumed.resume(two / "within.pt")
    assert resumed.progress is not None and resumed.progress.steps == 2 and len(resumed.history) == 1
    assert_nearly(result(finish(resumed)), result(finish(alone)))


def test_an_interrupted_closed_form_is_the_same_as_of_one_process(
    two: Path, learnable: Dataset, shape_embeddings: LabelEmbeddings
):
    """The checkpoint of the first process holds the sums of all processes."""
    variant, values = RESUMED
    alone = result(finish(start_run(learnable, shape_embeddings, variant, {}, **values)))
    assert_nearly(load(two, "resumed"), alone)


if __name__ == "__main__":
    work(int(sys.argv[1]), sys.argv[2], sys.argv[3])
