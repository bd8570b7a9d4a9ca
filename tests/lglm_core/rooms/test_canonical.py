"""JSON whose bytes depend on its content alone."""

from lglm_core import rooms
from lglm_core.rooms import digest


def test_digests_stay_what_they_were():
    """sha256 of the bytes themselves, and of JSON with one space of indent and a line end."""
    assert digest(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert rooms.to_json({"b": 1, "a": "é"}) == '{\n "a": "é",\n "b": 1\n}\n'.encode()
    assert digest({"a": "é", "b": 1}) == digest('{\n "a": "é",\n "b": 1\n}\n'.encode())
