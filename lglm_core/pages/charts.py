"""Geometry of the training curves and of the label graph, in SVG units."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

PANEL_WIDTH, PANEL_HEIGHT = 460, 250
PLOT_LEFT, PLOT_RIGHT, PLOT_TOP, PLOT_BOTTOM = 52, 446, 26, 216
DOTS_UP_TO = 60

RING_RADIUS = 200.0
EDGE_RADIUS = RING_RADIUS - 8
TEXT_RADIUS = RING_RADIUS + 13
WIDEST_EDGE, THINNEST_EDGE = 15.0, 2.5
MAX_EDGES = 40
MAX_CHARACTERS = 18
CHARACTER_WIDTH = 0.58  # in text sizes: about the widest of the usual sans-serif fonts
SMALLEST_TEXT_PX = 9


@dataclass(frozen=True)
class Tick:
    """A value on an axis, and its position along the axis."""

    position: float
    text: str


@dataclass(frozen=True)
class Panel:
    """One curve over epochs; ``points`` and ``best`` (the marked point) are (x, y) in SVG units."""

    title: str
    points: tuple[tuple[float, float], ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    best: tuple[float, float]
    best_text: str
    best_text_anchor: str
    best_text_y: float
    summary: str
    width: int = PANEL_WIDTH
    height: int = PANEL_HEIGHT
    left: int = PLOT_LEFT
    right: int = PLOT_RIGHT
    bottom: int = PLOT_BOTTOM
    dots: bool = True

    @property
    def line(self) -> str:
        """The points in the form that SVG's polyline takes."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


def round_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Return evenly spaced round values whose first and last enclose *low* and *high*."""
    span = (high - low) or abs(high) or 1.0
    magnitude = 10.0 ** math.floor(math.log10(span / about))
    step = next(magnitude * k for k in (1, 2, 5, 10) if magnitude * k >= span / about * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    if first == last:  # a flat curve on a round value needs room on both sides
        first, last = first - 1, last + 1
    return [k * step for k in range(first, last + 1)]


def epoch_ticks(first: int, last: int, about: int = 6) -> list[int]:
    """Return *first* and then evenly spaced epochs up to *last*."""
    step = next(k * 10**e for e in range(12) for k in (1, 2, 5) if k * 10**e >= (last - first) / about)
    next_tick = -(-(2 * first + step) // (2 * step)) * step  # half a step further at least: texts need room
    return [first, *range(max(next_tick, first + 1), last + 1, step)]


def panel(title: str, values: Sequence[tuple[int, float]], unit: str, best: str) -> Panel:
    """Return the layout of one curve.

    Args:
        title: What the curve shows.
        values: (epoch, value), at least one, by ascending epoch, all finite.
        unit: The unit behind values: "%" or nothing.
        best: Which value is marked: "highest" or "lowest".
    """
    epochs, heights = [e for e, _ in values], [v for _, v in values]
    levels = round_ticks(min(heights), max(heights))
    decimals = max(0, min(6, -math.floor(math.log10(levels[1] - levels[0]) + 1e-9)))

    def x(epoch: int) -> float:
        fraction = (epoch - epochs[0]) / (epochs[-1] - epochs[0]) if epochs[-1] > epochs[0] else 0.5
        return PLOT_LEFT + fraction * (PLOT_RIGHT - PLOT_LEFT)

    def y(height: float) -> float:
        fraction = (height - levels[0]) / (levels[-1] - levels[0])
        return PLOT_BOTTOM - fraction * (PLOT_BOTTOM - PLOT_TOP)

    def text(height: float) -> str:
        return f"{height:.1f}%" if unit == "%" else f"{height:.{decimals + 2}f}"

    best_epoch, best_value = (max if best == "highest" else min)(values, key=lambda pair: pair[1])
    best_x, best_y = x(best_epoch), y(best_value)
    anchor = "end" if best_x > PLOT_RIGHT - 90 else "start" if best_x < PLOT_LEFT + 90 else "middle"
    return Panel(
        title=title,
        points=tuple((x(e), y(v)) for e, v in values),
        x_ticks=tuple(Tick(x(e), str(e)) for e in epoch_ticks(epochs[0], epochs[-1])),
        y_ticks=tuple(Tick(y(level), f"{level:.{decimals}f}{unit}") for level in levels),
        best=(best_x, best_y),
        best_text=f"{text(best_value)}, epoch {best_epoch}",
        best_text_anchor=anchor,
        # above a highest point and below a lowest one, away from the curve
        best_text_y=best_y - 13 if best == "highest" or best_y > PLOT_BOTTOM - 24 else best_y + 22,
        summary=f"{title}: {text(heights[0])} at epoch {epochs[0]}, {text(heights[-1])} at epoch "
        f"{epochs[-1]}, {best} {text(best_value)} at epoch {best_epoch}.",
        dots=len(values) <= DOTS_UP_TO,
    )


@dataclass(frozen=True)
class Node:
    """A label on the ring; ``rotation`` is that of its text, in degrees."""

    label: str
    short_label: str
    x: float
    y: float
    text_x: float
    text_y: float
    rotation: float
    anchor: str


@dataclass(frozen=True)
class Edge:
    """An edge between two labels, wide at its source and pointed at its target; ``path`` is SVG path data."""

    source: str
    target: str
    weight: float
    path: str


@dataclass(frozen=True)
class Ring:
    """The label graph drawn as a ring around (0, 0)."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    text_size: float

    @property
    def half_width(self) -> int:
        """The distance from the middle to the border of the drawing, within which the longest label fits."""
        longest = max(len(node.short_label) for node in self.nodes)
        return math.ceil(TEXT_RADIUS + longest * CHARACTER_WIDTH * self.text_size)

    @property
    def min_px(self) -> int:
        """The width in pixels below which the labels are too small to read."""
        return round(SMALLEST_TEXT_PX / self.text_size * 2 * self.half_width)


