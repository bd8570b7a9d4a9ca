"""Drawn scenes in COCO's own format: a dataset that needs no download.

Objects keep company for a reason (boats with fish, cups with clocks), and colours are drawn at random
from one palette for all of them, so that a model has to look at shapes.

Inside, a scene is a list of polygons in pixels and each object a list of polygons in a unit box, x to the
right and y down. What is in a scene is decided without drawing it, hence annotations cost no rendering.
"""

import io
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lglm_core.data import storage

Points = NDArray[np.float64]
"""Corners of a polygon, one (x, y) per row."""
Colour = tuple[int, int, int]

WIDTH, HEIGHT = 192, 144  # pixels
SUPERSAMPLING = 2  # drawn this many times larger, then averaged: smooth edges
JPEG_QUALITY = 90
TEST_IMAGES = 24  # BROKEN is one of them
BROKEN = "broken.jpg"
SCENES_PER_SEED = 1_000_000  # so that no image id, hence no file name, belongs to two seeds

HUES: tuple[Colour, ...] = (
    (216, 84, 70),
    (230, 136, 62),
    (218, 174, 66),
    (122, 166, 84),
    (54, 152, 138),
    (74, 136, 196),
    (98, 112, 190),
    (146, 100, 172),
    (208, 104, 146),
    (168, 122, 98),
)
WHITE: Colour = (255, 255, 255)
INK: Colour = (30, 28, 48)
LEVELS = ("light", "middle", "dark")


class Mark(NamedTuple):
    """One filled polygon, and which of the tones of its object fills it."""

    tone: str
    points: Points


# --- The drawings ---


def _poly(tone: str, *xy: float) -> Mark:
    return Mark(tone, np.array(xy, dtype=np.float64).reshape(-1, 2))


def _rect(tone: str, left: float, top: float, right: float, bottom: float) -> Mark:
    return _poly(tone, left, top, right, top, right, bottom, left, bottom)


def _oval(tone: str, x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 360) -> Mark:
    """An ellipse around (x, y), or the part of it between two angles in degrees, clockwise from the right."""
    return Mark(tone, _arc(x, y, rx, ry, start, end))


def _band(tone: str, x: float, y: float, rx: float, ry: float, start: float, end: float) -> Mark:
    """A thick arc, as of a handle or a smile; its inner edge lies at 60% of its radii."""
    inner = _arc(x, y, 0.6 * rx, 0.6 * ry, start, end)
    return Mark(tone, np.concatenate([_arc(x, y, rx, ry, start, end), inner[::-1]]))


def _arc(x: float, y: float, rx: float, ry: float, start: float, end: float) -> Points:
    angles = np.radians(np.linspace(start, end, 25))
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)


def _rays(tone: str, x: float, y: float, inner: float, outer: float, count: int) -> Mark:
    """A star with *count* points between two radii."""
    angles = np.pi * np.arange(2 * count) / count
    radii = np.where(np.arange(2 * count) % 2, inner, outer)
    return Mark(tone, np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1))


class Drawing(NamedTuple):
    """How one kind of object looks: at the back first, in tones "main", "other", "pale" and "deep"."""

    supercategory: str
    aspect: float
    """Width over height."""
    place: str
    """Where it belongs: "high", "ground" (it stands), "afloat" or "under" the horizon."""
    heights: tuple[float, float]
    """Smallest and largest height, as a fraction of the image's height."""
    marks: tuple[Mark, ...]


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

# --- What a scene holds ---


class Setting(NamedTuple):
    """A kind of place: which objects meet there, and where its horizon lies."""

    companions: dict[str, float]
    """How readily each label turns up here; only the proportions matter."""
    horizon: tuple[float, float]
    """Its highest and lowest place, as a fraction of the image's height from the top."""


