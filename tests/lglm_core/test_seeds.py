import numpy as np
import pytest

from lglm_core.seeds import rng


def test_the_same_names_give_the_same_numbers():
    np.testing.assert_array_equal(rng("view", 0, 3).random(5), rng("view", 0, 3).random(5))


def test_a_generator_stays_what_it_was():
    """A dataset drawn today must be drawn the same way tomorrow, on any machine."""
    assert rng("golden", 0, 1.5).integers(1_000_000, size=3).tolist() == [325982, 746433, 952252]


@pytest.mark.parametrize("names", [("view", 1), ("view", "0"), ("view",), ("view", 0, 0), ("view0",)])
def test_other_names_give_other_numbers(names: tuple[object, ...]):
    assert rng(*names).random() != rng("view", 0).random()


@pytest.mark.parametrize("number", [np.int64(7), np.int32(7), np.uint8(7)])
def test_a_number_of_numpy_counts_as_the_number_it_is(number: np.generic):
    assert rng("row", number).random() == rng("row", 7).random()


def test_a_float_of_numpy_counts_as_the_number_it_is():
    assert rng(np.float64(0.5)).random() == rng(0.5).random()
