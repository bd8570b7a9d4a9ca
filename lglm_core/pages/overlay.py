"""Laying a signed map over a picture: orange where it is positive, blue where it is negative.

The picture becomes grey, so that all colour is the map's; how much of the colour covers the grey grows
linearly with the value, and nothing covers it at 0. The two colours are equally light, and apart for every
kind of colour blindness.
"""

import io

import numpy as np
from PIL import Image

POSITIVE = (227, 98, 0)
NEGATIVE = (10, 120, 235)
COVERING = 0.85  # of the strongest colour
GREYS = (80.0, 240.0)  # black and white of the picture, drawn together: colour shows on neither
LEGEND_GREY = 160.0
LEGEND_STOPS = 9


def tint(grey: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Return colours, uint8 [..., 3], of a picture's greys, float [...], 0 to 255.

    Args:
        strength: float [...]; -1 and 1 are the strongest colours, and stand for all beyond.
    """
    strength = np.clip(strength, -1, 1)[..., None]
    covering = COVERING * np.abs(strength)
    colour = np.where(strength > 0, np.array(POSITIVE, float), np.array(NEGATIVE, float))
    mixed = grey[..., None] * (1 - covering) + colour * covering
    return mixed.round().astype(np.uint8)


def overlay(picture: Image.Image, values: np.ndarray, limit: float) -> Image.Image:
    """Lay a map over a picture.

    Args:
        picture: RGB, as large as the result shall be.
        values: float [h, w], whatever the picture's shape; its cells divide the picture evenly, and between
            their centres it is interpolated.
        limit: The value, at either sign, of the strongest colour.
    """
    spread = Image.fromarray(values.astype(np.float32)).resize(picture.size, Image.Resampling.BICUBIC)
    luminance = np.asarray(picture.convert("L"), dtype=float) / 255
    grey = GREYS[0] + (GREYS[1] - GREYS[0]) * luminance
    return Image.fromarray(tint(grey, np.asarray(spread, dtype=float) / (limit or 1.0)))


def legend_colours() -> list[str]:
    """Return the colours from the lowest to the highest value, evenly spaced, as CSS writes them."""
    strengths = np.linspace(-1, 1, LEGEND_STOPS)
    colours = tint(np.full(LEGEND_STOPS, LEGEND_GREY), strengths)
    return [f"rgb({red} {green} {blue})" for red, green, blue in colours]


def png(image: Image.Image) -> bytes:
    """Encode a picture without loss."""
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue()
