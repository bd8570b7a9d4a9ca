"""Where ink goes: the geometry of the training curves and of the label graph, in SVG units."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

PANEL_WIDTH, PANEL_HEIGHT = 460, 250
PLOT_LEFT, PLOT_RIGHT, PLOT_TOP, PLOT_BOTTOM = 52, 446, 26, 216
DOTS_UP_TO = 60

RING_RADIUS = 200.0
THREAD_RADIUS = RING_RADIUS - 8
TEXT_RADIUS = RING_RADIUS + 13
THREAD_WIDEST, THREAD_THINNEST = 15.0, 2.5
EDGES_AT_MOST = 40
CHARACTERS_AT_MOST = 18
CHARACTER_WIDTH = 0.58  # of the text size: about the widest of the usual sans-serif fonts
SMALLEST_TEXT_PX = 9


@dataclass(frozen=True)
class Tick:
    """A value on an axis and where it lies."""

    at: float
    text: str


@dataclass(frozen=True)
class Panel:
    """One curve over epochs; ``points`` and ``peak`` are (x, y) in SVG units."""

    title: str
    points: tuple[tuple[float, float], ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    peak: tuple[float, float]
    peak_text: str
    peak_anchor: str
    peak_text_y: float
    summary: str
    width: int = PANEL_WIDTH
    height: int = PANEL_HEIGHT
    left: int = PLOT_LEFT
    right: int = PLOT_RIGHT
    bottom: int = PLOT_BOTTOM
    dots: bool = True

    @property
    def line(self) -> str:
        """The points as SVG's polyline wants them."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


