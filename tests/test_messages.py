"""Messages of the core name parameters, never a command line's flags or verbs; the jobs add those.

A notebook's user has no command line. So no text of ``lglm_core`` that is not a docstring holds a flag
(``--max-side``) or a verb (``lglm shard``): it names the parameter, max_side, in backticks, and the jobs'
frame turns that into the flag.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cli import JOBS
from tests.test_architecture import ROOT, modules_of

COMMAND_LINE = re.compile(rf"--[a-z]|\blglm ({'|'.join([*JOBS, 'flow'])})\b")
FILES = {path.relative_to(ROOT).as_posix(): path for path in modules_of("lglm_core")}
WINGS = sorted({name.split("/")[1] for name in FILES})


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and text of every string, or piece of an f-string, that is not a docstring."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def of_a_command_line(path: Path) -> list[tuple[int, str]]:
    return [found for found in texts(ast.parse(path.read_text())) if COMMAND_LINE.search(found[1])]


@pytest.mark.parametrize("wing", WINGS)
def test_no_message_of_the_core_holds_a_flag_or_a_verb(wing: str):
    found = {
        (name, line, text)
        for name, path in FILES.items()
        if name.split("/")[1] == wing
        for line, text in of_a_command_line(path)
    }
    assert found == set()


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ('raise E("give --year")', True),
        ('raise E(f"{url}: run lglm shard again")', True),
        ('raise E(f"{url}: run " f"lglm shard again")', True),
        ('raise E("give `year`; a -- b; lglm 0.4.0")', False),
        ('def f():\n    """Like ``--year``."""', False),
        ('class C:\n    year: int\n    """Like ``--year``."""', False),
    ],
)
def test_a_flag_or_verb_is_found_in_messages_alone(code: str, found: bool):
    assert any(COMMAND_LINE.search(text) for _, text in texts(ast.parse(code))) is found
