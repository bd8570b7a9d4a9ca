from pathlib import Path

import pytest

from lglm_core.errors import InputError
from lglm_core.labels.vocabulary import LabelVocabulary


def test_a_name_has_the_column_in_which_it_was_given():
    labels = LabelVocabulary(["dog", "cat", "boat"])
    assert [labels.column(name) for name in labels] == [0, 1, 2]


def test_columns_come_ascending_whatever_the_order_of_the_names():
    assert LabelVocabulary(["dog", "cat", "boat"]).columns(["boat", "dog"]) == [0, 2]


def test_a_foreign_name_has_no_column():
    with pytest.raises(KeyError):
        LabelVocabulary(["dog", "cat"]).column("unicorn")


def test_its_repr_names_the_first_labels_and_their_number():
    five, two = LabelVocabulary(["person", "bicycle", "car", "it's", "bus"]), LabelVocabulary("ab")
    assert repr(five) == "LabelVocabulary(5 labels: 'person', 'bicycle', 'car', …)"
    assert repr(two) == "LabelVocabulary(2 labels: 'a', 'b')"
    assert repr(LabelVocabulary(["it's", "b", "c"])) == """LabelVocabulary(3 labels: "it's", 'b', 'c')"""


def test_a_name_given_twice_is_refused():
    with pytest.raises(InputError, match="'cat' is named twice"):
        LabelVocabulary(["dog", "cat", "cat"])


@pytest.mark.parametrize("names", [[], ["dog"]])
def test_fewer_than_two_labels_are_refused(names: list[str]):
    with pytest.raises(InputError, match="at least 2"):
        LabelVocabulary(names)


def test_saving_and_loading_keeps_names_and_order(tmp_path: Path):
    labels = LabelVocabulary(["köter", "cat", "stop sign"])
    labels.save(f"{tmp_path}/labels.json")
    assert LabelVocabulary.load(f"{tmp_path}/labels.json") == labels


def test_the_digest_depends_on_the_order():
    assert LabelVocabulary(["a", "b"]).digest != LabelVocabulary(["b", "a"]).digest


def test_the_digest_cannot_be_fooled_by_joining_names():
    assert LabelVocabulary(["a", "b, c"]).digest != LabelVocabulary(["a, b", "c"]).digest


def test_the_digest_stays_what_it_was():
    """A model saved today must open tomorrow."""
    digest = LabelVocabulary(["cat", "dog"]).digest
    assert digest == "138024a43ca0aefc0074cfb77a7b16bcb3cce3bdc404064d0c73564fdc2c3316"


@pytest.mark.parametrize("content", ["[]", '["cat", "cat"]'])
def test_a_file_whose_names_make_no_vocabulary_is_named(tmp_path: Path, content: str):
    path = tmp_path / "labels.json"
    path.write_text(content)
    why = "a multi-label model needs at least 2 labels; found none|label 'cat' is named twice"
    with pytest.raises(InputError, match=rf"labels\.json: ({why})"):
        LabelVocabulary.load(str(path))


@pytest.mark.parametrize("content", ['{"cat": 0}', '["cat", 1]', '"cat"'])
def test_a_file_that_is_no_list_of_names_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "labels.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"labels\.json: expected a JSON list of label names"):
        LabelVocabulary.load(str(path))
