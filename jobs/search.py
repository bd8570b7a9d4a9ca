"""Find the pictures of an embeddings folder that are nearest to a given picture.

lglm search --model RUN/model --embeddings EMBEDDINGS --query picture.jpg -k 5 --out page.html
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs import command_line
from jobs.command_line import Outcome
from jobs.options import Search
from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.rooms import EmbeddingsManifest, ModelManifest, read_manifest, require

if TYPE_CHECKING:
    import numpy as np

    from lglm_core.dataset.reader import Split
    from lglm_core.inference.tagger import Tagger
    from lglm_core.pages.neighbours import Neighbour

SCORES_SHOWN = 5
QUERY_SIDE = 480  # pixels; the page draws the query larger than its neighbours


def run(options: Search) -> Outcome:
    """Print the *k* nearest pictures, and write a page of them if one is asked for."""
    if options.out and storage.is_folder(options.out):
        raise InputError(f"{options.out}: a folder is there; name the page to write")
    model = require(options.model, ModelManifest)
    manifest = require(options.embeddings, EmbeddingsManifest)
    if manifest.inputs["model"] != model.fingerprint:
        raise InputError(
            f"{options.embeddings}: made with another model than {options.model}; "
            "run lglm embed with this one"
        )
    data = storage.read_bytes(options.query)
    from lglm_core.inference.tagger import Tagger

    tagger = Tagger.load(options.model)
    predictions = tagger.predict([data])
    for error in predictions.errors.values():
        raise InputError(f"{options.query}: cannot be read as a picture: {error}")
    neighbours = _nearest(options, manifest, tagger, predictions.features[0])
    if options.out:
        _write_page(options.out, options.query, data, _highest(tagger, predictions.scores[0]), neighbours)
    lines = [
        f"{options.query}: the {len(neighbours)} nearest of {manifest.counts['images']} by cosine similarity"
    ]
    lines += [f"  {n.rank}. {n.key}  {n.similarity:.3f}  {', '.join(n.labels)}" for n in neighbours]
    lines += [f"  page: {options.out}"] if options.out else []
    return Outcome("done", options.out, "\n".join(lines), counts={"neighbours": len(neighbours)})


def _nearest(
    options: Search, manifest: EmbeddingsManifest, tagger: "Tagger", query: "np.ndarray"
) -> "list[Neighbour]":
    from jobs.parts import matrix, read_parts
    from lglm_core.images.codec import to_rgb
    from lglm_core.inference.retrieval import nearest
    from lglm_core.pages.neighbours import Neighbour
    from lglm_core.pages.pictures import thumbnail

    table = read_parts(options.embeddings, manifest.counts["images"])
    hits = nearest(query, matrix(table, "feature"), table.column("norm").to_numpy(), options.k)
    split = _split(manifest)
    neighbours = []
    for rank, hit in enumerate(hits, start=1):
        scores = _highest(tagger, table.column("scores")[hit.row].values.to_numpy())
        neighbours.append(
            Neighbour(
                rank=rank,
                key=table.column("key")[hit.row].as_py(),
                jpeg=thumbnail(to_rgb(split.read_image(hit.row))) if split and options.out else None,
                similarity=hit.similarity,
                labels=_labels(split, hit.row) if split else (),
                scores=scores,
            )
        )
    return neighbours


def _labels(split: "Split", row: int) -> tuple[str, ...]:
    """Return the labels of a picture by the dataset's order, from which the model's order may differ."""
    return tuple(split.labels[column] for column in split.index.column("labels")[row].as_py())


def _split(embeddings: EmbeddingsManifest) -> "Split | None":
    """Open the split that was embedded; return None if its dataset is gone or has changed."""
    from lglm_core.dataset.reader import Dataset

    url = embeddings.dataset_url
    manifest = read_manifest(url)
    if manifest is None or manifest.fingerprint != embeddings.inputs["dataset"]:
        return None
    return Dataset.open(url).split(embeddings.options["split"])


def _highest(tagger: "Tagger", scores: "np.ndarray") -> dict[str, float]:
    """Return the highest of the scores [C] by label, the highest first."""
    order = (-scores).argsort(kind="stable")[:SCORES_SHOWN]
    return {tagger.labels[int(column)]: float(scores[column]) for column in order}


def _write_page(
    out: str, query: str, data: bytes, scores: dict[str, float], neighbours: "list[Neighbour]"
) -> None:
    from lglm_core.images.codec import to_rgb
    from lglm_core.pages.neighbours import neighbours_page
    from lglm_core.pages.pictures import thumbnail

    name = query.rpartition("/")[2]
    picture = thumbnail(to_rgb(data), side=QUERY_SIDE)
    page = neighbours_page(f"Nearest to {name}", name, picture, scores, neighbours)
    storage.write_bytes(out, page.encode())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line."""
    return command_line.main("search", Search, run, argv)


if __name__ == "__main__":
    sys.exit(main())
