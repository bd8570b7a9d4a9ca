from pathlib import Path

import pytest

from lglm_core.errors import InputError
from lglm_core.labels.aliases import parse_aliases, read_aliases, refuse_unknown

LINES = """\
# what GloVe calls them
cell phone = phone

TV=television set
c#=c sharp
"""
ALIASES = {"cell phone": "phone", "TV": "television set", "c#": "c sharp"}


@pytest.mark.parametrize("text", [LINES, LINES.replace("\n", "\r\n"), "\ufeff" + LINES])
def test_lines_give_words_by_label(tmp_path: Path, text: str):
    (tmp_path / "aliases.txt").write_bytes(text.encode())
    assert read_aliases(f"{tmp_path}/aliases.txt") == ALIASES


def test_a_json_object_gives_the_same(tmp_path: Path):
    (tmp_path / "aliases").write_text('\n{"cell phone": " phone", "TV": "television set", "c#": "c sharp"}')
    assert read_aliases(f"{tmp_path}/aliases") == ALIASES


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("# one\ncell phone\n", "line 2: 'cell phone': expected 'label=words'"),
        ("cell phone=\n", "line 1: 'cell phone=': expected 'label=words'"),
        ("tv=set\ntv = screen\n", "'tv' is given twice, as 'set' and as 'screen'"),
        ('{"tv": "set", "tv": "screen"}', "'tv' is given twice"),
        ('{"tv": ["set"]}', "'tv' has \\[\"set\"\\]; a text was expected"),
        ('{"tv": ""}', "'tv': expected 'label=words'"),
        ('{"tv": "set"', "not JSON"),
        (b"caf\xe9=coffee", "not UTF-8 text"),
    ],
)
def test_an_alias_without_words_is_refused_by_its_place(tmp_path: Path, text: str | bytes, complaint: str):
    (tmp_path / "aliases").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=f"aliases.*{complaint}"):
        read_aliases(f"{tmp_path}/aliases")


def test_two_pairs_for_one_label_are_refused():
    with pytest.raises(InputError, match="`alias`: 'tv' is given twice, as 'set' and as 'the screen'; keep"):
        parse_aliases(["tv=set", " tv = the screen"])


def test_a_label_may_hold_an_equals_sign_where_the_labels_are_known():
    assert parse_aliases(["a=b = cat", "a=c=d", "a=b=c=e=f"], ["a", "a=b", "a=b=c"]) == {
        "a=b": "cat",
        "a": "c=d",
        "a=b=c": "e=f",
    }
    assert parse_aliases(["a=b=cat"]) == {"a": "b=cat"}
    with pytest.raises(InputError, match="`alias` 'a=b=': expected 'label=words'"):
        parse_aliases(["a=b="], ["a", "a=b"])


def test_a_line_that_begins_with_a_label_is_no_comment(tmp_path: Path):
    (tmp_path / "aliases").write_text("# hash=dog\n#hash=cat\n#cat=kitty\n#\ncat=#hash\n")
    assert read_aliases(f"{tmp_path}/aliases", ["#hash", "cat"]) == {"#hash": "cat", "cat": "#hash"}
    assert read_aliases(f"{tmp_path}/aliases") == {"cat": "#hash"}


def test_an_alias_for_no_label_is_refused_by_its_place_with_the_closest_labels():
    names = ["person", "cell phone", "dog", "cat"]
    refuse_unknown(["dog", "cat"], names, "`alias`")
    with pytest.raises(InputError, match="a file: 'cel phone' is none of the 4 labels; closest: 'cell"):
        refuse_unknown(["dog", "cel phone"], names, "a file")
