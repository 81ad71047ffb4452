"""Image files of every kind: which there are, how many images each holds, and each image when it is asked for."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from advvae.data.dicom import DicomFile, has_magic, n_frames
from advvae.data.nifti import Slices, Volume, slice_numbers
from advvae.data.texts import packed
from advvae.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".pgm", ".ppm", ".pbm", ".jp2"),
    *DICOM_SUFFIXES,
    *NIFTI_SUFFIXES,
)
DICOM_INDEX = "DICOMDIR"  # the list of what lies on a disc


class Place(NamedTuple):
    """Where an image lies.

    number: from 0, of its frame or slice, in a file that holds several; None = the file is one image.
    axis: that a slice of a volume lies across: 0 (sagittal), 1 (coronal) or 2 (axial).
    """

    path: Path
    number: int | None = None
    axis: int | None = None

    def __str__(self) -> str:
        """As in "scans/a.dcm", "scans/b.dcm#3" and "scans/c.nii.gz#17"."""
        return str(self.path) if self.number is None else f"{self.path}#{self.number}"


def places(paths: Iterable[Path], slices: Slices | None = None) -> list[Place]:
    """Where the images of these files lie, in order: one for each frame of a DICOM file and slice of a NIfTI volume.

    No more than headers are read. A file whose header is broken has one place: to ask for its image tells the reason.

    slices: which slices of volumes; None = all axial ones. The number of a slice is that in the whole volume.
    Raises UserError where a package is missing that the files need.
    """
    found: list[Place] = []
    without = []
    for path in paths:
        inside = places_in(path, slices or Slices())
        found += inside
        without += [path] * (not inside)
    if without:
        told = "%d volumes have none of the slices that dataset.slices asks for, such as %s"
        log.warning(told, len(without), without[0])
    return found


def places_in(path: Path, slices: Slices) -> list[Place]:
    """The places of one file."""
    if is_nifti(path):
        try:
            return [Place(path, number, slices.axis) for number in slice_numbers(path, slices)]
        except UserError:
            raise
        except Exception:  # nibabel raises almost anything for a broken file, and will again
            return [Place(path)]
    if is_dicom(path) and (n := n_frames(path)) > 1:
        return [Place(path, number) for number in range(n)]
    return [Place(path)]


class PackedPlaces(Sequence[Place]):
    """Places that take a tenth of the memory, of which a set may have millions."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.paths = packed(str(place.path) for place in places)
        inside = ((-1 if value is None else value for value in place[1:]) for place in places)
        self.inside = np.fromiter(chain.from_iterable(inside), np.int32, 2 * len(places)).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        number, axis = (None if value < 0 else value for value in self.inside[index].tolist())
        return Place(Path(self.paths[index]), number, axis)


class ImageFiles(Sequence[Any]):
    """The images at these places, opened when they are asked for: Pillow's, not yet decoded, or Raw.

    The file of the last Raw image stays open, so that of neighbours each is read or decompressed once.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self.places = places
        self._last: DicomFile | Volume | None = None

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        path, number, axis = self.places[index]
        if is_nifti(path):
            if not isinstance(self._last, Volume) or self._last.path != path:
                self._last = None  # first, so that no two volumes are in memory together
                self._last = Volume(path)
            assert number is not None, "as places has it"
            assert axis is not None
            return self._last.image(number, axis)
        if is_dicom(path):
            if not isinstance(self._last, DicomFile) or self._last.path != path:
                self._last = DicomFile(path)
            return self._last.image(number or 0)
        return open_image(path)


def open_image(path: str | Path) -> Image.Image:
    """The picture in a file that Pillow reads, not yet decoded."""
    from PIL import Image

    return Image.open(path)


def is_image(path: Path) -> bool:
    """Whether a file is an image by its name, or without a suffix in it is a DICOM file by what it begins with."""
    return path.name.lower().endswith(SUFFIXES) or is_dicom(path)


def is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def is_dicom(path: Path) -> bool:
    """DICOM files are often called by a number, such as 1.2.840.113619.2, which has no suffix either."""
    name = path.name
    return name.lower().endswith(DICOM_SUFFIXES) or (
        (not path.suffix or path.suffix[1:].isdigit()) and name.upper() != DICOM_INDEX and has_magic(path)
    )


def image_files(folder: Path, skipped: Sequence[Path] = ()) -> list[Path]:
    """All files below `folder` that are images (`is_image`), in a fixed order; hidden ones are left out.

    Links are followed, but no folder is entered twice; nor, below `folder`, one of `skipped`.
    Raises UserError for a folder that cannot be read.
    """

    def unreadable(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): set its permissions, or remove it")

    found = []
    seen = {os.path.realpath(path) for path in skipped} - {os.path.realpath(folder)}
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=unreadable):
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        found += [path for name in names if name[0] != "." and is_image(path := Path(parent, name))]
    return sorted(found)
