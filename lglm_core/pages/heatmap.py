"""The heat map of labels that go together: the order of its rows, and its geometry in SVG units."""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lglm_core.pages.charts import CHARACTER_WIDTH, SMALLEST_TEXT_PX, shortened

CELL = 13
TEXT_SIZE = 11.0
GAP = 6
MAX_ENLARGEMENT = 1.5
LEGEND = (0.01, 0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Cell:
    """A cell for the fraction of the row's pictures that also carry the column's label.

    ``opacity`` is in (0, 1].
    """

    x: int
    y: int
    opacity: float
    text: str


@dataclass(frozen=True)
class AxisLabel:
    """A label on both axes; ``position`` is the middle of its row and, in a square map, of its column."""

    label: str
    short_label: str
    position: float


@dataclass(frozen=True)
class HeatMap:
    """A square map; the corner of its first cell is at (``margin``, ``margin``), behind the labels."""

    labels: tuple[AxisLabel, ...]
    cells: tuple[Cell, ...]
    margin: int
    cell: int = CELL
    gap: int = GAP
    text_size: float = TEXT_SIZE

    @property
    def side(self) -> int:
        """Width and height of the drawing."""
        return self.margin + CELL * len(self.labels)

    @property
    def min_px(self) -> int:
        """The width in pixels below which the labels are too small to read."""
        return round(SMALLEST_TEXT_PX / TEXT_SIZE * self.side)

    @property
    def max_px(self) -> int:
        """The width in pixels to which the map is enlarged at most."""
        return round(MAX_ENLARGEMENT * self.side)


def cell_opacity(probability: float) -> float:
    """Return the opacity of a probability's cell: its root, so that small probabilities stay visible."""
    return math.sqrt(probability)


def heat_map(labels: Sequence[str], counts: np.ndarray) -> HeatMap | None:
    """Return the layout of the map, without labels that no picture carries; None if no label remains.

    Args:
        labels: K names.
        counts: The number of pictures that carry both labels, [K, K]; that carry one, on the diagonal.
    """
    present = np.flatnonzero(np.diag(counts))
    if not len(present):
        return None
    counts = counts[np.ix_(present, present)]
    order = clustered_order(cosine_similarity(counts))
    names = [labels[present[k]] for k in order]
    ordered = counts[np.ix_(order, order)]
    margin = math.ceil(GAP + TEXT_SIZE * max(_text_width(shortened(name)) for name in names))
    axis = tuple(AxisLabel(name, shortened(name), margin + CELL * (k + 0.5)) for k, name in enumerate(names))
    cells = tuple(
        _cell(names, ordered, int(row), int(column), margin)
        for row, column in zip(*np.nonzero(ordered), strict=True)
        if row != column
    )
    return HeatMap(axis, cells, margin)


def cosine_similarity(counts: np.ndarray) -> np.ndarray:
    """Return the cosine similarity of every two labels' sets of pictures, [K, K].

    Args:
        counts: As in :func:`heat_map`, with no 0 on the diagonal.
    """
    pictures = np.diag(counts)
    return counts / np.sqrt(np.outer(pictures, pictures))


def clustered_order(similarity: np.ndarray) -> list[int]:
    """Order rows so that similar ones are neighbours, by average linkage: the two most similar groups first.

    Args:
        similarity: A symmetric matrix [K, K], whose diagonal is ignored.
    """
    links = similarity.astype(np.float64)
    np.fill_diagonal(links, -np.inf)
    groups = {row: [row] for row in range(len(similarity))}
    while len(groups) > 1:
        one, other = sorted(divmod(int(links.argmax()), len(similarity)))
        sizes = len(groups[one]), len(groups[other])
        joined = np.average(links[[one, other]], axis=0, weights=sizes)
        links[one], links[:, one] = joined, joined
        links[other], links[:, other], links[one, one] = -np.inf, -np.inf, -np.inf
        groups[one] = _join(similarity, groups[one], groups.pop(other))
    return groups[0]


def _join(similarity: np.ndarray, first: list[int], second: list[int]) -> list[int]:
    """Concatenate two groups, each possibly reversed, so that their most similar ends meet."""
    candidates = [(a, b) for a in (first, first[::-1]) for b in (second, second[::-1])]
    left, right = max(candidates, key=lambda pair: similarity[pair[0][-1], pair[1][0]])
    return left + right


def _cell(names: Sequence[str], counts: np.ndarray, row: int, column: int, margin: int) -> Cell:
    both, row_pictures = int(counts[row, column]), int(counts[row, row])
    text = (
        f"{names[column]} where there is {names[row]}: "
        f"{100 * both / row_pictures:.1f}% ({both:,} of {row_pictures:,} pictures)"
    )
    return Cell(margin + CELL * column, margin + CELL * row, cell_opacity(both / row_pictures), text)


def _text_width(text: str) -> float:
    """Return the approximate width of a text, in text sizes; many East Asian characters are square."""
    return sum(1.0 if unicodedata.east_asian_width(c) in "WF" else CHARACTER_WIDTH for c in text)
