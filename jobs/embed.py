"""Write the pooled features and the scores of a split, for search and for other models.

lglm embed --model RUN/model --dataset DATASET --split val --out EMBEDDINGS
"""

import sys
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from jobs import command_line
from jobs.command_line import Outcome
from jobs.options import Embed
from jobs.parts import fixed_size_lists, read_parts
from jobs.split_scores import SplitTagger, open_inputs, write_split_parts
from lglm_core import rooms, storage


class Embeddings(SplitTagger):
    """Makes rows ``key, uri, feature, norm, scores``."""

    def table(self, start: int, stop: int) -> pa.Table:
        """Embed the rows *start* to *stop* of the split."""
        features, scores = self.predict(start, stop)
        return pa.table(
            {
                "key": self.split.keys[start:stop],
                "uri": [self.split.image_name(row) for row in range(start, stop)],
                "feature": fixed_size_lists(features.astype(np.float16)),
                "norm": np.linalg.norm(features, axis=1).astype(np.float32),
                "scores": fixed_size_lists(scores),
            }
        )


def run(options: Embed) -> Outcome:
    """Embed the split, unless the same embeddings are complete."""
    inputs = open_inputs(options)
    provenance = inputs.provenance("embeddings", options.split)
    manifest = rooms.find(options.out, provenance)
    status = "already complete" if manifest else "done"
    if manifest is None:
        write_split_parts(Embeddings, options, inputs, provenance, options.out)
        width = read_parts(options.out, inputs.samples).schema.field("feature").type.list_size
        manifest = rooms.commit(
            options.out,
            rooms.Manifest(
                kind="embeddings",
                fingerprint=provenance.fingerprint,
                inputs=provenance.inputs,
                options=provenance.options,
                counts={"images": inputs.samples, "width": width},
                details={"dataset_url": storage.absolute(options.dataset)},
            ),
        )
    counts = manifest.counts
    summary = f"{options.out}: embeddings, {status}: {counts['images']} pictures, {counts['width']} wide"
    return Outcome(status, options.out, summary, counts=manifest.counts)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line."""
    return command_line.main("embed", Embed, run, argv)


if __name__ == "__main__":
    sys.exit(main())
