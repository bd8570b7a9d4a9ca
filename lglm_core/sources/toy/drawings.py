"""The drawings of the toy dataset's objects, as polygons in a unit box."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""The corners of a polygon, one (x, y) per row."""


Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""


class Mark(NamedTuple):
    """One filled polygon, and the tone of its object that fills it."""

    tone: str
    points: Points


def _poly(tone: str, *xy: float) -> Mark:
    return Mark(tone, np.array(xy, dtype=np.float64).reshape(-1, 2))


def _rect(tone: str, left: float, top: float, right: float, bottom: float) -> Mark:
    return _poly(tone, left, top, right, top, right, bottom, left, bottom)


def _oval(tone: str, x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 360) -> Mark:
    """Return an ellipse, or its segment between two angles in degrees, clockwise from the right."""
    return Mark(tone, arc(x, y, rx, ry, start, end))


def _band(tone: str, x: float, y: float, rx: float, ry: float, start: float, end: float) -> Mark:
    """Return a thick arc, such as a handle or a smile; its inner edge is at 60% of its radii."""
    inner = arc(x, y, 0.6 * rx, 0.6 * ry, start, end)
    return Mark(tone, np.concatenate([arc(x, y, rx, ry, start, end), inner[::-1]]))


def arc(x: float, y: float, rx: float, ry: float, start: float, end: float) -> Points:
    """Return 25 points of an ellipse, between two angles in degrees, clockwise from the right."""
    angles = np.radians(np.linspace(start, end, 25))
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)


def _rays(tone: str, x: float, y: float, inner: float, outer: float, count: int) -> Mark:
    """Return a star with *count* points between two radii."""
    angles = np.pi * np.arange(2 * count) / count
    radii = np.where(np.arange(2 * count) % 2, inner, outer)
    return Mark(tone, np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1))


class Drawing(NamedTuple):
    """How one kind of object looks, and where it can be in a scene."""

    supercategory: str
    aspect: float
    """Width divided by height."""
    place: str
    """Its place in a scene: "high", on the "ground", "afloat", or "under" the horizon."""
    heights: tuple[float, float]
    """The smallest and largest height, as fractions of the image's height."""
    marks: tuple[Mark, ...]
    """Its polygons, those at the back first, in the tones "main", "other", "pale" and "deep"."""


BOAT = (
    _rect("deep", 0.46, 0.0, 0.5, 0.72),
    _poly("other", 0.53, 0.03, 0.96, 0.62, 0.53, 0.62),
    _poly("pale", 0.53, 0.34, 0.755, 0.34, 0.86, 0.48, 0.53, 0.48),
    _poly("main", 0.42, 0.14, 0.42, 0.62, 0.1, 0.62),
    _poly("main", 0.0, 0.7, 1.0, 0.7, 0.82, 1.0, 0.2, 1.0),
    _poly("pale", 0.04, 0.76, 0.96, 0.76, 0.92, 0.83, 0.09, 0.83),
)


FISH = (
    _poly("other", 0.7, 0.5, 1.0, 0.05, 0.92, 0.5, 1.0, 0.95),
    _poly("other", 0.28, 0.2, 0.45, 0.0, 0.66, 0.1, 0.6, 0.3),
    _oval("main", 0.4, 0.52, 0.4, 0.4),
    _band("deep", 0.12, 0.52, 0.22, 0.42, -55, 55),
    _poly("pale", 0.47, 0.14, 0.55, 0.17, 0.55, 0.87, 0.47, 0.9),
    _poly("pale", 0.61, 0.2, 0.67, 0.26, 0.67, 0.78, 0.61, 0.84),
    _oval("pale", 0.16, 0.42, 0.075, 0.12),
    _oval("deep", 0.15, 0.42, 0.04, 0.065),
)


LIGHTHOUSE = (
    _poly("main", 0.28, 0.28, 0.72, 0.28, 0.9, 1.0, 0.1, 1.0),
    _poly("pale", 0.24, 0.42, 0.76, 0.42, 0.79, 0.56, 0.21, 0.56),
    _poly("pale", 0.17, 0.7, 0.83, 0.7, 0.86, 0.84, 0.14, 0.84),
    _rect("deep", 0.14, 0.25, 0.86, 0.3),
    _rect("pale", 0.3, 0.12, 0.7, 0.25),
    _rect("deep", 0.47, 0.12, 0.53, 0.25),
    _poly("other", 0.22, 0.13, 0.5, 0.0, 0.78, 0.13),
    _rect("deep", 0.4, 0.88, 0.6, 1.0),
)


