import io

import pytest
from PIL import Image

from lglm_core.pages.pictures import thumbnail


def test_a_thumbnail_is_upright_opaque_and_without_metadata():
    tall = Image.new("RGBA", (600, 300), (255, 0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    exif[0x010E] = "a secret"
    stored = io.BytesIO()
    tall.save(stored, "PNG", exif=exif)
    small = Image.open(io.BytesIO(thumbnail(Image.open(stored), side=100)))
    assert (small.format, small.mode, small.size) == ("JPEG", "RGB", (50, 100))
    assert small.getpixel((25, 50)) == (255, 255, 255)
    assert len(small.getexif()) == 0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "RGBA", "I;16"])
def test_a_thumbnail_takes_any_mode_and_never_enlarges(mode):
    assert Image.open(io.BytesIO(thumbnail(Image.new(mode, (30, 20))))).size == (30, 20)
