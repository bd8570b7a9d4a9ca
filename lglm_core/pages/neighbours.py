"""The search page: a query picture, what the model sees in it, and the pictures most like it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lglm_core.pages.rendering import render

COMMON_AT_MOST = 6


@dataclass(frozen=True)
class Neighbour:
    """A picture found; ``similarity`` is the cosine, ``scores`` are probabilities in [0, 1].

    ``jpeg`` is None where the picture itself could not be had; ``labels`` are the true ones, if known.
    """

    rank: int
    key: str
    jpeg: bytes | None
    similarity: float
    labels: tuple[str, ...]
    scores: dict[str, float]


@dataclass(frozen=True)
class Score:
    """A label's probability on one picture and, for comparison, on the query; both in percent."""

    label: str
    percent: float
    query_percent: float | None


def ranked_scores(scores: dict[str, float], query: dict[str, float]) -> list[Score]:
    """Return scores, the highest first, each beside the query's where the query has one."""
    ordered = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
    return [Score(label, 100 * p, 100 * query[label] if label in query else None) for label, p in ordered]


def most_common(neighbours: Sequence[Neighbour]) -> list[tuple[str, int]]:
    """Count the true labels of the neighbours; the most frequent first, equals by name."""
    counts = Counter(label for neighbour in neighbours for label in neighbour.labels)
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:COMMON_AT_MOST]


def neighbours_page(
    title: str,
    query_name: str,
    query_jpeg: bytes,
    query_scores: dict[str, float],
    neighbours: Sequence[Neighbour],
) -> str:
    """Return the search result as one HTML file that needs nothing beside it, nearest first."""
    ordered = sorted(neighbours, key=lambda neighbour: (neighbour.rank, neighbour.key))
    return render(
        "neighbours.html.j2",
        title=title,
        script="",
        script_digest="",
        query_name=query_name,
        query_jpeg=query_jpeg,
        query_readings=ranked_scores(query_scores, {}),
        neighbours=[(each, ranked_scores(each.scores, query_scores)) for each in ordered],
        common=most_common(ordered),
    )
