"""The label vocabulary: the names of a model's or dataset's labels, in column order."""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import overload

from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.rooms.canonical import digest, to_json
from lglm_core.rooms.manifest import parse_json

NAMES_SHOWN = 3  # labels in a repr


class LabelVocabulary(Sequence[str]):
    """An ordered set of label names: the one authority on which column belongs to which label.

    Raises:
        InputError: A name is given twice, or there are fewer than two.
    """

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

    def __repr__(self) -> str:
        more = ", …" if len(self) > NAMES_SHOWN else ""
        return f"LabelVocabulary({len(self)} labels: {', '.join(map(repr, self[:NAMES_SHOWN]))}{more})"

    def column(self, name: str) -> int:
        """Return the column of *name*.

        Raises:
            KeyError: The vocabulary has no such label.
        """
        return self._columns[name]

    def columns(self, names: Iterable[str]) -> list[int]:
        """Return the columns of *names*, in ascending order."""
        return sorted(self._columns[name] for name in names)

    @cached_property
    def digest(self) -> str:
        """Return the sha256 of the names in order; it is equal for equal vocabularies only."""
        return digest(list(self.names))

    def save(self, url: str | os.PathLike[str]) -> None:
        """Write the names in column order as a JSON list."""
        storage.write_bytes(os.fspath(url), to_json(list(self.names)))

    @classmethod
    def load(cls, url: str | os.PathLike[str]) -> "LabelVocabulary":
        """Read a file that :meth:`save` wrote."""
        url = os.fspath(url)
        return cls.parse(storage.read_bytes(url), url)

    @classmethod
    def parse(cls, data: bytes, url: str) -> "LabelVocabulary":
        """Parse the bytes of a file that :meth:`save` wrote; *url* is for the error message."""
        names = parse_json(data, url)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{url}: expected a JSON list of label names")
        return cls.from_names(names, url)

    @classmethod
    def from_names(cls, names: Iterable[str], where: str) -> "LabelVocabulary":
        """Make a vocabulary of names that were found at *where*, which error messages begin with."""
        try:
            return cls(names)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
