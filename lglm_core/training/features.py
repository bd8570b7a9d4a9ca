"""Features of a frozen backbone, computed once; batches then hold feature maps in place of pictures."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from lglm_core import seeds
from lglm_core.loading.loader import Batch, Loader, LoaderState
from lglm_core.loading.order import batch_slices
from lglm_core.model.backbone import Backbone
from lglm_core.model.config import Pooling
from lglm_core.model.head import pool

MAX_BYTES = 4 << 30  # of a split's features; larger features are computed again in every epoch


@dataclass(frozen=True)
class Features:
    """Feature maps of a split, float32 [2, N, D, h, w]: of the pictures and of their mirror images.

    Where the head reads only the pooled feature, that is stored as a map of one cell.
    """

    maps: Tensor

    @classmethod
    @torch.inference_mode()
    def compute(
        cls, backbone: Backbone, loader: Loader, pooling: Pooling | None, device: torch.device
    ) -> "Features":
        """Run the backbone in eval mode once over a split and once over its mirror images.

        Args:
            backbone: The backbone, already on *device*.
            loader: This worker's loader of the split; the workers divide the work and exchange the results.
            pooling: How the maps are pooled before they are kept; None keeps whole maps.
            device: Where the backbone runs.
        """
        backbone.eval()
        rows, chunks = [], []
        for batch in loader.in_order():
            real = batch.weights.bool()
            images = backbone.preprocessing(loader.image_size).normalise(batch.images[real].to(device))
            both = torch.stack([backbone(images), backbone(images.flip(-1))])
            if pooling is not None:
                both = pool(both.flatten(0, 1), pooling).unflatten(0, (2, -1))[..., None, None]
            rows.append(torch.from_numpy(batch.rows)[real])
            chunks.append(both.float().cpu().contiguous())
        by_worker = [(torch.cat(rows), torch.cat(chunks, dim=1))]
        if loader.world_size > 1:
            gathered: list = [None] * loader.world_size
            dist.all_gather_object(gathered, by_worker[0])
            by_worker = gathered
        shape = by_worker[0][1].shape
        maps = torch.empty(2, len(loader.split), *shape[2:])
        for worker_rows, worker_maps in by_worker:
            maps[:, worker_rows] = worker_maps
        return cls(maps)


def fits(backbone: Backbone, loader: Loader, pooling: Pooling | None) -> bool:
    """Return whether a split's features are small enough to be kept in memory."""
    cells = 1 if pooling is not None else (loader.image_size // backbone.stride + 1) ** 2
    return 2 * len(loader.split) * backbone.width * cells * 4 <= MAX_BYTES


@dataclass(frozen=True, kw_only=True)
class FeatureLoader:
    """Yields the batches of a :class:`Loader` with feature maps [b, D, h, w] in place of pictures.

    The loader's training views are the whole pictures, flipped half of the time.

    Args:
        loader: The loader whose order, batches and flips are used.
        features: The features of the loader's split.
        wants_mirror: Whether training batches also hold the maps of the mirror images, [2b, D, h, w], last.
    """

    loader: Loader
    features: Features
    wants_mirror: bool = False

    def resume(self, state: LoaderState) -> Iterator[Batch]:
        """Yield the rest of an epoch after *state*, with the order and the flips of the loader."""
        seed = self.loader.seed
        for batch in self._batches(self.loader.order(state), state.position):
            flipped = [
                int(seeds.rng("view", seed, state.epoch, int(row)).random() < 0.5) for row in batch.rows
            ]
            maps = self.features.maps[flipped, batch.rows]
            if self.wants_mirror:
                maps = torch.cat([maps, self.features.maps[1 - np.array(flipped), batch.rows]])
            yield replace(batch, images=maps)

    def in_order(self) -> Iterator[Batch]:
        """Yield every sample once, in index order and not flipped."""
        for batch in self._batches(np.arange(len(self.loader.split))):
            yield replace(batch, images=self.features.maps[0, batch.rows])

    def _batches(self, order: np.ndarray, first: int = 0) -> Iterator[Batch]:
        targets = torch.from_numpy(self.loader.split.targets)
        loader = self.loader
        for batch_slice in batch_slices(order, loader.batch_size, loader.rank, loader.world_size, first):
            yield Batch(
                images=torch.empty(0),
                targets=targets[batch_slice.rows],
                weights=torch.from_numpy(batch_slice.weights),
                total_weight=batch_slice.total_weight,
                rows=batch_slice.rows,
            )
