from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from advvae.data.images import TOGETHER, height_and_width, overlaps, resize, resized, resized_mask
from advvae.data.source import Form, Raw
from tests.data.official_files import random_images


def test_grey_is_luma_and_colour_is_repeated() -> None:
    primaries = np.array([[[255, 0, 0]], [[0, 255, 0]], [[0, 0, 255]]], dtype=np.uint8)[:, :, None, :]
    assert resize(primaries, Form(1, 1)).ravel().tolist() == [76, 150, 29]  # 255 × 0.299, 0.587, 0.114
    grey = np.array([7], dtype=np.uint8).reshape(1, 1, 1, 1)
    assert resize(grey, Form(1, 3)).ravel().tolist() == [7, 7, 7]


def test_grey_image_saved_in_colour_comes_back_exactly() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    assert np.array_equal(resize(grey.repeat(3, axis=3), Form(16, 1))[0, 0], grey[0, :, :, 0])


@pytest.mark.parametrize(("dtype", "largest"), [(np.uint8, 255), (np.uint16, 65535)])
def test_transparent_is_black(dtype: Any, largest: int) -> None:
    image = np.array([[largest, 0], [largest, largest]], dtype=dtype).reshape(2, 1, 1, 2)
    assert resize(image, Form(1, 1)).ravel().tolist() == [0, largest]


def test_resizing_is_antialiased() -> None:
    stripes = np.zeros((1, 48, 48, 1), dtype=np.uint8)
    stripes[:, :, ::2] = 200
    small = resize(stripes, Form(16, 1))  # every third column: without antialiasing, 0 and 200 in turn
    assert small.shape == (1, 1, 16, 16)
    # The triangle over three columns either side weighs them 1, 2, 3, 2, 1: 4/9 or 5/9 of 200.
    assert np.unique(small[0, 0, :, 1:-1]).tolist() == [89, 111]


def test_resizing_is_exact_on_constants() -> None:
    constant = np.full((1, 9, 9, 1), 65535, dtype=np.uint16)
    assert np.unique(resize(constant, Form(32, 1))).tolist() == [65535]


def test_the_centred_square_is_used() -> None:
    image = np.arange(10, dtype=np.uint8).reshape(1, 1, 10, 1).repeat(4, axis=1)
    assert resize(image, Form(4, 1))[0, 0, 0].tolist() == [3, 4, 5, 6]


def test_neighbours_of_any_shape_keep_their_order() -> None:
    side = int(TOGETHER**0.5) + 1
    arrays = [np.full((h, w, c), value, dtype=np.uint8) for value, (h, w, c) in enumerate(
        [(8, 8, 1), (8, 8, 1), (9, 8, 1), (8, 8, 3), (side, side, 1), (side, side, 1), (8, 8, 1)]
    )]  # fmt: skip
    parts = list(resized(arrays, Form(8, 1)))
    assert [len(part) for part in parts] == [2, 1, 1, 1, 1, 1]
    assert np.concatenate(parts).max(axis=(1, 2, 3)).tolist() == list(range(7))


def test_what_is_resized_at_once_is_bounded() -> None:
    arrays = np.zeros((5, 8, 8, 3), dtype=np.uint8)
    per_group = [len(part) for part in resized(arrays, Form(512, 3))]  # each becomes 786,432 values, of 2**20 at once
    assert per_group == [2, 2, 1]


def test_resizing_together_or_alone_is_the_same() -> None:
    arrays = random_images(7, 28, 28, 1)
    together = resize(arrays, Form(32, 1))
    alone = np.concatenate([resize(arrays[i : i + 1], Form(32, 1)) for i in range(7)])
    assert np.array_equal(together, alone)


