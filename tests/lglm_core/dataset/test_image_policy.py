import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from lglm_core.dataset.image_policy import ImagePolicy
from lglm_core.images.codec import UnreadableImage, inspect, to_rgb

Encode = Callable[..., bytes]


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height // 20 + 2, width // 20 + 2, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


@pytest.mark.parametrize("verify", ["header", "decode"])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_pictures_keep_their_bytes(encode: Encode, verify: str, format: str):
    data = encode(noise(60, 40), format)
    taken, info = ImagePolicy(verify=verify).apply(data)  # type: ignore[arg-type]
    assert taken is data and info == inspect(data)


@pytest.mark.parametrize("verify", ["header", "decode"])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.95])
def test_a_truncated_picture_is_refused_also_by_its_header(
    encode: Encode, verify: str, format: str, share: float
):
    data = encode(noise(160, 140), format)
    with pytest.raises(UnreadableImage):
        ImagePolicy(verify=verify).apply(data[: int(share * len(data))])  # type: ignore[arg-type]


def test_a_jpeg_with_something_behind_its_end_is_taken_by_its_header(encode: Encode):
    data = encode(noise(60, 40), "JPEG") + bytes(5000)
    assert ImagePolicy(verify="header").apply(data)[0] is data


def test_a_jpeg_cut_behind_its_thumbnail_is_refused(encode: Encode):
    """The thumbnail's end is not the picture's."""
    exif = Image.Exif()
    exif[0x010E] = "x"
    thumbnail = encode(noise(16, 12), "JPEG")
    data = encode(noise(320, 240), "JPEG", exif=exif.tobytes() + thumbnail)
    end = data.index(thumbnail) + len(thumbnail)
    for more in (0, 40, 90, 200, 700, 1500):
        with pytest.raises(UnreadableImage):
            ImagePolicy(verify="header").apply(data[: end + more])


@pytest.mark.parametrize(("width", "height", "expected"), [(400, 200, (100, 50)), (30, 901, (3, 100))])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_large_picture_is_scaled_down_to_the_longer_side(
    encode: Encode, format: str, width: int, height: int, expected: tuple[int, int]
):
    taken, info = ImagePolicy(max_side=100).apply(encode(noise(width, height), format))
    image = Image.open(io.BytesIO(taken))
    assert (image.format, image.size) == ("JPEG", expected)
    assert (info.width, info.height) == expected


def test_what_is_scaled_down_still_shows_the_same(encode: Encode):
    picture = noise(1600, 1200)
    taken, _ = ImagePolicy(max_side=200, quality=95).apply(encode(picture, "JPEG", quality=95))
    reference = np.asarray(picture.resize((200, 150), Image.Resampling.LANCZOS).convert("L"), float)
    assert np.abs(np.asarray(to_rgb(taken).convert("L"), float) - reference).mean() < 4


def test_a_picture_on_its_side_is_upright_when_it_is_scaled_down(encode: Encode):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(noise(400, 200), "JPEG", exif=exif)
    taken, info = ImagePolicy(max_side=100).apply(data)
    assert (info.width, info.height) == (50, 100) == Image.open(io.BytesIO(taken)).size
    expected = np.asarray(to_rgb(data).resize((50, 100)), float)
    assert np.abs(np.asarray(to_rgb(taken), float) - expected).mean() < 8


def test_a_picture_of_just_that_size_keeps_its_bytes(encode: Encode):
    data = encode(noise(100, 60), "JPEG")
    assert ImagePolicy(max_side=100).apply(data)[0] is data


def test_a_corrupt_large_picture_is_refused(encode: Encode):
    data = bytearray(encode(noise(400, 300), "PNG"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(UnreadableImage):
        ImagePolicy(verify="header", max_side=100).apply(bytes(data))


def test_only_settings_other_than_the_defaults_are_told():
    assert ImagePolicy().options() == {}
    told = ImagePolicy(verify="header", max_side=64, quality=80).options()
    assert told == {"verify": "header", "max_side": 64, "quality": 80}
