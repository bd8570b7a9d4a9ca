"""Overlays of a signed map on a picture: orange where the map is positive, blue where it is negative.

The picture is drawn in grey, so that all colour comes from the map. The opacity of the colour grows linearly
with the value and is 0 where the value is 0. The two colours are equally light, and people with any kind of
colour blindness can tell them apart.
"""

import io

import numpy as np
from PIL import Image

POSITIVE = (227, 98, 0)
NEGATIVE = (10, 120, 235)
OPACITY = 0.85  # of the strongest colour
GREYS = (80.0, 240.0)  # for black and white: colour would not show on pure black or white
LEGEND_GREY = 160.0
LEGEND_STOPS = 9


def tint(grey: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Colour the grey values of a picture, and return uint8 [..., 3].

    Args:
        grey: float [...], 0 to 255.
        strength: float [...]; -1 and 1 give the strongest colours, as do values beyond them.
    """
    strength = np.clip(strength, -1, 1)[..., None]
    opacity = OPACITY * np.abs(strength)
    colour = np.where(strength > 0, np.array(POSITIVE, float), np.array(NEGATIVE, float))
    mixed = grey[..., None] * (1 - opacity) + colour * opacity
    return mixed.round().astype(np.uint8)


def overlay(picture: Image.Image, values: np.ndarray, limit: float) -> Image.Image:
    """Lay a map over a picture, and return an image of the picture's size.

    Args:
        picture: The picture, in RGB.
        values: The map, float [h, w] of any shape; its cells divide the picture evenly, and values between
            their centres are interpolated.
        limit: The absolute value that gets the strongest colour.
    """
    resized = Image.fromarray(values.astype(np.float32)).resize(picture.size, Image.Resampling.BICUBIC)
    luminance = np.asarray(picture.convert("L"), dtype=float) / 255
    grey = GREYS[0] + (GREYS[1] - GREYS[0]) * luminance
    return Image.fromarray(tint(grey, np.asarray(resized, dtype=float) / (limit or 1.0)))


def legend_colours() -> list[str]:
    """Return the colours from the lowest to the highest value, evenly spaced, in CSS notation."""
    strengths = np.linspace(-1, 1, LEGEND_STOPS)
    colours = tint(np.full(LEGEND_STOPS, LEGEND_GREY), strengths)
    return [f"rgb({red} {green} {blue})" for red, green, blue in colours]


def png(image: Image.Image) -> bytes:
    """Encode a picture as PNG, without loss."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
