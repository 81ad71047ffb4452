from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advvae.data import nifti, readers
from advvae.data.images import to_array
from advvae.data.nifti import Slices, Volume, parse_slices, slice_numbers
from advvae.data.readers import ImageFiles, places
from advvae.data.source import Form
from advvae.errors import UserError
from tests.data.medical_files import write_nifti

SHAPE = (4, 5, 6)  # right, anterior, superior
MARKED = (3, 1, 4)  # one voxel: far right, near the back, near the top


def marked_volume() -> np.ndarray:
    volume = np.zeros(SHAPE, np.int16)
    volume[MARKED] = 100
    return volume


def stored_as(axes: str) -> np.ndarray:
    """The marked volume with its axes in another order and direction, as write_nifti(axes=...) says it lies."""
    names = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
    volume = marked_volume().transpose([names[axis] for axis in axes])
    return np.flip(volume, tuple(i for i, axis in enumerate(axes) if axis in "LPI")).copy()


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LAS", "PIR", "SAL", "IRP"])
@pytest.mark.parametrize(
    ("axis", "number", "shape", "place"),
    [
        (2, 4, (5, 4), (3, 0)),  # axial: anterior up, so the 2nd from behind is row 3; the patient's right on the left
        (1, 1, (6, 4), (1, 0)),  # coronal: superior up, so the 5th of 6 from below is row 1
        (
            0,
            3,
            (6, 5),
            (1, 3),
        ),  # sagittal: superior up; what is anterior on the left, so the 2nd from behind is column 3
    ],
)
def test_slices_are_upright_however_the_volume_lies(
    axes: str, axis: int, number: int, shape: tuple[int, int], place: tuple[int, int], tmp_path: Path
) -> None:
    volume = Volume(write_nifti(tmp_path / "a.nii", stored_as(axes), axes=axes))
    values = volume.image(number, axis).values
    assert values.shape == shape
    assert np.argwhere(values).tolist() == [list(place)]
    assert not volume.image(number - 1, axis).values.any()


def test_values_are_in_the_unit_of_the_file(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", marked_volume(), slope=2.0, intercept=-1024.0, window=(-1000, 400))
    image = Volume(path).image(4, 2)
    assert (image.values.min(), image.values.max(), image.window) == (-1024, 2 * 100 - 1024, (-1000, 400))


def test_without_a_window_the_keys_that_give_one_are_named(tmp_path: Path) -> None:
    image = Volume(write_nifti(tmp_path / "a.nii", marked_volume())).image(4, 2)
    assert image.window is None
    with pytest.raises(ValueError, match=r"set dataset\.window=\[low,high\] or dataset\.percentiles"):
        to_array(image, Form(8, 1))
    assert (
        to_array(image, Form(8, 1, window=(0, 100))).max() == 255
    )  # the two values are black and white, in 8 bits too


@pytest.mark.parametrize(
    ("option", "slices", "numbers"),
    [
        (None, Slices(2), [0, 1, 2, 3, 4, 5]),
        ("axial", Slices(2), [0, 1, 2, 3, 4, 5]),
        ("coronal", Slices(1), [0, 1, 2, 3, 4]),
        ("sagittal", Slices(0), [0, 1, 2, 3]),
        (["axial", 1, 6, 2], Slices(2, 1, 6, 2), [1, 3, 5]),
        (["coronal", -2], Slices(1, -2), [3, 4]),
    ],
)
def test_which_slices(option: Any, slices: Slices, numbers: list[int], tmp_path: Path) -> None:
    assert parse_slices(option) == slices
    assert slice_numbers(write_nifti(tmp_path / "a.nii", stored_as("PIR"), axes="PIR"), slices) == numbers


@pytest.mark.parametrize(
    "option", ["top", 3, ["axial", 0, 1, 0], ["axial", "a"], ["axial", 1, 2, 3, 4], [1, 2], [["axial"]]]
)
def test_slices_that_are_none(option: Any) -> None:
    with pytest.raises(UserError, match=r"dataset\.slices .* takes axial, coronal or sagittal, or .* got"):
        parse_slices(option)


def test_a_compressed_volume_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write_nifti(tmp_path / f"{name}.nii.gz", marked_volume()) for name in "ab"]
    read: list[Path] = []

    class Counted(Volume):
        def __init__(self, path: Path) -> None:
            read.append(path)
            super().__init__(path)

    monkeypatch.setattr(readers, "Volume", Counted)
    images = ImageFiles(places(paths, Slices(2)))
    assert len([images[i] for i in range(len(images))]) == 12
    assert read == paths


def test_places_name_volume_and_slice(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", marked_volume())
    assert [str(place) for place in places([path], Slices(0, 2))] == [f"{path}#2", f"{path}#3"]


def test_more_than_three_dimensions(tmp_path: Path) -> None:
    single = write_nifti(tmp_path / "a.nii", marked_volume()[..., None])
    assert Volume(single).image(4, 2).values.shape == (5, 4)
    with pytest.raises(ValueError, match=r"shape \(4, 5, 6, 2\): only volumes of three dimensions"):
        Volume(write_nifti(tmp_path / "b.nii", np.zeros((*SHAPE, 2), np.int16)))


def test_a_broken_volume_has_one_place_whose_image_tells_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"no volume")
    images = ImageFiles(places([path]))
    assert len(images) == 1
    with pytest.raises(Exception, match=r"a\.nii\.gz"):
        images[0]


def test_nibabel_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_nifti(tmp_path / "a.nii", marked_volume())
    imported = builtins.__import__

    def without_nibabel(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == "nibabel":
            raise ImportError(name)
        return imported(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_nibabel)
    with pytest.raises(UserError, match=r"pip install 'advvae\[nifti\]'"):
        places([path])
    assert nifti.INSTALL == "pip install 'advvae[nifti]'"
