"""The tagger, which turns encoded images into features, scores and tags with a trained model."""

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
    """Features and scores of those n images of a list that could be read, and the errors of the others.

    ``features`` are float32 [n, D], ``scores`` are probabilities, float32 [n, C]. ``read`` holds the
    positions of the n images in the list, ``errors`` the reason for every other position.
    """

    features: np.ndarray
    scores: np.ndarray
    read: tuple[int, ...]
    errors: dict[int, UnreadableImage]


class Tagger:
    """A trained model that scores and tags pictures; a head that folds runs as one linear layer.

    The feature of a picture is the pooled feature that the head reads; for a head that reads the whole
    feature map, it holds the maxima of the map.

    Args:
        bundle: The loaded model.
        device: Where the model runs.
        threads: Number of threads that decode pictures.
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

    def __repr__(self) -> str:
        size = self.preprocessing.image_size
        return (
            f"Tagger({self.head.name} on {self.backbone.name}, {len(self.labels)} labels, "
            f"{size} × {size}, {self.device})"
        )

    @classmethod
    def load(cls, model: str | os.PathLike[str], *, threads: int = 2) -> "Tagger":
        """Load the model room at a folder or an address, and move the model to the GPU if there is one.

        Args:
            model: Folder or address of a model room.
            threads: Number of threads that decode pictures.

        Raises:
            InputError: there is no complete model room, or one of its files does not belong to the others.
            DamageError: the weights are not the ones that were written.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(load_bundle(model), device, threads=threads)

    @torch.inference_mode()
    def predict(self, images: Sequence[bytes]) -> Predictions:
        """Decode and score encoded images; an image that cannot be read is listed under ``errors``.

        Raises:
            TypeError: *images* is no list, or holds something other than bytes.
        """
        images = _check_images(images)
        squares: list[Tensor] = []
        read: list[int] = []
        errors: dict[int, UnreadableImage] = {}
        for position, decoded in enumerate(self._pool.map(self._decode, images)):
            if isinstance(decoded, Tensor):
                squares.append(decoded)
                read.append(position)
            else:
                errors[position] = decoded
        if not squares:
            no_features = np.empty((0, self.backbone.width), np.float32)
            no_scores = np.empty((0, len(self.labels)), np.float32)
            return Predictions(no_features, no_scores, (), errors)
        pixels = self.preprocessing.normalise(torch.stack(squares).to(self.device))
        maps = self.backbone(pixels)
        features = pool(maps, self.pooling)
        logits = self.folded(features) if self.folded is not None else self.head(maps).logits
        scores = logits.sigmoid()
        return Predictions(features.float().cpu().numpy(), scores.float().cpu().numpy(), tuple(read), errors)

    def tags(self, scores: np.ndarray) -> list[list[int]]:
        """Return, for each row of scores [n, C], the columns at or above their thresholds, highest first."""
        return [
            [
                int(column)
                for column in np.argsort(-row, kind="stable")
                if row[column] >= self.thresholds[column]
            ]
            for row in scores
        ]

    def _decode(self, data: bytes) -> Tensor | UnreadableImage:
        try:
            return squash(decode(data), self.preprocessing.image_size)
        except UnreadableImage as error:
            return error


def _check_images(images: Sequence[bytes]) -> list[bytes]:
    """Return *images* as a list of bytes.

    A single picture is refused rather than read as a list, because the items of bytes are numbers.

    Raises:
        TypeError: *images* is a single picture, or holds something other than bytes.
    """
    is_single = isinstance(images, (*BYTES, str, os.PathLike))
    as_list = [] if is_single else list(images)
    if wrong := [images] if is_single else [data for data in as_list if not isinstance(data, BYTES)]:
        raise TypeError(
            "a list of encoded pictures was expected, such as [open('photo.jpg', 'rb').read()]; "
            f"found {type(wrong[0]).__name__}{'' if is_single else ' in it'}"
        )
    return as_list
