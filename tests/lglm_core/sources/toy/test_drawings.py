import numpy as np
import pytest

from lglm_core.sources.toy.drawings import DRAWINGS, LABELS, Drawing, arc

TONES = {"main", "other", "pale", "deep"}


def test_labels_are_in_the_order_of_the_drawings():
    assert (len(LABELS), LABELS[0], LABELS[-1]) == (14, "boat", "clock")
    assert tuple(DRAWINGS) == LABELS


@pytest.mark.parametrize("drawing", DRAWINGS.values(), ids=LABELS)
def test_a_drawing_fills_its_unit_box(drawing: Drawing):
    """Hardly anything extends over the box, so an object's box bounds what is drawn of it."""
    corners = np.concatenate([mark.points for mark in drawing.marks])
    assert corners.min() > -0.03 and corners.max() < 1.03
    assert (np.ptp(corners, axis=0) > 0.7).all()


@pytest.mark.parametrize("drawing", DRAWINGS.values(), ids=LABELS)
def test_a_drawing_has_known_tones_and_polygons(drawing: Drawing):
    assert {mark.tone for mark in drawing.marks} <= TONES
    assert all(len(mark.points) >= 3 for mark in drawing.marks)
    assert 0 < drawing.heights[0] < drawing.heights[1] < 1


def test_an_arc_runs_clockwise_from_the_right():
    """By hand, with y down: 0° is the right end, 90° the bottom, 180° the left end."""
    points = arc(0.5, 0.5, 0.5, 0.25, 0, 180)
    np.testing.assert_allclose(points[[0, 12, 24]], [[1, 0.5], [0.5, 0.75], [0, 0.5]], atol=1e-12)
