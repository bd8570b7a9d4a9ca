import numpy as np
import pytest

from lglm_core.pages.heatmap import clustered_order, heat_map


def test_labels_that_go_together_are_neighbours():
    """Three groups, scattered; within a group the similarity is high."""
    groups = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], 7))
    similarity = np.where(groups[:, None] == groups, 0.8, 0.05)
    order = clustered_order(similarity)
    assert sorted(order) == list(range(21))
    assert (np.diff(groups[order]) != 0).sum() == 2


def test_labels_along_a_continuum_are_in_its_order():
    positions = np.random.default_rng(2).permutation(np.arange(15.0) ** 1.5)
    order = clustered_order(np.exp(-np.abs(np.subtract.outer(positions, positions)) / 20))
    assert positions[order].tolist() in (sorted(positions), sorted(positions, reverse=True))


def test_a_cell_shows_the_fraction_of_the_rows_pictures_that_carry_the_columns_label():
    counts = np.array([[40, 10, 0], [10, 20, 0], [0, 0, 0]])
    drawn = heat_map(["cup", "table", "never"], counts)
    assert drawn
    assert {label.label for label in drawn.labels} == {"cup", "table"}
    texts = {cell.text: cell.opacity for cell in drawn.cells}
    assert texts == {
        "table where there is cup: 25.0% (10 of 40 pictures)": 0.5,
        "cup where there is table: 50.0% (10 of 20 pictures)": pytest.approx(0.5**0.5),
    }
    position = {label.label: label.position - drawn.cell / 2 for label in drawn.labels}
    (cell,) = [cell for cell in drawn.cells if cell.text.startswith("table where")]
    assert (cell.x, cell.y) == (position["table"], position["cup"])
    assert heat_map(["a"], np.array([[0]])) is None
