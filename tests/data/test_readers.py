from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from advvae.data import readers
from advvae.data.files import Folder
from advvae.data.images import height_and_width, to_array
from advvae.data.nifti import parse_slices
from advvae.data.readers import ImageFiles, PackedPlaces, Place, image_files, is_image, places
from advvae.data.source import Form
from advvae.data.splits import load_split
from advvae.errors import UserError
from tests.data.medical_files import write_deep, write_dicom, write_nifti

FRAMES = np.arange(3 * 4 * 5, dtype=np.uint16).reshape(3, 4, 5)
VOLUME = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)


def written(path: Path, content: bytes = b"no image") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def names(found: list[Place]) -> list[str]:
    return [Path(str(place)).name for place in found]


# Which files are images


@pytest.mark.parametrize(
    "name", ["a.png", "a.JPG", "a.tif", "a.dcm", "a.DICOM", "a.ima", "a.nii", "a.nii.gz", "A.NII.GZ", "a.b.pgm"]
)
def test_images_by_their_suffix(name: str, tmp_path: Path) -> None:
    assert is_image(written(tmp_path / name))


@pytest.mark.parametrize("name", ["a.gz", "a.txt", "a.npy", "nii", "a.dcm.txt", "IM0001", "1.2.840.10008.5"])
def test_what_is_no_image_by_its_name(name: str, tmp_path: Path) -> None:
    assert not is_image(written(tmp_path / name))


@pytest.mark.parametrize(("name", "is_one"), [("IM0001", True), ("1.2.840.10008.5", True), ("DICOMDIR", False),
                                              ("a.bak", False)])  # fmt: skip
def test_dicom_files_without_a_suffix_are_known_by_their_beginning(name: str, is_one: bool, tmp_path: Path) -> None:
    path = write_dicom(tmp_path / name, FRAMES[0])
    assert is_image(path) is is_one
    assert image_files(tmp_path) == [path] * is_one


def test_a_tree_of_every_kind(tmp_path: Path) -> None:
    kept = [
        write_dicom(tmp_path / "a/1.dcm", FRAMES[0]),
        write_dicom(tmp_path / "a/2", FRAMES[0]),
        write_nifti(tmp_path / "b.nii.gz", VOLUME),
        write_deep(tmp_path / "c.png", FRAMES[0]),
    ]
    written(tmp_path / "a/.hidden.dcm")
    written(tmp_path / "__MACOSX/a.png")
    written(tmp_path / "notes.txt")
    written(tmp_path / "masks/c.png")
    assert image_files(tmp_path, skipped=[tmp_path / "masks"]) == kept


# Where images lie


def test_frames_and_slices_are_places_of_their_own(tmp_path: Path) -> None:
    paths = [
        write_deep(tmp_path / "a.png", FRAMES[0]),
        write_dicom(tmp_path / "b.dcm", FRAMES[0]),
        write_dicom(tmp_path / "c.dcm", FRAMES),
        write_nifti(tmp_path / "d.nii.gz", VOLUME),
    ]
    found = places(paths, parse_slices(["coronal", 1, 4, 2]))
    assert names(found) == ["a.png", "b.dcm", "c.dcm#0", "c.dcm#1", "c.dcm#2", "d.nii.gz#1", "d.nii.gz#3"]
    assert found[-1] == Place(paths[3], 3, axis=1)
    assert names(places(paths[3:])) == [f"d.nii.gz#{number}" for number in range(5)]  # axial ones


def test_a_broken_file_has_one_place_which_tells_the_reason(tmp_path: Path) -> None:
    paths = [written(tmp_path / name) for name in ("a.dcm", "b.nii", "c.nii.gz", "d.png")]
    paths.append(write_nifti(tmp_path / "e.nii", np.zeros((2, 2, 2, 2), np.int16)))
    found = places(paths)
    assert found == [Place(path) for path in paths]
    images = ImageFiles(found)
    for index, reason in enumerate(["no DICOM file", "file type", "gzip", "cannot identify", "three dimensions"]):
        with pytest.raises(Exception, match=reason):
            images[index]


def test_volumes_without_the_slices_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = [write_nifti(tmp_path / f"{name}.nii", VOLUME) for name in "ab"]
    with caplog.at_level(logging.WARNING):
        assert places(paths, parse_slices(["axial", 5])) == []
    told = "2 volumes have none of the slices that dataset.slices asks for, such as "
    assert caplog.messages == [f"{told}{paths[0]}"]
    refusal = rf"^dataset\.slices=\['axial', 5\] leaves no image of the volumes in {tmp_path}: widen it"
    with pytest.raises(UserError, match=refusal):
        Folder(str(tmp_path), slices=["axial", 5]).read("train", tmp_path)


