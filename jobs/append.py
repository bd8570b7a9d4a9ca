"""Append the new pictures of a source to a dataset, as new shards; existing files stay as they are.

lglm append coco --root COCO --out DATASET
lglm append table --table labels.csv --image-root PICTURES --out DATASET --extend-labels
"""

import sys
from collections.abc import Sequence

from jobs import command_line
from jobs.command_line import Outcome
from jobs.datasets import build_source, dataset_outcome, dataset_writer
from jobs.options import APPEND, AppendSource


def run(options: AppendSource) -> Outcome:
    """Append the pictures that the dataset lacks, if there are any."""
    change = dataset_writer(options).append(build_source(options), extend_labels=options.extend_labels)
    if change.changed:
        status = f"done, {change.added} samples added to {change.manifest.counts['written'] - change.added}"
    else:
        status = f"nothing new, {change.known} pictures are known already"
    return dataset_outcome(options.out, change.manifest, status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line."""
    return command_line.main("append", APPEND, run, argv)


if __name__ == "__main__":
    sys.exit(main())