BIRD = (
    _poly("main", 0.68, 0.6, 1.0, 0.42, 0.97, 0.56, 1.0, 0.7),
    _oval("main", 0.46, 0.64, 0.32, 0.22),
    _oval("main", 0.2, 0.5, 0.14, 0.18),
    _poly("deep", 0.09, 0.45, -0.02, 0.54, 0.09, 0.59),
    _poly("other", 0.3, 0.58, 0.42, 0.18, 0.66, 0.0, 0.7, 0.22, 0.66, 0.46, 0.56, 0.66),
    _poly("pale", 0.42, 0.56, 0.52, 0.26, 0.62, 0.2, 0.56, 0.52),
    _oval("pale", 0.17, 0.45, 0.045, 0.06),
    _oval("deep", 0.16, 0.45, 0.025, 0.035),
)


KITE = (
    _poly("deep", 0.5, 0.6, 0.56, 0.74, 0.44, 0.86, 0.52, 1.0, 0.48, 1.0, 0.38, 0.86, 0.5, 0.74),
    _poly("other", 0.53, 0.74, 0.7, 0.66, 0.7, 0.82),
    _poly("other", 0.42, 0.86, 0.24, 0.78, 0.24, 0.94),
    _poly("main", 0.5, 0.0, 0.96, 0.26, 0.5, 0.7, 0.04, 0.26),
    _poly("other", 0.5, 0.0, 0.96, 0.26, 0.5, 0.26),
    _poly("other", 0.5, 0.26, 0.5, 0.7, 0.04, 0.26),
    _poly("deep", 0.485, 0.0, 0.515, 0.0, 0.515, 0.7, 0.485, 0.7),
    _poly("deep", 0.04, 0.245, 0.96, 0.245, 0.96, 0.275, 0.04, 0.275),
)


CLOUD = (
    _oval("main", 0.22, 0.66, 0.22, 0.34),
    _oval("main", 0.5, 0.46, 0.27, 0.46),
    _oval("main", 0.77, 0.64, 0.23, 0.36),
    _rect("main", 0.2, 0.7, 0.8, 1.0),
    _band("pale", 0.47, 0.46, 0.2, 0.34, 180, 285),
    _band("pale", 0.2, 0.66, 0.15, 0.22, 170, 270),
    _rect("other", 0.2, 0.86, 0.8, 0.93),
)


SUN = (
    _rays("other", 0.5, 0.5, 0.34, 0.5, 12),
    _oval("main", 0.5, 0.5, 0.32, 0.32),
    _oval("deep", 0.39, 0.44, 0.035, 0.05),
    _oval("deep", 0.61, 0.44, 0.035, 0.05),
    _band("deep", 0.5, 0.52, 0.17, 0.16, 15, 165),
)


CAR = (
    _poly("main", 0.16, 0.44, 0.3, 0.04, 0.68, 0.04, 0.84, 0.44),
    _poly("pale", 0.24, 0.42, 0.34, 0.13, 0.47, 0.13, 0.47, 0.42),
    _poly("pale", 0.52, 0.42, 0.52, 0.13, 0.65, 0.13, 0.76, 0.42),
    _poly("main", 0.02, 0.46, 0.12, 0.4, 0.9, 0.4, 0.99, 0.5, 1.0, 0.8, 0.0, 0.8),
    _rect("other", 0.0, 0.6, 1.0, 0.67),
    _oval("deep", 0.23, 0.79, 0.115, 0.21),
    _oval("deep", 0.77, 0.79, 0.115, 0.21),
    _oval("pale", 0.23, 0.79, 0.05, 0.09),
    _oval("pale", 0.77, 0.79, 0.05, 0.09),
)


HOUSE = (
    _rect("deep", 0.7, 0.06, 0.82, 0.36),
    _rect("main", 0.1, 0.42, 0.9, 1.0),
    _poly("other", 0.0, 0.46, 0.5, 0.0, 1.0, 0.46),
    _rect("deep", 0.56, 0.62, 0.76, 1.0),
    _rect("pale", 0.2, 0.58, 0.44, 0.82),
    _rect("deep", 0.305, 0.58, 0.335, 0.82),
    _rect("deep", 0.2, 0.685, 0.44, 0.715),
    _oval("pale", 0.5, 0.28, 0.08, 0.08),
)


TREE = (
    _poly("deep", 0.43, 0.5, 0.57, 0.5, 0.62, 1.0, 0.38, 1.0),
    _oval("main", 0.26, 0.46, 0.26, 0.2),
    _oval("main", 0.74, 0.46, 0.26, 0.2),
    _oval("main", 0.5, 0.26, 0.32, 0.26),
    _oval("main", 0.5, 0.48, 0.3, 0.2),
    *(_oval("other", x, y, 0.06, 0.045) for x, y in ((0.3, 0.4), (0.52, 0.2), (0.7, 0.44), (0.5, 0.52))),
)


