"""The evaluation report: how good a model is, where it is right and where it is wrong.

All metrics, average precisions, precisions, recalls and priors are in percent; probabilities are in [0, 1].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lglm_core.pages.charts import Panel, panel, ring
from lglm_core.pages.rendering import is_number, render, script

PREDICTED_FROM = 0.5
BARS_PER_END = 50
NAMED_AT_MOST = 12
TABLE_OPEN_UP_TO = 30

MEANINGS = {
    "CP": "Precision per label: of the pictures given a label, the share that truly carry it; "
    "then the mean over labels.",
    "CR": "Recall per label: of the pictures that carry a label, the share that were given it; "
    "then the mean over labels.",
    "CF1": "One number for both: the harmonic mean of CP and CR. Rare labels count as much as common ones.",
    "OP": "Precision overall: of all labels given to all pictures, the share that are true.",
    "OR": "Recall overall: of all true labels of all pictures, the share that were given.",
    "OF1": "One number for both: the harmonic mean of OP and OR. Common labels count the most.",
}


@dataclass(frozen=True)
class LabelResult:
    """How one label fares, in percent; ``ap`` is None when the label has no positives.

    ``prior`` is the label's prevalence, which is the AP that a constant score would reach.
    """

    label: str
    positives: int
    ap: float | None
    precision: float
    recall: float
    f1: float
    prior: float


@dataclass(frozen=True)
class Example:
    """A picture with its true labels and its highest few probabilities, by label."""

    key: str
    jpeg: bytes
    labels: tuple[str, ...]
    scores: dict[str, float]


@dataclass(frozen=True)
class EpochRow:
    """What one epoch of training left behind; ``val_map`` is in percent, None if not measured."""

    epoch: int
    loss: float
    val_map: float | None
    seconds: float


@dataclass(frozen=True)
class Report:
    """Everything the page shows.

    ``metrics`` holds mAP, CP, CR, CF1, OP, OR, OF1, the last six again under ``top3``, ``n_images``,
    ``prior_mAP`` and ``labels_without_positives``; what is absent is shown as a dash. ``mAP_low`` and
    ``mAP_high``, the ends of the mAP's 95 % interval, are shown where they are there.
    ``graph`` holds the strongest learned edges as (from, to, weight).
    """

    title: str
    split: str
    metrics: Mapping[str, Any]
    labels: Sequence[LabelResult]
    examples: Sequence[Example]
    hardest: Sequence[Example]
    history: Sequence[EpochRow]
    graph: Sequence[tuple[str, str, float]]
    facts: Mapping[str, str]


@dataclass(frozen=True)
class Reading:
    """One label on one picture; with ``is_ceiling`` the probability, in percent, is at most ``percent``."""

    label: str
    percent: float | None
    verdict: str
    is_ceiling: bool = False


def verdict(is_true: bool, probability: float) -> str:
    """Name what became of a label: right, missed, a false alarm, or rightly left out."""
    if probability >= PREDICTED_FROM:
        return "right" if is_true else "false alarm"
    return "missed" if is_true else "left out"


def readings(example: Example) -> list[Reading]:
    """Return the labels of a picture, the most probable first, true ones without a score last.

    The scores are the highest ones, so that the lowest of them bounds those that are not there.
    """
    scored = sorted(example.scores.items(), key=lambda pair: (-pair[1], pair[0]))
    listed = [Reading(label, 100 * p, verdict(label in example.labels, p)) for label, p in scored]
    unscored = [label for label in example.labels if label not in example.scores]
    if not scored:
        return [Reading(label, None, "not scored") for label in unscored]
    ceiling = scored[-1][1]
    fate = "missed" if ceiling < PREDICTED_FROM else "not shown"  # above, it may well have been given
    return listed + [Reading(label, 100 * ceiling, fate, is_ceiling=True) for label in unscored]


@dataclass(frozen=True)
class MetricRow:
    """A line of the metrics table: over all labels, and over the three highest of each picture."""

    name: str
    everything: Any
    top3: Any
    meaning: str


def metric_rows(metrics: Mapping[str, Any]) -> list[MetricRow]:
    """Return the six thresholded metrics with what they mean."""
    top3 = metrics.get("top3") or {}
    return [MetricRow(name, metrics.get(name), top3.get(name), text) for name, text in MEANINGS.items()]


@dataclass(frozen=True)
class BarGroup:
    """Labels drawn as bars under one heading, which is empty when there is only one group."""

    heading: str
    labels: Sequence[LabelResult]


def by_ap(labels: Sequence[LabelResult]) -> list[LabelResult]:
    """Sort the best first and those without an average precision last; equals by name."""

    def place(result: LabelResult) -> tuple[bool, float, str]:
        known = is_number(result.ap)
        return (not known, -result.ap if known and result.ap is not None else 0.0, result.label)

    return sorted(labels, key=place)


def bar_groups(ranked: Sequence[LabelResult]) -> list[BarGroup]:
    """Return the bars to draw: all of few labels, otherwise only both ends of the ranking."""
    if len(ranked) <= 2 * BARS_PER_END:
        return [BarGroup("", ranked)]
    measured = [result for result in ranked if is_number(result.ap)]
    best, worst = measured[:BARS_PER_END], measured[BARS_PER_END:][-BARS_PER_END:][::-1]
    groups = [BarGroup(f"The best {len(best)}", best), BarGroup(f"The worst {len(worst)}", worst)]
    return [group for group in groups if group.labels]


def without_positives(report: Report) -> list[str]:
    """Name the labels that no picture of the split carries, each once."""
    named = list(report.metrics.get("labels_without_positives") or [])
    named += [result.label for result in report.labels if result.ap is None]
    return list(dict.fromkeys(named))


def training_panels(history: Sequence[EpochRow]) -> list[Panel]:
    """Return the curves that the history can fill; an epoch without a number leaves a gap in none."""
    rows = sorted(history, key=lambda row: row.epoch)
    maps = [(row.epoch, row.val_map) for row in rows if row.val_map is not None and is_number(row.val_map)]
    losses = [(row.epoch, row.loss) for row in rows if is_number(row.loss)]
    panels = []
    if maps:
        panels.append(panel("mAP on the validation pictures", maps, unit="%", best="highest"))
    if losses:
        panels.append(panel("Training loss", losses, unit="", best="lowest"))
    return panels


def report_page(report: Report) -> str:
    """Return the report as one HTML file that needs nothing beside it; the same report, the same text."""
    ranked = by_ap(report.labels)
    orphans = without_positives(report)
    source, digest = script("table.js.j2")
    return render(
        "report.html.j2",
        title=report.title,
        script=source,
        script_digest=digest,
        report=report,
        metrics=report.metrics,
        metric_rows=metric_rows(report.metrics),
        ranked=ranked,
        bar_groups=bar_groups(ranked),
        table_open=len(ranked) <= TABLE_OPEN_UP_TO,
        orphans=orphans[:NAMED_AT_MOST],
        orphans_unnamed=max(0, len(orphans) - NAMED_AT_MOST),
        galleries=[
            ("pictures", "Pictures", "A few pictures and what the model makes of them.", report.examples),
            ("hardest", "Hardest pictures", "Where the model was most wrong.", report.hardest),
        ],
        readings=readings,
        ring=ring(report.graph),
        panels=training_panels(report.history),
    )
