"""Write the pooled features and scores of all pictures of a split.

lglm embed --model RUN/model --dataset DATASET --split val --out EMBEDDINGS
"""

import sys
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from jobs import command_line
from jobs.command_line import Outcome
from jobs.make_room import make_room
from jobs.options import Embed
from jobs.parts import fixed_size_lists, read_parts
from jobs.split_scores import SplitInputs, SplitTagger, open_inputs, write_split_parts
from lglm_core import storage
from lglm_core.rooms import EmbeddingsManifest, Room


class Embeddings(SplitTagger):
    """Makes the rows of embeddings: ``key, uri, feature, norm, scores``."""

    def table(self, start: int, stop: int) -> pa.Table:
        """Return the embeddings of the rows *start* up to *stop* of the split."""
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
    room = Room(options.out, inputs.provenance(EmbeddingsManifest, options.split))
    return make_room(
        room,
        lambda: _embed(options, inputs, room),
        lambda manifest, status: (
            f"{options.out}: embeddings, {status}: {manifest.counts['images']} pictures, "
            f"{manifest.counts['width']} wide"
        ),
    )


def _embed(options: Embed, inputs: SplitInputs, room: Room[EmbeddingsManifest]) -> EmbeddingsManifest:
    write_split_parts(Embeddings, options, inputs, room, options.out)
    width = read_parts(options.out, inputs.samples).schema.field("feature").type.list_size
    return room.commit(
        EmbeddingsManifest(
            fingerprint=room.provenance.fingerprint,
            **room.provenance.fields,
            counts={"images": inputs.samples, "width": width},
            dataset_url=storage.absolute(options.dataset),
        )
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line."""
    return command_line.main("embed", Embed, run, argv)


if __name__ == "__main__":
    sys.exit(main())
