"""Arrow tables in Parquet files, by URL."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lglm_core.errors import InputError
from lglm_core.storage.files import read_bytes, write_bytes
from lglm_core.storage.range_reader import RangeReader
from lglm_core.storage.schemes import locate
from lglm_core.storage.url import redact_url

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


def read_parquet(url: str, columns: list[str] | None = None) -> "pa.Table":
    """Read a Parquet file into an Arrow table."""
    return parse_parquet(read_bytes(url), url, columns)


def parse_parquet(data: bytes, url: str, columns: list[str] | None = None) -> "pa.Table":
    """Parse the bytes of a Parquet file into an Arrow table; *url* is for error messages.

    Arrow's threads are not used: a thread that still holds the data while Python exits aborts the process
    (SIGABRT) after all work is done.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _readable_parquet(url):
        file = pq.ParquetFile(pa.BufferReader(pa.py_buffer(data)), pre_buffer=False)
        return file.read(columns=columns, use_threads=False)


def read_parquet_footer(url: str, size: int) -> "pq.FileMetaData":
    """Read the metadata in the footer of a Parquet file of *size* bytes, and no row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _readable_parquet(url):
        return pq.read_metadata(pa.PythonFile(RangeReader(locate(url), size), mode="r"))


def parquet_names(data: bytes, url: str) -> list[str]:
    """Return the column names in the bytes of a Parquet file; *url* is for error messages."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _readable_parquet(url):
        return list(pq.read_schema(pa.BufferReader(pa.py_buffer(data))).names)


@contextmanager
def _readable_parquet(url: str) -> Iterator[None]:
    """Turn pyarrow's errors in the block into one line about *url*."""
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{redact_url(url)}: not a readable Parquet file ({error})") from error


def to_parquet(table: "pa.Table") -> bytes:
    """Encode an Arrow table as the bytes of a Parquet file."""
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    return file.getvalue()


def write_parquet(url: str, table: "pa.Table") -> None:
    """Publish an Arrow table as a Parquet file."""
    write_bytes(url, to_parquet(table))
