"""Files by URL: ``storage.read_bytes("s3://bucket/key")``, and the same for a path on disk.

This package exports the functions that the jobs and the other wings use; the modules of the wing import each
other directly.
"""

from lglm_core.storage.archive_url import is_address
from lglm_core.storage.files import (
    READERS,
    create,
    is_empty,
    is_file,
    is_folder,
    lies_within,
    list_files,
    local_copy,
    open_stream,
    read_bytes,
    read_if_exists,
    read_range,
    reading,
    remove,
    remove_unfinished,
    sha256,
    sizes,
    write_bytes,
    write_whole,
)
from lglm_core.storage.location import StoredFile, UnreadableFile
from lglm_core.storage.parquet import (
    parquet_names,
    parse_parquet,
    read_parquet,
    read_parquet_footer,
    to_parquet,
    write_parquet,
)
from lglm_core.storage.schemes import locate
from lglm_core.storage.url import absolute, is_local, join, local_path, redact, redact_url

__all__ = [
    "READERS",
    "StoredFile",
    "UnreadableFile",
    "absolute",
    "create",
    "is_address",
    "is_empty",
    "is_file",
    "is_folder",
    "is_local",
    "join",
    "lies_within",
    "list_files",
    "local_copy",
    "local_path",
    "locate",
    "open_stream",
    "parquet_names",
    "parse_parquet",
    "read_bytes",
    "read_if_exists",
    "read_parquet",
    "read_parquet_footer",
    "read_range",
    "reading",
    "redact",
    "redact_url",
    "remove",
    "remove_unfinished",
    "sha256",
    "sizes",
    "to_parquet",
    "write_bytes",
    "write_parquet",
    "write_whole",
]
