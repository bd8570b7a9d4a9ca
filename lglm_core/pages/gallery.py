"""Chooses the pictures that a dataset's page shows: random ones of each split, and a few of every label."""

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
MAX_LABEL_PICTURES = 400  # a picture is an example of all labels that it carries
SPLIT_PICTURE_SIDE, LABEL_PICTURE_SIDE = 200, 88  # pixels


@dataclass(frozen=True)
class GalleryPicture:
    """A picture as a small JPEG, with the names of its labels and of its unknown labels."""

    key: str
    split: str
    jpeg: bytes
    labels: tuple[str, ...]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class Gallery:
    """The pictures of a page: random ones by split, and examples of labels, which may show several labels."""

    by_split: dict[str, list[GalleryPicture]]
    label_examples: list[GalleryPicture]


def examples_by_label(gallery: Gallery) -> dict[str, tuple[int, ...]]:
    """Return, by label, the positions of its pictures in ``label_examples``, at most ``PER_LABEL``."""
    positions: dict[str, tuple[int, ...]] = {}
    for position, picture in enumerate(gallery.label_examples):
        for label in picture.labels:
            if len(positions.setdefault(label, ())) < PER_LABEL:
                positions[label] += (position,)
    return positions


def draw_gallery(dataset: Dataset, splits: Sequence[str], examples: int) -> Gallery:
    """Draw pictures of a dataset; the same dataset gives the same pictures.

    A picture that cannot be decoded is left out; a dataset may hold such pictures if only headers were
    checked when it was written.

    Args:
        dataset: The dataset to draw from.
        splits: Names of splits; a label's examples come from the first of them that has the label.
        examples: Number of random pictures of each split.

    Raises:
        DamageError: a picture is not the one that was written.
    """
    by_split: dict[str, list[GalleryPicture]] = {}
    label_examples: list[GalleryPicture] = []
    wanted = set(range(len(dataset.indexed)))
    for name in splits:
        split = dataset.split(name)
        rng = seeds.rng("gallery", dataset.manifest.fingerprint, name)
        random_rows = rng.permutation(len(split))[:examples]
        by_split[name] = _read_pictures(dataset, split, random_rows.tolist(), SPLIT_PICTURE_SIDE)
        rows = choose_label_rows(split, wanted, MAX_LABEL_PICTURES - len(label_examples), rng)
        label_examples += _read_pictures(dataset, split, rows, LABEL_PICTURE_SIDE)
        wanted -= set(pc.unique(pc.list_flatten(split.index.column("labels"))).to_pylist())
    return Gallery(by_split, label_examples)


def choose_label_rows(
    split: Split, wanted: Collection[int], max_rows: int, rng: np.random.Generator
) -> list[int]:
    """Choose rows that show each wanted label ``PER_LABEL`` times, or as often as it occurs.

    Every label gets its first picture before any label gets a second one, the rarest label first. So where
    *max_rows* rows do not suffice, frequent labels have fewer examples of their own; but they also occur on
    the pictures of others.

    Args:
        split: The split to choose from.
        wanted: Columns of the wanted labels.
        max_rows: The most rows to choose.
        rng: Shuffles the candidates.
    """
    labels = split.index.column("labels")
    candidates = _candidates(split, wanted, rng)
    examples = np.zeros(split.indexed, dtype=np.int64)
    chosen: dict[int, None] = {}
    for target in range(1, PER_LABEL + 1):
        for column, rows in candidates.items():
            for row in rows:
                if examples[column] >= target or len(chosen) >= max_rows:
                    break
                if row not in chosen:
                    chosen[row] = None
                    examples[labels[row].as_py()] += 1
    return list(chosen)


def _candidates(split: Split, wanted: Collection[int], rng: np.random.Generator) -> dict[int, list[int]]:
    """Return up to ``PER_LABEL`` random rows for every wanted column, the rarest label first."""
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


def _read_pictures(dataset: Dataset, split: Split, rows: list[int], side: int) -> list[GalleryPicture]:
    # A split of these rows only, because reading by row loads the positions of all rows of a split.
    chosen = replace(split, index=split.index.take(pa.array(rows, pa.int64())))
    names = [
        [
            tuple(dataset.indexed[column] for column in columns)
            for columns in chosen.index.column(kind).to_pylist()
        ]
        for kind in ("labels", "unknown")
    ]
    with ThreadPoolExecutor(storage.READERS, thread_name_prefix="reader") as pool:
        return [
            GalleryPicture(key, split.name, jpeg, labels, unknown)
            for key, data, labels, unknown in zip(
                chosen.keys, pool.map(chosen.read_image, range(len(chosen))), *names, strict=True
            )
            if (jpeg := _thumbnail(data, side)) is not None
        ]


def _thumbnail(data: bytes, side: int) -> bytes | None:
    try:
        return thumbnail(to_rgb(data), side)
    except UnreadableImage:
        return None
