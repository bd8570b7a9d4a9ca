"""Encoded images → features, scores, tags: the folded model, as everything after training uses it."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lglm_core.data.images import UnreadableImage, decode
from lglm_core.data.transforms import Preprocessing, squash
from lglm_core.labels import LabelVocabulary
from lglm_core.model.backbone import Backbone
from lglm_core.model.bundle import load_bundle
from lglm_core.model.fold import fold


@dataclass(frozen=True)
class Recognition:
    """What became of a list of encoded images; n ≤ of them could be read.

    ``features`` float32 [n, D], ``scores`` probabilities float32 [n, C], ``read`` the positions of those n
    in the list, ``errors`` the reason for every other position.
    """

    features: np.ndarray
    scores: np.ndarray
    read: tuple[int, ...]
    errors: dict[int, UnreadableImage]


class Tagger:
    """A backbone and one linear layer, with labels and thresholds."""

    def __init__(
        self,
        backbone: Backbone,
        head: nn.Linear,
        labels: LabelVocabulary,
        thresholds: Sequence[float],
        preprocessing: Preprocessing,
        *,
        threads: int = 2,
    ) -> None:
        self.backbone = backbone.eval()
        self.head = head
        self.labels = labels
        self.thresholds = np.array(thresholds, dtype=np.float32)
        self.preprocessing = preprocessing
        self.device = head.weight.device
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tagger")

    @classmethod
    def load(cls, model: str, *, threads: int = 2) -> "Tagger":
        """Load a model room, fold it, and put it on the GPU if there is one."""
        bundle = load_bundle(model)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        backbone = bundle.model.backbone.to(device).to(memory_format=torch.channels_last)
        return cls(
            backbone,
            fold(bundle.model.head).to(device),
            bundle.labels,
            bundle.thresholds,
            bundle.preprocessing,
            threads=threads,
        )

    @torch.inference_mode()
    def recognise(self, images: Sequence[bytes]) -> Recognition:
        """Decode and score encoded images; one that cannot be read is reported, never raised."""
        views: list[Tensor] = []
        read: list[int] = []
        errors: dict[int, UnreadableImage] = {}
        for position, view in enumerate(self._pool.map(self._view, images)):
            if isinstance(view, Tensor):
                views.append(view)
                read.append(position)
            else:
                errors[position] = view
        if not views:
            width = (0, self.head.in_features), (0, self.head.out_features)
            return Recognition(np.empty(width[0], np.float32), np.empty(width[1], np.float32), (), errors)
        pixels = self.preprocessing.normalise(torch.stack(views).to(self.device))
        features = self.backbone(pixels)
        scores = self.head(features).sigmoid()
        return Recognition(features.float().cpu().numpy(), scores.float().cpu().numpy(), tuple(read), errors)

    def tags(self, scores: np.ndarray) -> list[list[int]]:
        """Columns of the labels at or above their thresholds, highest score first, per row of [n, C]."""
        return [
            [
                int(column)
                for column in np.argsort(-row, kind="stable")
                if row[column] >= self.thresholds[column]
            ]
            for row in scores
        ]

    def _view(self, data: bytes) -> Tensor | UnreadableImage:
        try:
            return squash(decode(data), self.preprocessing.image_size)
        except UnreadableImage as error:
            return error
