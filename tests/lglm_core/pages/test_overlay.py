import io

import numpy as np
import pytest
from PIL import Image

from lglm_core.pages.overlay import LEGEND_STOPS, legend_colours, overlay, png, tint

# Machado, Oliveira & Fernandes 2009, severity 1: matrices that simulate dichromats in linear RGB.
VISION = {
    "deuteranopes": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "protanopes": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "tritanopes": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
    "everyone else": np.eye(3),
}


def linear(colours: np.ndarray) -> np.ndarray:
    value = np.asarray(colours, dtype=float) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(linear_rgb: np.ndarray) -> np.ndarray:
    """Convert linear RGB to CIELAB with the white point D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = np.clip(linear_rgb, 0, 1) @ to_xyz.T / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack(
        [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1
    )


def ramp(steps: int, grey: float = 160.0) -> np.ndarray:
    return tint(np.full(steps, grey), np.linspace(-1, 1, steps))


def test_a_value_of_zero_leaves_the_grey_as_it_is():
    assert tint(np.array([80.0, 160.0]), np.zeros(2)).tolist() == [[80] * 3, [160] * 3]


def test_positive_is_orange_and_negative_is_blue():
    low, high = ramp(2)
    assert high[0] > high[1] > high[2]
    assert low[2] > low[1] > low[0]


@pytest.mark.parametrize("eyes", VISION)
@pytest.mark.parametrize("grey", [80.0, 160.0, 240.0])
def test_positive_negative_and_zero_differ_for_everyone(eyes: str, grey: float):
    seen = lab(linear(ramp(3, grey)) @ np.array(VISION[eyes]).T)
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert np.linalg.norm(seen[one] - seen[other]) > 25  # a difference of 2 is visible side by side


@pytest.mark.parametrize("sign", [-1, 1])
def test_equal_steps_of_the_value_look_about_equally_large(sign: int):
    colours = lab(linear(tint(np.full(9, 160.0), sign * np.linspace(0, 1, 9))))
    steps = np.linalg.norm(np.diff(colours, axis=0), axis=1)
    assert steps.max() < 1.75 * steps.min()


def test_both_ends_are_equally_light():
    low, high = lab(linear(ramp(2)))[:, 0]
    assert abs(low - high) < 6


def test_an_overlay_is_coloured_where_the_map_is_whatever_the_pictures_shape():
    picture = Image.new("RGB", (200, 90), "white")
    values = np.zeros((3, 4), dtype=np.float32)
    values[0, 3], values[2, 0] = 2.0, -1.0
    pixels = np.asarray(overlay(picture, values, 2.0)).astype(int)
    assert pixels.shape == (90, 200, 3)
    warmth = pixels[..., 0] - pixels[..., 2]
    middles = warmth[[15, 45, 75]][:, [25, 75, 125, 175]]
    assert middles[0, 3] > 100
    assert -middles[0, 3] < middles[2, 0] < -40  # half as strong
    middles[0, 3] = middles[2, 0] = 0
    assert np.abs(middles).max() < 30


def test_a_shared_limit_makes_equal_values_equally_strong():
    picture = Image.new("RGB", (8, 8), "grey")
    weak, strong = np.full((2, 2), 1.0), np.full((3, 3), 4.0)
    alone, beside = overlay(picture, weak, 1.0), overlay(picture, weak, 4.0)
    strongest = overlay(picture, strong, 4.0)
    assert np.array_equal(alone, strongest)
    assert not np.array_equal(beside, strongest)
    assert np.array_equal(overlay(picture, strong, 1.0), strongest)  # beyond the limit nothing is stronger


def test_a_map_of_zeros_leaves_the_picture_grey():
    pixels = np.asarray(overlay(Image.new("RGB", (6, 5), "red"), np.zeros((7, 7)), 0.0))
    assert (pixels == pixels[..., :1]).all()


def test_the_legend_runs_from_blue_over_grey_to_orange():
    colours = legend_colours()
    assert len(colours) == LEGEND_STOPS
    assert colours[LEGEND_STOPS // 2] == "rgb(160 160 160)"


def test_a_png_is_lossless():
    image = overlay(Image.new("RGB", (6, 5), "red"), np.arange(4.0).reshape(2, 2), 3.0)
    assert np.array_equal(Image.open(io.BytesIO(png(image))), image)
