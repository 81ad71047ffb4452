from __future__ import annotations

import builtins
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from advvae.data.images import raw_values, to_array
from advvae.data.nifti import Slices, Volume, parse_slices, slice_numbers
from advvae.data.source import Form
from advvae.errors import UserError
from tests.data.medical_files import write_nifti

AS_IT_SAYS = Form(8, 1)
SAGITTAL, CORONAL, AXIAL = range(3)
SHAPE = (3, 4, 5)  # voxels from left to right, posterior to anterior, inferior to superior
MARK = (2, 1, 4)  # the rightmost, the second from posterior, the uppermost


def marked(axes: str) -> np.ndarray:
    """A volume of SHAPE, stored in this order and direction of axes, whose voxel at MARK alone is 1."""
    volume = np.zeros(SHAPE, np.int16)
    volume[MARK] = 1
    volume = volume.transpose(["RASLPI".index(way) % 3 for way in axes])
    return np.flip(volume, tuple(axis for axis, way in enumerate(axes) if way in "LPI"))


# Orientation


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LAS", "PIR", "ASR", "SAL", "IPL"])
def test_slices_are_upright_however_the_volume_is_stored(axes: str, tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", marked(axes), axes=axes)
    image: Any = nibabel.load(path)
    assert "".join(nibabel.aff2axcodes(image.affine)) == axes
    volume = Volume(path)
    right, anterior, superior = MARK
    # On the left of an image is the right of the patient or, in sagittal ones, the nose.
    seen = {
        SAGITTAL: (right, (5, 4), (4 - superior, 3 - anterior)),
        CORONAL: (anterior, (5, 3), (4 - superior, 2 - right)),
        AXIAL: (superior, (4, 3), (3 - anterior, 2 - right)),
    }
    for axis, (number, shape, pixel) in seen.items():
        assert slice_numbers(path, Slices(axis)) == list(range(SHAPE[axis]))
        slices = [volume.image(n, axis).values for n in range(SHAPE[axis])]
        assert [image.sum() for image in slices] == [int(n == number) for n in range(SHAPE[axis])]
        assert slices[number].shape == shape
        assert slices[number][pixel] == 1


def test_a_volume_that_lies_askew_has_the_nearest_axes(tmp_path: Path) -> None:
    """As scanners tilt them: the first axis runs to the right and, by less, upwards."""
    tilted = [[2, 0, -0.5, 9], [0, 2, 0, 9], [0.5, 0, 2, 9], [0, 0, 0, 1.0]]
    nibabel.save(nibabel.Nifti1Image(marked("RAS"), np.array(tilted)), tmp_path / "a.nii")
    assert Volume(tmp_path / "a.nii").image(4, AXIAL).values.tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]]


# Values


def test_values_are_scaled_by_slope_and_intercept(tmp_path: Path) -> None:
    stored = np.arange(-4, 4, dtype=np.int16).reshape(2, 2, 2)
    raw = Volume(write_nifti(tmp_path / "a.nii", stored, slope=0.5, intercept=-10)).image(0, AXIAL)
    assert raw_values(raw)[:, :, 0].tolist() == [[-9, -11], [-10, -12]]  # of 2, -2, 0 and -4 stored
    shown = to_array(raw, Form(8, 1, window=(-12, -10)))
    assert shown[:, :, 0].tolist() == [[65535, 32768], [65535, 0]]


def test_values_without_a_slope_keep_their_type(tmp_path: Path) -> None:
    raw = Volume(write_nifti(tmp_path / "a.nii", np.full((2, 2, 2), 40000, np.uint16))).image(1, CORONAL)
    assert raw.values.dtype == np.uint16
    assert raw.values.tolist() == [[40000, 40000], [40000, 40000]]


def test_the_display_range_of_the_file_is_its_window(tmp_path: Path) -> None:
    """In the unit after scaling."""
    stored = np.array([-100, 0, 50, 300], np.int16).reshape(4, 1, 1)
    raw = Volume(write_nifti(tmp_path / "a.nii", stored, slope=2, intercept=0, window=(0, 200))).image(0, AXIAL)
    assert raw.window == (0, 200)
    assert to_array(raw, AS_IT_SAYS)[0, :, 0].tolist() == [65535, 32768, 0, 0]
    assert to_array(raw, Form(8, 1, window=(-200, 600)))[0, :, 0].tolist() == [65535, 24576, 16384, 0]


@pytest.mark.parametrize("window", [None, (0, 0), (5, 1)])
def test_values_in_no_known_range_need_a_window(window: Any, tmp_path: Path) -> None:
    raw = Volume(write_nifti(tmp_path / "a.nii", np.full((2, 2, 2), 7, np.int16), window=window)).image(0, AXIAL)
    assert raw.window is None
    with pytest.raises(ValueError, match=r"its values from 7 to 7 are black and white: set dataset\.window"):
        to_array(raw, AS_IT_SAYS)


def test_floats_from_0_to_1_need_none(tmp_path: Path) -> None:
    volume = np.array([0, 0.5, 1], np.float32).reshape(3, 1, 1)
    raw = Volume(write_nifti(tmp_path / "a.nii", volume)).image(0, AXIAL)
    assert to_array(raw, AS_IT_SAYS)[0, :, 0].tolist() == [65535, 32768, 0]
    raw = Volume(write_nifti(tmp_path / "a.nii", volume * 2)).image(0, AXIAL)
    with pytest.raises(ValueError, match=r"0\.0 to 2\.0 do not lie in \[0, 1\]: set dataset\.window"):
        to_array(raw, AS_IT_SAYS)


