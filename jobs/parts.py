"""Tables of numbered part files, which Ray Data actors write; a part file is complete or absent.

Ray Data passes only part numbers. Its actors read the pictures and write the parts, so that a task that is
retried writes its part again, and no row is lost or doubled.
"""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from jobs.cluster import cpus, cpus_of_smallest_node, gpus, progress_bar
from lglm_core import storage
from lglm_core.errors import DamageError, InputError, RunError

IMAGES_PER_PART = 1000
IMAGES_PER_BATCH = 32
PROVENANCE_KEY = b"recipe"  # in the metadata of part files; earlier versions read it, too
ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (InputError, storage.UnreadableFile, DamageError, RunError)
}


class PartMaker(Protocol):
    """Makes the rows of any part; one is constructed in each actor."""

    def table(self, start: int, stop: int) -> pa.Table:
        """Return one row per picture, of the pictures *start* up to *stop*."""


@dataclass(frozen=True)
class Part:
    """The pictures *start* up to *stop*, and the URL of the file that holds their rows."""

    number: int
    start: int
    stop: int
    url: str


class _PartWriter:
    """The actor: makes the part of a given number and writes its file.

    It returns expected errors as rows, because Ray Data drops the cause of an exception and logs the rest.
    """

    def __init__(
        self, maker: type[PartMaker], arguments: Mapping[str, Any], parts: list[Part], provenance: str
    ) -> None:
        self.make = cache(lambda: maker(**arguments))
        self.parts = parts
        self.provenance = provenance

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        (number,) = batch["part"]
        try:
            self._write(self.parts[number])
        except tuple(ERRORS.values()) as error:
            return {"part": [number], "error": [type(error).__name__], "message": [str(error)]}
        return {"part": [number], "error": [""], "message": [""]}

    def _write(self, part: Part) -> None:
        table = self.make().table(part.start, part.stop)
        if table.num_rows != part.stop - part.start:
            raise DamageError(f"{part.url}: {part.stop - part.start} rows expected, {table.num_rows} made")
        storage.write_parquet(part.url, table.replace_schema_metadata({PROVENANCE_KEY: self.provenance}))


def write_parts(
    maker: type[PartMaker],
    arguments: Mapping[str, Any],
    *,
    folder: str,
    total: int,
    provenance: str,
    progress: str,
) -> None:
    """Write the rows of *total* pictures as ``part-*.parquet`` in *folder*, on the connected Ray cluster.

    Existing parts of the same provenance are kept.

    Args:
        maker: The class that makes the rows; each actor constructs one.
        arguments: Its arguments, to which the actor adds ``threads``, the number of CPUs for it.
        folder: URL of the table's folder, absolute.
        total: Number of pictures.
        provenance: Fingerprint of the room's provenance.
        progress: Label of the progress bar.

    Raises:
        InputError, DamageError, RunError: as *maker* raises them.
    """
    import ray.data

    parts = plan_parts(folder, total)
    written = written_parts(folder, parts, provenance)
    missing = [part.number for part in parts if part.number not in written]
    if not missing:
        return
    actors = max(1, min(len(missing), gpus() or cpus()))
    threads = max(1, min(cpus() // actors, cpus_of_smallest_node()))
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # the progress bar below shows more
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    done = ray.data.from_items(
        [{"part": number} for number in missing], override_num_blocks=len(missing)
    ).map_batches(
        _PartWriter,
        fn_constructor_args=(maker, {**arguments, "threads": threads}, parts, provenance),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=threads,
        num_gpus=1 if gpus() else 0,
    )
    with progress_bar(total, progress) as bar:
        bar.update(
            sum(part.stop - part.start for part in parts)
            - sum(parts[n].stop - parts[n].start for n in missing)
        )
        for row in done.iter_rows():
            if row["error"]:
                raise ERRORS[row["error"]](row["message"])
            part = parts[row["part"]]
            bar.update(part.stop - part.start)


def read_parts(folder: str, total: int) -> pa.Table:
    """Read all parts of a table in order.

    Raises:
        DamageError: the table does not have *total* rows.
    """
    tables = [storage.read_parquet(part.url) for part in plan_parts(folder, total)]
    table = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
    if table.num_rows != total:
        raise DamageError(f"{folder}: {total} rows expected, {table.num_rows} found")
    return table


def plan_parts(folder: str, total: int) -> list[Part]:
    """Divide *total* pictures into the parts of the table in *folder*; no other number matters."""
    return [
        Part(
            number,
            start,
            min(start + IMAGES_PER_PART, total),
            storage.join(folder, f"part-{number:05d}.parquet"),
        )
        for number, start in enumerate(range(0, total, IMAGES_PER_PART))
    ]


def written_parts(folder: str, parts: Sequence[Part], provenance: str) -> set[int]:
    """Return the numbers of the parts that exist complete and have the given provenance.

    One listing finds them, and only their footers are read: a bucket may hold thousands.
    """
    listed = storage.list_files(folder) if storage.is_folder(folder) else []
    sizes = {storage.join(folder, file.name): file.size for file in listed}

    def is_written(part: Part) -> bool:
        if part.url not in sizes:
            return False
        try:
            footer = storage.read_parquet_footer(part.url, sizes[part.url])
        except InputError:  # it is broken, so it is written again
            return False
        found = (footer.metadata or {}).get(PROVENANCE_KEY)
        return found == provenance.encode() and footer.num_rows == part.stop - part.start

    with ThreadPoolExecutor(storage.READERS, thread_name_prefix="footers") as pool:
        written = pool.map(is_written, parts)
        return {part.number for part, complete in zip(parts, written, strict=True) if complete}


def fixed_size_lists(values: np.ndarray) -> pa.FixedSizeListArray:
    """Turn an array [n, width] into an Arrow column of fixed-size lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def matrix(table: pa.Table, column: str) -> np.ndarray:
    """Turn a column of fixed-size lists into an array [n, width]."""
    width = table.schema.field(column).type.list_size
    return table.column(column).combine_chunks().flatten().to_numpy().reshape(-1, width)
