import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from lglm_core.images import codec as images
from lglm_core.images.codec import UnreadableImage, decode, inspect, inspect_header, shrink, to_rgb

Encode = Callable[..., bytes]
QUARTERS = np.zeros((24, 40, 3), np.uint8)  # red, green / blue, white, upright
QUARTERS[:12, :20], QUARTERS[:12, 20:] = (250, 5, 5), (5, 250, 5)
QUARTERS[12:, :20], QUARTERS[12:, 20:] = (5, 5, 250), (250, 250, 250)
PICTURE = Image.fromarray(QUARTERS)

# How an upright picture is stored, by orientation: the inverse of what turns it upright.
STORED_AS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 3),
}


def pixels(data: bytes) -> np.ndarray:
    return decode(data).permute(1, 2, 0).numpy()


def reason(data: bytes, read: Callable[[bytes], Any]) -> str:
    with pytest.raises(UnreadableImage) as refused:
        read(data)
    assert str(refused.value)
    return refused.value.reason


EVERY_READER = pytest.mark.parametrize("read", [inspect, decode, to_rgb])


def tagged(encode: Encode, format: str, orientation: int, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED_AS[orientation](QUARTERS))
    return encode(Image.fromarray(stored), format, exif=exif, **options)


@pytest.mark.parametrize("orientation", STORED_AS)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_rotated_picture_is_turned_upright(encode: Encode, format: str, orientation: int):
    options = {"quality": 95} | ({"subsampling": 0} if format == "JPEG" else {})
    data = tagged(encode, format, orientation, **options)
    assert (inspect(data).width, inspect(data).height) == (40, 24)
    for decoded in (pixels(data), np.asarray(to_rgb(data))):
        assert decoded.shape == (24, 40, 3)
        assert np.abs(decoded.astype(int) - QUARTERS)[2:10, 2:18].max() < 30  # away from the edges
        assert np.abs(decoded.astype(int) - QUARTERS)[14:22, 22:38].max() < 30


XMP = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/>'


def segment(content: bytes) -> bytes:
    """Return a JPEG's segment APP1."""
    return b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content


def exif(orientation: int, type_: int = 3, order: str = ">") -> bytes:
    """Return EXIF data whose only tag is the orientation."""
    value = {1: "B3x", 2: "s3x", 3: "H2x", 4: "I", 9: "i", 11: "f"}[type_]
    told = str(orientation).encode() if type_ == 2 else orientation
    start = b"MM" if order == ">" else b"II"
    return segment(
        b"Exif\0\0" + start + struct.pack(f"{order}HIHHHI{value}I", 42, 8, 1, 0x0112, type_, 1, told, 0)
    )


def xmp(orientation: int) -> bytes:
    return segment(b"http://ns.adobe.com/xap/1.0/\0" + XMP % orientation)


def with_segments(jpeg: bytes, added: bytes, before: bytes) -> bytes:
    """Insert segments before another one."""
    at = jpeg.index(before)
    return jpeg[:at] + added + jpeg[at:]


FIRST, FRAME_HEADER, SCAN = b"\xff\xe0", b"\xff\xc0", b"\xff\xda"
# Where and how a JPEG stores its orientation: the marker that follows it, and its segments.
PLACES: dict[str, tuple[bytes, Callable[[int], bytes]]] = {
    "EXIF": (FIRST, exif),
    "EXIF, little endian": (FIRST, lambda o: exif(o, order="<")),
    "EXIF, LONG": (FIRST, lambda o: exif(o, 4)),
    "EXIF, LONG, little endian": (FIRST, lambda o: exif(o, 4, "<")),
    "EXIF, SIGNED LONG": (FIRST, lambda o: exif(o, 9)),
    "before the frame header": (FRAME_HEADER, exif),
    "behind the frame header": (SCAN, exif),
    "XMP": (FIRST, xmp),
    "XMP behind the frame header": (SCAN, xmp),
    "XMP, then EXIF": (FIRST, lambda o: xmp(o) + exif(o)),
    "XMP of another opinion, then EXIF": (FIRST, lambda o: xmp(9 - o) + exif(o)),
    "EXIF, then XMP of another opinion": (FIRST, lambda o: exif(o) + xmp(9 - o)),
}


