"""Which labels go together, as a map: the order of its rows, and where ink goes, in SVG units."""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lglm_core.pages.charts import CHARACTER_WIDTH, SMALLEST_TEXT_PX, shortened

CELL = 13
TEXT_SIZE = 11.0
GAP = 6
LARGEST = 1.5  # times; beyond, a map of few labels is not enlarged
LEGEND = (0.01, 0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Cell:
    """How many of the pictures with the row's label carry the column's too; ``ink`` is in (0, 1]."""

    x: int
    y: int
    ink: float
    text: str


@dataclass(frozen=True)
class Line:
    """A label's row and, as the map is square, its column: ``middle`` is where it lies along either axis."""

    label: str
    short: str
    middle: float


@dataclass(frozen=True)
class HeatMap:
    """The map's corner, where the first row meets the first column, is at (``edge``, ``edge``)."""

    lines: tuple[Line, ...]
    cells: tuple[Cell, ...]
    edge: int
    cell: int = CELL
    gap: int = GAP
    text_size: float = TEXT_SIZE

    @property
    def side(self) -> int:
        """Width and height."""
        return self.edge + CELL * len(self.lines)

    @property
    def min_px(self) -> int:
        """The width in pixels below which the labels would be too small to read."""
        return round(SMALLEST_TEXT_PX / TEXT_SIZE * self.side)

    @property
    def max_px(self) -> int:
        """The width in pixels beyond which it is not enlarged."""
        return round(LARGEST * self.side)


def ink(probability: float) -> float:
    """Return how dark a probability is drawn: by its root, since most are small and still tell something."""
    return math.sqrt(probability)


def heat_map(labels: Sequence[str], counts: np.ndarray) -> HeatMap | None:
    """Lay the map out; labels that no picture carries are left out, and None is returned if none remains.

    Args:
        labels: K names.
        counts: In how many pictures two labels are together, [K, K]; a label at all on the diagonal.
    """
    there = np.flatnonzero(np.diag(counts))
    if not len(there):
        return None
    counts = counts[np.ix_(there, there)]
    order = block_order(likeness(counts))
    names = [labels[there[k]] for k in order]
    ordered = counts[np.ix_(order, order)]
    edge = math.ceil(GAP + TEXT_SIZE * max(_text_width(shortened(name)) for name in names))
    lines = tuple(Line(name, shortened(name), edge + CELL * (k + 0.5)) for k, name in enumerate(names))
    cells = tuple(
        _cell(names, ordered, int(row), int(column), edge)
        for row, column in zip(*np.nonzero(ordered), strict=True)
        if row != column
    )
    return HeatMap(lines, cells, edge)


def likeness(counts: np.ndarray) -> np.ndarray:
    """Return the cosine of every two labels' pictures, [K, K], from :func:`heat_map`'s counts, none 0."""
    alone = np.diag(counts)
    return counts / np.sqrt(np.outer(alone, alone))


def block_order(alike: np.ndarray) -> list[int]:
    """Order rows so that those alike stand side by side: average linkage, the two most alike groups first.

    Args:
        alike: Symmetric, [K, K]; its diagonal does not count.
    """
    links = alike.astype(np.float64)
    np.fill_diagonal(links, -np.inf)
    groups = {row: [row] for row in range(len(alike))}
    while len(groups) > 1:
        one, other = sorted(divmod(int(links.argmax()), len(alike)))
        sizes = len(groups[one]), len(groups[other])
        joined = np.average(links[[one, other]], axis=0, weights=sizes)
        links[one], links[:, one] = joined, joined
        links[other], links[:, other], links[one, one] = -np.inf, -np.inf, -np.inf
        groups[one] = _side_by_side(alike, groups[one], groups.pop(other))
    return groups[0]


def _side_by_side(alike: np.ndarray, first: list[int], second: list[int]) -> list[int]:
    """Join two groups at those of their ends that are most alike."""
    turned = [(a, b) for a in (first, first[::-1]) for b in (second, second[::-1])]
    left, right = max(turned, key=lambda pair: alike[pair[0][-1], pair[1][0]])
    return left + right


def _cell(names: Sequence[str], counts: np.ndarray, row: int, column: int, edge: int) -> Cell:
    together, alone = int(counts[row, column]), int(counts[row, row])
    text = (
        f"{names[column]} where there is {names[row]}: "
        f"{100 * together / alone:.1f}% ({together:,} of {alone:,} pictures)"
    )
    return Cell(edge + CELL * column, edge + CELL * row, ink(together / alone), text)


def _text_width(text: str) -> float:
    """Return about how wide a text is, in text sizes; of East Asia's letters many are square."""
    return sum(1.0 if unicodedata.east_asian_width(c) in "WF" else CHARACTER_WIDTH for c in text)
