"""The image codec: checks encoded images, reads their size, decodes and shrinks them."""

import io
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 178_956_970  # twice Pillow's warning level; a larger image is refused before it is decoded
MAX_BYTES = 256 << 20  # of a file; a film among the images must not fill the memory
# Formats that Pillow decodes by itself. For EPS it would run Ghostscript on untrusted bytes.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")
# In these formats the last bytes tell whether a file is whole. Coded pixels of a JPEG hold no end marker, and
# a thumbnail's end marker is followed by more bytes of tables, before the scan, than are searched here.
HAS_END: dict[str, Callable[[bytes], bool]] = {
    "JPEG": lambda data: b"\xff\xd9" in data[-128:],
    "PNG": lambda data: data[-12:] == b"\0\0\0\0IEND\xaeB`\x82",
    "WEBP": lambda data: len(data) >= 8 + int.from_bytes(data[4:8], "little"),
}
# A PNG without any of these has no orientation; Pillow would decode the whole image to find that out.
PNG_ORIENTATION_MARKS = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")
START_OF_JPEG = b"\xff\xd8"
APP1 = 0xE1  # the segment of EXIF and XMP data, both of which may hold an orientation
START_OF_SCAN = 0xDA
SEGMENT = struct.Struct(">BBHxHH")  # 0xFF, marker, length; in a frame header precision, height, width
FRAME_HEADERS = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive: nearly all JPEGs
OTHER_HEADERS = {*range(0xE0, 0xF0), 0xC4, 0xDB, 0xDD, 0xFE} - {APP1}  # application data, tables, comments
EXIF_ORIENTATION = 0x0112
TIFF_BITS = 258  # BitsPerSample
# The transposition that turns an image upright, by EXIF orientation. Pillow's exif_transpose would also
# rewrite the EXIF data, and fails if they are broken.
ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The axes of a tensor [3, height, width] to flip for the same; orientations 5 to 8 are transposed first.
FLIPS: dict[int, list[int]] = {2: [2], 3: [1, 2], 4: [1], 5: [], 6: [2], 7: [1, 2], 8: [1]}

# Pillow warns about odd metadata in sound images. The filter is set once for the process, because
# warnings.catch_warnings affects other threads, and two at once may leave its filters set.
warnings.filterwarnings("ignore", module=r"PIL\.")


class UnreadableImage(Exception):
    """The bytes are not a whole, supported image.

    ``reason`` is a short code and the message tells more. Both are stored in tables of rejects and tags, so a
    change to their wording changes the bytes of these tables.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class ImageInfo:
    """An image's width and height in pixels, after it is turned upright."""

    width: int
    height: int


@contextmanager
def _as_unreadable() -> Iterator[None]:
    """Turn every exception that Pillow raises into an :class:`UnreadableImage`."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise UnreadableImage("not_an_image", "the bytes are no image format known here") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage("too_large", str(error)) from error
    except Exception as error:  # broken bytes make its decoders raise almost anything
        raise UnreadableImage("corrupt", str(error) or type(error).__name__) from error


def _open_header(data: bytes) -> Image.Image:
    """Open an image without decoding it; refuse it if it is too large or its range of values is unknown."""
    if not data:
        raise UnreadableImage("empty", "0 bytes")
    with _as_unreadable():
        image = Image.open(io.BytesIO(data), formats=_formats())
    _refuse_too_large(image.width, image.height)
    if image.mode in ("I", "F") and not _has_sixteen_bits(image):
        raise UnreadableImage(
            "unsupported",
            f"{image.format} with pixels of more than 16 bits, of signed or of floating-point numbers "
            f"(Pillow's mode {image.mode}): which of them is white is not told; 8 or 16 bits are taken",
        )
    return image


@cache
def _formats() -> tuple[str, ...]:
    """Return the members of FORMATS that the installed Pillow supports; older versions lack AVIF."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _has_sixteen_bits(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit values to 8 bits, which Pillow would clip; a TIFF may have 12 bits."""
    bits = getattr(image, "tag_v2", {}).get(TIFF_BITS, (16,))[0]
    return Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8))