def round_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Return evenly spaced round values whose first and last enclose *low* and *high*."""
    span = (high - low) or abs(high) or 1.0
    magnitude = 10.0 ** math.floor(math.log10(span / about))
    step = next(magnitude * k for k in (1, 2, 5, 10) if magnitude * k >= span / about * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    if first == last:  # a flat curve on a round value: give it room on both sides
        first, last = first - 1, last + 1
    return [k * step for k in range(first, last + 1)]


def epoch_ticks(first: int, last: int, about: int = 6) -> list[int]:
    """Return whole epochs from *first* on, evenly spaced, none after *last*."""
    step = next(k * 10**e for e in range(12) for k in (1, 2, 5) if k * 10**e >= (last - first) / about)
    next_tick = -(-(2 * first + step) // (2 * step)) * step  # at least half a step on: texts need room
    return [first, *range(max(next_tick, first + 1), last + 1, step)]


def panel(title: str, values: Sequence[tuple[int, float]], unit: str, best: str) -> Panel:
    """Lay out one curve.

    Args:
        title: What the curve shows.
        values: (epoch, value), at least one, by ascending epoch, all finite.
        unit: Written after values: "%" or nothing.
        best: Which end is marked: "highest" or "lowest".
    """
    epochs, heights = [e for e, _ in values], [v for _, v in values]
    levels = round_ticks(min(heights), max(heights))
    places = max(0, min(6, -math.floor(math.log10(levels[1] - levels[0]) + 1e-9)))

    def x(epoch: int) -> float:
        share = (epoch - epochs[0]) / (epochs[-1] - epochs[0]) if epochs[-1] > epochs[0] else 0.5
        return PLOT_LEFT + share * (PLOT_RIGHT - PLOT_LEFT)

    def y(height: float) -> float:
        share = (height - levels[0]) / (levels[-1] - levels[0])
        return PLOT_BOTTOM - share * (PLOT_BOTTOM - PLOT_TOP)

    def written(height: float) -> str:
        return f"{height:.1f}%" if unit == "%" else f"{height:.{places + 2}f}"

    epoch, peak = (max if best == "highest" else min)(values, key=lambda pair: pair[1])
    peak_x = x(epoch)
    return Panel(
        title=title,
        points=tuple((x(e), y(v)) for e, v in values),
        across=tuple(Tick(x(e), str(e)) for e in epoch_ticks(epochs[0], epochs[-1])),
        up=tuple(Tick(y(level), f"{level:.{places}f}{unit}") for level in levels),
        peak=(peak_x, y(peak)),
        peak_text=f"{written(peak)}, epoch {epoch}",
        peak_anchor="end" if peak_x > PLOT_RIGHT - 90 else "start" if peak_x < PLOT_LEFT + 90 else "middle",
        # above a highest point and below a lowest one, where the curve is not
        peak_text_y=y(peak) - 13 if best == "highest" or y(peak) > PLOT_BOTTOM - 24 else y(peak) + 22,
        summary=f"{title}: {written(heights[0])} at epoch {epochs[0]}, {written(heights[-1])} at epoch "
        f"{epochs[-1]}, {best} {written(peak)} at epoch {epoch}.",
        dots=len(values) <= DOTS_UP_TO,
    )


@dataclass(frozen=True)
class Node:
    """A label on the ring; ``turn`` is the rotation of its text in degrees."""

    label: str
    short: str
    x: float
    y: float
    text_x: float
    text_y: float
    turn: float
    anchor: str


@dataclass(frozen=True)
class Thread:
    """An edge: wide where it starts, a point where it ends; ``path`` is SVG path data."""

    source: str
    target: str
    weight: float
    path: str


@dataclass(frozen=True)
class Ring:
    """The graph as a picture; its middle is (0, 0)."""

    nodes: tuple[Node, ...]
    threads: tuple[Thread, ...]
    text_size: float

    @property
    def reach(self) -> int:
        """How far the picture reaches from its middle, so that the longest label fits."""
        longest = max(len(node.short) for node in self.nodes)
        return math.ceil(TEXT_RADIUS + longest * CHARACTER_WIDTH * self.text_size)

    @property
    def min_px(self) -> int:
        """The width in pixels below which the labels would be too small to read."""
        return round(SMALLEST_TEXT_PX / self.text_size * 2 * self.reach)


def strongest(edges: Sequence[tuple[str, str, float]]) -> list[tuple[str, str, float]]:
    """Return the few edges worth drawing, by falling strength; ties in the order of their names."""
    usable = [e for e in edges if e[0] != e[1] and math.isfinite(e[2]) and e[2] != 0]
    return sorted(usable, key=lambda e: (-abs(e[2]), e[0], e[1]))[:EDGES_AT_MOST]


def seating(edges: Sequence[tuple[str, str, float]]) -> list[str]:
    """Order the labels so that strongly joined ones sit close: depth first, strongest edge first."""
    friends: dict[str, list[str]] = defaultdict(list)
    for source, target, _ in edges:
        friends[source].append(target)
        friends[target].append(source)
    seated: dict[str, None] = {}
    for start in friends:
        waiting = [start]
        while waiting:
            label = waiting.pop()
            if label not in seated:
                seated[label] = None
                waiting.extend(reversed(friends[label]))
    return list(seated)


def shortened(label: str) -> str:
    """Return *label* cut to what fits beside the ring."""
    return label if len(label) <= CHARACTERS_AT_MOST else label[: CHARACTERS_AT_MOST - 1].rstrip() + "…"


def on_circle(angle: float, radius: float) -> tuple[float, float]:
    """Return the point at *angle* (radians, clockwise from the right) and *radius* from the middle."""
    return radius * math.cos(angle), radius * math.sin(angle)


def node(label: str, angle: float) -> Node:
    """Place a label; on the left half its text is turned over, so that none stands on its head."""
    x, y = on_circle(angle, RING_RADIUS)
    text_x, text_y = on_circle(angle, TEXT_RADIUS)
    left = math.cos(angle) < -1e-9
    turn = math.degrees(angle) + (180 if left else 0)
    return Node(label, shortened(label), x, y, text_x, text_y, turn, "end" if left else "start")


def thread_path(start: float, end: float, width: float) -> str:
    """Return the path of a tapering thread between two angles, *width* wide at its start."""
    spread = width / 2 / THREAD_RADIUS
    one_side, other_side = on_circle(start - spread, THREAD_RADIUS), on_circle(start + spread, THREAD_RADIUS)
    (from_x, from_y), tip = on_circle(start, THREAD_RADIUS), on_circle(end, THREAD_RADIUS)
    # Opposite labels meet in the middle; close ones bend less deeply, and stay apart from the rest.
    depth = 0.75 * (1 - abs(math.sin((end - start) / 2)))
    bend = depth * (from_x + tip[0]) / 2, depth * (from_y + tip[1]) / 2
    numbers = (*one_side, *bend, *tip, *bend, *other_side)
    return "M{} {}Q{} {} {} {}Q{} {} {} {}Z".format(*(f"{n:.1f}" for n in numbers))


def ring(edges: Sequence[tuple[str, str, float]]) -> Ring | None:
    """Lay the strongest of *edges* (from, to, weight) out on a circle; None if there is none."""
    drawn = strongest(edges)
    if not drawn:
        return None
    labels = seating(drawn)
    angles = {label: 2 * math.pi * k / len(labels) - math.pi / 2 for k, label in enumerate(labels)}
    if len(labels) == 2:  # side by side reads better than above each other
        angles = {label: angle - math.pi / 2 for label, angle in angles.items()}
    heaviest = abs(drawn[0][2])
    threads = []
    for source, target, weight in drawn:
        width = max(THREAD_THINNEST, THREAD_WIDEST * abs(weight) / heaviest)
        path = thread_path(angles[source], angles[target], width)
        threads.append(Thread(source, target, weight, path))
    room = 2 * math.pi * RING_RADIUS / len(labels)
    return Ring(
        nodes=tuple(node(label, angle) for label, angle in angles.items()),
        threads=tuple(threads),
        text_size=round(max(11.0, min(17.0, 0.8 * room)), 1),
    )
