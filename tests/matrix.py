"""Matrices of kills, faults and mutations: the whole for ``make chaos``, a diagonal for every other run.

A matrix whose tests take little time is on the diagonal as a whole; its tests have both marks themselves.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

Marks = Sequence[pytest.MarkDecorator]


def matrix(
    rows: Sequence[Any],
    columns: Sequence[Any],
    marks: Callable[[Any], Marks] = lambda row: (),
) -> list[Any]:
    """Return every pair as a parameter; on the diagonal are each row once, and the columns in turn.

    Args:
        rows: The longer side, such as moments.
        columns: The shorter one, such as numbers of workers.
        marks: By row, marks of its test on the diagonal.
    """
    return [
        pytest.param(
            row,
            column,
            marks=[
                pytest.mark.chaos,
                *((pytest.mark.diagonal, *marks(row)) if number % len(columns) == place else ()),
            ],
        )
        for number, row in enumerate(rows)
        for place, column in enumerate(columns)
    ]