@pytest.mark.parametrize("package", ["pydicom", "nibabel"])
def test_a_missing_package_is_told_at_once(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {"pydicom": write_dicom(tmp_path / "a.dcm", FRAMES), "nibabel": write_nifti(tmp_path / "a.nii", VOLUME)}
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"{package}, which is not installed: pip install 'advvae"):
        places([paths[package]])


# The images


def test_images_are_those_of_the_files(tmp_path: Path) -> None:
    paths = [
        write_deep(tmp_path / "a.png", FRAMES[1]),
        write_dicom(tmp_path / "b.dcm", FRAMES),
        write_nifti(tmp_path / "c.nii", VOLUME),
    ]
    images = ImageFiles(places(paths, parse_slices("sagittal")))
    form = Form(8, 1, window=(0, 65535))
    expected = [FRAMES[1], *FRAMES, *(VOLUME[x].T[::-1, ::-1] for x in range(3))]
    assert len(images) == len(expected) == 7
    for index in (2, 0, 6, 1, 4, 3, 5):
        image, pixels = images[index], expected[index]
        assert height_and_width(image) == pixels.shape
        assert np.array_equal(to_array(image, form)[:, :, 0], pixels)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_neighbours_read_their_volume_once(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = ImageFiles(places([write_nifti(tmp_path / f"{name}{suffix}", VOLUME) for name in "ab"]))
    opened: list[str] = []

    class Watched(readers.Volume):
        def __init__(self, path: Path) -> None:
            opened.append(path.name[0])
            super().__init__(path)

    monkeypatch.setattr(readers, "Volume", Watched)
    assert [image.values.max() for image in images] == 2 * [55, 56, 57, 58, 59]
    assert opened == ["a", "b"]


def test_a_compressed_volume_is_decompressed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = places([write_nifti(tmp_path / "a.nii.gz", VOLUME)])
    reads: list[int] = []
    unscaled = nibabel.arrayproxy.ArrayProxy.get_unscaled

    def watched(self: Any) -> np.ndarray:
        reads.append(1)
        return unscaled(self)

    monkeypatch.setattr(nibabel.arrayproxy.ArrayProxy, "get_unscaled", watched)
    assert len(list(ImageFiles(found))) == 5
    assert reads == [1]


def test_no_two_volumes_are_in_memory_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = ImageFiles(places([write_nifti(tmp_path / f"{name}.nii.gz", VOLUME) for name in "ab"]))
    held: list[Any] = []

    class Watched(readers.Volume):
        def __init__(self, path: Path) -> None:
            held.append(images._last)
            super().__init__(path)

    monkeypatch.setattr(readers, "Volume", Watched)
    _ = images[0], images[7]
    assert held == [None, None]


def test_frames_of_a_file_read_its_header_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = ImageFiles(places([write_dicom(tmp_path / f"{name}.dcm", FRAMES) for name in "ab"]))
    opened: list[str] = []

    class Watched(readers.DicomFile):
        def __init__(self, path: Path) -> None:
            opened.append(path.name)
            super().__init__(path)

    monkeypatch.setattr(readers, "DicomFile", Watched)
    assert [image.values.min() for image in images] == 2 * [0, 20, 40]
    assert opened == ["a.dcm", "b.dcm"]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_folder_of_every_kind_is_prepared(num_workers: int, tmp_path: Path) -> None:
    """In one window, of whatever type the files are."""
    root = tmp_path / "images"
    write_deep(root / "a.png", np.full((8, 8), 1000, np.uint16))
    write_dicom(root / "b.dcm", np.stack([np.full((8, 8), value, np.uint16) for value in (500, 2000)]))
    write_dicom(root / "c", np.full((8, 8), 100, np.int16), RescaleSlope=1, RescaleIntercept=900)
    write_nifti(root / "d.nii.gz", np.full((8, 8, 2), 750, np.int16), slope=2)
    Image.fromarray(np.full((8, 8), 2, np.float32)).save(root / "e.tif")
    split = load_split(
        Folder(str(root)),
        "test",
        name="folder",
        size=8,
        channels=1,
        data_dir=tmp_path,
        num_workers=num_workers,
        window=(0, 2000),
    )
    values = split.images.numpy()[:, 0]  # of all that there are
    assert [(values[i].min(), values[i].max()) for i in range(7)] == [
        (value, value) for value in (32768, 16384, 65535, 32768, 49151, 49151, 66)
    ]


def test_packed_places_are_those_that_were_packed() -> None:
    places = [Place(Path("a/1.png")), Place(Path("Ü/b.dcm"), 0), Place(Path("c.nii.gz"), 17, 0)]
    found = PackedPlaces(places)
    assert list(found) == places
    assert found[-1] == places[-1]
