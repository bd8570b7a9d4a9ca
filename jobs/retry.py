"""Retry the pictures of a dataset that could not be read when it was written.

lglm retry coco --root COCO --out DATASET
lglm retry table --table labels.csv --image-root PICTURES --out DATASET
"""

import sys
from collections.abc import Sequence

from jobs import command_line
from jobs.command_line import Outcome
from jobs.datasets import build_source, dataset_outcome, dataset_writer
from jobs.options import RETRY, RetrySource


def run(options: RetrySource) -> Outcome:
    """Retry the unreadable pictures, if there are any."""
    change = dataset_writer(options).retry(build_source(options), extend_labels=options.extend_labels)
    if change.changed:
        status = f"done, {change.added} samples added to {change.manifest.counts['written'] - change.added}"
    elif change.still_unreadable:
        status = f"nothing new, {change.still_unreadable} pictures still cannot be read"
    elif rejected := change.manifest.unreadable:
        status = f"nothing new, none of the {rejected} unreadable pictures is in this source"
    else:
        status = "already complete"
    return dataset_outcome(options.out, change.manifest, status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line."""
    return command_line.main("retry", RETRY, run, argv)


if __name__ == "__main__":
    sys.exit(main())
