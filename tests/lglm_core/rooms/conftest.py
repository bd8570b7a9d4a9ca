"""A room that is yet to be made."""

from pathlib import Path

import pytest


@pytest.fixture
def room(tmp_path: Path) -> Path:
    return tmp_path / "room"
