"""Encoded images → features, scores, tags: the model as everything after training uses it."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lglm_core.images.codec import UnreadableImage, decode
from lglm_core.images.transforms import squash
from lglm_core.model.bundle import Bundle, load_bundle
from lglm_core.model.config import Pooling
from lglm_core.model.fold import fold
from lglm_core.model.head import pool

BYTES = (bytes, bytearray, memoryview)


@dataclass(frozen=True)
class Predictions:
    """What became of a list of encoded images; n ≤ of them could be read.

    ``features`` float32 [n, D], ``scores`` probabilities float32 [n, C], ``read`` the positions of those n
    in the list, ``errors`` the reason for every other position.
    """

    features: np.ndarray
    scores: np.ndarray
    read: tuple[int, ...]
    errors: dict[int, UnreadableImage]


class Tagger:
    """A model for use: folded to backbone and one linear layer where its head folds, else as it is.

    The feature of a picture is the pooled one that the head reads, or the maxima of the feature map.
    """

    def __init__(self, bundle: Bundle, device: torch.device, *, threads: int = 2) -> None:
        model = bundle.model.eval().to(device)
        self.backbone = model.backbone.to(memory_format=torch.channels_last)
        self.head = model.head
        self.folded = fold(model.head) if model.head.config.foldable else None
        self.pooling: Pooling = getattr(model.head.image_side, "pooling", "max")
        self.labels = bundle.labels
        self.thresholds = np.array(bundle.thresholds, dtype=np.float32)
        self.preprocessing = bundle.preprocessing
        self.device = device
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tagger")

    @classmethod
    def load(cls, model: str | os.PathLike[str], *, threads: int = 2) -> "Tagger":
        """Load a model room, a folder or an address, fold it, and put it on the GPU if there is one."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(load_bundle(model), device, threads=threads)

    @torch.inference_mode()
    def predict(self, images: Sequence[bytes]) -> Predictions:
        """Decode and score encoded images; one that cannot be read is reported, never raised.

        Raises:
            TypeError: what is given is no list, or holds something else than bytes.
        """
        images = _listed(images)
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
            width = (0, self.backbone.width), (0, len(self.labels))
            return Predictions(np.empty(width[0], np.float32), np.empty(width[1], np.float32), (), errors)
        pixels = self.preprocessing.normalise(torch.stack(views).to(self.device))
        maps = self.backbone(pixels)
        features = pool(maps, self.pooling)
        logits = self.folded(features) if self.folded is not None else self.head(maps).logits
        scores = logits.sigmoid()
        return Predictions(features.float().cpu().numpy(), scores.float().cpu().numpy(), tuple(read), errors)

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


def _listed(images: Sequence[bytes]) -> list[bytes]:
    """Refuse one picture without a list around it, whose bytes are numbers, and what is no bytes."""
    alone = isinstance(images, (*BYTES, str, os.PathLike))
    listed = [] if alone else list(images)
    if odd := [images] if alone else [data for data in listed if not isinstance(data, BYTES)]:
        raise TypeError(
            "a list of encoded pictures was expected, such as [open('photo.jpg', 'rb').read()]; "
            f"found {type(odd[0]).__name__}{'' if alone else ' in it'}"
        )
    return listed
