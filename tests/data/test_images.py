from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from advvae.data.images import raw_values, to_array
from advvae.data.source import Form, Raw
from tests.data.official_files import random_images


def test_grey_and_colour_arrays() -> None:
    grey, colour = random_images(5, 4), random_images(5, 4, 3)
    assert np.array_equal(to_array(grey, Form(8, 1)), grey[:, :, None])
    assert np.array_equal(to_array(colour, Form(8, 1)), colour)
    assert np.array_equal(to_array(Image.fromarray(grey), Form(8, 1)), grey[:, :, None])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_that_were_8_bits(dtype: type) -> None:
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    array = to_array((every / 255).astype(dtype), Form(8, 1))
    assert array.dtype == np.uint8
    assert np.array_equal(array[:, :, 0], every)


def test_other_floats_keep_16_bits() -> None:
    array = to_array(np.array([[0, 0.5, 1, 0.25]], dtype=np.float16), Form(8, 1))
    assert array.dtype == np.uint16
    assert array.ravel().tolist() == [0, 32768, 65535, 16384]
    nearly = to_array(np.array([[100.05 / 255]]), Form(8, 1))  # 0.05 of a step beside one of 8 bits
    assert nearly.dtype == np.uint16


def test_byte_order_becomes_this_machines() -> None:
    array = to_array(np.array([[1, 65535]], dtype=">u2"), Form(8, 1))
    assert array.dtype == np.uint16
    assert array.ravel().tolist() == [1, 65535]


def test_floats_beside_0_and_1_by_rounding() -> None:
    assert to_array(np.array([[1 + 1e-7, -1e-9]]), Form(8, 1)).ravel().tolist() == [255, 0]
    with pytest.raises(ValueError, match=r"values from 0\.5 to 1\.0001 do not lie in \[0, 1\]"):
        to_array(np.array([[0.5, 1.0001]]), Form(8, 1))


@pytest.mark.parametrize("shape", [(3,), (2, 2, 5), (0, 4), (1, 2, 3, 4)])
def test_no_image(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="is not height × width"):
        to_array(np.zeros(shape, dtype=np.uint8), Form(8, 1))


def test_other_types_are_refused() -> None:
    for kind in (np.int64, np.uint32, bool):
        with pytest.raises(ValueError, match=np.dtype(kind).name):
            to_array(np.zeros((4, 4), dtype=kind), Form(8, 1))


# Windows


def windowed(values: Any, low: float, high: float, **raw: Any) -> list[int]:
    """A row of values as they are mapped."""
    return to_array(Raw(np.array([values]), **raw), Form(8, 1, window=(low, high)))[0, :, 0].tolist()


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "int64", "float16", "float32", "float64"])
def test_values_of_any_type_by_hand(kind: str) -> None:
    values = np.array([[-100, -50, 0, 50, 100]], kind)
    array = to_array(values, Form(8, 1, window=(-50, 50)))
    assert array[0, :, 0].tolist() == [0, 0, 32768, 65535, 65535]  # 65535 / 2 rounds up
    assert array.dtype == np.uint16


def test_a_window_is_exact_in_float64() -> None:
    values = np.arange(65536, dtype=np.uint16)
    low, high = 1234.5, 43210.25
    expected = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 65535
    assert np.abs(windowed(values, low, high) - expected).max() <= 0.51


def test_large_numbers_keep_their_differences() -> None:
    """In float32, 2**30 + 1 is 2**30."""
    values = (2**30 + np.arange(4)).astype(np.int32)
    assert windowed(values, 2**30, 2**30 + 3) == [0, 85, 170, 255]  # thirds need no more than 8 bits


def test_the_whole_range_of_8_bits_changes_nothing() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    array = to_array(every, Form(8, 1, window=(0, 255)))
    assert array.dtype == np.uint8
    assert np.array_equal(array[:, :, 0], every)


def test_a_raw_image_uses_its_own_window_unless_one_is_asked_for() -> None:
    raw = Raw(np.array([[0, 30, 60]]), window=(0, 60))
    assert to_array(raw, Form(8, 1))[0, :, 0].tolist() == [0, 32768, 65535]
    assert to_array(raw, Form(8, 1, window=(30, 90)))[0, :, 0].tolist() == [0, 0, 32768]


def test_inverted_images_are_turned_round_after_the_window() -> None:
    assert windowed([0, 15, 30, 60, 90], 0, 60, inverted=True) == [65535, 49151, 32768, 0, 0]


def test_a_window_of_one_value_parts_those_above_it() -> None:
    assert windowed([-1.0, 0.0, 1e-3, 1.0], 0, 0) == [0, 0, 255, 255]


def test_infinite_values_are_clipped_and_what_is_no_number_is_refused() -> None:
    assert windowed([-np.inf, 0, np.inf], -1, 1) == [0, 32768, 65535]
    with pytest.raises(ValueError, match="no numbers"):
        windowed([0, np.nan], -1, 1)


def test_alpha_is_never_mapped() -> None:
    image = np.array([[[50, 255], [100, 51]]], np.uint8)
    array = to_array(image, Form(8, 1, window=(0, 200)))
    assert array.tolist() == [[[16384, 65535], [32768, 51 * 257]]]
    assert raw_values(image).tolist() == [[[50], [100]]]


def test_values_without_a_window() -> None:
    assert to_array(Raw(np.array([[0, 0.5, 1]])), Form(8, 1))[0, :, 0].tolist() == [0, 32768, 65535]
    with pytest.raises(ValueError, match=r"0\.0 to 700\.0 do not lie .*dataset\.window=\[low,high\] or dataset\.perc"):
        to_array(Raw(np.array([[0.0, 700.0]])), Form(8, 1))
    with pytest.raises(ValueError, match=r"its values from 3 to 700 are black and white: set dataset\.window"):
        to_array(Raw(np.array([[3, 700]], np.uint16)), Form(8, 1))
    with pytest.raises(ValueError, match=r"type complex.* are no plain numbers"):
        to_array(np.zeros((4, 4), complex), Form(8, 1, window=(0, 1)))


def test_raw_values_are_those_of_the_file() -> None:
    values = np.array([[-1000, 3000]], np.int16)
    raw = Raw(values, window=(0, 100), inverted=True)
    assert np.array_equal(raw_values(raw)[:, :, 0], values)
    assert raw_values(random_images(2, 2, 3)).shape == (2, 2, 3)
