"""The page of a dataset: its statistics, findings that deserve a look, and pictures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lglm_core.dataset.findings import FACTOR_APART, drifts, findings
from lglm_core.dataset.statistics import DatasetStatistics, SplitStatistics
from lglm_core.pages.gallery import Gallery, GalleryPicture, examples_by_label
from lglm_core.pages.heatmap import LEGEND, cell_opacity, heat_map
from lglm_core.pages.rendering import render, script

BARS_PER_END = 50
MAX_NAMED = 12
MAPPED_LABELS = 60
PAIRS_SHOWN = 12
DRIFTS_SHOWN = 20
REJECTS_SHOWN = 50
TABLE_OPEN_UP_TO = 100
COMPARED = 2  # splits that charts compare: train as a bar, the next one as a mark

# Bins by name, each with its exclusive upper end.
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
    """A bar of a chart: percentages of the compared splits, and their positions in percent of the chart."""

    name: str
    percents: tuple[float | None, ...]
    positions: tuple[float | None, ...]


@dataclass(frozen=True)
class LabelRow:
    """The statistics of one label, by split.

    ``percents`` are of the pictures for which it is known whether they carry the label, None where there is
    no such picture. ``examples`` are positions in the gallery's ``label_examples``.
    """

    label: str
    positives: tuple[int, ...]
    percents: tuple[float | None, ...]
    unknown: int
    examples: tuple[int, ...]


@dataclass(frozen=True)
class BarGroup:
    """Bars under one heading, which is empty when there is only one group."""

    heading: str
    bars: Sequence[Bar]


@dataclass(frozen=True)
class LogScale:
    """A logarithmic scale of percentages from 10^first to 10^last, with a line at every power of ten."""

    first: int
    last: int

    @classmethod
    def over(cls, percents: Sequence[float | None]) -> "LogScale":
        """Return the scale that encloses some percentages; it begins below half of the least one."""
        present = [percent for percent in percents if percent] or [100.0]
        first = math.floor(math.log10(min(present) / 2))
        return cls(first, max(math.ceil(math.log10(max(present))), first + 1))

    def position(self, percent: float | None) -> float | None:
        """Return the position of a percentage in percent of the chart; None for 0 and None."""
        return 100 * (math.log10(percent) - self.first) / (self.last - self.first) if percent else None

    @property
    def texts(self) -> list[str]:
        """The values at the left edge, at the lines and at the right edge."""
        return [f"{10.0**power:.{max(0, -power)}f}%" for power in range(self.first, self.last + 1)]


def label_text(picture: GalleryPicture) -> str:
    """Return the names of a picture's labels, and with a question mark those of its unknown ones.

    Of many names it returns the first, and how many more there are.
    """
    names = [*(picture.labels or ["no label"]), *(f"{label}?" for label in picture.unknown)]
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"{', '.join(names[:MAX_NAMED])}{more}"


def dataset_page(name: str, statistics: DatasetStatistics, gallery: Gallery) -> str:
    """Return the page as one self-contained HTML file; the same dataset gives the same text."""
    compared = statistics.splits[:COMPARED]
    rows = label_rows(statistics, gallery)
    scale = LogScale.over([percent for row in rows for percent in row.percents[:COMPARED]])
    all_drifts = drifts(statistics)
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
            (finding, finding.labels[:MAX_NAMED], max(0, len(finding.labels) - MAX_NAMED))
            for finding in findings(statistics)
        ],
        drifts=all_drifts[:DRIFTS_SHOWN],
        more_drifts=max(0, len(all_drifts) - DRIFTS_SHOWN),
        factor_apart=FACTOR_APART,
        distributions=distributions(compared),
        heat_map=heat_map(together.labels[:MAPPED_LABELS], together.counts[:MAPPED_LABELS, :MAPPED_LABELS]),
        map_is_partial=len(rows) > MAPPED_LABELS,
        legend=[(cell_opacity(probability), f"{100 * probability:g}%") for probability in LEGEND],
        pairs={
            "Most often": together.most_often(PAIRS_SHOWN),
            "More often than by chance": together.most_lifted(PAIRS_SHOWN),
        },
        gallery=gallery,
        label_text=label_text,
        rejects=statistics.rejects.slice(0, REJECTS_SHOWN).to_pylist(),
        facts=facts(statistics),
    )


def facts(statistics: DatasetStatistics) -> dict[str, str]:
    """Return the options that the dataset was written with, and its fingerprint, by name."""
    options = {name.replace("_", " "): str(value) for name, value in statistics.manifest.options.items()}
    return {**options, "fingerprint": statistics.manifest.fingerprint[:16]}


def label_rows(statistics: DatasetStatistics, gallery: Gallery) -> list[LabelRow]:
    """Return the rows of all labels, the most frequent in training first."""
    examples = examples_by_label(gallery)
    percents = [np.where(split.known > 0, 100 * split.prevalence, np.nan) for split in statistics.splits]
    return [
        LabelRow(
            label=statistics.labels[column],
            positives=tuple(int(split.positives[column]) for split in statistics.splits),
            percents=tuple(
                None if np.isnan(of_split[column]) else float(of_split[column]) for of_split in percents
            ),
            unknown=sum(int(split.unknown[column]) for split in statistics.splits),
            examples=examples.get(statistics.labels[column], ()),
        )
        for column in statistics.frequency_order.tolist()
    ]


def bar_groups(rows: Sequence[LabelRow], scale: LogScale) -> list[BarGroup]:
    """Return the bars to draw: all labels if they are few, otherwise the most and the least frequent ones."""
    bars = [
        Bar(row.label, row.percents[:COMPARED], tuple(map(scale.position, row.percents[:COMPARED])))
        for row in rows
    ]
    if len(bars) <= 2 * BARS_PER_END:
        return [BarGroup("", bars)]
    return [
        BarGroup(f"The {BARS_PER_END} most frequent", bars[:BARS_PER_END]),
        BarGroup(f"The {BARS_PER_END} least frequent", bars[: -BARS_PER_END - 1 : -1]),
    ]


def distributions(splits: Sequence[SplitStatistics]) -> dict[str, list[Bar]]:
    """Return the distributions of labels per picture and of the pictures' sizes and shapes, by heading."""
    labels_each = [split.labels_each for split in splits]
    sides = [np.minimum(split.widths, split.heights) for split in splits]
    shapes = [split.widths / split.heights for split in splits]
    return {
        "Labels per picture": _bars(LABELS_EACH, labels_each),
        "Shorter side, in pixels": _bars(SHORTER_SIDES, sides),
        "Width to height": _bars(SHAPES, shapes),
    }


def _bars(bins: Mapping[str, float], values: Sequence[np.ndarray]) -> list[Bar]:
    """Return the histogram of each split's values as bars, the longest of which fills the chart.

    Empty bins at both ends are left out.

    Args:
        bins: The exclusive upper ends of the bins, by name, in ascending order.
        values: One array per split.
    """
    counts = np.array([np.histogram(of_split, bins=[-np.inf, *bins.values()])[0] for of_split in values])
    percents = 100 * counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    positions = 100 * percents / percents.max()
    occupied = np.flatnonzero(counts.any(axis=0))
    names = list(bins)
    return [
        Bar(names[k], tuple(percents[:, k].tolist()), tuple(positions[:, k].tolist()))
        for k in range(occupied[0], occupied[-1] + 1)
    ]
