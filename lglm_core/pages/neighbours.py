"""The search page: a query picture with its scores, and the pictures most similar to it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lglm_core.pages.rendering import render

MAX_COMMON_LABELS = 6


@dataclass(frozen=True)
class Neighbour:
    """A search result; ``similarity`` is the cosine, ``scores`` are probabilities in [0, 1].

    ``jpeg`` is None where the picture could not be read; ``labels`` are the true ones, if they are known.
    """

    rank: int
    key: str
    jpeg: bytes | None
    similarity: float
    labels: tuple[str, ...]
    scores: dict[str, float]


@dataclass(frozen=True)
class Score:
    """A label's probability on a picture and, for comparison, on the query, both in percent."""

    label: str
    percent: float
    query_percent: float | None


def ranked_scores(scores: dict[str, float], query: dict[str, float]) -> list[Score]:
    """Return scores, the highest first, each with the query's score where the query has one."""
    ordered = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
    return [Score(label, 100 * p, 100 * query[label] if label in query else None) for label, p in ordered]


def most_common(neighbours: Sequence[Neighbour]) -> list[tuple[str, int]]:
    """Return the most frequent true labels of the neighbours with their counts; ties are ordered by name."""
    counts = Counter(label for neighbour in neighbours for label in neighbour.labels)
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_COMMON_LABELS]


def neighbours_page(
    title: str,
    query_name: str,
    query_jpeg: bytes,
    query_scores: dict[str, float],
    neighbours: Sequence[Neighbour],
) -> str:
    """Return the search results, nearest first, as one self-contained HTML file."""
    ordered = sorted(neighbours, key=lambda neighbour: (neighbour.rank, neighbour.key))
    return render(
        "neighbours.html.j2",
        title=title,
        script="",
        script_digest="",
        query_name=query_name,
        query_jpeg=query_jpeg,
        query_scores=ranked_scores(query_scores, {}),
        neighbours=[(each, ranked_scores(each.scores, query_scores)) for each in ordered],
        common=most_common(ordered),
    )
