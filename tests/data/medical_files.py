"""Small DICOM, NIfTI and 16-bit files, as scanners and other programs write them.

Every DICOM file names a patient, PATIENT, so that a test can look for the name where it must not be.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PATIENT = "Planted^Patience"


def write_dicom(path: Path, pixels: np.ndarray, *, compress: str | None = None, **tags: Any) -> Path:
    """A DICOM file of these stored values: H×W, frames×H×W, or H×W×3 with PhotometricInterpretation="RGB".

    pixels: uint8, int8, uint16 or int16.
    compress: the name of a transfer syntax in pydicom.uid that pydicom can write, such as RLELossless.
    tags: by their keyword, such as RescaleSlope=2 or WindowCenter=[40, 60]; BitsStored where it is not that of the
        type; PhotometricInterpretation where it is not MONOCHROME2.
    """
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.PatientName = file.PatientID = file.InstitutionName = PATIENT
    file.PatientBirthDate = "19700101"
    is_colour = pixels.ndim == 3 and pixels.shape[2] == 3 and "RGB" in tags.get("PhotometricInterpretation", "")
    file.SamplesPerPixel = 3 if is_colour else 1
    file.PhotometricInterpretation = "MONOCHROME2"
    if is_colour:
        file.PlanarConfiguration = 0
    elif pixels.ndim == 3:
        file.NumberOfFrames = len(pixels)
    file.Rows, file.Columns = pixels.shape[:2] if is_colour else pixels.shape[-2:]
    file.BitsAllocated = file.BitsStored = 8 * pixels.dtype.itemsize
    file.PixelRepresentation = int(pixels.dtype.kind == "i")
    file.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    for keyword, value in tags.items():
        setattr(file, keyword, value)
    file.HighBit = file.BitsStored - 1
    if compress is not None:
        file.compress(getattr(pydicom.uid, compress))
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)
    return path


def write_report(path: Path) -> Path:
    """A DICOM file that is a text and no image."""
    import pydicom

    write_dicom(path, np.zeros((2, 2), np.uint8))
    file = pydicom.dcmread(path)
    for keyword in ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "SamplesPerPixel"):
        delattr(file, keyword)
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = pydicom.uid.BasicTextSRStorage
    file.ContentDescription = PATIENT
    file.save_as(path)
    return path


def write_nifti(
    path: Path,
    volume: np.ndarray,
    *,
    axes: str = "RAS",
    slope: float | None = None,
    intercept: float = 0.0,
    window: tuple[float, float] | None = None,
) -> Path:
    """A NIfTI file, .nii or .nii.gz, of these stored values, in their own type.

    axes: where the index of each axis of `volume` grows to: R(ight) or L(eft), A(nterior) or P(osterior), S(uperior) or
        I(nferior), in any order.
    slope, intercept: the file says that its values are slope · stored + intercept.
    window: cal_min and cal_max.
    """
    import nibabel

    affine = np.diag([0.0, 0.0, 0.0, 1.0])  # of voxels to millimetres to the right, anterior and superior
    for axis, way in enumerate(axes):
        affine["RASLPI".index(way) % 3, axis] = 1 if way in "RAS" else -1
    image = nibabel.Nifti1Image(volume, affine, dtype=volume.dtype)
    if window is not None:
        image.header["cal_min"], image.header["cal_max"] = window
    if slope is not None:
        image.header.set_slope_inter(slope, intercept)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def write_deep(path: Path, pixels: np.ndarray) -> Path:
    """H×W uint16 values as a grey PNG or TIFF file of 16 bits, by the suffix of `path`."""
    assert pixels.dtype == np.uint16
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path
