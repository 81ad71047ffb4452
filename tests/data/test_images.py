from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from advvae.data.images import TOGETHER, resize, resized, to_array
from tests.data.official_files import random_images


def saved(image: Image.Image, suffix: str, **options: Any) -> Image.Image:
    """An image after a trip through a file."""
    file = io.BytesIO()
    image.save(file, suffix, **options)
    file.seek(0)
    return Image.open(file)


def test_grey_and_colour_arrays() -> None:
    grey, colour = random_images(5, 4), random_images(5, 4, 3)
    assert np.array_equal(to_array(grey, 8), grey[:, :, None])
    assert np.array_equal(to_array(colour, 8), colour)
    assert np.array_equal(to_array(Image.fromarray(grey), 8), grey[:, :, None])


@pytest.mark.parametrize("suffix", ["PNG", "TIFF"])
def test_16_bits_are_kept(suffix: str) -> None:
    deep = np.array([[0, 255, 256, 65535]], dtype=np.uint16)
    array = to_array(saved(Image.fromarray(deep), suffix), 8)
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
    assert to_array(image, 8)[:, :, 0].tolist() == [[1000, 65535]]


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
    assert np.array_equal(to_array(png(deep, colour_type), 8), deep)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colour_tiff(channels: int, order: str, compressed: bool) -> None:
    deep = deep_pixels(channels)
    assert np.array_equal(to_array(tiff(deep, order, compressed=compressed), 8), deep)


def test_16_bit_colour_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    deep = deep_pixels(3)
    assert np.array_equal(to_array(png(deep, 2, exif.tobytes()[6:]), 8), np.rot90(deep, -1))


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
        to_array(image, 8)


def test_colour_ppm_of_8_bits() -> None:
    assert to_array(Image.open(io.BytesIO(b"P6 1 1 15\n\x0f\0\x0f")), 8).tolist() == [[[255, 0, 255]]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_that_were_8_bits(dtype: type) -> None:
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    array = to_array((every / 255).astype(dtype), 8)
    assert array.dtype == np.uint8
    assert np.array_equal(array[:, :, 0], every)


def test_other_floats_keep_16_bits() -> None:
    array = to_array(np.array([[0, 0.5, 1, 0.25]], dtype=np.float16), 8)
    assert array.dtype == np.uint16
    assert array.ravel().tolist() == [0, 32768, 65535, 16384]
    nearly = to_array(np.array([[100.05 / 255]]), 8)  # 0.05 of a step beside one of 8 bits
    assert nearly.dtype == np.uint16


def test_byte_order_becomes_this_machines() -> None:
    array = to_array(np.array([[1, 65535]], dtype=">u2"), 8)
    assert array.dtype == np.uint16
    assert array.ravel().tolist() == [1, 65535]


def test_floats_beside_0_and_1_by_rounding() -> None:
    assert to_array(np.array([[1 + 1e-7, -1e-9]]), 8).ravel().tolist() == [255, 0]
    with pytest.raises(ValueError, match=r"values from 0\.5 to 1\.0001 do not lie in \[0, 1\]"):
        to_array(np.array([[0.5, 1.0001]]), 8)


def test_float_tiff() -> None:
    floats = np.array([[0, 0.5, 1]], dtype=np.float32)
    assert to_array(saved(Image.fromarray(floats), "TIFF"), 8)[:, :, 0].tolist() == [[0, 32768, 65535]]
    with pytest.raises(ValueError, match=r"do not lie in \[0, 1\]"):
        to_array(saved(Image.fromarray(floats * 2), "TIFF"), 8)


def test_32_bit_integers_that_do_not_fit_are_refused() -> None:
    numbers = np.array([[0, 70000]], dtype=np.int32)
    with pytest.raises(ValueError, match=r"do not lie in \[0, 65535\]"):
        to_array(saved(Image.fromarray(numbers), "TIFF"), 8)


def test_palette_is_looked_up() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert to_array(saved(image, "PNG"), 8).tolist() == [[[255, 0, 0], [0, 0, 255]]]


def test_one_bit_image_is_black_and_white() -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert to_array(saved(image, "PNG"), 8)[:, :, 0].tolist() == [[0, 255]]


def test_cmyk_becomes_rgb() -> None:
    array = to_array(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), 8)
    assert array.tolist() == [[[255, 0, 0]]]