SETTINGS: dict[str, Setting] = {
    "sea": Setting(
        {"boat": 3, "fish": 2.5, "lighthouse": 2.8, "bird": 1, "cloud": 0.5, "sun": 0.5}, (0.45, 0.6)
    ),
    "street": Setting(
        {"car": 3, "house": 2.2, "tree": 1.4, "lighthouse": 0.3, "flower": 0.3, "cloud": 0.4}, (0.5, 0.62)
    ),
    "kitchen": Setting({"cup": 3, "clock": 2.6, "lamp": 2.6, "flower": 1, "fish": 0.6}, (0.5, 0.62)),
    "meadow": Setting(
        {"tree": 2, "flower": 2.5, "house": 1, "bird": 1, "sun": 0.8, "cloud": 0.4, "kite": 0.6}, (0.45, 0.6)
    ),
    "sky": Setting({"kite": 2.4, "cloud": 2.2, "sun": 1.8, "bird": 1.8, "tree": 0.3}, (0.8, 0.9)),
}
COUNT_CHANCES = (0.01, 0.10, 0.26, 0.34, 0.20, 0.09)  # of a scene with 0, 1, 2, … objects
GUEST_CHANCE = 0.15  # that one object of a scene has no reason to be there
TWIN_CHANCE = 0.15  # that the second object is of the same kind as the first
TRIES = 16  # places tried for each object; the freest one wins

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""


