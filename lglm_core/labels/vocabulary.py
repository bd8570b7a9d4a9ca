"""The label vocabulary: names and the columns they stand in."""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import overload

from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.rooms.canonical import digest, to_json
from lglm_core.rooms.manifest import parse_json


class LabelVocabulary(Sequence[str]):
    """An ordered set of label names; the only place that knows which column a name has."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        self._columns = {name: column for column, name in enumerate(self.names)}
        if len(self._columns) != len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise InputError(f"label {twice!r} is named twice")
        if len(self.names) < 2:
            found = f"{self.names[0]!r} alone" if self.names else "none"
            raise InputError(f"a multi-label model needs at least 2 labels; found {found}")

    @overload
    def __getitem__(self, column: int) -> str: ...
    @overload
    def __getitem__(self, column: slice) -> tuple[str, ...]: ...
    def __getitem__(self, column: int | slice) -> str | tuple[str, ...]:
        return self.names[column]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LabelVocabulary) and self.names == other.names

    def __hash__(self) -> int:
        return hash(self.names)

    def column(self, name: str) -> int:
        """Return the column of *name*; raises KeyError for a name that is none of ours."""
        return self._columns[name]

    def columns(self, names: Iterable[str]) -> list[int]:
        """Return the columns of *names*, ascending."""
        return sorted(self._columns[name] for name in names)

    @cached_property
    def digest(self) -> str:
        """The sha256 over names in order: two vocabularies agree when it does."""
        return digest(list(self.names))

    def save(self, url: str | os.PathLike[str]) -> None:
        """Write the names in column order as a JSON list."""
        storage.write_bytes(os.fspath(url), to_json(list(self.names)))

    @classmethod
    def load(cls, url: str | os.PathLike[str]) -> "LabelVocabulary":
        """Read what :meth:`save` wrote."""
        url = os.fspath(url)
        return cls.parse(storage.read_bytes(url), url)

    @classmethod
    def parse(cls, data: bytes, url: str) -> "LabelVocabulary":
        """Turn the bytes of such a file into a vocabulary; *url* is for the error."""
        names = parse_json(data, url)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{url}: expected a JSON list of label names")
        return cls.found(names, url)

    @classmethod
    def found(cls, names: Iterable[str], url: str) -> "LabelVocabulary":
        """Make a vocabulary of names found in a file; *url* is for the error."""
        try:
            return cls(names)
        except InputError as error:
            raise InputError(f"{url}: {error}") from error