FLOWER = (
    _rect("deep", 0.46, 0.4, 0.54, 1.0),
    _poly("deep", 0.5, 0.94, 0.16, 0.84, 0.06, 0.64, 0.34, 0.7),
    _poly("deep", 0.5, 0.84, 0.84, 0.76, 0.94, 0.56, 0.66, 0.62),
    *(
        _oval("main", 0.5 + 0.29 * np.cos(turn), 0.29 + 0.175 * np.sin(turn), 0.2, 0.12)
        for turn in np.radians(range(30, 390, 60))
    ),
    _oval("other", 0.5, 0.29, 0.19, 0.115),
    _oval("pale", 0.5, 0.29, 0.09, 0.055),
)


CUP = (
    _band("main", 0.74, 0.56, 0.26, 0.24, -90, 90),
    _poly("main", 0.0, 0.26, 0.76, 0.26, 0.68, 1.0, 0.08, 1.0),
    _poly("other", 0.025, 0.48, 0.735, 0.48, 0.71, 0.7, 0.05, 0.7),
    _oval("pale", 0.38, 0.27, 0.38, 0.09),
    _oval("deep", 0.38, 0.28, 0.31, 0.06),
    *(
        _poly("pale", x, 0.18, x - 0.06, 0.1, x + 0.03, 0.0, x + 0.07, 0.0, x, 0.1, x + 0.05, 0.18)
        for x in (0.24, 0.48)
    ),
)


LAMP = (
    _rect("deep", 0.46, 0.44, 0.54, 0.92),
    _oval("other", 0.5, 0.66, 0.14, 0.1),
    _oval("deep", 0.5, 1.0, 0.34, 0.12, 180, 360),
    _poly("main", 0.27, 0.0, 0.73, 0.0, 1.0, 0.46, 0.0, 0.46),
    _poly("pale", 0.38, 0.06, 0.48, 0.06, 0.44, 0.4, 0.22, 0.4),
    _poly("other", 0.04, 0.39, 0.96, 0.39, 1.0, 0.46, 0.0, 0.46),
)


CLOCK = (
    _oval("other", 0.22, 0.16, 0.2, 0.15),
    _oval("other", 0.78, 0.16, 0.2, 0.15),
    _poly("deep", 0.2, 0.84, 0.3, 0.9, 0.2, 1.0, 0.1, 1.0),
    _poly("deep", 0.8, 0.84, 0.7, 0.9, 0.8, 1.0, 0.9, 1.0),
    _oval("main", 0.5, 0.54, 0.46, 0.44),
    _oval("pale", 0.5, 0.54, 0.35, 0.335),
    *(
        _oval("deep", 0.5 + 0.28 * np.cos(turn), 0.54 + 0.27 * np.sin(turn), 0.028, 0.028)
        for turn in np.radians(range(0, 360, 45))
    ),
    _poly("deep", 0.47, 0.56, 0.49, 0.3, 0.53, 0.3, 0.54, 0.56),
    _poly("deep", 0.48, 0.52, 0.7, 0.6, 0.68, 0.64, 0.48, 0.58),
)


DRAWINGS: dict[str, Drawing] = {
    "boat": Drawing("vehicle", 1.0, "afloat", (0.36, 0.5), BOAT),
    "fish": Drawing("animal", 1.6, "under", (0.2, 0.3), FISH),
    "lighthouse": Drawing("building", 0.48, "ground", (0.42, 0.58), LIGHTHOUSE),
    "bird": Drawing("animal", 1.3, "high", (0.22, 0.32), BIRD),
    "kite": Drawing("toy", 0.75, "high", (0.36, 0.48), KITE),
    "cloud": Drawing("weather", 1.7, "high", (0.2, 0.3), CLOUD),
    "sun": Drawing("weather", 1.0, "high", (0.28, 0.4), SUN),
    "car": Drawing("vehicle", 1.9, "ground", (0.22, 0.32), CAR),
    "house": Drawing("building", 1.0, "ground", (0.36, 0.5), HOUSE),
    "tree": Drawing("plant", 0.75, "ground", (0.4, 0.56), TREE),
    "flower": Drawing("plant", 0.6, "ground", (0.34, 0.48), FLOWER),
    "cup": Drawing("kitchen", 1.1, "ground", (0.26, 0.36), CUP),
    "lamp": Drawing("furniture", 0.7, "ground", (0.36, 0.5), LAMP),
    "clock": Drawing("furniture", 0.95, "ground", (0.3, 0.42), CLOCK),
}


LABELS: tuple[str, ...] = tuple(DRAWINGS)
"""The labels, in the order of their COCO category ids 1, 2, 3, …"""
