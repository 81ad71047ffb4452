from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from advvae.data.decoding import upright_shape
from advvae.data.images import raw_values, to_array
from advvae.data.source import Form
from tests.data.medical_files import write_deep
from tests.data.official_files import random_images

ALL = Form(8, 1)


def saved(image: Image.Image, suffix: str, **options: Any) -> Image.Image:
    """An image after a trip through a file."""
    file = io.BytesIO()
    image.save(file, suffix, **options)
    file.seek(0)
    return Image.open(file)


@pytest.mark.parametrize("suffix", ["PNG", "TIFF"])
def test_16_bits_are_kept(suffix: str) -> None:
    deep = np.array([[0, 255, 256, 65535]], dtype=np.uint16)
    array = to_array(saved(Image.fromarray(deep), suffix), ALL)
    assert array.dtype == np.uint16
    assert array[:, :, 0].tolist() == [[0, 255, 256, 65535]]


def test_big_endian_16_bit_tiff() -> None:
    header = b"MM\0*\0\0\0\x08"
    tags = [
        (256, 3, 2),
        (257, 3, 1),
        (258, 3, 16),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 122),
        (277, 3, 1),
        (278, 3, 1),
        (279, 4, 4),
    ]
    entries = b"".join(
        tag.to_bytes(2, "big") + kind.to_bytes(2, "big") + (1).to_bytes(4, "big")
        + (value.to_bytes(2, "big") + b"\0\0" if kind == 3 else value.to_bytes(4, "big"))
        for tag, kind, value in tags
    )  # fmt: skip
    content = header + len(tags).to_bytes(2, "big") + entries + b"\0\0\0\0" + (1000).to_bytes(2, "big") + b"\xff\xff"
    image = Image.open(io.BytesIO(content))
    assert to_array(image, ALL)[:, :, 0].tolist() == [[1000, 65535]]


