"""The page of a dataset: what is in it, what deserves a look, and pictures. Shares are in percent."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lglm_core.dataset.findings import FACTOR_APART, drifts, findings
from lglm_core.dataset.statistics import DatasetStatistics, SplitStatistics
from lglm_core.pages.gallery import Gallery, ShownPicture, label_pictures
from lglm_core.pages.heatmap import LEGEND, heat_map, ink
from lglm_core.pages.rendering import render, script

BARS_PER_END = 50
NAMED_AT_MOST = 12
MAPPED_LABELS = 60
PAIRS_SHOWN = 12
DRIFTS_SHOWN = 20
REJECTS_SHOWN = 50
TABLE_OPEN_UP_TO = 100
COMPARED = 2  # splits drawn beside each other: train as a bar, the next as a mark

# Bins by name, each with the value that it ends below.
LABELS_EACH = {**{str(count): count + 1 for count in range(10)}, "10 to 19": 20, "20 or more": math.inf}
SHORTER_SIDES = {
    "under 128": 128,
    "128 to 223": 224,
    "224 to 319": 320,
    "320 to 447": 448,
    "448 to 639": 640,
    "640 to 1,023": 1024,
    "1,024 or more": math.inf,
}
SHAPES = {
    "taller than 1:2": 0.5,
    "1:2 to 4:5": 0.8,
    "4:5 to 5:4": 1.25,
    "5:4 to 2:1": 2.0,
    "wider than 2:1": math.inf,
}


@dataclass(frozen=True)
class Bar:
    """What is drawn of the compared splits: their shares, and where these lie in percent of the chart."""

    name: str
    shares: tuple[float | None, ...]
    places: tuple[float | None, ...]


@dataclass(frozen=True)
class LabelRow:
    """One label by split; a share is None where of no picture it is known.

    ``pictures`` are the numbers of those in the gallery that carry it.
    """

    label: str
    positives: tuple[int, ...]
    shares: tuple[float | None, ...]
    unknown: int
    pictures: tuple[int, ...]


@dataclass(frozen=True)
class BarGroup:
    """Bars under one heading, which is empty when there is only one group."""

    heading: str
    bars: Sequence[Bar]


@dataclass(frozen=True)
class LogScale:
    """Where shares lie on a chart each of whose lines stands for ten times the one before; powers of ten."""

    first: int
    last: int

    @classmethod
    def over(cls, shares: Sequence[float | None]) -> "LogScale":
        """Return the scale of some shares; the least of them is drawn at least as long as a factor of two."""
        present = [share for share in shares if share] or [100.0]
        first = math.floor(math.log10(min(present) / 2))
        return cls(first, max(math.ceil(math.log10(max(present))), first + 1))

    def place(self, share: float | None) -> float | None:
        """Return where a share lies, in percent of the chart; no share lies nowhere."""
        return 100 * (math.log10(share) - self.first) / (self.last - self.first) if share else None

    @property
    def texts(self) -> list[str]:
        """What the left edge, the lines and the right edge stand for."""
        return [f"{10.0**power:.{max(0, -power)}f}%" for power in range(self.first, self.last + 1)]


def names(picture: ShownPicture) -> str:
    """Name a picture's labels, and in question those unknown on it; the first, where they are many."""
    told = [*(picture.labels or ["no label"]), *(f"{label}?" for label in picture.unknown)]
    more = f" and {len(told) - NAMED_AT_MOST} more" if len(told) > NAMED_AT_MOST else ""
    return f"{', '.join(told[:NAMED_AT_MOST])}{more}"