def read_in_every_way(jpeg: bytes) -> list[np.ndarray]:
    """Return the pixels that every reader gives, after a check that they agree on the shape."""
    info = inspect(jpeg)
    assert inspect_header(jpeg) == info
    tensor = decode(jpeg)
    assert tensor.stride() == (1, 3 * info.width, 3)  # channels last
    found = [tensor.permute(1, 2, 0).numpy(), np.asarray(to_rgb(jpeg))]
    smaller = shrink(jpeg, max(info.width, info.height), quality=95)  # of the same size
    assert inspect_header(smaller) == info
    found.append(pixels(smaller))
    assert [image.shape for image in found] == [(info.height, info.width, 3)] * 3
    return found


@pytest.mark.parametrize("orientation", STORED_AS)
@pytest.mark.parametrize("place", PLACES)
def test_wherever_a_jpeg_stores_its_orientation_all_readers_turn_it_upright(
    encode: Encode, place: str, orientation: int
):
    stored = np.ascontiguousarray(STORED_AS[orientation](QUARTERS))
    marker, told = PLACES[place]
    plain = encode(Image.fromarray(stored), "JPEG", quality=95, subsampling=0)
    for decoded in read_in_every_way(with_segments(plain, told(orientation), marker)):
        assert decoded.shape == (24, 40, 3)
        assert np.abs(decoded.astype(int) - QUARTERS)[2:10, 2:18].max() < 40  # away from the edges
        assert np.abs(decoded.astype(int) - QUARTERS)[14:22, 22:38].max() < 40


@pytest.mark.parametrize(
    "segments",
    [
        *(exif(6, type_, order) for type_ in (1, 2, 11) for order in "<>"),
        *(exif(value) for value in (0, 9, 65535)),
        exif(2**31, 4),
        exif(6)[:-12] + bytes(12),
        exif(1) + exif(6),
        exif(6) + exif(1),
        xmp(0) + xmp(6),
        exif(3, 11).replace(struct.pack(">f", 3), struct.pack(">f", float("inf"))),
    ],
)
@pytest.mark.parametrize("marker", [FIRST, SCAN])
def test_all_readers_treat_an_odd_orientation_alike(encode: Encode, marker: bytes, segments: bytes):
    plain = encode(PICTURE, "JPEG", quality=95, subsampling=0)
    decoded, *others = read_in_every_way(with_segments(plain, segments, marker))
    for other in others:
        assert np.abs(decoded.astype(int) - other).mean() < 10  # in another orientation it is 80 and more


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_an_upright_picture_is_not_turned_a_second_time_by_others(encode: Encode, format: str):
    upright = to_rgb(tagged(encode, format, 6))
    assert ImageOps.exif_transpose(upright).size == upright.size == (40, 24)


def test_a_jpeg_without_orientation_is_not_opened_by_pillow(encode: Encode, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    assert decode(encode(PICTURE, "JPEG")).shape == (3, 24, 40)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF"])
def test_decoded_pixels_are_channels_last(encode: Encode, format: str):
    assert decode(encode(PICTURE, format)).stride() == (1, 3 * 40, 3)


def test_decode_gives_rgb_bytes_with_channels_first(encode: Encode):
    decoded = decode(encode(PICTURE))
    assert decoded.dtype.is_floating_point is False and tuple(decoded.shape) == (3, 24, 40)
    np.testing.assert_array_equal(decoded.permute(1, 2, 0).numpy(), QUARTERS)


MODES = [
    ("L", "JPEG"),
    ("CMYK", "JPEG"),
    ("RGB", "JPEG"),
    ("L", "PNG"),
    ("LA", "PNG"),
    ("P", "PNG"),
    ("1", "PNG"),
    ("RGBA", "PNG"),
    ("P", "GIF"),
    ("RGB", "WEBP"),
    ("RGBA", "WEBP"),
    ("RGB", "BMP"),
    ("RGB", "TIFF"),
    ("CMYK", "TIFF"),
]


@pytest.mark.parametrize(("mode", "format"), MODES)
def test_every_mode_becomes_rgb(encode: Encode, mode: str, format: str):
    data = encode(PICTURE.convert(mode), format)
    expected = np.asarray(PICTURE.convert(mode).convert("RGB"), int)
    assert np.abs(pixels(data).astype(int) - expected).mean() < 8  # the error of JPEG and WebP


@pytest.mark.parametrize(("mode", "format"), MODES)
def test_decode_and_pillow_agree(encode: Encode, mode: str, format: str):
    data = encode(PICTURE.convert(mode), format)
    assert np.abs(pixels(data).astype(int) - np.asarray(to_rgb(data), int)).max() <= 2


@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"subsampling": 2}, {"quality": 20}, {"optimize": True}]
)
def test_decode_and_pillow_agree_on_every_kind_of_jpeg(encode: Encode, options: dict[str, Any]):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)).resize((61, 47))
    data = encode(noise, "JPEG", **options)
    assert np.abs(pixels(data).astype(int) - np.asarray(to_rgb(data), int)).max() <= 2


