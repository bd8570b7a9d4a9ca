"""Batches of decoded pictures for one worker, decoded ahead by threads.

torchvision's decoder and resize release the GIL, so threads serve and nothing is copied between
processes.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lglm_core import seeds
from lglm_core.dataset.reader import Split
from lglm_core.errors import InputError
from lglm_core.images.codec import UnreadableImage, decode
from lglm_core.images.transforms import Augmentation, squash
from lglm_core.loading.order import BatchSlice, batch_slices, epoch_order, steps_per_epoch

BATCHES_AHEAD = 3
MOST_AT_ONCE = 4  # pictures that a thread is handed; each time costs the decoding threads a turn


@dataclass(frozen=True)
class Batch:
    """One worker's part of a global batch.

    images: uint8 [b, 3, S, S]; targets: int8 [b, C] of 1, 0, -1 (unknown); weights: float32 [b], 0 for
    padding; total_weight: real samples in the global batch, over all workers; rows: int64 [b] of the split.
    """

    images: Tensor
    targets: Tensor
    weights: Tensor
    total_weight: int
    rows: np.ndarray


@dataclass(frozen=True)
class LoaderState:
    """Where in which dataset's training a loader is: the samples of *epoch* before *position* are done.

    It tells of all workers together, and holds for any number of them and any batch size.
    """

    fingerprint: str
    epoch: int
    position: int


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Reads a split in a pure order; *rank* of *world_size* takes its share of every global batch.

    What it yields are :class:`Batch`: of b = ⌈batch_size / world_size⌉ samples each, also the last, which is
    filled up with samples of weight 0.

    Args:
        split: What :meth:`Dataset.split` returns.
        fingerprint: The dataset's, ``dataset.manifest.fingerprint``: on it and *seed* the order depends.
        image_size: The side S of the square that pictures are given in, in pixels.
        batch_size: Samples in a global batch, that of all workers together.
        seed: Of the order, and of the random views.
        rank: This worker's number, from 0.
        world_size: How many workers there are.
        threads: That decode pictures, in this worker.
        augmentation: How pictures are varied in training; in order they are as they are.
        pin: Give the pictures in pinned memory, from which they are copied to a GPU while it computes.

    Raises:
        InputError: a size or number that makes no sense, or a split's name in place of the split.
    """

    split: Split
    fingerprint: str
    image_size: int
    batch_size: int
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    threads: int = 2
    augmentation: Augmentation = field(default_factory=Augmentation)
    pin: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.split, str):
            raise InputError(f"split {self.split!r} is a name; give dataset.split({self.split!r})")
        for name in ("image_size", "batch_size", "world_size", "threads"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: 1 or more was expected")
        if not 0 <= self.rank < self.world_size:
            raise InputError(
                f"rank {self.rank}: with world_size {self.world_size}, ranks are 0 to {self.world_size - 1}"
            )

    @property
    def steps(self) -> int:
        """Global batches in one epoch."""
        return steps_per_epoch(len(self.split), self.batch_size)

    def training_epoch(self, epoch: int) -> Iterator[Batch]:
        """Every sample once, in the epoch's own order, each in a random view."""
        return self.resume(LoaderState(self.fingerprint, epoch, 0))

    def state(self, epoch: int, steps: int) -> LoaderState:
        """Return where training is after *steps* batches of an epoch that was begun at its beginning."""
        return LoaderState(self.fingerprint, epoch, min(steps * self.batch_size, len(self.split)))

    def resume(self, state: LoaderState) -> Iterator[Batch]:
        """Go on within an epoch: every sample that *state* does not count as done, once.

        Raises:
            InputError: the state is of another dataset.
        """
        return self._batches(self.order(state), view_of_epoch=state.epoch, first=state.position)

    def order(self, state: LoaderState) -> np.ndarray:
        """Return all rows of the split in the order of the state's epoch, int64 [N].

        Raises:
            InputError: the state is of another dataset.
        """
        if state.fingerprint != self.fingerprint:
            raise InputError(
                f"{self.split.dataset}: the state to go on from is of another dataset "
                f"({state.fingerprint[:12]}, not {self.fingerprint[:12]})"
            )
        return epoch_order(self.fingerprint, self.seed, state.epoch, len(self.split))

    def in_order(self) -> Iterator[Batch]:
        """Every sample once, in index order, squashed to the square."""
        return self._batches(np.arange(len(self.split)), view_of_epoch=None)

    def _batches(self, order: np.ndarray, view_of_epoch: int | None, first: int = 0) -> Iterator[Batch]:
        targets = torch.from_numpy(self.split.targets)
        with ThreadPoolExecutor(self.threads, thread_name_prefix="loader") as pool:
            ahead: deque[tuple[Batch, list[Future[None]]]] = deque()
            try:
                for batch_slice in batch_slices(order, self.batch_size, self.rank, self.world_size, first):
                    batch = self._empty(batch_slice, targets)
                    views = list(zip(batch_slice.rows.tolist(), batch.images, strict=True))
                    several = max(1, min(MOST_AT_ONCE, len(views) // (2 * self.threads)))
                    tasks = [
                        pool.submit(self._fill, views[start : start + several], view_of_epoch)
                        for start in range(0, len(views), several)
                    ]
                    ahead.append((batch, tasks))
                    if len(ahead) > BATCHES_AHEAD:
                        yield _filled(*ahead.popleft())
                while ahead:
                    yield _filled(*ahead.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _empty(self, batch_slice: BatchSlice, targets: Tensor) -> Batch:
        """A batch whose pictures are still to be filled in."""
        shape = (len(batch_slice.rows), 3, self.image_size, self.image_size)
        with torch.inference_mode(False):  # else the threads might not write into it
            images = torch.empty(
                shape,
                dtype=torch.uint8,
                pin_memory=self.pin,
                memory_format=torch.channels_last,  # as pictures are decoded, and as the backbone wants them
            )
        return Batch(
            images=images,
            targets=targets[batch_slice.rows],
            weights=torch.from_numpy(batch_slice.weights),
            total_weight=batch_slice.total_weight,
            rows=batch_slice.rows,
        )

    def _fill(self, views: list[tuple[int, Tensor]], epoch: int | None) -> None:
        """Make the views of some rows where they belong in their batch."""
        for row, view in views:
            self._make_view(row, epoch, view)

    def _make_view(self, row: int, epoch: int | None, view: Tensor) -> None:
        try:
            image = decode(self.split.read_image(row))
        except UnreadableImage as error:
            raise self.split.undecodable(row, error) from error
        if epoch is None:
            squash(image, self.image_size, view)
        else:
            rng = seeds.rng("view", self.seed, epoch, row)
            self.augmentation.view(image, self.image_size, rng, view)


def _filled(batch: Batch, tasks: "list[Future[None]]") -> Batch:
    """Wait for a batch's pictures; once for all, as each time costs the decoding threads a turn."""
    wait(tasks)
    for task in tasks:
        task.result()
    return batch