def png(deep: np.ndarray, colour_type: int, exif: bytes = b"") -> Image.Image:
    """H×W×C uint16 values as a PNG file of 16 bits."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    header = struct.pack(">IIBBBBB", deep.shape[1], deep.shape[0], 16, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    if exif:
        chunks.insert(1, (b"eXIf", exif))
    return Image.open(io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)))


def tiff(deep: np.ndarray, order: str, planar: int = 1, compressed: bool = False) -> Image.Image:
    """H×W×C uint16 values as a TIFF file in one strip (or, if planar=2, one per channel); order: < or >."""
    height, width, channels = deep.shape
    parts = [deep] if planar == 1 else [deep[:, :, c] for c in range(channels)]
    strips = [part.astype(f"{order}u2").tobytes() for part in parts]
    if compressed:
        strips = [zlib.compress(strip) for strip in strips]
    starts = [8 + sum(map(len, strips[:i])) for i in range(len(strips))]
    tags = {256: [width], 257: [height], 258: [16] * channels, 259: [8 if compressed else 1], 262: [2], 273: starts,
            277: [channels], 278: [height], 279: [len(strip) for strip in strips], 284: [planar]}  # fmt: skip
    if channels == 4:
        tags[338] = [2]  # the fourth is alpha
    first = 8 + sum(map(len, strips))
    spare = first + 2 + 12 * len(tags) + 4
    entries, longer = b"", b""
    for tag, values in tags.items():
        content = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            longer += content
            content = struct.pack(f"{order}I", spare + len(longer) - len(content))
        entries += struct.pack(f"{order}HHI", tag, 4, len(values)) + content
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", first)
    directory = struct.pack(f"{order}H", len(tags)) + entries + b"\0\0\0\0"
    return Image.open(io.BytesIO(start + b"".join(strips) + directory + longer))


def deep_pixels(channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 65536, size=(6, 5, channels), dtype=np.uint16)


@pytest.mark.parametrize(("channels", "colour_type"), [(3, 2), (4, 6)])
def test_16_bit_colour_png(channels: int, colour_type: int) -> None:
    deep = deep_pixels(channels)
    assert np.array_equal(to_array(png(deep, colour_type), ALL), deep)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colour_tiff(channels: int, order: str, compressed: bool) -> None:
    deep = deep_pixels(channels)
    assert np.array_equal(to_array(tiff(deep, order, compressed=compressed), ALL), deep)


def test_16_bit_colour_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    deep = deep_pixels(3)
    assert np.array_equal(to_array(png(deep, 2, exif.tobytes()[6:]), ALL), np.rot90(deep, -1))


@pytest.mark.parametrize(
    "image",
    [
        png(deep_pixels(2), colour_type=4),
        tiff(deep_pixels(3), "<", planar=2),
        tiff(deep_pixels(3), "<", planar=2, compressed=True),
        Image.open(io.BytesIO(b"P6 5 6 65535\n" + deep_pixels(3).astype(">u2").tobytes())),
    ],
    ids=["grey and alpha", "planar", "compressed planar", "ppm"],
)
def test_16_bits_that_pillow_would_cut_are_refused(image: Image.Image) -> None:
    with pytest.raises(ValueError, match="more than 8 bits in a form that Pillow cuts to 8: save it as 16-bit RGB"):
        to_array(image, ALL)


def test_colour_ppm_of_8_bits() -> None:
    assert to_array(Image.open(io.BytesIO(b"P6 1 1 15\n\x0f\0\x0f")), ALL).tolist() == [[[255, 0, 255]]]


def test_float_tiff() -> None:
    floats = np.array([[0, 0.5, 1]], dtype=np.float32)
    assert to_array(saved(Image.fromarray(floats), "TIFF"), ALL)[:, :, 0].tolist() == [[0, 32768, 65535]]
    with pytest.raises(ValueError, match=r"do not lie in \[0, 1\]"):
        to_array(saved(Image.fromarray(floats * 2), "TIFF"), ALL)


def test_32_bit_integers_that_do_not_fit_are_refused() -> None:
    numbers = np.array([[0, 70000]], dtype=np.int32)
    with pytest.raises(ValueError, match=r"do not lie in \[0, 65535\]"):
        to_array(saved(Image.fromarray(numbers), "TIFF"), ALL)


def test_palette_is_looked_up() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert to_array(saved(image, "PNG"), ALL).tolist() == [[[255, 0, 0], [0, 0, 255]]]


def test_one_bit_image_is_black_and_white() -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert to_array(saved(image, "PNG"), ALL)[:, :, 0].tolist() == [[0, 255]]


def test_cmyk_becomes_rgb() -> None:
    array = to_array(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), ALL)
    assert array.tolist() == [[[255, 0, 0]]]


def test_exif_turns_the_image_upright() -> None:
    image = Image.fromarray(random_images(16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    assert to_array(saved(image, "PNG", exif=exif), ALL).shape == (8, 16, 1)


def test_large_jpeg_is_decoded_at_twice_the_size_or_more() -> None:
    image = saved(Image.fromarray(random_images(512, 1024, 3)), "JPEG")
    assert to_array(image, Form(64, 1)).shape == (128, 256, 3)
    assert to_array(saved(image, "JPEG"), Form(300, 1)).shape == (128, 256, 3)  # never enlarged


# With a window


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_window_maps_16_bits_by_their_values(suffix: str, tmp_path: Path) -> None:
    path = write_deep(tmp_path / f"a.{suffix}", np.array([[0, 1000, 1001, 2000, 3000, 65535]], np.uint16))
    array = to_array(Image.open(path), Form(8, 1, window=(1000, 3000)))
    assert array[0, :, 0].tolist() == [0, 0, 33, 32768, 65535, 65535]  # 65535 · 1/2000 = 32.77; half rounds up


def tiff_of(values: np.ndarray, photometric: int = 1) -> Image.Image:
    """An H×W TIFF file of numbers of any type, uncompressed; photometric: 1 = black is 0, 0 = white is."""
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    height, width = values.shape
    tags = {256: width, 257: height, 258: 8 * values.dtype.itemsize, 259: 1, 262: photometric, 273: 8, 277: 1,
            278: height, 279: values.nbytes, 339: kind}  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    content = values.astype(values.dtype.newbyteorder("<")).tobytes()
    directory = struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"
    return Image.open(io.BytesIO(b"II*\0" + struct.pack("<I", 8 + len(content)) + content + directory))


@pytest.mark.parametrize("kind", ["int16", "int32", "float32"])
def test_tiff_of_signed_or_large_numbers_needs_a_window(kind: str) -> None:
    values = np.array([[-1000, -500, 0, 500, 1000, 3000]], kind)
    array = to_array(tiff_of(values), Form(8, 1, window=(-1000, 1000)))
    assert array[0, :, 0].tolist() == [0, 16384, 32768, 49151, 65535, 65535]
    assert raw_values(tiff_of(values))[0, :, 0].tolist() == values[0].tolist()
    with pytest.raises(ValueError, match=r"from -1000.* to 3000.* do not lie in .*: set dataset\.window=\[low,high\]"):
        to_array(tiff_of(values), ALL)


def test_unsigned_tiff_of_32_bits_has_no_negative_numbers() -> None:
    image = tiff_of(np.array([[0, 2**31, 2**32 - 1]], np.uint32))
    assert to_array(image, Form(8, 1, window=(0, 2**32 - 1)))[0, :, 0].tolist() == [0, 32768, 65535]
    assert to_array(tiff_of(np.array([[0, 65535]], np.uint32)), ALL)[0, :, 0].tolist() == [0, 65535]


@pytest.mark.parametrize(("kind", "largest"), [("uint8", 255), ("uint16", 65535)])
def test_tiff_whose_white_is_0(kind: str, largest: int) -> None:
    """Pillow turns round those of 8 bits alone."""
    image = tiff_of(np.array([[0, 1, 200]], kind), photometric=0)
    assert to_array(image, ALL)[0, :, 0].tolist() == [largest, largest - 1, largest - 200]


def test_a_window_is_applied_before_a_jpeg_is_made_smaller() -> None:
    """Clipped after it was averaged, a board of black and white would be grey."""
    board = np.zeros((256, 256), np.uint8)
    board[:, ::2] = 100
    image = saved(Image.fromarray(board), "JPEG", quality=100)
    assert to_array(image, Form(8, 1, window=(0, 255))).shape == (256, 256, 1)


@pytest.mark.parametrize(("orientation", "shape"), [(1, (4, 6)), (3, (4, 6)), (5, (6, 4)), (6, (6, 4)), (8, (6, 4))])
def test_height_and_width_before_an_image_is_decoded(orientation: int, shape: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = saved(Image.fromarray(random_images(4, 6)), "JPEG", exif=exif)
    assert upright_shape(image) == shape
    assert to_array(image, ALL).shape[:2] == shape