def test_sixteen_bits_are_scaled_to_eight(encode: Encode):
    """A ramp over all 65,536 greys stays a ramp."""
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    decoded = pixels(encode(Image.fromarray(ramp)))[..., 0].astype(int)
    assert np.abs(decoded - ramp // 257).max() <= 1


def tiff(bits: int, samples: bytes, side: int) -> bytes:
    """Return a grey, little-endian TIFF with packed samples."""
    tags = {256: side, 257: side, 258: bits, 259: 1, 262: 1, 273: 0, 277: 1, 278: side, 279: len(samples)}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + samples


SIXTEEN_BITS = {
    "PGM": b"P5\n2 2\n65535\n" + struct.pack(">4H", *[3000] * 4),
    "PGM of 0 to 1000": b"P5\n2 2\n1000\n" + struct.pack(">4H", *[46] * 4),
    "plain PGM": b"P2\n2 2\n65535\n3000 3000 3000 3000\n",
    "TIFF": tiff(16, struct.pack("<4H", *[3000] * 4), 2),
    "TIFF of 12 bits": tiff(12, b"\x0b\xb0\xbb" * 2, 2),  # two samples of 187 are 0bb 0bb
}


@pytest.mark.parametrize("name", SIXTEEN_BITS)
def test_more_than_eight_bits_are_scaled_to_eight(name: str):
    """By hand: 3000 / 257 = 11.7, 46 / 1000 * 255 = 11.7, 187 / 16 = 11.7."""
    assert pixels(SIXTEEN_BITS[name]).tolist() == [[[11] * 3] * 2] * 2


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
@pytest.mark.parametrize("read", [inspect, inspect_header, decode, to_rgb])
def test_pixels_without_a_known_value_of_white_are_refused(
    encode: Encode, read: Callable[[bytes], Any], dtype: type
):
    data = encode(Image.fromarray(np.full((4, 4), 0.5).astype(dtype)), "TIFF")
    assert reason(data, read) == "unsupported"


@pytest.mark.parametrize("read", [inspect, inspect_header, decode, to_rgb])
def test_the_bytes_of_a_picture_start_no_other_program(
    encode: Encode, read: Callable[[bytes], Any], monkeypatch: pytest.MonkeyPatch
):
    """Pillow would let Ghostscript run the content of an EPS."""
    Image.init()
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_: pytest.fail("started"))
    assert reason(encode(PICTURE, "EPS"), read) == "not_an_image"


@pytest.mark.parametrize("format", ["PPM", "JPEG2000", "AVIF", "ICO"])
def test_less_usual_formats_are_read_too(encode: Encode, format: str):
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    data = encode(PICTURE, format, sizes=[PICTURE.size])  # an option of ICO only
    assert np.abs(pixels(data).astype(int) - QUARTERS).mean() < 8


def test_the_first_frame_of_an_animation_is_decoded(encode: Encode):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixels(data)[3, 4].tolist() == [255, 0, 0]


@EVERY_READER
def test_no_bytes_are_empty(read: Callable[[bytes], Any]):
    assert reason(b"", read) == "empty"


@EVERY_READER
@pytest.mark.parametrize(
    "data", [b"Dear Sir or Madam", b"<html></html>", bytes(500), b"\xff\xd8", b"\xff\xd8\xff"]
)
def test_other_files_are_not_an_image(read: Callable[[bytes], Any], data: bytes):
    assert reason(data, read) in ("not_an_image", "corrupt")


@EVERY_READER
@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.9])
def test_a_truncated_picture_is_refused(
    encode: Encode, read: Callable[[bytes], Any], format: str, fraction: float
):
    rng = np.random.default_rng(0)
    data = encode(Image.fromarray(rng.integers(0, 256, (50, 50, 3), dtype=np.uint8)), format)
    assert reason(data[: int(fraction * len(data))], read) in ("corrupt", "not_an_image")


