"""The loader: batches of decoded images for one worker, decoded in advance by threads.

torchvision's decoder and resize release the GIL, so threads suffice and no image is copied between processes.
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
MAX_IMAGES_PER_TASK = 4  # several, because each task briefly holds up the decoding threads


@dataclass(frozen=True)
class Batch:
    """One worker's slice of a global batch.

    images: uint8 [b, 3, S, S]; targets: int8 [b, C] of 1, 0, -1 (unknown); weights: float32 [b], 0 for
    padding; total_weight: the number of samples in the global batch, over all workers and without padding;
    rows: int64 [b], the samples' rows in the split.
    """

    images: Tensor
    targets: Tensor
    weights: Tensor
    total_weight: int
    rows: np.ndarray


@dataclass(frozen=True)
class LoaderState:
    """The position of a loader in training: the samples of *epoch* before *position* are done.

    It is the same for all workers, and valid for any number of workers and any batch size. *fingerprint*
    is the dataset's.
    """

    fingerprint: str
    epoch: int
    position: int


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Reads a split in a reproducible order, as worker *rank* of *world_size*.

    It yields a :class:`Batch` per global batch: this worker's slice of b = ⌈batch_size / world_size⌉ samples.
    Slices that would be shorter are padded with samples of weight 0.

    Args:
        split: A split, as :meth:`Dataset.split` returns it.
        fingerprint: The dataset's fingerprint, ``dataset.manifest.fingerprint``, which seeds the order.
        image_size: The side S of the square that images are resized to, in pixels.
        batch_size: The number of samples in a global batch, over all workers.
        seed: The seed of the order and of the random views.
        rank: This worker's number, from 0.
        world_size: The number of workers.
        threads: The number of threads that decode images in this worker.
        augmentation: How images are varied in training; :meth:`in_order` does not vary them.
        pin: Put images in pinned memory, so that they can be copied to a GPU while it computes.

    Raises:
        InputError: A size or number is out of range, or *split* is the name of a split.
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
            raise InputError(f"`split` {self.split!r} is a name; give dataset.split({self.split!r})")
        for name in ("image_size", "batch_size", "world_size", "threads"):
            if getattr(self, name) < 1:
                raise InputError(f"`{name}` {getattr(self, name)}: 1 or more was expected")
        if not 0 <= self.rank < self.world_size:
            raise InputError(
                f"`rank` {self.rank}: with `world_size` {self.world_size}, "
                f"ranks are 0 to {self.world_size - 1}"
            )

    @property
    def steps(self) -> int:
        """The number of global batches in one epoch."""
        return steps_per_epoch(len(self.split), self.batch_size)

    def training_epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield every sample once, in the order of the epoch, each in a random view."""
        return self.resume(LoaderState(self.fingerprint, epoch, 0))

    def state(self, epoch: int, steps: int) -> LoaderState:
        """Return the loader's state after the first *steps* batches of an epoch."""
        return LoaderState(self.fingerprint, epoch, min(steps * self.batch_size, len(self.split)))

    def resume(self, state: LoaderState) -> Iterator[Batch]:
        """Yield the rest of an epoch: every sample that is not done according to *state*, once.

        Raises:
            InputError: The state belongs to another dataset.
        """
        return self._batches(self.order(state), view_of_epoch=state.epoch, first=state.position)

    def order(self, state: LoaderState) -> np.ndarray:
        """Return all rows of the split in the order of the state's epoch, int64 [N].

        Raises:
            InputError: The state belongs to another dataset.
        """
        if state.fingerprint != self.fingerprint:
            raise InputError(
                f"{self.split.dataset}: the state to resume from belongs to another dataset "
                f"({state.fingerprint[:12]}, not {self.fingerprint[:12]}); resume with the dataset it is from"
            )
        return epoch_order(self.fingerprint, self.seed, state.epoch, len(self.split))

    def in_order(self) -> Iterator[Batch]:
        """Yield every sample once, in index order, each squashed to the square."""
        return self._batches(np.arange(len(self.split)), view_of_epoch=None)

    def _batches(self, order: np.ndarray, view_of_epoch: int | None, first: int = 0) -> Iterator[Batch]:
        targets = torch.from_numpy(self.split.targets)
        with ThreadPoolExecutor(self.threads, thread_name_prefix="loader") as pool:
            ahead: deque[tuple[Batch, list[Future[None]]]] = deque()
            try:
                for batch_slice in batch_slices(order, self.batch_size, self.rank, self.world_size, first):
                    batch = self._allocate(batch_slice, targets)
                    views = list(zip(batch_slice.rows.tolist(), batch.images, strict=True))
                    per_task = max(1, min(MAX_IMAGES_PER_TASK, len(views) // (2 * self.threads)))
                    tasks = [
                        pool.submit(self._fill, views[start : start + per_task], view_of_epoch)
                        for start in range(0, len(views), per_task)
                    ]
                    ahead.append((batch, tasks))
                    if len(ahead) > BATCHES_AHEAD:
                        yield _when_filled(*ahead.popleft())
                while ahead:
                    yield _when_filled(*ahead.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _allocate(self, batch_slice: BatchSlice, targets: Tensor) -> Batch:
        """Return a batch whose images are uninitialised memory."""
        shape = (len(batch_slice.rows), 3, self.image_size, self.image_size)
        with torch.inference_mode(False):  # other threads must be allowed to write into the tensor
            images = torch.empty(
                shape,
                dtype=torch.uint8,
                pin_memory=self.pin,
                memory_format=torch.channels_last,  # as images are decoded, and as the backbone expects them
            )
        return Batch(
            images=images,
            targets=targets[batch_slice.rows],
            weights=torch.from_numpy(batch_slice.weights),
            total_weight=batch_slice.total_weight,
            rows=batch_slice.rows,
        )

    def _fill(self, views: list[tuple[int, Tensor]], epoch: int | None) -> None:
        """Decode rows and write each one's view into its place in the batch."""
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


def _when_filled(batch: Batch, tasks: "list[Future[None]]") -> Batch:
    """Wait for all images of a batch at once: each wait briefly holds up the decoding threads."""
    wait(tasks)
    for task in tasks:
        task.result()
    return batch
