import pytest

from lglm_core.pages.charts import MAX_EDGES, epoch_ticks, ring, ring_order, round_ticks


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (31.2, 71.9), (2.0, 2.0), (0.0, 0.0), (1e-7, 3e-7), (5, 4e6)]
)
def test_ticks_enclose_the_values(low, high):
    ticks = round_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high
    assert 2 <= len(ticks) <= 8


@pytest.mark.parametrize(("first", "last"), [(1, 1), (0, 3), (1, 30), (4, 33), (7, 1000)])
def test_epoch_ticks_are_few_and_inside(first, last):
    ticks = epoch_ticks(first, last)
    assert ticks[0] == first and ticks[-1] <= last
    assert ticks == sorted(set(ticks)) and len(ticks) <= 8


def test_the_graph_draws_only_the_strongest_edges():
    drawn = ring(
        [("hub", f"label {i}", 0.01 * (i + 1) * (-1) ** i) for i in range(100)] + [("hub", "hub", 9.0)]
    )
    assert drawn and len(drawn.edges) == MAX_EDGES
    assert [edge.weight for edge in drawn.edges[:2]] == [-1.0, 0.99]
    assert {node.label for node in drawn.nodes} == {edge.target for edge in drawn.edges} | {"hub"}


def test_linked_labels_are_neighbours():
    assert ring_order([("a", "b", 0.9), ("x", "y", 0.8), ("b", "c", 0.7)]) == ["a", "b", "c", "x", "y"]
