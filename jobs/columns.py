"""Tables on a terminal: cells in columns, and names of any script cut to fit."""

import unicodedata
from collections.abc import Sequence
from itertools import zip_longest

GAP = "  "


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return one line per row, with the first column aligned left and the others right."""
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    return [
        GAP.join(
            [
                padded(row[0], widths[0]),
                *(" " * (most - width(cell)) + cell for cell, most in zip(row[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for row in rows
    ]


def beside(left: Sequence[str], right: Sequence[str]) -> list[str]:
    """Return the lines of two blocks side by side."""
    most = max(map(width, left), default=0)
    pairs = zip_longest(left, right, fillvalue="")
    return [f"{padded(one, most)}{2 * GAP}{other}".rstrip() for one, other in pairs]


def fitted(name: str, most: int) -> str:
    """Return a name on one line, without control characters, and cut to *most* columns."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(name.split()))
    if width(shown) <= most:
        return shown
    while width(shown) > most - 1:
        shown = shown[:-1]
    return f"{shown}…"


def padded(text: str, most: int) -> str:
    """Pad a text with spaces to *most* columns."""
    return text + " " * (most - width(text))


def width(text: str) -> int:
    """Return how many columns a text takes; wide East Asian characters take two, combining accents none."""
    return sum(
        2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text
    )