def dataset_page(name: str, statistics: DatasetStatistics, gallery: Gallery) -> str:
    """Return the page as one HTML file that needs nothing beside it; the same dataset, the same text."""
    compared = statistics.splits[:COMPARED]
    rows = label_rows(statistics, gallery)
    scale = LogScale.over([share for row in rows for share in row.shares[:COMPARED]])
    drifted = drifts(statistics)
    together = statistics.together
    source, digest = script("table.js.j2")
    return render(
        "dataset.html.j2",
        title=name,
        script=source,
        script_digest=digest,
        statistics=statistics,
        counts=statistics.manifest.counts,
        samples=sum(split.samples for split in statistics.splits),
        other=compared[1].name if compared[1:] else None,
        rows=rows,
        bar_groups=bar_groups(rows, scale),
        scale=scale,
        table_open=len(rows) <= TABLE_OPEN_UP_TO,
        with_unknown=any(row.unknown for row in rows),
        findings=[
            (finding, finding.labels[:NAMED_AT_MOST], max(0, len(finding.labels) - NAMED_AT_MOST))
            for finding in findings(statistics)
        ],
        drifts=drifted[:DRIFTS_SHOWN],
        drifts_unnamed=max(0, len(drifted) - DRIFTS_SHOWN),
        factor_apart=FACTOR_APART,
        distributions=distributions(compared),
        heat_map=heat_map(together.labels[:MAPPED_LABELS], together.counts[:MAPPED_LABELS, :MAPPED_LABELS]),
        map_is_part=len(rows) > MAPPED_LABELS,
        legend=[(ink(probability), f"{100 * probability:g}%") for probability in LEGEND],
        pairs={
            "Most often": together.most_often(PAIRS_SHOWN),
            "More often than by chance": together.most_lifted(PAIRS_SHOWN),
        },
        gallery=gallery,
        names=names,
        rejects=statistics.rejects.slice(0, REJECTS_SHOWN).to_pylist(),
        facts=facts(statistics),
    )


def facts(statistics: DatasetStatistics) -> dict[str, str]:
    """Return what the dataset was made from, by name."""
    options = {name.replace("_", " "): str(value) for name, value in statistics.manifest.options.items()}
    return {**options, "fingerprint": statistics.manifest.fingerprint[:16]}


def label_rows(statistics: DatasetStatistics, gallery: Gallery) -> list[LabelRow]:
    """Return all labels, the most frequent in training first."""
    pictures = label_pictures(gallery)
    shares = [np.where(split.known > 0, 100 * split.shares, np.nan) for split in statistics.splits]
    return [
        LabelRow(
            label=statistics.labels[column],
            positives=tuple(int(split.positives[column]) for split in statistics.splits),
            shares=tuple(None if np.isnan(each[column]) else float(each[column]) for each in shares),
            unknown=sum(int(split.unknown[column]) for split in statistics.splits),
            pictures=pictures.get(statistics.labels[column], ()),
        )
        for column in statistics.frequency_order.tolist()
    ]


def bar_groups(rows: Sequence[LabelRow], scale: LogScale) -> list[BarGroup]:
    """Return the bars to draw: all of few labels, otherwise only the most and the least frequent ones."""
    bars = [
        Bar(row.label, row.shares[:COMPARED], tuple(map(scale.place, row.shares[:COMPARED]))) for row in rows
    ]
    if len(bars) <= 2 * BARS_PER_END:
        return [BarGroup("", bars)]
    return [
        BarGroup(f"The {BARS_PER_END} most frequent", bars[:BARS_PER_END]),
        BarGroup(f"The {BARS_PER_END} least frequent", bars[: -BARS_PER_END - 1 : -1]),
    ]


def distributions(splits: Sequence[SplitStatistics]) -> dict[str, list[Bar]]:
    """Return how labels per picture and the pictures' sizes and shapes are distributed, by heading."""
    each = [split.labels_each for split in splits]
    sides = [np.minimum(split.widths, split.heights) for split in splits]
    shapes = [split.widths / split.heights for split in splits]
    return {
        "Labels per picture": _bars(LABELS_EACH, each),
        "Shorter side, in pixels": _bars(SHORTER_SIDES, sides),
        "Width to height": _bars(SHAPES, shapes),
    }


def _bars(bins: Mapping[str, float], values: Sequence[np.ndarray]) -> list[Bar]:
    """Count values below each bin's end, and not below the end before; the largest share fills the chart.

    Bins beyond the first and the last that hold a value are left out.
    """
    counts = np.array([np.histogram(each, bins=[-np.inf, *bins.values()])[0] for each in values])
    shares = 100 * counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    held = np.flatnonzero(counts.any(axis=0))
    names = list(bins)
    return [
        Bar(names[k], tuple(shares[:, k].tolist()), tuple((100 * shares[:, k] / shares.max()).tolist()))
        for k in range(held[0], held[-1] + 1)
    ]