def test_exif_turns_the_image_upright() -> None:
    image = Image.fromarray(random_images(16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    assert to_array(saved(image, "PNG", exif=exif), 8).shape == (8, 16, 1)


def test_large_jpeg_is_decoded_at_twice_the_size_or_more() -> None:
    image = saved(Image.fromarray(random_images(512, 1024, 3)), "JPEG")
    assert to_array(image, 64).shape == (128, 256, 3)
    assert to_array(saved(image, "JPEG"), 300).shape == (128, 256, 3)  # never enlarged


@pytest.mark.parametrize("shape", [(3,), (2, 2, 5), (0, 4), (1, 2, 3, 4)])
def test_no_image(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="is not height × width"):
        to_array(np.zeros(shape, dtype=np.uint8), 8)


def test_other_types_are_refused() -> None:
    for kind in (np.int64, np.uint32, bool):
        with pytest.raises(ValueError, match=np.dtype(kind).name):
            to_array(np.zeros((4, 4), dtype=kind), 8)


def test_grey_is_luma_and_colour_is_repeated() -> None:
    primaries = np.array([[[255, 0, 0]], [[0, 255, 0]], [[0, 0, 255]]], dtype=np.uint8)[:, :, None, :]
    assert resize(primaries, 1, channels=1).ravel().tolist() == [76, 150, 29]  # 255 × 0.299, 0.587, 0.114
    grey = np.array([7], dtype=np.uint8).reshape(1, 1, 1, 1)
    assert resize(grey, 1, channels=3).ravel().tolist() == [7, 7, 7]


def test_grey_image_saved_in_colour_comes_back_exactly() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    assert np.array_equal(resize(grey.repeat(3, axis=3), 16, channels=1)[0, 0], grey[0, :, :, 0])


@pytest.mark.parametrize(("dtype", "largest"), [(np.uint8, 255), (np.uint16, 65535)])
def test_transparent_is_black(dtype: Any, largest: int) -> None:
    image = np.array([[largest, 0], [largest, largest]], dtype=dtype).reshape(2, 1, 1, 2)
    assert resize(image, 1, channels=1).ravel().tolist() == [0, largest]


def test_resizing_is_antialiased() -> None:
    stripes = np.zeros((1, 48, 48, 1), dtype=np.uint8)
    stripes[:, :, ::2] = 200
    small = resize(stripes, 16, channels=1)  # every third column: without antialiasing, 0 and 200 in turn
    assert small.shape == (1, 1, 16, 16)
    # The triangle over three columns either side weighs them 1, 2, 3, 2, 1: 4/9 or 5/9 of 200.
    assert np.unique(small[0, 0, :, 1:-1]).tolist() == [89, 111]


def test_resizing_is_exact_on_constants() -> None:
    constant = np.full((1, 9, 9, 1), 65535, dtype=np.uint16)
    assert np.unique(resize(constant, 32, channels=1)).tolist() == [65535]


def test_the_centred_square_is_used() -> None:
    image = np.arange(10, dtype=np.uint8).reshape(1, 1, 10, 1).repeat(4, axis=1)
    assert resize(image, 4, channels=1)[0, 0, 0].tolist() == [3, 4, 5, 6]


def test_neighbours_of_any_shape_keep_their_order() -> None:
    side = int(TOGETHER**0.5) + 1
    arrays = [np.full((h, w, c), value, dtype=np.uint8) for value, (h, w, c) in enumerate(
        [(8, 8, 1), (8, 8, 1), (9, 8, 1), (8, 8, 3), (side, side, 1), (side, side, 1), (8, 8, 1)]
    )]  # fmt: skip
    parts = list(resized(arrays, 8, 1))
    assert [len(part) for part in parts] == [2, 1, 1, 1, 1, 1]
    assert np.concatenate(parts).max(axis=(1, 2, 3)).tolist() == list(range(7))


def test_what_is_resized_at_once_is_bounded() -> None:
    arrays = np.zeros((5, 8, 8, 3), dtype=np.uint8)
    per_group = [len(part) for part in resized(arrays, 512, 3)]  # each becomes 786,432 values, of 2**20 at once
    assert per_group == [2, 2, 1]


def test_resizing_together_or_alone_is_the_same() -> None:
    arrays = random_images(7, 28, 28, 1)
    together = resize(arrays, 32, 1)
    alone = np.concatenate([resize(arrays[i : i + 1], 32, 1) for i in range(7)])
    assert np.array_equal(together, alone)


def test_same_result_as_the_reference_filter() -> None:
    """Pillow's bilinear filter, which torchvision's Resize uses, to a rounding step."""
    array = random_images(40, 40)
    ours = resize(array[None, :, :, None], 17, 1)[0, 0].astype(int)
    theirs = np.asarray(Image.fromarray(array).resize((17, 17), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(ours - theirs).max() <= 1


def test_torch_is_not_asked_for_random_numbers(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    resize(random_images(2, 9, 9, 3), 8, 1)
    assert torch.equal(before, torch.random.get_rng_state())
