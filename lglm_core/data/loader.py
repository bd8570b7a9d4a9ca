"""Batches of decoded pictures for one worker, decoded ahead by threads.

torchvision's decoder and resize release the GIL, so threads serve and nothing is copied between
processes.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lglm_core.data.dataset import Split
from lglm_core.data.images import UnreadableImage, decode
from lglm_core.data.order import Share, epoch_order, generator, shares, steps_per_epoch
from lglm_core.data.transforms import Augmentation, squash
from lglm_core.errors import DamageError

BATCHES_AHEAD = 3


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


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Reads a split in a pure order; *rank* of *world_size* takes its share of every global batch.

    ``augmentation`` is how pictures are varied in training; in order they are as they are.
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

    @property
    def steps(self) -> int:
        """Global batches in one epoch."""
        return steps_per_epoch(len(self.split), self.batch_size)

    def training_epoch(self, epoch: int) -> Iterator[Batch]:
        """Every sample once, in the epoch's own order, each in a random view."""
        order = epoch_order(self.fingerprint, self.seed, epoch, len(self.split))
        return self._batches(order, view_of_epoch=epoch)

    def in_order(self) -> Iterator[Batch]:
        """Every sample once, in index order, squashed to the square."""
        return self._batches(np.arange(len(self.split)), view_of_epoch=None)

    def _batches(self, order: np.ndarray, view_of_epoch: int | None) -> Iterator[Batch]:
        targets = torch.from_numpy(self.split.targets)
        with ThreadPoolExecutor(self.threads, thread_name_prefix="loader") as pool:
            ahead: deque[tuple[Share, list[Future[Tensor]]]] = deque()
            try:
                for share in shares(order, self.batch_size, self.rank, self.world_size):
                    ahead.append(
                        (share, [pool.submit(self._view, int(row), view_of_epoch) for row in share.rows])
                    )
                    if len(ahead) > BATCHES_AHEAD:
                        yield _collate(*ahead.popleft(), targets)
                while ahead:
                    yield _collate(*ahead.popleft(), targets)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _view(self, row: int, epoch: int | None) -> Tensor:
        try:
            image = decode(self.split.read_image(row))
        except UnreadableImage as error:
            raise DamageError(
                f"{self.split.dataset}: the image {self.split.keys[row]} cannot be decoded: {error}"
            ) from error
        if epoch is None:
            return squash(image, self.image_size)
        return self.augmentation.view(image, self.image_size, generator("view", self.seed, epoch, row))


def _collate(share: Share, views: "list[Future[Tensor]]", targets: Tensor) -> Batch:
    return Batch(
        images=torch.stack([view.result() for view in views]),
        targets=targets[share.rows],
        weights=torch.from_numpy(share.weights),
        total_weight=share.total_weight,
        rows=share.rows,
    )