# Which slices


@pytest.mark.parametrize(
    ("option", "slices", "numbers"),
    [
        (None, Slices(AXIAL), [0, 1, 2, 3, 4]),
        ("axial", Slices(AXIAL), [0, 1, 2, 3, 4]),
        ("coronal", Slices(CORONAL), [0, 1, 2, 3]),
        ("sagittal", Slices(SAGITTAL), [0, 1, 2]),
        (["sagittal"], Slices(SAGITTAL), [0, 1, 2]),
        (["axial", 1], Slices(AXIAL, 1), [1, 2, 3, 4]),
        (["axial", 1, 4], Slices(AXIAL, 1, 4), [1, 2, 3]),
        (["axial", 0, 40, 2], Slices(AXIAL, 0, 40, 2), [0, 2, 4]),
        (["axial", None, -1, None], Slices(AXIAL, None, -1), [0, 1, 2, 3]),
        (("coronal", -2, None, None), Slices(CORONAL, -2), [2, 3]),
        (["coronal", 9], Slices(CORONAL, 9), []),
    ],
)
def test_slices_that_are_asked_for(option: Any, slices: Slices, numbers: list[int], tmp_path: Path) -> None:
    assert parse_slices(option) == slices
    assert slice_numbers(write_nifti(tmp_path / "a.nii", marked("PIR"), axes="PIR"), slices) == numbers


@pytest.mark.parametrize(
    "option",
    ["transverse", "Axial", "", 2, 0, False, [], [2], ["axial", "40"], ["axial", 1.5], ["axial", True],
     ["axial", 0, 10, 0], ["axial", 0, 10, 1, 1], [["axial"]], {"axis": "axial"}],
)  # fmt: skip
def test_slices_that_are_none(option: Any) -> None:
    message = r"^dataset\.slices \(or out_dataset\.slices\) takes axial, coronal or sagittal.*\[axial,40,120,2\], got "
    with pytest.raises(UserError, match=message):
        parse_slices(option)


# What cannot be read


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def without_orientation(path: Path) -> Path:
    """A header whose first two axes run the same way."""
    image: Any = nibabel.load(write_nifti(path, np.zeros((2, 2, 2), np.int16)))
    image.header.set_sform(np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), code=1)
    path.write_bytes(image.header.binaryblock + b"\0" * 20)
    return path


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda path: write_nifti(path, np.zeros((2, 2, 2, 3), np.int16)),
            r"shape \(2, 2, 2, 3\): only volumes of thr",
        ),
        (lambda path: write_nifti(path, np.zeros((2, 2), np.int16)), r"shape \(2, 2\): only volumes of three"),
        (lambda path: write_nifti(path, np.zeros((2, 2, 2), np.complex64)), "type complex64, not plain numbers"),
        (without_orientation, r"does not say which way its axes run \(the affine cannot be inverted\)"),
        (lambda path: written(path, b""), "Empty file"),
        (lambda path: written(path, b"Dear colleague, " * 50), "Cannot work out file type"),
        (lambda path: written(path, write_nifti(path, marked("RAS")).read_bytes()[:300]), "Cannot work out file type"),
    ],
)
def test_what_is_no_volume_is_told(make: Callable[[Path], Path], reason: str, tmp_path: Path) -> None:
    path = make(tmp_path / "a.nii")
    for read in (Volume, lambda path: slice_numbers(path, Slices())):
        with pytest.raises(Exception, match=reason) as error:
            read(path)
        assert not isinstance(error.value, UserError)  # it is the file that is wrong, not what was asked for


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_volume_that_is_cut_off(suffix: str, tmp_path: Path) -> None:
    """Its header is whole."""
    path = write_nifti(tmp_path / f"a{suffix}", np.random.default_rng(0).integers(0, 999, (9, 9, 9)).astype(np.int16))
    path.write_bytes(path.read_bytes()[:-500])
    assert slice_numbers(path, Slices()) == list(range(9))
    with pytest.raises((ValueError, OSError, EOFError)):
        Volume(path)


def test_one_volume_of_four_dimensions_is_a_volume(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", marked("RAS")[..., None])
    assert slice_numbers(path, Slices()) == [0, 1, 2, 3, 4]
    assert Volume(path).image(4, AXIAL).values.sum() == 1


def test_nibabel_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_nifti(tmp_path / "a.nii", marked("RAS"))
    load = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name == "nibabel":
            raise ImportError(name)
        return load(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    for read in (Volume, lambda path: slice_numbers(path, Slices())):
        with pytest.raises(UserError, match=r"nibabel, which is not installed: pip install 'advvae\[nifti\]'"):
            read(path)


# Memory


def test_a_volume_that_is_not_compressed_stays_on_the_disk(tmp_path: Path) -> None:
    volume = Volume(write_nifti(tmp_path / "a.nii", marked("LPS"), axes="LPS"))
    owner = volume.stored
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    assert isinstance(owner, np.memmap)
    assert volume.image(0, AXIAL).values.base is None  # a slice keeps no volume in memory


def test_compressed_volumes_are_the_same(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(-999, 999, SHAPE).astype(np.int16)
    plain, packed = write_nifti(tmp_path / "a.nii", pixels), write_nifti(tmp_path / "a.nii.gz", pixels)
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    for axis in range(3):
        assert np.array_equal(Volume(plain).image(1, axis).values, Volume(packed).image(1, axis).values)
