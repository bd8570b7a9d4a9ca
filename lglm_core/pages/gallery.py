"""Which pictures of a dataset stand for it: some of each split by chance, and a few of every label."""

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lglm_core import seeds, storage
from lglm_core.dataset.reader import Dataset, Split
from lglm_core.images.codec import UnreadableImage, to_rgb
from lglm_core.pages.pictures import thumbnail

PER_LABEL = 3
LABEL_PICTURES = 400  # at most; a picture stands for all labels that it carries
SHEET_SIDE, LABEL_SIDE = 200, 88  # pixels


@dataclass(frozen=True)
class ShownPicture:
    """A picture as a small JPEG, with the names of its labels and of those that are unknown on it."""

    key: str
    split: str
    jpeg: bytes
    labels: tuple[str, ...]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class Gallery:
    """``sheets`` hold pictures drawn by chance, by split; ``of_labels`` some that every label is seen on."""

    sheets: dict[str, list[ShownPicture]]
    of_labels: list[ShownPicture]


def label_pictures(gallery: Gallery) -> dict[str, tuple[int, ...]]:
    """Return, by label, where in ``of_labels`` its pictures are; at most ``PER_LABEL``."""
    places: dict[str, tuple[int, ...]] = {}
    for place, picture in enumerate(gallery.of_labels):
        for label in picture.labels:
            if len(places.setdefault(label, ())) < PER_LABEL:
                places[label] += (place,)
    return places


def draw_gallery(dataset: Dataset, splits: Sequence[str], examples: int) -> Gallery:
    """Draw pictures, the same ones of the same dataset every time.

    One that cannot be decoded, as may be where sharding looked at headers alone, is left out.

    Args:
        splits: Names of splits; a label's pictures are of the first of them that carries it.
        examples: How many to draw of each split.

    Raises:
        DamageError: a picture is not the one that was written.
    """
    sheets: dict[str, list[ShownPicture]] = {}
    of_labels: list[ShownPicture] = []
    wanted = set(range(len(dataset.indexed)))
    for name in splits:
        split = dataset.split(name)
        rng = seeds.rng("gallery", dataset.manifest.fingerprint, name)
        by_chance = rng.permutation(len(split))[:examples]
        sheets[name] = _shown(dataset, split, by_chance.tolist(), SHEET_SIDE)
        rows = rows_of_labels(split, wanted, LABEL_PICTURES - len(of_labels), rng)
        of_labels += _shown(dataset, split, rows, LABEL_SIDE)
        wanted -= set(pc.unique(pc.list_flatten(split.index.column("labels"))).to_pylist())
    return Gallery(sheets, of_labels)


def rows_of_labels(
    split: Split, wanted: Collection[int], at_most: int, rng: np.random.Generator
) -> list[int]:
    """Choose rows so that each wanted label is seen ``PER_LABEL`` times, or as often as it is there.

    Each label is given its first picture before any is given a second, the rarest first, so that it is the
    frequent ones that have fewer where *at_most* rows do not suffice; but these come with the others.

    Args:
        wanted: Columns of labels.
    """
    labels = split.index.column("labels")
    candidates = _candidates(split, wanted, rng)
    seen = np.zeros(split.indexed, dtype=np.int64)
    chosen: dict[int, None] = {}
    for times in range(1, PER_LABEL + 1):
        for column, rows in candidates.items():
            for row in rows:
                if seen[column] >= times or len(chosen) >= at_most:
                    break
                if row not in chosen:
                    chosen[row] = None
                    seen[labels[row].as_py()] += 1
    return list(chosen)


def _candidates(split: Split, wanted: Collection[int], rng: np.random.Generator) -> dict[int, list[int]]:
    """Rows by chance for every wanted column, the rarest label first; enough of them for ``PER_LABEL``."""
    labels = split.index.column("labels")
    rows, columns = pc.list_parent_indices(labels).to_numpy(), pc.list_flatten(labels).to_numpy()
    shuffled = rng.permutation(len(columns))
    by_label = shuffled[np.argsort(columns[shuffled], kind="stable")]
    starts = np.searchsorted(columns[by_label], np.arange(split.indexed + 1))
    rarest_first = np.argsort(np.diff(starts), kind="stable").tolist()
    return {
        column: rows[by_label[starts[column] : starts[column + 1]][:PER_LABEL]].tolist()
        for column in rarest_first
        if column in wanted
    }


def _shown(dataset: Dataset, split: Split, rows: list[int], side: int) -> list[ShownPicture]:
    # Of the few alone, since reading by row lists the places of all rows.
    few = replace(split, index=split.index.take(pa.array(rows, pa.int64())))
    names = [
        [
            tuple(dataset.indexed[column] for column in columns)
            for columns in few.index.column(kind).to_pylist()
        ]
        for kind in ("labels", "unknown")
    ]
    with ThreadPoolExecutor(storage.READERS, thread_name_prefix="reader") as pool:
        return [
            ShownPicture(key, split.name, jpeg, labels, unknown)
            for key, data, labels, unknown in zip(
                few.keys, pool.map(few.read_image, range(len(few))), *names, strict=True
            )
            if (jpeg := _small(data, side)) is not None
        ]


def _small(data: bytes, side: int) -> bytes | None:
    try:
        return thumbnail(to_rgb(data), side)
    except UnreadableImage:
        return None
