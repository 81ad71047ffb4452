"""Images that a caller has in memory."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from advvae.data.given import given_pixels
from advvae.data.source import Form, Raw
from advvae.errors import UserError
from tests.data.official_files import random_images
from tests.data.test_decoding import png, saved

PLAIN = Form(8, 1)
HOUNSFIELD = Form(8, 1, window=(-1000, 400))
UPTAKE = Form(8, 1, window=(0, 5))  # narrow: an image of it may well lie within [0, 1]
UNITS = np.random.default_rng(0).integers(-1000, 401, (3, 8, 8))  # from black to white of HOUNSFIELD
SHARES = ((UNITS + 1000) / 1400).astype(np.float32)


def pixels_of(images: Any, form: Form, raw: bool | None = None) -> np.ndarray:
    return given_pixels(images, form, raw).numpy().astype(np.int64)


@pytest.mark.parametrize("kind", ["int16", "int32", "int64", "float32", "float64"])
def test_values_in_the_unit_of_the_files_go_through_the_window(kind: str) -> None:
    expected = (SHARES[:, None].astype(np.float64) * 65535).round()
    np.testing.assert_allclose(pixels_of(UNITS.astype(kind), HOUNSFIELD), expected, atol=1)
    tensor = torch.from_numpy(UNITS.astype(kind))[:, None]
    np.testing.assert_allclose(pixels_of(tensor, HOUNSFIELD), expected, atol=1)


def test_floats_in_0_to_1_have_been_through_the_window() -> None:
    expected = pixels_of(SHARES, PLAIN)
    assert np.array_equal(pixels_of(SHARES, HOUNSFIELD), expected)
    assert np.array_equal(pixels_of(list(torch.from_numpy(SHARES)[:, None]), HOUNSFIELD), expected)
    assert np.array_equal(pixels_of([Image.fromarray(image) for image in SHARES], HOUNSFIELD), expected)
    beside = [UNITS[0].astype(np.int16), SHARES[1]]
    np.testing.assert_allclose(pixels_of(beside, HOUNSFIELD), expected[:2], atol=1)


def test_where_floats_may_be_either_it_is_asked() -> None:
    for images, form in ((SHARES, UPTAKE), ([SHARES[0], UNITS[0].astype(float)], HOUNSFIELD)):
        with pytest.raises(UserError, match="say raw=True or raw=False"):
            given_pixels(images, form)
    of_five = (SHARES[:, None].astype(np.float64) / 5 * 65535).round()
    np.testing.assert_allclose(pixels_of(SHARES, UPTAKE, raw=True), of_five, atol=1)
    np.testing.assert_allclose(pixels_of([Raw(image) for image in SHARES], UPTAKE), of_five, atol=1)
    assert np.array_equal(pixels_of(SHARES, UPTAKE, raw=False), pixels_of(SHARES, PLAIN))
    assert np.array_equal(pixels_of(SHARES * 5, UPTAKE), pixels_of(SHARES, PLAIN))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((32, 32, 3)), "(32, 32, 3) may be one image with 3 channels, or 32 grey ones: give images[None]"),
        (np.zeros((32, 32, 4)), "images[..., None] for the others"),
        (np.zeros((32, 32, 1)), "with 1 channels"),
        (["scan.png"], "image 0: shape () is not height × width"),
        ([np.zeros((8, 8)), np.full((8, 8), np.nan)], "image 1: some of its values are no numbers"),
    ],
)
def test_what_may_be_something_else_is_told(images: Any, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        given_pixels(images, PLAIN)


def test_one_colour_image_is_given_as_a_list_of_one() -> None:
    colour = random_images(1, 8, 8, 3)[0]
    for images in ([colour], colour[None]):
        assert np.array_equal(pixels_of(images, Form(8, 3))[0].transpose(1, 2, 0), colour)


def test_images_of_pillow_are_left_as_they_are() -> None:
    jpeg = saved(Image.fromarray(random_images(1, 256, 512, 3)[0]), "JPEG")
    deep = np.random.default_rng(0).integers(0, 65536, (8, 8, 3)).astype(np.uint16)
    deep_png = png(deep, colour_type=2)
    once = given_pixels([jpeg], PLAIN)
    assert jpeg.size == (512, 256), "decoding at a smaller scale is not the caller's"
    assert torch.equal(given_pixels([jpeg], PLAIN), once)
    for _ in range(2):
        assert np.array_equal(pixels_of([deep_png], Form(8, 3))[0].transpose(1, 2, 0), deep)


def test_the_frame_that_the_caller_has_chosen_is_taken() -> None:
    frames = [Image.fromarray(image) for image in random_images(3, 8, 8, 1)[..., 0]]
    file = io.BytesIO()
    frames[0].save(file, "TIFF", save_all=True, append_images=frames[1:])
    image = Image.open(file)
    image.seek(2)
    assert np.array_equal(pixels_of([image], PLAIN), pixels_of([frames[2]], PLAIN))
    assert image.tell() == 2


def test_a_file_that_is_cut_off_or_closed_is_told_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "scan.png"
    Image.fromarray(random_images(1, 64, 64, 3)[0]).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    whole = Image.new("L", (8, 8))
    with pytest.raises(UserError, match=r"image 1: .*truncated"):
        given_pixels([whole, Image.open(path)], PLAIN)
    closed = png(np.zeros((8, 8, 3), np.uint16), colour_type=2)
    closed.close()
    with pytest.raises(UserError, match=r"image 0: .*closed"):
        given_pixels([closed], PLAIN)
