"""The scenes of the toy dataset: which objects are where, in which colours, before which backdrop.

On every object, each hue and each of three levels of lightness is equally likely. The average colour
histogram is therefore the same for all labels: colours do not tell which objects a scene holds.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from lglm_core.sources.toy.drawings import DRAWINGS, LABELS, Colour, Drawing, Points, arc

WIDTH, HEIGHT = 192, 144  # pixels


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


class Setting(NamedTuple):
    """A kind of place: the objects that appear together there, and the position of its horizon."""

    companions: dict[str, float]
    """The relative frequency of each label here; only the proportions matter."""
    horizon: tuple[float, float]
    """The horizon's highest and lowest position, as fractions of the image's height from the top."""


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


COUNT_CHANCES = (0.01, 0.10, 0.26, 0.34, 0.20, 0.09)  # that a scene has 0, 1, 2, … objects


GUEST_CHANCE = 0.15  # that one object of a scene is drawn from all labels, not from the setting's


TWIN_CHANCE = 0.15  # that the second object is of the same kind as the first


TRIES = 16  # positions tried for each object; the one with the least overlap is taken


Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""


class Thing(NamedTuple):
    """One object of a scene, with its position and colours."""

    label: str
    fills: tuple[tuple[Colour, Points], ...]
    """Filled polygons in pixels, those at the back first."""

    def box(self) -> Box:
        """Return the bounding box of its polygons, cut at the edge of the image."""
        corners = np.concatenate([points for _, points in self.fills]).clip(0, (WIDTH, HEIGHT))
        (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        return left, top, right, bottom


class Scene(NamedTuple):
    """The content of one image, before it is drawn."""

    backdrop: tuple[tuple[Colour, Points], ...]
    """Filled polygons in pixels, those at the back first."""
    things: tuple[Thing, ...]
    """Objects, the farthest first."""


def compose(seed: int, index: int) -> Scene:
    """Return the scene *index* of a seed: a pure function of its arguments."""
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
    """Propose several positions for an object and return the one that overlaps the others least."""
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
    """Return the area that two boxes share, in square pixels."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


def _put(rng: np.random.Generator, label: str, box: Box, level: str) -> Thing:
    """Fit the drawing of *label* into a box, with random colours, direction and tilt.

    Args:
        rng: The source of randomness.
        label: The kind of object.
        box: The box to fill; a tilted object may extend a little over its edges.
        level: The lightness of the backdrop, one of LEVELS.
    """
    drawing, tones = DRAWINGS[label], _tones(rng, level)
    middle, size = np.array([box[0] + box[2], box[1] + box[3]]) / 2, (box[2] - box[0], box[3] - box[1])
    degrees = rng.uniform(-4, 4) if drawing.place == "ground" else rng.uniform(-12, 12)
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    facing = (1 if rng.random() < 0.5 else -1, 1)

    def to_pixels(points: Points) -> Points:
        return ((points - 0.5) * facing * size) @ np.array([(cos, sin), (-sin, cos)]) + middle

    return Thing(label, tuple((tones[mark.tone], to_pixels(mark.points)) for mark in drawing.marks))


def _mix(a: Colour, b: Colour, fraction: float) -> Colour:
    """Return a mix of two colours, of which *fraction*, in [0, 1], is *b*."""
    red, green, blue = (round(x + fraction * (y - x)) for x, y in zip(a, b, strict=True))
    return red, green, blue


def _two_colours(rng: np.random.Generator, level: str) -> tuple[Colour, Colour]:
    """Return two random colours of different hue and the same level of lightness."""
    first, second = rng.choice(len(HUES), size=2, replace=False)
    return _shade(rng, HUES[first], level), _shade(rng, HUES[second], level)


def _shade(rng: np.random.Generator, hue: Colour, level: str) -> Colour:
    if level == "light":
        return _mix(hue, WHITE, float(rng.uniform(0.65, 0.85)))
    if level == "dark":
        return _mix(hue, INK, float(rng.uniform(0.6, 0.75)))
    return hue


def _tones(rng: np.random.Generator, backdrop: str) -> dict[str, Colour]:
    """Return random colours for an object's tones that contrast with the backdrop and with each other."""
    body, detail = rng.permutation([level for level in LEVELS if level != backdrop])
    main, other = _two_colours(rng, body)
    deep, _ = _two_colours(rng, detail)
    pale, _ = _two_colours(rng, backdrop)
    return {"main": main, "other": other, "deep": deep, "pale": pale}


def _shades(rng: np.random.Generator, colour: Colour) -> Iterator[Colour]:
    """Yield a colour, then shades of it in even steps, either towards white or towards ink."""
    towards = WHITE if rng.random() < 0.5 else INK
    return (_mix(colour, towards, 0.07 * step) for step in itertools.count())


Fills = Iterator[tuple[Colour, Points]]


def _block(left: float, top: float, right: float, bottom: float) -> Points:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _sea(rng: np.random.Generator, horizon: float, above: Colour, below: Colour) -> Fills:
    """Yield rows of waves."""
    yield above, _block(0, 0, WIDTH, HEIGHT)
    x = np.arange(0, WIDTH + 4, 4.0)
    tops = np.linspace(horizon, HEIGHT, 5)[:-1]
    for colour, top in zip(_shades(rng, below), tops, strict=False):
        crests = np.stack([x, top + 2.5 * np.sin(x / 9 + rng.uniform(0, 2 * np.pi))], axis=1)
        yield colour, np.concatenate([crests, [(WIDTH, HEIGHT), (0, HEIGHT)]])


def _street(rng: np.random.Generator, horizon: float, above: Colour, below: Colour) -> Fills:
    """Yield a skyline, and a road with a dashed line."""
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
    """Yield striped wallpaper behind a table."""
    _, stripe = itertools.islice(_shades(rng, above), 2)
    _, edge = itertools.islice(_shades(rng, below), 2)
    yield above, _block(0, 0, WIDTH, HEIGHT)
    for left in np.arange(rng.uniform(-20, 0), WIDTH, 24):
        yield stripe, _block(left, 0, left + 12, horizon)
    yield below, _block(0, horizon, WIDTH, HEIGHT)
    yield edge, _block(0, horizon, WIDTH, horizon + 3)


def _meadow(rng: np.random.Generator, horizon: float, above: Colour, below: Colour) -> Fills:
    """Yield rolling hills."""
    yield above, _block(0, 0, WIDTH, HEIGHT)
    for colour, drop in zip(_shades(rng, below), (0, 14, 40), strict=False):
        yield colour, arc(rng.uniform(0, WIDTH), horizon + drop + 200, 420, 206, 180, 360)


def _sky(rng: np.random.Generator, horizon: float, above: Colour, below: Colour) -> Fills:
    """Yield broad bands of light over a low hill."""
    tops = np.linspace(0, horizon, 5)[:-1]
    for colour, top in zip(_shades(rng, above), tops, strict=False):
        yield colour, _block(0, top, WIDTH, HEIGHT)
    yield below, arc(rng.uniform(0, WIDTH), horizon + 100, 300, 100, 180, 360)


BACKDROPS: dict[str, Callable[[np.random.Generator, float, Colour, Colour], Fills]] = {
    "sea": _sea,
    "street": _street,
    "kitchen": _kitchen,
    "meadow": _meadow,
    "sky": _sky,
}
