"""Features of a frozen backbone, computed once; then batches hold feature maps in place of pictures."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from lglm_core import seeds
from lglm_core.images.transforms import Augmentation
from lglm_core.loading.loader import Batch, Loader, LoaderState
from lglm_core.loading.order import batch_slices
from lglm_core.model.backbone import Backbone
from lglm_core.model.config import Pooling
from lglm_core.model.head import pool

MOST_BYTES = 4 << 30  # of a split's features; beyond it they are computed anew in every epoch
PLAIN_VIEWS = Augmentation(crop=False)


@dataclass(frozen=True)
class Features:
    """Feature maps of a split: float32 [2, N, D, h, w], as the pictures are and mirrored.

    Where a head reads the pooled feature alone they hold that, as maps of one cell.
    """

    maps: Tensor

    @classmethod
    @torch.inference_mode()
    def compute(
        cls, backbone: Backbone, loader: Loader, pooling: Pooling | None, device: torch.device
    ) -> "Features":
        """Run the backbone, in eval mode, once over a split and once over its mirror images.

        Args:
            loader: Each worker's own; they share the work and exchange what they computed.
            pooling: How to pool right away; None keeps the maps.
        """
        backbone.eval()
        rows, parts = [], []
        for batch in loader.in_order():
            real = batch.weights.bool()
            images = backbone.preprocessing(loader.image_size).normalise(batch.images[real].to(device))
            both = torch.stack([backbone(images), backbone(images.flip(-1))])
            if pooling is not None:
                both = pool(both.flatten(0, 1), pooling).unflatten(0, (2, -1))[..., None, None]
            rows.append(torch.from_numpy(batch.rows)[real])
            parts.append(both.float().cpu().contiguous())
        found = [(torch.cat(rows), torch.cat(parts, dim=1))]
        if loader.world_size > 1:
            gathered: list = [None] * loader.world_size
            dist.all_gather_object(gathered, found[0])
            found = gathered
        shape = found[0][1].shape
        maps = torch.empty(2, len(loader.split), *shape[2:])
        for part_rows, part in found:
            maps[:, part_rows] = part
        return cls(maps)


def fits(backbone: Backbone, loader: Loader, pooling: Pooling | None) -> bool:
    """Tell whether a split's features may be kept in memory."""
    cells = 1 if pooling is not None else (loader.image_size // backbone.stride + 1) ** 2
    return 2 * len(loader.split) * backbone.width * cells * 4 <= MOST_BYTES


@dataclass(frozen=True, kw_only=True)
class FeatureLoader:
    """The batches of a :class:`Loader` with plain views, with feature maps [b, D, h, w] in place of pictures.

    Args:
        wants_mirror: Give the maps of mirror images behind them in training, [2b, D, h, w].
    """

    loader: Loader
    features: Features
    wants_mirror: bool = False

    def resume(self, state: LoaderState) -> Iterator[Batch]:
        """Every sample that *state* does not count as done, in the same order and flipped as the loader's."""
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
        """Every sample once, in index order, as it is."""
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
