"""The evaluation report, which shows how good a model is, and where it is right and wrong.

All metrics, average precisions, precisions, recalls and priors are in percent; probabilities are in [0, 1].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lglm_core.pages.charts import Panel, panel, ring
from lglm_core.pages.rendering import is_number, render, script
from lglm_core.rooms import EpochRecord

THRESHOLD = 0.5
BARS_PER_END = 50
MAX_NAMED = 12
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
    """The metrics of one label, in percent; ``ap`` is None where the label has no positives.

    ``prior`` is the label's prevalence, which is the AP that a constant score reaches.
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
    """A picture with its true labels and its highest probabilities, by label."""

    key: str
    jpeg: bytes
    labels: tuple[str, ...]
    scores: dict[str, float]


@dataclass(frozen=True)
class Report:
    """Everything that the page shows.

    ``metrics`` holds mAP, CP, CR, CF1, OP, OR, OF1, the last six again under ``top3``, ``n_images``,
    ``prior_mAP`` and ``labels_without_positives``; missing values are shown as a dash. ``mAP_low`` and
    ``mAP_high``, the ends of the mAP's 95 % interval, are optional. ``graph`` holds the strongest learned
    edges as (from, to, weight).
    """

    title: str
    split: str
    metrics: Mapping[str, Any]
    labels: Sequence[LabelResult]
    examples: Sequence[Example]
    hardest: Sequence[Example]
    history: Sequence[EpochRecord]
    graph: Sequence[tuple[str, str, float]]
    facts: Mapping[str, str]


@dataclass(frozen=True)
class ScoredLabel:
    """A label's probability on a picture, in percent; ``is_upper_bound`` if only an upper bound is known."""

    label: str
    percent: float | None
    verdict: str
    is_upper_bound: bool = False


def verdict(is_true: bool, probability: float) -> str:
    """Classify a prediction as right, missed, a false alarm, or (rightly) left out."""
    if probability >= THRESHOLD:
        return "right" if is_true else "false alarm"
    return "missed" if is_true else "left out"


def scored_labels(example: Example) -> list[ScoredLabel]:
    """Return the labels of a picture, the most probable first, and true labels without a score last.

    An example holds only its highest scores, so the lowest of them is an upper bound for the missing ones.
    """
    scores = sorted(example.scores.items(), key=lambda pair: (-pair[1], pair[0]))
    scored = [ScoredLabel(label, 100 * p, verdict(label in example.labels, p)) for label, p in scores]
    unscored = [label for label in example.labels if label not in example.scores]
    if not scores:
        return [ScoredLabel(label, None, "not scored") for label in unscored]
    bound = scores[-1][1]
    # A label below a bound that reaches the threshold may be predicted or not.
    unscored_verdict = "missed" if bound < THRESHOLD else "not shown"
    return scored + [
        ScoredLabel(label, 100 * bound, unscored_verdict, is_upper_bound=True) for label in unscored
    ]


@dataclass(frozen=True)
class MetricRow:
    """A row of the metrics table: the metric over all labels, and over the top 3 of each picture."""

    name: str
    all_labels: Any
    top3: Any
    meaning: str


def metric_rows(metrics: Mapping[str, Any]) -> list[MetricRow]:
    """Return the six thresholded metrics with their meanings."""
    top3 = metrics.get("top3") or {}
    return [MetricRow(name, metrics.get(name), top3.get(name), text) for name, text in MEANINGS.items()]


@dataclass(frozen=True)
class BarGroup:
    """Labels drawn as bars under one heading, which is empty when there is only one group."""

    heading: str
    labels: Sequence[LabelResult]


def rank_by_ap(labels: Sequence[LabelResult]) -> list[LabelResult]:
    """Sort labels by falling average precision, those without one last, and equal ones by name."""

    def sort_key(result: LabelResult) -> tuple[bool, float, str]:
        known = is_number(result.ap)
        return (not known, -result.ap if known and result.ap is not None else 0.0, result.label)

    return sorted(labels, key=sort_key)


def bar_groups(ranked: Sequence[LabelResult]) -> list[BarGroup]:
    """Return the bars to draw: all labels if they are few, otherwise only both ends of the ranking."""
    if len(ranked) <= 2 * BARS_PER_END:
        return [BarGroup("", ranked)]
    measured = [result for result in ranked if is_number(result.ap)]
    best, worst = measured[:BARS_PER_END], measured[BARS_PER_END:][-BARS_PER_END:][::-1]
    groups = [BarGroup(f"The best {len(best)}", best), BarGroup(f"The worst {len(worst)}", worst)]
    return [group for group in groups if group.labels]


def without_positives(report: Report) -> list[str]:
    """Return the labels that no picture of the split carries, each once."""
    labels = list(report.metrics.get("labels_without_positives") or [])
    labels += [result.label for result in report.labels if result.ap is None]
    return list(dict.fromkeys(labels))


def training_panels(history: Sequence[EpochRecord]) -> list[Panel]:
    """Return the curves of mAP and loss over epochs, without epochs that have no finite value."""
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
    """Return the report as one self-contained HTML file; the same report gives the same text."""
    ranked = rank_by_ap(report.labels)
    unmeasured = without_positives(report)
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
        unmeasured=unmeasured[:MAX_NAMED],
        more_unmeasured=max(0, len(unmeasured) - MAX_NAMED),
        galleries=[
            ("pictures", "Pictures", "A few pictures and what the model makes of them.", report.examples),
            ("hardest", "Hardest pictures", "Where the model was most wrong.", report.hardest),
        ],
        scored_labels=scored_labels,
        ring=ring(report.graph),
        panels=training_panels(report.history),
    )