def _refuse_too_large(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnreadableImage("too_large", f"{width}×{height} pixels, at most {MAX_PIXELS} taken")


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return the width and height of a plain JPEG from its frame header, or None if Pillow must open it.

    Pillow must open a JPEG that may have an orientation, whether before or after the frame header, or that
    has any unusual marker.
    """
    position, size, last = 2, None, len(data) - SEGMENT.size
    while position <= last:
        start, marker, length, height, width = SEGMENT.unpack_from(data, position)
        if start != 0xFF:
            return None
        if marker == START_OF_SCAN:
            return size
        if marker in FRAME_HEADERS and size is None:
            size = (width, height)
            if not width or not height:
                return None
        elif marker not in OTHER_HEADERS:
            return None
        if length < 2:
            return None
        position += 2 + length
    return None


def _decode(data: bytes, least_side: int | None = None) -> Image.Image:
    """Decode all of an image; a JPEG perhaps at 1/2, 1/4 or 1/8 of its size, no side below *least_side*."""
    image = _open_header(data)
    with _as_unreadable():
        if least_side:
            image.draft(None, (least_side, least_side))
        image.load()
    return image


def _orientation(image: Image.Image) -> int:
    """Return an image's orientation, 1 to 8, from EXIF or, if that has none, from XMP; by default 1.

    All code that needs an orientation gets it here.
    """
    try:
        orientation = int(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # broken bytes make Pillow's parsers raise almost anything
        return 1
    return orientation if orientation in ORIENTATIONS else 1


def inspect(data: bytes) -> ImageInfo:
    """Decode all of an image and return its size.

    Raises:
        UnreadableImage: The image cannot be decoded to its end.
    """
    return _upright_size(_decode(data))


def inspect_header(data: bytes) -> ImageInfo:
    """Return an image's size without decoding it, if its last bytes tell that it is whole.

    An image whose last bytes do not tell is decoded, as :func:`inspect` does.

    Raises:
        UnreadableImage: The image's header is broken, or it is decoded and broken.
    """
    if data[:2] == START_OF_JPEG and HAS_END["JPEG"](data) and (size := _jpeg_size(data)):
        _refuse_too_large(*size)
        return ImageInfo(*size)
    image = _open_header(data)
    has_end = HAS_END.get(image.format or "")
    if has_end is None or not has_end(data):
        return inspect(data)
    if image.format == "PNG" and not any(mark in data for mark in PNG_ORIENTATION_MARKS):
        return ImageInfo(*image.size)
    return _upright_size(image)


def _upright_size(image: Image.Image) -> ImageInfo:
    width, height = image.size
    if _orientation(image) >= 5:  # stored on its side
        width, height = height, width
    return ImageInfo(width, height)


def shrink(data: bytes, max_side: int, quality: int) -> bytes:
    """Scale an image down, turned upright, to a longer side of *max_side* pixels.

    Args:
        data: The encoded image.
        max_side: The longer side of the result, in pixels.
        quality: The quality of the result, 1 to 95.

    Returns:
        The result, encoded as a JPEG.

    Raises:
        UnreadableImage: The image cannot be decoded to its end.
    """
    image = to_rgb(data, least_side=2 * max_side)  # the better filter below does the remaining scaling
    scale = max_side / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    encoded = io.BytesIO()
    image.resize((width, height), Image.Resampling.LANCZOS).save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()


def to_rgb(data: bytes, least_side: int | None = None) -> Image.Image:
    """Decode to an upright RGB Pillow image.

    Args:
        data: The encoded image.
        least_side: Pixels that are enough for each side; a JPEG many times larger is decoded at a fraction
            of its size, which is faster. None: decode the full size.

    Raises:
        UnreadableImage: The image cannot be decoded to its end.
    """
    image = _decode(data, least_side)
    with _as_unreadable():
        upright = _to_eight_bits(image) if _has_sixteen_bits(image) else image.convert("RGB")
        transposition = ORIENTATIONS.get(_orientation(image))
        upright = (upright if transposition is None else upright.transpose(transposition)).convert("RGB")
    upright.info.clear()  # with the orientation still in it, others would turn the image a second time
    return upright


def decode(data: bytes) -> "Tensor":
    """Decode to upright RGB pixels, uint8 [3, height, width], channels last in memory.

    JPEGs are decoded by torchvision, which releases the GIL and is about three times as fast as Pillow.
    Pillow decodes what torchvision cannot (CMYK, other formats), and tells why an image is unreadable. The
    orientation is always Pillow's, because torchvision reads it differently.

    Raises:
        UnreadableImage: The image cannot be decoded to its end.
    """
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    if data[:2] == START_OF_JPEG:
        if size := _jpeg_size(data):
            _refuse_too_large(*size)
            orientation = 1
        else:
            orientation = _orientation(_open_header(data))
        try:
            encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            image = decode_jpeg(encoded, mode=ImageReadMode.RGB)
            return image if orientation == 1 else _turn_upright(image, orientation)
        except RuntimeError:
            pass
    return torch.from_numpy(np.array(to_rgb(data))).permute(2, 0, 1)


def _turn_upright(image: "Tensor", orientation: int) -> "Tensor":
    """Turn pixels [3, height, width] upright; the result is channels last in memory."""
    upright = (image.mT if orientation >= 5 else image).flip(FLIPS[orientation])
    return upright.permute(1, 2, 0).contiguous().permute(2, 0, 1)