def claim(width: int, height: int) -> bytes:
    """Return a PNG whose header claims a size and whose pixels are missing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR" + header, b"IDAT" + zlib.compress(b"few pixels"))
    framed = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


@EVERY_READER
@pytest.mark.parametrize("size", [(13_400, 13_400), (60_000, 60_000)])
def test_huge_dimensions_are_refused_without_decoding(
    read: Callable[[bytes], Any], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    assert reason(claim(*size), read) == "too_large"


@EVERY_READER
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_one_pixel_too_many_is_too_large(
    encode: Encode, read: Callable[[bytes], Any], format: str, monkeypatch: pytest.MonkeyPatch
):
    data = encode(PICTURE, format)
    monkeypatch.setattr(images, "MAX_PIXELS", 24 * 40 - 1)
    assert reason(data, read) == "too_large"


@EVERY_READER
def test_a_picture_of_the_maximum_size_is_accepted(
    encode: Encode, read: Callable[[bytes], Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(images, "MAX_PIXELS", 24 * 40)
    read(encode(PICTURE))


@EVERY_READER
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_data_of_a_sound_picture_cause_no_crash(
    encode: Encode, read: Callable[[bytes], Any], format: str
):
    """It is read as it is stored, or refused; no other exception may escape."""
    data = tagged(encode, format, 6)
    broken = data.replace(b"MM\x00*", b"MX\x00*")
    assert broken != data
    if format == "PNG":
        broken = with_right_checksum(broken)
    with suppress(UnreadableImage):
        read(broken)


@pytest.mark.parametrize(
    ("offset", "value"), [(11, 0), (35, 13), (37, 2)], ids=["tag", "type IFD", "type text"]
)
@pytest.mark.parametrize("read", [decode, to_rgb])
def test_one_wrong_byte_in_the_exif_data_is_read_or_refused(
    encode: Encode, read: Callable[[bytes], Any], offset: int, value: int
):
    """Found by flipping bytes: Pillow fails to write such data back after turning the picture."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x011A] = 6, "abc", 72.0
    data = bytearray(encode(PICTURE, "WEBP", exif=exif))
    data[data.index(b"MM\x00*") + offset] = value
    with suppress(UnreadableImage):
        read(bytes(data))


@EVERY_READER
@pytest.mark.parametrize("type_", [2, 5, 7, 11], ids=["text", "rational", "bytes", "float"])
def test_a_tiff_whose_offsets_are_not_whole_numbers_is_refused(
    encode: Encode, read: Callable[[bytes], Any], type_: int
):
    data = encode(PICTURE, "TIFF")
    offsets = b"\x11\x01\x04\x00"  # tag StripOffsets of type LONG
    assert data.count(offsets) == 1
    assert reason(data.replace(offsets, bytes([0x11, 0x01, type_, 0])), read) in ("corrupt", "not_an_image")


def with_right_checksum(png: bytes) -> bytes:
    """Write the right checksum of the chunk eXIf."""
    start = png.index(b"eXIf")
    end = start + 4 + int.from_bytes(png[start - 4 : start])
    return png[:end] + struct.pack(">I", zlib.crc32(png[start:end])) + png[end + 4 :]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_flipped_bytes_are_read_or_refused_and_nothing_else(encode: Encode, format: str):
    options = {"exif": Image.Exif()} if format in ("JPEG", "PNG", "WEBP") else {}
    if options:
        options["exif"][0x0112] = 6
    sound = encode(PICTURE, format, **options)
    rng = np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(sound)
        for position in rng.integers(0, min(len(data), 200), rng.integers(1, 4)):
            data[position] = rng.integers(256)
        for read in (inspect, decode):
            try:
                read(bytes(data))
            except UnreadableImage as error:
                assert error.reason in ("corrupt", "not_an_image", "too_large", "unsupported")


def test_the_users_own_warnings_are_left_alone(encode: Encode, monkeypatch: pytest.MonkeyPatch):
    """Pillow's are silenced, but not by warnings.catch_warnings, which affects all threads."""
    before = list(warnings.filters)
    monkeypatch.setattr(warnings, "catch_warnings", lambda **_: pytest.fail("silenced for a block of code"))
    for read in (inspect, decode, to_rgb):
        read(tagged(encode, "JPEG", 6))
    assert warnings.filters == before


def test_pillow_does_not_warn_about_odd_but_sound_pictures(encode: Encode):
    """In new processes, because pytest sets filters of its own."""
    palette = encode(PICTURE.convert("P"), "PNG", transparency=bytes([0, 99]))
    ours = "import sys; from lglm_core.images.codec import to_rgb; to_rgb(sys.stdin.buffer.read())"
    plain = "import sys; from PIL import Image; Image.open(sys.stdin.buffer).convert('RGB')"
    said = [
        subprocess.run([sys.executable, "-c", script], input=palette, capture_output=True, check=True).stderr
        for script in (ours, plain)
    ]
    assert b"Warning" not in said[0]
    assert b"Warning" in said[1]
