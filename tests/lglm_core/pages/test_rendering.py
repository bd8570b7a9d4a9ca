import pytest

from lglm_core.pages.rendering import fine_percent


@pytest.mark.parametrize(
    ("value", "text"),
    [(46.14, "46.1%"), (1.0, "1.0%"), (0.123, "0.12%"), (0.00341, "0.0034%"), (0.0, "0.0%"), (None, "–")],
)
def test_a_small_percentage_keeps_two_digits(value: float | None, text: str):
    assert fine_percent(value) == text
