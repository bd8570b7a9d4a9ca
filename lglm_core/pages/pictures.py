"""Thumbnails that are small enough to be embedded in a page."""

import base64
import io

from PIL import Image, ImageOps

JPEG_QUALITY = 82


def thumbnail(image: Image.Image, side: int = 240) -> bytes:
    """Return *image* as a small JPEG, upright and without its metadata.

    Args:
        image: A picture of any mode; it is not changed.
        side: The longest side of the result in pixels; smaller pictures keep their size.

    Returns:
        JPEG bytes in RGB; transparent areas are white.
    """
    upright = ImageOps.exif_transpose(image)  # a copy, so that *image* is not changed
    if upright.has_transparency_data:
        coloured = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    small = upright.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    small.info.clear()  # or a JPEG's comment would be written too
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return buffer.getvalue()


def data_uri(jpeg: bytes) -> str:
    """Return a ``data:`` URI that holds the picture *jpeg*."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