def test_same_result_as_the_reference_filter() -> None:
    """Pillow's bilinear filter, which torchvision's Resize uses, to a rounding step."""
    array = random_images(40, 40)
    ours = resize(array[None, :, :, None], Form(17, 1))[0, 0].astype(int)
    theirs = np.asarray(Image.fromarray(array).resize((17, 17), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(ours - theirs).max() <= 1


def test_torch_is_not_asked_for_random_numbers() -> None:
    before = torch.random.get_rng_state()
    resize(random_images(2, 9, 9, 3), Form(8, 1))
    assert torch.equal(before, torch.random.get_rng_state())


# Shapes that are not square


def test_squash_scales_each_side_by_itself() -> None:
    image = np.arange(8, dtype=np.uint8).reshape(1, 1, 8, 1).repeat(2, axis=1) * 10
    small = resize(image, Form(2, 1, resize="squash"))
    # Four columns become one. A triangle over the four on either side, cut off at the edge, weighs the left six by
    # 5, 7, 7, 5, 3, 1 (eighths): (0·5 + 10·7 + 20·7 + 30·5 + 40·3 + 50·1) / 28 = 18.93.
    assert small[0, 0].tolist() == [[19, 51], [19, 51]]


def test_pad_adds_black_on_both_sides() -> None:
    image = np.full((1, 2, 5, 1), 255, np.uint8)
    assert resize(image, Form(5, 1, resize="pad"))[0, 0, :, 0].tolist() == [0, 255, 255, 0, 0]
    assert resize(image.transpose(0, 2, 1, 3), Form(5, 1, resize="pad"))[0, 0, 0].tolist() == [0, 255, 255, 0, 0]
    assert resize(image, Form(10, 1, resize="pad")).shape == (1, 1, 10, 10)


# Masks


def mask_of(shape: tuple[int, int], *pixels: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    for pixel in pixels:
        mask[pixel] = 7
    return mask


def test_a_mask_marks_where_half_of_a_pixel_is_marked() -> None:
    mask = mask_of((4, 4), (0, 0), (0, 1), (2, 2), (2, 3), (3, 2), (0, 3))
    assert resized_mask(mask, Form(2, 1), (4, 4)).tolist() == [[1, 0], [0, 1]]  # 2, 1, 0 and 3 of 4


def test_a_small_lesion_is_not_lost() -> None:
    mask = mask_of((64, 64), (63, 0), (62, 0), (0, 63))
    small = resized_mask(mask, Form(8, 1), (64, 64))
    assert small.sum() == 1  # the pixel that holds two of them, and not the one with one
    assert small[7, 0] == 1
    assert not resized_mask(mask_of((64, 64)), Form(8, 1), (64, 64)).any()


def test_enlarged_masks_keep_their_shape() -> None:
    mask = mask_of((2, 2), (0, 1))
    assert resized_mask(mask, Form(4, 1), (2, 2)).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("way", ["crop", "squash", "pad"])
@pytest.mark.parametrize("shape", [(40, 24), (24, 41)])
def test_a_mask_lies_where_its_image_does(way: str, shape: tuple[int, int]) -> None:
    blob = mask_of(shape)
    blob[10:18, 8:20] = 255
    form = Form(16, 1, resize=way)
    image = resize(blob[None, :, :, None], form)[0, 0].astype(float) / 255
    mask = resized_mask(blob, form, shape)
    assert mask.any()
    assert (image[mask == 1] > 0.25).all()
    assert (image[mask == 0] < 0.75).all()


def test_a_lesion_outside_the_square_is_not_seen() -> None:
    assert not resized_mask(mask_of((8, 16), (0, 0)), Form(8, 1), (8, 16)).any()
    assert resized_mask(mask_of((8, 16), (0, 0)), Form(8, 1, resize="squash"), (8, 16)).any()


def test_overlaps_by_hand() -> None:
    np.testing.assert_allclose(overlaps(3, 2), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]])


@pytest.mark.parametrize(
    "mask",
    [
        np.array([[True, False], [False, False]]),
        np.array([[-0.5, 0], [0, 0]]),
        np.array([[[0, 0, 9], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]], np.uint8),
        np.array([[[9, 255], [9, 0]], [[0, 255], [9, 0]]], np.uint8),  # what is transparent marks nothing
        Raw(np.array([[300, 0], [0, 0]], np.int16)),
        Image.fromarray(np.array([[1, 0], [0, 0]], np.uint8)),
    ],
)
def test_masks_of_every_kind(mask: Any) -> None:
    assert resized_mask(mask, Form(2, 1), (2, 2)).tolist() == [[1, 0], [0, 0]]


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="the mask has 4 × 5 pixels and the image 5 × 4"):
        resized_mask(mask_of((4, 5)), Form(2, 1), (5, 4))


def test_height_and_width_of_every_kind() -> None:
    pixels = random_images(4, 6, 3)
    for image in (pixels, Raw(pixels), Image.fromarray(pixels)):
        assert height_and_width(image) == (4, 6)
