"""What happens to decoded pixels before the network sees them, on uint8 tensors."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

CROP_SCALES = (1.0, 0.875, 0.75, 0.66, 0.5)


def squash(image: Tensor, size: int) -> Tensor:
    """Resize uint8 [3, height, width] to [3, size, size], bilinear: the field's test view."""
    return F.resize(image, [size, size], antialias=True)


def random_view(image: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """Crop at one of the field's scales and offsets, squash to *size*, and flip half of the time.

    Source: MultiScaleCrop of temporal segment networks (Wang et al., ECCV 2016), as the
    multi-label field uses it: sides of 1 to 0.5 times the shorter one, neighbouring scales paired,
    at one of 13 fixed offsets.
    """
    height, width = image.shape[-2:]
    base = min(height, width)
    first = int(rng.integers(len(CROP_SCALES)))
    second = int(np.clip(first + rng.integers(-1, 2), 0, len(CROP_SCALES) - 1))
    crop_height, crop_width = (max(1, round(base * CROP_SCALES[scale])) for scale in (first, second))
    down, right = OFFSETS[rng.integers(len(OFFSETS))]
    top, left = round(down * (height - crop_height)), round(right * (width - crop_width))
    view = squash(image[:, top : top + crop_height, left : left + crop_width], size)
    return view.flip(-1) if rng.random() < 0.5 else view


OFFSETS = (
    *((down, right) for down in (0.0, 0.5, 1.0) for right in (0.0, 0.5, 1.0)),
    *((down, right) for down in (0.25, 0.75) for right in (0.25, 0.75)),
)


@dataclass(frozen=True)
class Preprocessing:
    """What a model expects of its pictures: the square's side in pixels, channel means and deviations."""

    image_size: int
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # ImageNet's, which torchvision's weights expect
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def normalise(self, images: Tensor) -> Tensor:
        """Turn uint8 [B, 3, S, S] into standardised float32 on the same device, channels last."""
        scale = torch.tensor(self.std, device=images.device).view(1, 3, 1, 1) * 255
        shift = torch.tensor(self.mean, device=images.device).view(1, 3, 1, 1) * 255
        return ((images.float() - shift) / scale).contiguous(memory_format=torch.channels_last)