class Thing(NamedTuple):
    """One object of a scene, ready to be drawn."""

    label: str
    fills: tuple[tuple[Colour, Points], ...]
    """Filled polygons in pixels, at the back first."""

    def box(self) -> Box:
        """Return what its polygons span, cut at the edge of the image."""
        corners = np.concatenate([points for _, points in self.fills]).clip(0, (WIDTH, HEIGHT))
        (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        return left, top, right, bottom


class Scene(NamedTuple):
    """Everything that is in one picture, before anything is drawn."""

    backdrop: tuple[tuple[Colour, Points], ...]
    """Filled polygons in pixels, at the back first."""
    things: tuple[Thing, ...]
    """The farthest first."""


def compose(seed: int, index: int) -> Scene:
    """Decide what is in scene *index*: a pure function of its arguments."""
    rng = np.random.default_rng((seed, index))
    name, level = str(rng.choice(list(SETTINGS))), str(rng.choice(LEVELS))
    setting = SETTINGS[name]
    horizon = HEIGHT * float(rng.uniform(*setting.horizon))
    backdrop = tuple(BACKDROPS[name](rng, horizon, *_two_colours(rng, level)))
    boxes: list[Box] = []
    things: list[Thing] = []
    for label in _choose_labels(rng, setting):
        boxes.append(_find_room(rng, DRAWINGS[label], horizon, boxes))
        things.append(_put(rng, label, boxes[-1], level))
    return Scene(backdrop, tuple(sorted(things, key=lambda thing: thing.box()[3])))


def _choose_labels(rng: np.random.Generator, setting: Setting) -> list[str]:
    count = int(rng.choice(len(COUNT_CHANCES), p=COUNT_CHANCES))
    weights = np.array(list(setting.companions.values()))
    drawn = rng.choice(list(setting.companions), len(weights), replace=False, p=weights / weights.sum())
    labels = [str(label) for label in drawn[:count]]
    if labels and rng.random() < GUEST_CHANCE:
        labels[-1] = str(rng.choice(LABELS))
    if len(labels) > 1 and rng.random() < TWIN_CHANCE:
        labels[1] = labels[0]
    return labels


def _find_room(rng: np.random.Generator, drawing: Drawing, horizon: float, taken: list[Box]) -> Box:
    """Try several places for an object and keep the one where it hides the least of the others."""
    roominess = 1.15 - 0.06 * len(taken)  # the first objects are the large ones
    tries = [_propose(rng, drawing, horizon, roominess) for _ in range(TRIES)]
    return min(tries, key=lambda box: sum(_shared_area(box, other) for other in taken))


def _propose(rng: np.random.Generator, drawing: Drawing, horizon: float, scale: float) -> Box:
    height = HEIGHT * scale * float(rng.uniform(*drawing.heights))
    width = height * drawing.aspect * float(rng.uniform(0.9, 1.1))
    left = float(rng.uniform(0.02 * WIDTH, 0.98 * WIDTH - width))
    lowest = 0.97 * HEIGHT - height
    highest, lowest = {
        "high": (0.03 * HEIGHT, max(0.05 * HEIGHT, 0.9 * horizon - height)),
        "afloat": (horizon - 0.8 * height, horizon - 0.55 * height),
        "under": (min(lowest, horizon + 2), lowest),
        "ground": (min(lowest, horizon - 0.85 * height), lowest),
    }[drawing.place]
    top = float(rng.uniform(highest, lowest))
    return left, top, left + width, top + height


def _shared_area(a: Box, b: Box) -> float:
    """Return in square pixels."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


def _put(rng: np.random.Generator, label: str, box: Box, level: str) -> Thing:
    """Fit the drawing of *label* into a box, in colours, a direction and a tilt of its own.

    Args:
        rng: Where the chances come from.
        label: What to draw.
        box: Where; a tilt may reach a little over its edges.
        level: How light the backdrop is, one of LEVELS.
    """
    drawing, tones = DRAWINGS[label], _tones(rng, level)
    middle, size = np.array([box[0] + box[2], box[1] + box[3]]) / 2, (box[2] - box[0], box[3] - box[1])
    degrees = rng.uniform(-4, 4) if drawing.place == "ground" else rng.uniform(-12, 12)
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    facing = (1 if rng.random() < 0.5 else -1, 1)

    def to_pixels(points: Points) -> Points:
        return ((points - 0.5) * facing * size) @ np.array([(cos, sin), (-sin, cos)]) + middle

    return Thing(label, tuple((tones[mark.tone], to_pixels(mark.points)) for mark in drawing.marks))


# --- Colours ---
#
# In every scene and on every object, each hue and each of three levels of lightness is equally likely. The
# average colour histogram is therefore the same whatever a scene holds: no label has colours of its own.


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    """Return colour *a* with *share* of *b* stirred in, in [0, 1]."""
    red, green, blue = (round(x + share * (y - x)) for x, y in zip(a, b, strict=True))
    return red, green, blue


def _two_colours(rng: np.random.Generator, level: str) -> tuple[Colour, Colour]:
    """Draw two hues of one lightness."""
    first, second = rng.choice(len(HUES), size=2, replace=False)
    return _shade(rng, HUES[first], level), _shade(rng, HUES[second], level)


def _shade(rng: np.random.Generator, hue: Colour, level: str) -> Colour:
    if level == "light":
        return _mix(hue, WHITE, float(rng.uniform(0.65, 0.85)))
    if level == "dark":
        return _mix(hue, INK, float(rng.uniform(0.6, 0.75)))
    return hue


def _tones(rng: np.random.Generator, backdrop: str) -> dict[str, Colour]:
    """Draw the colours of an object that stand out against a backdrop of that level, and each other."""
    body, detail = rng.permutation([level for level in LEVELS if level != backdrop])
    main, other = _two_colours(rng, body)
    deep, _ = _two_colours(rng, detail)
    pale, _ = _two_colours(rng, backdrop)
    return {"main": main, "other": other, "deep": deep, "pale": pale}


def _shades(rng: np.random.Generator, colour: Colour) -> Iterator[Colour]:
    """Yield a colour, then shades of it in even steps, all towards white or all towards ink."""
    towards = WHITE if rng.random() < 0.5 else INK
    return (_mix(colour, towards, 0.07 * step) for step in itertools.count())


# --- Backdrops: what lies behind the objects, at the back first ---

Fills = Iterator[tuple[Colour, Points]]


def _block(left: float, top: float, right: float, bottom: float) -> Points:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _sea(rng: np.random.Generator, horizon: float, above: Colour, below: Colour) -> Fills:
    """Rows of waves."""
    yield above, _block(0, 0, WIDTH, HEIGHT)
    x = np.arange(0, WIDTH + 4, 4.0)
    tops = np.linspace(horizon, HEIGHT, 5)[:-1]
    for colour, top in zip(_shades(rng, below), tops, strict=False):
        crests = np.stack([x, top + 2.5 * np.sin(x / 9 + rng.uniform(0, 2 * np.pi))], axis=1)
        yield colour, np.concatenate([crests, [(WIDTH, HEIGHT), (0, HEIGHT)]])


def _street(rng: np.random.Generator, horizon: float, above: Colour, below: Colour) -> Fills:
    """A far skyline, and a road with a dashed line."""
    _, far = itertools.islice(_shades(rng, above), 2)
    _, road, line = itertools.islice(_shades(rng, below), 3)
    yield above, _block(0, 0, WIDTH, HEIGHT)
    for left in np.arange(rng.uniform(-20, 0), WIDTH, 22):
        yield far, _block(left, horizon - rng.uniform(8, 46), left + 20, horizon)
    yield below, _block(0, horizon, WIDTH, HEIGHT)
    kerb = (horizon + HEIGHT) / 2
    yield road, _block(0, kerb, WIDTH, HEIGHT)
    for left in np.arange(rng.uniform(-30, 0), WIDTH, 34):
        yield line, _block(left, kerb + 15, left + 18, kerb + 18)


def _kitchen(rng: np.random.Generator, horizon: float, above: Colour, below: Colour) -> Fills:
    """Striped wallpaper behind a table."""
    _, stripe = itertools.islice(_shades(rng, above), 2)
    _, edge = itertools.islice(_shades(rng, below), 2)
    yield above, _block(0, 0, WIDTH, HEIGHT)
    for left in np.arange(rng.uniform(-20, 0), WIDTH, 24):
        yield stripe, _block(left, 0, left + 12, horizon)
    yield below, _block(0, horizon, WIDTH, HEIGHT)
    yield edge, _block(0, horizon, WIDTH, horizon + 3)


def _meadow(rng: np.random.Generator, horizon: float, above: Colour, below: Colour) -> Fills:
    """Rolling hills."""
    yield above, _block(0, 0, WIDTH, HEIGHT)
    for colour, drop in zip(_shades(rng, below), (0, 14, 40), strict=False):
        yield colour, _arc(rng.uniform(0, WIDTH), horizon + drop + 200, 420, 206, 180, 360)


def _sky(rng: np.random.Generator, horizon: float, above: Colour, below: Colour) -> Fills:
    """Broad bands of light over a low hill."""
    tops = np.linspace(0, horizon, 5)[:-1]
    for colour, top in zip(_shades(rng, above), tops, strict=False):
        yield colour, _block(0, top, WIDTH, HEIGHT)
    yield below, _arc(rng.uniform(0, WIDTH), horizon + 100, 300, 100, 180, 360)


BACKDROPS: dict[str, Callable[[np.random.Generator, float, Colour, Colour], Fills]] = {
    "sea": _sea,
    "street": _street,
    "kitchen": _kitchen,
    "meadow": _meadow,
    "sky": _sky,
}


# --- Files ---


def write_toy_coco(
    root: str, *, samples: int, seed: int, progress: Callable[[int, int], object] | None = None
) -> None:
    """Write the images and annotations of a small COCO; the same arguments give the same bytes.

    Images that are already there are kept, so an interrupted call is completed by calling it again.

    Args:
        root: URL of a folder; gets ``train2017`` (80% of the samples), ``val2017`` (20%), ``test2017`` (24
            images without annotations, of which one, ``broken.jpg``, is cut in half) and ``annotations``.
        samples: Annotated images, train and val together; at least 5, so that both have some.
        seed: Different seeds share neither scenes nor file names.
        progress: Called now and then with the number of images done and their total.
    """
    if not 5 <= samples <= SCENES_PER_SEED - TEST_IMAGES:
        raise ValueError(f"samples is {samples}, expected 5 to {SCENES_PER_SEED - TEST_IMAGES}")
    first_val = samples * 4 // 5
    splits = {
        "train2017": range(first_val),
        "val2017": range(first_val, samples),
        "test2017": range(samples, samples + TEST_IMAGES),
    }
    storage.remove_unfinished(root)
    total, done = samples + TEST_IMAGES, 0
    for split, indices in splits.items():
        for index in indices:
            broken = index == total - 1
            name = BROKEN if broken else _file_name(_image_id(seed, index))
            _draw_unless_there(storage.join(root, split, name), seed, index, broken)
            done += 1
            if progress and (done % 50 == 0 or done == total):
                progress(done, total)
    for split in ("train2017", "val2017"):
        described = json.dumps(_annotations(seed, splits[split]), sort_keys=True)
        storage.write_bytes(storage.join(root, "annotations", f"instances_{split}.json"), described.encode())


def render(scene: Scene) -> Image.Image:
    """Draw a scene, WIDTH by HEIGHT pixels."""
    large = Image.new("RGB", (WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING))
    pen = ImageDraw.Draw(large)
    for colour, points in (*scene.backdrop, *(fill for thing in scene.things for fill in thing.fills)):
        pen.polygon((points * SUPERSAMPLING).ravel().tolist(), fill=colour)
    return large.reduce(SUPERSAMPLING)


def _draw_unless_there(url: str, seed: int, index: int, broken: bool) -> None:
    if storage.is_file(url):
        return
    encoded = io.BytesIO()
    render(compose(seed, index)).save(encoded, "JPEG", quality=JPEG_QUALITY)
    data = encoded.getvalue()
    storage.write_bytes(url, data[: len(data) // 2] if broken else data)


def _image_id(seed: int, index: int) -> int:
    return seed * SCENES_PER_SEED + index + 1


def _file_name(image_id: int) -> str:
    return f"{image_id:012d}.jpg"


def _annotations(seed: int, indices: range) -> dict[str, Any]:
    """Describe a split as COCO's instances files do."""
    return {
        "info": {
            "description": f"Drawn scenes, seed {seed}",
            "url": "",
            "version": "1.0",
            "year": 2017,
            "contributor": "lglm",
            "date_created": "2017/09/01",
        },
        "licenses": [
            {"id": 1, "name": "Public domain", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}
        ],
        "categories": [
            {"id": number, "name": label, "supercategory": DRAWINGS[label].supercategory}
            for number, label in enumerate(LABELS, start=1)
        ],
        "images": [_image(_image_id(seed, index)) for index in indices],
        "annotations": [
            _instance(_image_id(seed, index), number, thing)
            for index in indices
            for number, thing in enumerate(compose(seed, index).things)
        ],
    }


def _image(image_id: int) -> dict[str, Any]:
    return {
        "id": image_id,
        "file_name": _file_name(image_id),
        "width": WIDTH,
        "height": HEIGHT,
        "license": 1,
        "coco_url": "",
        "flickr_url": "",
        "date_captured": "2017-09-01 00:00:00",
    }


def _instance(image_id: int, number: int, thing: Thing) -> dict[str, Any]:
    """Describe one object; its outline is its box."""
    left, top, right, bottom = (round(edge, 2) for edge in thing.box())
    width, height = round(right - left, 2), round(bottom - top, 2)
    return {
        "id": image_id * 10 + number,
        "image_id": image_id,
        "category_id": LABELS.index(thing.label) + 1,
        "bbox": [left, top, width, height],
        "area": round(width * height, 2),
        "iscrowd": 0,
        "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
    }
