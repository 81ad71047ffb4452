"""NIfTI volumes: slices along an axis, upright."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from advvae.data.source import Raw
from advvae.errors import UserError

INSTALL = "pip install 'advvae[nifti]'"
AXES = ("sagittal", "coronal", "axial")  # slices across the first, second and third axis of a volume in RAS+


@dataclass(frozen=True)
class Slices:
    """Which slices of volumes are images.

    axis: 0 (sagittal), 1 (coronal) or 2 (axial), of the volume in RAS+.
    start, stop, step: as of Python's slice, counted from the left, posterior or inferior end.
    """

    axis: int = 2
    start: int | None = None
    stop: int | None = None
    step: int | None = None


def parse_slices(option: Any) -> Slices:
    """What `dataset.slices` says: an axis, or [axis,start,stop,step] as of Python's slice; None = all axial slices.

    Raises UserError for anything else.
    """
    option = "axial" if option is None else option
    axis, *numbers = option if isinstance(option, list | tuple) and option else [option]
    is_whole = all(number is None or type(number) is int for number in numbers)
    if axis not in AXES or len(numbers) > 3 or not is_whole or numbers[2:] == [0]:
        remedy = "axial, coronal or sagittal, or with start, stop and step as in [axial,40,120,2]"
        raise UserError(f"dataset.slices (or out_dataset.slices) takes {remedy}, got {option}")
    return Slices(AXES.index(axis), *numbers)


def slice_numbers(path: Path, slices: Slices) -> list[int]:
    """Which slices of a volume are images, by its header alone. Raises as Volume does."""
    image = opened(path)
    axis = orientation(image)[:, 0].tolist().index(slices.axis)
    return list(range(image.shape[axis])[slices.start : slices.stop : slices.step])


class Volume:
    """A volume of three dimensions, whose stored values are in memory or, where they are not compressed, mapped.

    Raises ValueError for what is no such volume, and what nibabel raises for a broken one; UserError without nibabel.
    """

    def __init__(self, path: Path) -> None:
        image = opened(path)  # which says so where nibabel is missing
        from nibabel import apply_orientation

        self.path = path
        self.slope, self.intercept = image.dataobj.slope, image.dataobj.inter
        self.window = float(image.header["cal_min"]), float(image.header["cal_max"])
        stored = np.asanyarray(image.dataobj.get_unscaled()).reshape(image.shape[:3])
        self.stored = apply_orientation(stored, orientation(image))  # a view

    def image(self, index: int, axis: int) -> Raw:
        """The slice of this number across an axis of RAS+, as radiologists look at it; its pixels are voxels.

        Anterior is up in axial slices, superior in the others; on the left is the patient's right or, in sagittal
        slices, what is anterior. Values are in the file's unit, slope · stored + intercept; their window is its cal_min
        and cal_max, where these are set.
        """
        values = np.moveaxis(self.stored, axis, 0)[index].T[::-1, ::-1]
        if (self.slope, self.intercept) != (1, 0):
            values = values * np.float64(self.slope) + self.intercept
        low, high = self.window
        return Raw(np.array(values), (low, high) if low < high else None)


def opened(path: Path) -> Any:
    """A volume whose values are not read yet. Raises as Volume does."""
    try:
        import nibabel
    except ImportError:
        raise UserError(f"NIfTI files are read by nibabel, which is not installed: {INSTALL}") from None
    image: Any = nibabel.load(path)
    if len(image.shape) < 3 or np.prod(image.shape[3:]) != 1:
        raise ValueError(f"it has the shape {image.shape}: only volumes of three dimensions are read, one in a file")
    if image.get_data_dtype().kind not in "iuf":
        raise ValueError(f"it holds values of the type {image.get_data_dtype()}, not plain numbers")
    return image


def orientation(image: Any) -> np.ndarray:
    """(3, 2): for each axis of a volume, which of RAS+ it is and whether (1, −1) it runs along it or against it."""
    from nibabel import io_orientation

    axes = io_orientation(image.affine)
    if np.isnan(axes).any():
        raise ValueError("its header does not say which way its axes run (the affine cannot be inverted)")
    return axes
