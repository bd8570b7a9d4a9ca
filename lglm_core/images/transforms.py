"""Transforms of decoded images: squashing and augmentation of uint8 tensors, and normalisation."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MEAN_COLOUR = [round(255 * channel) for channel in IMAGENET_MEAN]

CROP_SCALES = (1.0, 0.875, 0.75, 0.66, 0.5)
OFFSETS = (
    *((down, right) for down in (0.0, 0.5, 1.0) for right in (0.0, 0.5, 1.0)),
    *((down, right) for down in (0.25, 0.75) for right in (0.25, 0.75)),
)
MAGNITUDE = 9 / 30  # of RandAugment's operations, as a fraction of their maximum


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied; in any case, half of the views are flipped left to right.

    Args:
        crop: Squash a random window of the image; otherwise the whole image.
        rand_augment: The number of RandAugment operations per image; 0: none.
        cutout: The side of the square that is blanked, as a fraction of the view's side; 0: none.
    """

    crop: bool = True
    rand_augment: int = 0
    cutout: float = 0.0

    def view(self, image: Tensor, size: int, rng: np.random.Generator, out: Tensor | None = None) -> Tensor:
        """Return a random view of an image, uint8 [3, size, size].

        Args:
            image: uint8 [3, height, width].
            size: The side of the view, in pixels.
            rng: The only source of randomness.
            out: The tensor to write the view into, channels last; default: a new tensor.
        """
        view = squash(multi_scale_crop(image, rng) if self.crop else image, size, out)
        if rng.random() < 0.5:
            view = view.flip(-1)
        view = rand_augment(view, self.rand_augment, rng)
        view = cutout(view, self.cutout, rng) if self.cutout else view
        return view if out is None else out.copy_(view)


def squash(image: Tensor, size: int, out: Tensor | None = None) -> Tensor:
    """Resize an image to a square with bilinear interpolation: the field's view for evaluation.

    The result equals torchvision's resize with antialiasing, which has no parameter ``out``. On a CPU without
    AVX2 torchvision computes in float, and the two differ by at most 1.

    Args:
        image: uint8 [3, height, width].
        size: The side of the square, in pixels.
        out: The tensor to write the result into, channels last; default: a new tensor.

    Returns:
        uint8 [3, size, size].
    """
    if out is None:
        out = image.new_empty(size, size, 3).permute(2, 0, 1)
    image = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)  # channels last, as images are decoded
    torch.ops.aten._upsample_bilinear2d_aa.out(image[None], [size, size], False, out=out[None])
    return out


def multi_scale_crop(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Return a random window of an image, uint8 [3, height, width], at one of the field's scales and offsets.

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
    return image[:, top : top + crop_height, left : left + crop_width]


def rand_augment(image: Tensor, operations: int, rng: np.random.Generator) -> Tensor:
    """Apply random :data:`OPERATIONS`, drawn with replacement, to an image, uint8 [3, height, width].

    Each has the strength :data:`MAGNITUDE`, in a random direction if it has two.

    Source: Cubuk et al., NeurIPS 2020, arXiv:1909.13719; operations and ranges are torchvision's.
    """
    for _ in range(operations):
        operation = list(OPERATIONS.values())[rng.integers(len(OPERATIONS))]
        image = operation(image, MAGNITUDE if rng.random() < 0.5 else -MAGNITUDE)
    return image


def cutout(image: Tensor, fraction: float, rng: np.random.Generator) -> Tensor:
    """Return a copy of an image, uint8 [3, S, S], in which a square has ImageNet's mean colour.

    The square's side is *fraction* times S pixels. Its centre is a random pixel, so the square may extend
    over the edge.

    Source: DeVries & Taylor 2017, arXiv:1708.04552.
    """
    size = image.shape[-1]
    side = round(fraction * size)
    top, left = rng.integers(size, size=2) - side // 2
    image = image.clone()
    square = image[:, max(top, 0) : top + side, max(left, 0) : left + side]
    square[:] = torch.tensor(MEAN_COLOUR, dtype=torch.uint8).view(3, 1, 1)
    return image


def _shear(image: Tensor, x: float = 0.0, y: float = 0.0) -> Tensor:
    """Shear around the top left corner: shift row d by *x* d to the left, and column d by *y* d up."""
    degrees = [math.degrees(math.atan(slope)) for slope in (x, y)]
    return F.affine(image, 0.0, [0, 0], 1.0, degrees, fill=MEAN_COLOUR, center=[0, 0])


def _translate(image: Tensor, x: float = 0.0, y: float = 0.0) -> Tensor:
    """Move to the right by *x* and down by *y*, fractions of the sides, in whole pixels."""
    height, width = image.shape[-2:]
    return F.affine(image, 0.0, [int(x * width), int(y * height)], 1.0, [0.0, 0.0], fill=MEAN_COLOUR)


def _contrast(image: Tensor, factor: float) -> Tensor:
    """Blend with the mean grey, like torchvision's adjust_contrast.

    torchvision's mean is a float32 sum, whose last bit depends on the number of threads; this one is exact.
    """
    grey = F.rgb_to_grayscale(image).double().mean().float()
    return image.mul(factor).add_(grey, alpha=1 - factor).clamp_(0, 255).to(torch.uint8)


# Each operation takes uint8 [3, height, width] and a level from -1 to 1; 0 is the weakest. Operations with
# only one direction ignore the sign.
OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda image, level: image,
    "shear x": lambda image, level: _shear(image, x=0.3 * level),
    "shear y": lambda image, level: _shear(image, y=0.3 * level),
    "translate x": lambda image, level: _translate(image, x=150 / 331 * level),
    "translate y": lambda image, level: _translate(image, y=150 / 331 * level),
    "rotate": lambda image, level: F.rotate(image, 30 * level, fill=MEAN_COLOUR),
    "brightness": lambda image, level: F.adjust_brightness(image, 1 + 0.9 * level),
    "color": lambda image, level: F.adjust_saturation(image, 1 + 0.9 * level),
    "contrast": lambda image, level: _contrast(image, 1 + 0.9 * level),
    "sharpness": lambda image, level: F.adjust_sharpness(image, 1 + 0.9 * level),
    "posterize": lambda image, level: F.posterize(image, 8 - round(4 * abs(level))),
    "solarize": lambda image, level: F.solarize(image, 255 * (1 - abs(level))),
    "autocontrast": lambda image, level: F.autocontrast(image),
    "equalize": lambda image, level: F.equalize(image),
}


@dataclass(frozen=True)
class Preprocessing:
    """The form of image that a model expects: side of the square in pixels, channel means and deviations."""

    image_size: int
    mean: tuple[float, ...] = IMAGENET_MEAN  # as torchvision's weights expect
    std: tuple[float, ...] = IMAGENET_STD

    def normalise(self, images: Tensor) -> Tensor:
        """Turn uint8 [B, 3, S, S] into standardised float32 on the same device, channels last."""
        scale = torch.tensor(self.std, device=images.device).view(1, 3, 1, 1) * 255
        shift = torch.tensor(self.mean, device=images.device).view(1, 3, 1, 1) * 255
        return ((images.float() - shift) / scale).contiguous(memory_format=torch.channels_last)
