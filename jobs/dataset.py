"""Describe a dataset, as text and as a page: splits, labels, labels that occur together, sizes, rejects.

lglm dataset --dataset DATASET --html page.html
"""

import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jobs import command_line
from jobs.columns import aligned, beside, fitted
from jobs.command_line import Outcome
from jobs.options import DescribeDataset
from lglm_core import storage
from lglm_core.errors import InputError

if TYPE_CHECKING:
    from lglm_core.dataset.reader import Dataset
    from lglm_core.dataset.statistics import DatasetStatistics, Pair, SplitStatistics

COMPARED = 2  # splits whose counts the tables show side by side
NAME_WIDTH, PAIR_WIDTH, LINE_WIDTH = 22, 34, 110  # in columns of a terminal
PAIRS_RECORDED = 100


def run(options: DescribeDataset) -> Outcome:
    """Count, and write the page if one is asked for."""
    if options.html:
        _refuse_page_in_the_way(options.html, options.dataset)
    from lglm_core.dataset.reader import Dataset
    from lglm_core.dataset.statistics import describe

    dataset = Dataset.open(options.dataset)
    statistics = describe(dataset)
    if options.html:
        _write_page(options.html, dataset, statistics, options.examples)
    lines = list(_summary(statistics, options.top))
    lines += [f"  page: {options.html}"] if options.html else []
    return Outcome("done", options.html, "\n".join(lines), _counts(statistics), _metrics(statistics))


def _refuse_page_in_the_way(page: str, dataset: str) -> None:
    if storage.is_folder(page):
        raise InputError(f"{page}: is a folder; name the page to write")
    if storage.lies_within(page, dataset):
        raise InputError(f"{page}: lies within the dataset, which does not change; write the page elsewhere")


def _write_page(page: str, dataset: "Dataset", statistics: "DatasetStatistics", examples: int) -> None:
    from lglm_core.pages.dataset import dataset_page
    from lglm_core.pages.gallery import draw_gallery

    gallery = draw_gallery(dataset, [split.name for split in statistics.splits], examples)
    name = storage.absolute(dataset.url).rstrip("/").rpartition("/")[2]
    storage.write_bytes(page, dataset_page(name, statistics, gallery).encode())


def _summary(statistics: "DatasetStatistics", top: int) -> Iterator[str]:
    yield from _head(statistics)
    blocks = [
        aligned(list(_split_rows(statistics.splits))),
        _most_and_least(statistics, top),
        _pairs(statistics, top),
        list(_findings(statistics, top)),
    ]
    for block in blocks:
        yield from ("", *block) if block else ()


def _head(statistics: "DatasetStatistics") -> Iterator[str]:
    counts = statistics.manifest.counts
    rejects = [f"{status} {count:,}" for status, count in statistics.rejects_by_status().items()]
    yield (
        f"{statistics.url}: dataset of {sum(split.samples for split in statistics.splits):,} samples, "
        f"{len(statistics.labels):,} labels; of {counts['planned']:,} pictures {counts['rejected']:,} were "
        f"rejected{' (' + ', '.join(rejects) + ')' if rejects else ''}"
    )
    if counts["unlabelled_dropped"]:
        yield f"  {counts['unlabelled_dropped']:,} pictures without a label were dropped"
    if counts["duplicates"]:
        yield f"  {counts['duplicates']:,} duplicates"


def _most_and_least(statistics: "DatasetStatistics", top: int) -> list[str]:
    order = statistics.frequency_order.tolist()
    most, least = order[:top], order[top:][: -top - 1 : -1]
    if not least:
        return aligned(list(_label_rows(statistics, "labels", most)))
    blocks = (("most frequent", most), ("least frequent", least))
    return beside(*(aligned(list(_label_rows(statistics, heading, columns))) for heading, columns in blocks))


def _pairs(statistics: "DatasetStatistics", top: int) -> list[str]:
    often, lifted = statistics.together.most_often(top), statistics.together.most_lifted(top)
    blocks = (("together in train, most often", often), ("together, more than by chance", lifted))
    return beside(*(aligned(_pair_rows(heading, pairs)) if pairs else [] for heading, pairs in blocks))


