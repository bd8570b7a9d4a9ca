"""Encoded images: are they whole, how large are they, and their pixels."""

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

MAX_PIXELS = 178_956_970  # twice Pillow's own warning level; a picture above it is refused unopened
MAX_BYTES = 256 << 20  # of a file; a film among the pictures must not fill the memory
# What Pillow decodes by itself. For EPS, which it knows too, it runs Ghostscript, on bytes of strangers.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")
# Of these formats a whole file can be told by its end. In a JPEG's coded pixels an end marker does not occur,
# and more bytes of tables stand between a thumbnail's end and the scan than are looked at here.
ENDS_WELL: dict[str, Callable[[bytes], bool]] = {
    "JPEG": lambda data: b"\xff\xd9" in data[-128:],
    "PNG": lambda data: data[-12:] == b"\0\0\0\0IEND\xaeB`\x82",
    "WEBP": lambda data: len(data) >= 8 + int.from_bytes(data[4:8], "little"),
}
# Without one of these no PNG tells an orientation; Pillow decodes all of it to look.
PNG_TELLS = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")
START_OF_JPEG = b"\xff\xd8"
APP1 = 0xE1  # where EXIF and XMP data are, both of which may tell an orientation
START_OF_SCAN = 0xDA
SEGMENT = struct.Struct(">BBHxHH")  # 0xFF, marker, length; in a frame header precision, height, width
FRAME_HEADERS = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive, as nearly all are
OTHER_HEADERS = {*range(0xE0, 0xF0), 0xC4, 0xDB, 0xDD, 0xFE} - {APP1}  # application data, tables, comments
EXIF_ORIENTATION = 0x0112
TIFF_BITS = 258  # BitsPerSample
# What makes a picture upright. Pillow's exif_transpose also rewrites the EXIF data, and fails on broken ones.
ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The same by a tensor's axes, [3, height, width]; 5 to 8 transpose first.
FLIPS: dict[int, list[int]] = {2: [2], 3: [1, 2], 4: [1], 5: [], 6: [2], 7: [1, 2], 8: [1]}

# Pillow warns of odd metadata in pictures that are sound. Once and for all: what silences a block of code
# does so for other threads, and two at once leave it so.
warnings.filterwarnings("ignore", module=r"PIL\.")


class UnreadableImage(Exception):
    """The bytes are no whole picture; ``reason`` is a short code, the message says more."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class ImageInfo:
    """Width and height in pixels, as displayed."""

    width: int
    height: int


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn whatever Pillow raises into :class:`UnreadableImage`."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise UnreadableImage("not_an_image", "the bytes are no image format known here") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage("too_large", str(error)) from error
    except Exception as error:  # its decoders raise whatever the broken bytes lead them to
        raise UnreadableImage("corrupt", str(error) or type(error).__name__) from error


def _open_header(data: bytes) -> Image.Image:
    """Read a picture's format and size, and refuse what is too large or has no white; decode nothing yet."""
    if not data:
        raise UnreadableImage("empty", "0 bytes")
    with _reasons():
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
    """Those of FORMATS that this Pillow has; the older ones know no AVIF."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _has_sixteen_bits(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16 bits to 8, where Pillow would clip them; of a TIFF they may be 12."""
    bits = getattr(image, "tag_v2", {}).get(TIFF_BITS, (16,))[0]
    return Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8))


def _refuse_too_large(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnreadableImage("too_large", f"{width}×{height} pixels, at most {MAX_PIXELS} taken")


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a plain JPEG, by its frame header; None where Pillow should have a look.

    That is where it may lie on its side, as is told before the frame header or behind it, and where
    anything is unusual.
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


def _decoded(data: bytes, least_side: int | None = None) -> Image.Image:
    """Decode to the end; a JPEG perhaps at 1/2, 1/4 or 1/8 of its size, but no side below *least_side*."""
    image = _open_header(data)
    with _reasons():
        if least_side:
            image.draft(None, (least_side, least_side))
        image.load()
    return image


def _orientation(image: Image.Image) -> int:
    """The one notion of how a picture lies, 1 to 8: EXIF's or, where that is silent, XMP's.

    Broken metadata say nothing about the picture.
    """
    try:
        told = int(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # Pillow's parsers raise whatever the broken bytes lead them to
        return 1
    return told if told in ORIENTATIONS else 1


def inspect(data: bytes) -> ImageInfo:
    """Decode a picture to its end and say what it is, or raise :class:`UnreadableImage`."""
    return _info(_decoded(data))


def inspect_header(data: bytes) -> ImageInfo:
    """Say what a picture is without decoding it, or raise :class:`UnreadableImage`.

    That it is whole is taken from its end; where that says nothing, the picture is decoded after all.
    """
    if data[:2] == START_OF_JPEG and ENDS_WELL["JPEG"](data) and (size := _jpeg_size(data)):
        _refuse_too_large(*size)
        return ImageInfo(*size)
    image = _open_header(data)
    ends_well = ENDS_WELL.get(image.format or "")
    if ends_well is None or not ends_well(data):
        return inspect(data)
    if image.format == "PNG" and not any(words in data for words in PNG_TELLS):
        return ImageInfo(*image.size)
    return _info(image)


def _info(image: Image.Image) -> ImageInfo:
    width, height = image.size
    if _orientation(image) >= 5:  # 5 to 8 lie on their side
        width, height = height, width
    return ImageInfo(width, height)


def shrink(data: bytes, max_side: int, quality: int) -> bytes:
    """Scale a picture down, upright, to a longer side of *max_side* pixels; return a JPEG.

    Raises:
        UnreadableImage: it cannot be decoded to its end.
    """
    image = to_rgb(data, least_side=2 * max_side)  # the rest is left to the better filter
    scale = max_side / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    encoded = io.BytesIO()
    image.resize((width, height), Image.Resampling.LANCZOS).save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()


def to_rgb(data: bytes, least_side: int | None = None) -> Image.Image:
    """Decode to an upright RGB Pillow image, or raise :class:`UnreadableImage`.

    Args:
        least_side: Pixels that suffice for each side; a JPEG of many times that is decoded faster.
    """
    image = _decoded(data, least_side)
    with _reasons():
        upright = _to_eight_bits(image) if _has_sixteen_bits(image) else image.convert("RGB")
        turn = ORIENTATIONS.get(_orientation(image))
        upright = (upright.transpose(turn) if turn is not None else upright).convert("RGB")
    upright.info.clear()  # the orientation in it would have others turn the picture again
    return upright


def decode(data: bytes) -> "Tensor":
    """Decode to upright RGB pixels, uint8 of shape [3, height, width], or raise :class:`UnreadableImage`.

    They lie channels last in memory. torchvision's decoder releases the GIL and is about three times as
    fast as Pillow; Pillow takes what it refuses (CMYK, exotic formats) and gives the reasons for what no
    one can read. torchvision's own notion of orientation is not Pillow's, so it is not asked for it.
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
            return image if orientation == 1 else _turned(image, orientation)
        except RuntimeError:
            pass
    return torch.from_numpy(np.array(to_rgb(data))).permute(2, 0, 1)


def _turned(image: "Tensor", orientation: int) -> "Tensor":
    """Turn [3, height, width] upright; the result lies channels last in memory."""
    upright = (image.mT if orientation >= 5 else image).flip(FLIPS[orientation])
    return upright.permute(1, 2, 0).contiguous().permute(2, 0, 1)