def strongest(edges: Sequence[tuple[str, str, float]]) -> list[tuple[str, str, float]]:
    """Return the edges to draw, at most ``MAX_EDGES``, by falling strength; ties are ordered by name."""
    usable = [e for e in edges if e[0] != e[1] and math.isfinite(e[2]) and e[2] != 0]
    return sorted(usable, key=lambda e: (-abs(e[2]), e[0], e[1]))[:MAX_EDGES]


def ring_order(edges: Sequence[tuple[str, str, float]]) -> list[str]:
    """Order labels so that strongly joined ones are close: depth first, strongest edge first."""
    neighbours: dict[str, list[str]] = defaultdict(list)
    for source, target, _ in edges:
        neighbours[source].append(target)
        neighbours[target].append(source)
    ordered: dict[str, None] = {}
    for start in neighbours:
        stack = [start]
        while stack:
            label = stack.pop()
            if label not in ordered:
                ordered[label] = None
                stack.extend(reversed(neighbours[label]))
    return list(ordered)


def shortened(label: str) -> str:
    """Return *label*, cut to the length that fits beside a drawing."""
    return label if len(label) <= MAX_CHARACTERS else label[: MAX_CHARACTERS - 1].rstrip() + "…"


def on_circle(angle: float, radius: float) -> tuple[float, float]:
    """Return the point at *angle* (radians, clockwise from the right) and *radius* from the middle."""
    return radius * math.cos(angle), radius * math.sin(angle)


def node(label: str, angle: float) -> Node:
    """Place a label on the ring; on the left half its text is turned by 180° to be readable."""
    x, y = on_circle(angle, RING_RADIUS)
    text_x, text_y = on_circle(angle, TEXT_RADIUS)
    left = math.cos(angle) < -1e-9
    rotation = math.degrees(angle) + (180 if left else 0)
    return Node(label, shortened(label), x, y, text_x, text_y, rotation, "end" if left else "start")


def edge_path(start: float, end: float, width: float) -> str:
    """Return the SVG path of a tapering edge between two angles, *width* wide at its start."""
    spread = width / 2 / EDGE_RADIUS
    one_side, other_side = on_circle(start - spread, EDGE_RADIUS), on_circle(start + spread, EDGE_RADIUS)
    (from_x, from_y), tip = on_circle(start, EDGE_RADIUS), on_circle(end, EDGE_RADIUS)
    # Edges of opposite labels pass through the middle; those of close labels bend less, away from the others.
    depth = 0.75 * (1 - abs(math.sin((end - start) / 2)))
    bend = depth * (from_x + tip[0]) / 2, depth * (from_y + tip[1]) / 2
    numbers = (*one_side, *bend, *tip, *bend, *other_side)
    return "M{} {}Q{} {} {} {}Q{} {} {} {}Z".format(*(f"{n:.1f}" for n in numbers))


def ring(edges: Sequence[tuple[str, str, float]]) -> Ring | None:
    """Return the strongest of *edges* (from, to, weight) laid out on a circle; None if there is no edge."""
    drawn = strongest(edges)
    if not drawn:
        return None
    labels = ring_order(drawn)
    angles = {label: 2 * math.pi * k / len(labels) - math.pi / 2 for k, label in enumerate(labels)}
    if len(labels) == 2:  # side by side reads better than above each other
        angles = {label: angle - math.pi / 2 for label, angle in angles.items()}
    largest = abs(drawn[0][2])
    laid_out = []
    for source, target, weight in drawn:
        width = max(THINNEST_EDGE, WIDEST_EDGE * abs(weight) / largest)
        laid_out.append(Edge(source, target, weight, edge_path(angles[source], angles[target], width)))
    spacing = 2 * math.pi * RING_RADIUS / len(labels)
    return Ring(
        nodes=tuple(node(label, angle) for label, angle in angles.items()),
        edges=tuple(laid_out),
        text_size=round(max(11.0, min(17.0, 0.8 * spacing)), 1),
    )