def _split_rows(splits: "Sequence[SplitStatistics]") -> Iterator[list[str]]:
    columns = ("samples", "unlabelled", "labels each", "most", "unknown", "width", "height", "shards", "MB")
    yield ["split", *columns]
    for split in splits:
        row = [split.name, f"{split.samples:,}", f"{split.unlabelled:,}"]
        row += (
            [f"{split.labels_each.mean():.2f}", f"{split.labels_each.max()}"] if split.samples else ["–", "–"]
        )
        row += [f"{split.unknown.sum():,}"]
        row += [
            f"{lengths.median:g} ({lengths.least}–{lengths.most})" if lengths else "–"
            for lengths in (split.width, split.height)
        ]
        yield [*row, f"{split.shards:,}", f"{split.bytes / 1e6:,.1f}"]


def _label_rows(statistics: "DatasetStatistics", heading: str, columns: Sequence[int]) -> Iterator[list[str]]:
    from lglm_core.pages.rendering import fine_percent

    compared = statistics.splits[:COMPARED]
    yield [heading, *(cell for split in compared for cell in (split.name, ""))]
    percentages = [100 * split.prevalence for split in compared]
    for column in columns:
        row = [fitted(statistics.labels[column], NAME_WIDTH)]
        for split, percent in zip(compared, percentages, strict=True):
            row += [f"{split.positives[column]:,}", fine_percent(float(percent[column]))]
        yield row


def _pair_rows(heading: str, pairs: "Sequence[Pair]") -> list[list[str]]:
    rows = [[heading, "pictures", "× chance"]]
    for pair in pairs:
        names = f"{fitted(pair.first, PAIR_WIDTH // 2 - 1)} + {fitted(pair.second, PAIR_WIDTH // 2 - 1)}"
        rows.append([names, f"{pair.count:,}", f"{pair.lift:.1f}"])
    return rows


def _findings(statistics: "DatasetStatistics", top: int) -> Iterator[str]:
    from lglm_core.dataset.findings import drifts, findings
    from lglm_core.pages.rendering import fine_percent

    texts = [
        (finding.text, [fitted(label, NAME_WIDTH) for label in finding.labels])
        for finding in findings(statistics)
    ]
    differing = [
        f"{fitted(drift.label, NAME_WIDTH)} ({drift.split} {fine_percent(100 * drift.share)}, "
        f"train {fine_percent(100 * drift.train_share)})"
        for drift in drifts(statistics)
    ]
    if differing:
        texts.append(("With a fraction that differs from train's by more than chance explains", differing))
    for text, named in texts:
        unnamed = f" and {len(named) - top:,} more" if len(named) > top else ""
        line = f"{text}: {', '.join(named[:top])}{unnamed}" if named else text
        yield from textwrap.wrap(line, LINE_WIDTH, initial_indent="! ", subsequent_indent="  ")


def _counts(statistics: "DatasetStatistics") -> dict[str, int]:
    return {
        **statistics.manifest.counts,
        "labels": len(statistics.labels),
        "shards": sum(split.shards for split in statistics.splits),
    }


def _metrics(statistics: "DatasetStatistics") -> dict[str, Any]:
    from lglm_core.dataset.findings import drifts, findings

    together = statistics.together
    return {
        "splits": {split.name: _split_record(split) for split in statistics.splits},
        "labels": list(_label_records(statistics)),
        "rejects": statistics.rejects_by_status(),
        "most_often_together": [asdict(pair) for pair in together.most_often(PAIRS_RECORDED)],
        "most_lifted": [asdict(pair) for pair in together.most_lifted(PAIRS_RECORDED)],
        "remarks": [asdict(finding) for finding in findings(statistics)],
        "drifts": [asdict(drift) for drift in drifts(statistics)],
    }


def _split_record(split: "SplitStatistics") -> dict[str, Any]:
    each = split.labels_each
    return {
        "samples": split.samples,
        "unlabelled": split.unlabelled,
        "labels_each_mean": float(each.mean()) if split.samples else None,
        "labels_each_max": int(each.max()) if split.samples else None,
        "unknown": int(split.unknown.sum()),
        "width": asdict(split.width) if split.width else None,
        "height": asdict(split.height) if split.height else None,
        "shards": split.shards,
        "bytes": split.bytes,
    }


def _label_records(statistics: "DatasetStatistics") -> Iterator[dict[str, Any]]:
    splits = [(split, split.prevalence.tolist(), split.known.tolist()) for split in statistics.splits]
    for column, label in enumerate(statistics.labels):
        yield {
            "label": label,
            "splits": {
                split.name: {
                    "positives": int(split.positives[column]),
                    "unknown": int(split.unknown[column]),
                    "share": fractions[column] if known[column] else None,
                }
                for split, fractions, known in splits
            },
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line."""
    return command_line.main("dataset", DescribeDataset, run, argv)


if __name__ == "__main__":
    sys.exit(main())
