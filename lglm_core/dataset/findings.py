"""What to look at in a dataset before training on it."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lglm_core.dataset.statistics import DatasetStatistics, SplitStatistics

FEW = 10  # training pictures; a label of fewer is hardly learned
SURPRISING = 4.0  # standard deviations, so that of a thousand labels of equal shares hardly one is named
FACTOR_APART = 1.5
NOTHING = {"nan", "none", "null", "nil", "na", "n/a", "<na>"}


@dataclass(frozen=True)
class Finding:
    """Something to know about a dataset, and the labels concerned, the rarest in training first."""

    text: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Drift:
    """A label that is more frequent in one split than in training, or less.

    ``share`` and ``train_share`` are the fractions of samples that carry it; ``surprise`` is their difference
    in standard deviations of chance.
    """

    label: str
    split: str
    train_share: float
    share: float
    surprise: float


def findings(statistics: DatasetStatistics) -> Iterator[Finding]:
    """Yield what a user should know, the gravest first."""
    train, *others = statistics.splits
    if not any(split.samples for split in others):
        yield Finding("No picture is in another split than train: there is nothing to measure a model on")
    rejected, planned = statistics.rejects.num_rows, statistics.manifest.counts["planned"]
    if rejected:
        yield Finding(f"{rejected:,} of {planned:,} pictures were rejected ({100 * rejected / planned:.1f}%)")
    twins = statistics.twins
    if twins.across:
        yield Finding(
            f"{twins.across:,} pictures of other splits are in train too, the same to the byte: what is "
            "measured on them was learned; a new dataset with `duplicates` = drop leaves them out of train"
        )
    if twins.contradicting:
        yield Finding(
            f"{twins.contradicting:,} pictures are the same as another to the byte, but labelled otherwise"
        )
    about = [("Without a training picture, so that nothing can be learned", train.positives == 0)]
    about += [
        (f"Without a picture in {split.name}, so that nothing can be measured there", split.positives == 0)
        for split in others
        if split.samples
    ]
    few = (train.positives > 0) & (train.positives < FEW)
    about.append((f"With fewer than {FEW} training pictures", few))
    about += _odd_names(statistics)
    rarest_first = statistics.frequency_order[::-1]
    for text, concerned in about:
        columns = rarest_first[concerned[rarest_first]].tolist()
        if columns:
            yield Finding(text, tuple(statistics.labels[column] for column in columns))


def _odd_names(statistics: DatasetStatistics) -> list[tuple[str, np.ndarray]]:
    """Return kinds of names that were perhaps not meant, each with the labels concerned, bool [C]."""
    names = statistics.labels.names
    normal = (unicodedata.normalize("NFC", name) for name in names)
    bare = [re.sub(r"[\s_-]+", " ", name).strip().casefold() for name in normal]
    counts = Counter(bare)
    alike = np.array([counts[name] > 1 for name in bare])
    found = [
        ("Alike but for case, spaces, '_', '-' and how accents are encoded, yet labels of their own", alike)
    ]
    if statistics.manifest.options.get("source") == "table":
        several = np.array([bool(re.search("[,;]", name)) for name in names])
        nothing = np.array([name in NOTHING for name in bare])
        multi_hot = np.full(len(names), {*names} == {"0", "1"})
        found += [
            ("With ',' or ';' in their names; what separates labels in a cell is '|'", several),
            ("Named like an empty cell; leave such cells empty", nothing),
            ("0 and 1, as if each stood for one label; a cell names the labels that are present", multi_hot),
        ]
    return found


def drifts(statistics: DatasetStatistics) -> list[Drift]:
    """Find labels whose frequency differs from training's by a factor, and by more than chance explains.

    The most surprising come first.
    """
    train, *others = statistics.splits
    found = []
    for other in others:
        surprise = _surprise(train, other)
        low, high = np.sort([train.prevalence, other.prevalence], axis=0)
        apart = (surprise >= SURPRISING) & (high >= FACTOR_APART * low)
        for column in np.flatnonzero(apart).tolist():
            shares = float(train.prevalence[column]), float(other.prevalence[column])
            found.append(Drift(statistics.labels[column], other.name, *shares, float(surprise[column])))
    return sorted(found, key=lambda drift: -drift.surprise)


def _surprise(one: SplitStatistics, other: SplitStatistics) -> np.ndarray:
    """Return how far frequencies are apart, in standard deviations of chance, float64 [C]; 0 if unknown.

    The root of the likelihood ratio statistic: unlike a difference over its standard error, it also holds
    for a handful of pictures.
    """
    pooled = (one.positives + other.positives) / np.maximum(1, one.known + other.known)
    statistic = np.zeros(len(pooled))
    for split in (one, other):
        for observed, probability in ((split.positives, pooled), (split.known - split.positives, 1 - pooled)):
            expected = split.known * probability
            ratio = np.divide(observed, expected, out=np.ones(len(pooled)), where=observed > 0)
            statistic += 2 * observed * np.log(ratio)
    return np.sqrt(np.maximum(0.0, statistic))
