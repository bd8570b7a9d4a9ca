"""Pictures small enough to live inside a page."""

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
        JPEG bytes in RGB; what was transparent is white.
    """
    upright = ImageOps.exif_transpose(image)  # a copy, which may be changed in place
    if upright.has_transparency_data:
        coloured = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    small = upright.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    small.info.clear()  # a JPEG's comment would otherwise travel along
    written = io.BytesIO()
    small.save(written, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return written.getvalue()


def data_uri(jpeg: bytes) -> str:
    """Return *jpeg* as an address that carries the picture itself."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
