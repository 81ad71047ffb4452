from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from advvae.data.nifti import Slices
from advvae.data.readers import ImageFiles, image_files, places
from tests.data.medical_files import write_deep, write_dicom, write_nifti

PIXELS = np.arange(12, dtype=np.uint16).reshape(3, 4)


def test_which_files_are_images(tmp_path: Path) -> None:
    """By their suffix, in any case; without one, or with one of digits alone, by what DICOM files begin with."""
    images = ["a.dcm", "b.IMA", "1.2.840.113619.2", "scan", "d.png", "e.nii.gz", "f.NII"]
    for name in ("a.dcm", "b.IMA", "1.2.840.113619.2", "scan", "DICOMDIR", ".hidden.dcm", "notes.txt"):
        write_dicom(tmp_path / "sub" / name, PIXELS)
    write_deep(tmp_path / "sub" / "d.png", PIXELS)
    for name in ("readme", "3.14", "e.nii.gz", "f.NII", "table.csv", "g.gz"):
        (tmp_path / "sub" / name).write_text("text")
    assert [path.name for path in image_files(tmp_path)] == sorted(images)


def test_frames_and_slices_are_images_of_their_own(tmp_path: Path) -> None:
    frames = np.arange(3 * 12, dtype=np.uint16).reshape(3, 3, 4)
    paths = [
        write_dicom(tmp_path / "a.dcm", PIXELS),
        write_dicom(tmp_path / "b.dcm", frames),
        write_nifti(tmp_path / "c.nii.gz", np.arange(24, dtype=np.int16).reshape(2, 3, 4)),
        write_deep(tmp_path / "d.tif", PIXELS * 256),
    ]
    found = places(paths, Slices(2, 1, 3))
    assert [str(place).removeprefix(f"{tmp_path}/") for place in found] == [
        *("a.dcm", "b.dcm#0", "b.dcm#1", "b.dcm#2", "c.nii.gz#1", "c.nii.gz#2", "d.tif")
    ]
    images = ImageFiles(found)
    assert np.array_equal(images[0].values, PIXELS)
    assert [int(images[i].values.flat[0]) for i in (3, 1, 2)] == [24, 0, 12]  # in any order
    assert sorted(images[4].values.ravel().tolist()) == [1 + 4 * i for i in range(6)]  # voxels (x, y, 1)
    assert np.array_equal(np.asarray(images[6]), PIXELS * 256)


def test_volumes_without_the_slices_that_are_asked_for_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    paths = [write_nifti(tmp_path / f"{n}.nii", np.zeros((2, 2, n), np.int16)) for n in (1, 2, 9)]
    assert [place.number for place in places(paths, Slices(2, 5, 7))] == [5, 6]
    told = f"2 volumes have none of the slices that dataset.slices asks for, such as {paths[0]}"
    assert caplog.messages == [told]
