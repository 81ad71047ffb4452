"""DICOM files: their frames, in the unit that the file states. Of the tags, no more is read than pixels need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from advvae.data.source import Raw
from advvae.errors import UserError
from advvae.progress import silenced

if TYPE_CHECKING:
    from pydicom import Dataset

LIBRARY = "pydicom"  # which would warn of each file
INSTALL = "pip install 'advvae[dicom]'"
MAGIC = b"DICM"  # at byte 128 of every file
COLOURS = ("Red", "Green", "Blue")
PIXEL_TAGS = (
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *(f"{colour}PaletteColorLookupTableDescriptor" for colour in COLOURS),
    *(f"{colour}PaletteColorLookupTableData" for colour in COLOURS),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in COLOURS),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
FRAME_MACROS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")  # of the functional groups


def has_magic(path: Path) -> bool:
    """Whether a file begins as DICOM files do."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == MAGIC
    except OSError:
        return False


def n_frames(path: Path) -> int:
    """How many images a file holds, by the start of its header; 1 where it does not say.

    Raises UserError without pydicom.
    """
    pydicom = checked_pydicom()
    last = pydicom.tag.Tag("NumberOfFrames")
    try:
        with silenced(LIBRARY), path.open("rb") as file:
            header = pydicom.filereader.read_partial(file, lambda tag, *_: tag > last, specific_tags=[last])
        return max(1, int(header.get("NumberOfFrames") or 1))
    except Exception:  # whatever is wrong is told when the image is asked for
        return 1


def checked_pydicom() -> Any:
    try:
        import pydicom
    except ImportError:
        raise UserError(f"DICOM files are read by pydicom, which is not installed: {INSTALL}") from None
    return pydicom


class DicomFile:
    """A file, of which the header has been read.

    Raises ValueError for what is no DICOM file, holds no image or cannot be decoded; UserError without pydicom.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = read_header(path)

    def image(self, index: int = 0) -> Raw:
        """One frame: grey values after the modality LUT (PS3.3 C.11.1), such as Hounsfield units, or RGB.

        Its window is the first of the file's, else the range of its stored bits; tables of the VOI LUT module are not
        used. A sigmoid VOI LUT function has no window.
        """
        from pydicom.pixels import apply_color_lut

        with silenced(LIBRARY):
            header = of_frame(self.header, index)
            pixels = self._pixels(index)
            if header.PhotometricInterpretation == "PALETTE COLOR":
                colours = apply_color_lut(pixels, header)
                return Raw(colours, (0, np.iinfo(colours.dtype).max))
            if pixels.ndim == 3:
                return Raw(pixels, (0, 2**header.BitsStored - 1))
            is_inverted = header.PhotometricInterpretation == "MONOCHROME1"
            return Raw(after_modality_lut(pixels, header), window_of(header), is_inverted)

    def _pixels(self, index: int) -> np.ndarray:
        """The stored values of one frame, H×W, or H×W×3 in RGB; the others are not decoded."""
        import pydicom

        syntax = self.header.file_meta.TransferSyntaxUID
        source: Any = self.path
        if syntax.is_deflated:  # the whole file is
            source = pydicom.dcmread(self.path, specific_tags=[*PIXEL_TAGS, "PixelData"])
        try:
            return pydicom.pixels.pixel_array(source, index=index)
        except Exception as error:  # decoders raise almost anything for a broken file
            missing = pydicom.pixels.get_decoder(syntax).missing_dependencies
            is_needed = any(name.startswith("gdcm") for name in missing)
            remedy = f"; another decoder may read {syntax.name}: {INSTALL}" if is_needed else ""
            raise ValueError(f"its pixels are missing, broken or cut off ({error}){remedy}") from None


def read_header(path: Path) -> Dataset:
    """The PIXEL_TAGS of a file whose pixels can be decoded."""
    pydicom = checked_pydicom()
    if not has_magic(path):
        path.stat()  # a file that is not there is told as such
        raise ValueError("it is no DICOM file: DICM is missing at byte 128")
    with silenced(LIBRARY):
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(PIXEL_TAGS))
    if "DirectoryRecordSequence" in header or "Rows" not in header:
        raise ValueError("it holds no image: it is a report or the like, or its header is cut off")
    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise ValueError("it does not say how its pixels are stored (no transfer syntax)")
    try:
        decoder = pydicom.pixels.get_decoder(syntax)
    except NotImplementedError:
        raise ValueError(f"its pixels are stored as {syntax.name}, which pydicom does not decode") from None
    if not decoder.is_available:
        raise ValueError(f"its pixels are compressed as {syntax.name}, for which a decoder is missing: {INSTALL}")
    return header


def of_frame(header: Dataset, index: int) -> Dataset:
    """The header with what the functional groups of an enhanced file say of one frame (PS3.3 C.7.6.16)."""
    from pydicom import Dataset

    frame = Dataset()
    frame.file_meta = header.file_meta  # which says in what order the bytes of tables are
    frame.update(header)
    shared, own = (header.get(f"{name}FunctionalGroupsSequence") or [] for name in ("Shared", "PerFrame"))
    for group in (*shared[:1], *own[index : index + 1]):
        for macro in FRAME_MACROS:
            for item in group.get(macro) or []:
                frame.update(item)
    return frame


def after_modality_lut(pixels: np.ndarray, header: Dataset) -> np.ndarray:
    """Stored values in the unit of the file: looked up in its table, else slope · stored + intercept.

    Below the table its first entry counts, above it the last. (pydicom's own function overflows where the first stored
    value of the table is far below 0.)
    """
    if tables := header.get("ModalityLUTSequence"):
        entries = tables[0].LUTData
        if isinstance(entries, bytes):
            entries = np.frombuffer(entries, "<u2" if header.file_meta.TransferSyntaxUID.is_little_endian else ">u2")
        entries, start = np.atleast_1d(entries).astype(np.uint16), tables[0].LUTDescriptor[1]
        return entries[(pixels.astype(np.int64) - start).clip(0, len(entries) - 1)]
    slope, intercept = rescale_of(header)
    return pixels if (slope, intercept) == (1, 0) else pixels * np.float64(slope) + intercept


def rescale_of(header: Dataset) -> tuple[float, float]:
    """(slope, intercept): values are slope · stored + intercept. What is missing or empty changes nothing."""
    return float(header.get("RescaleSlope") or 1), float(header.get("RescaleIntercept") or 0)


def window_of(header: Dataset) -> tuple[float, float] | None:
    """The values that the file shows as black and white; None where it shows them by a sigmoid.

    Its first window by the formulas of PS3.3 C.11.2.1.2 and C.11.2.1.3, else the range of the stored bits.
    """
    centre, width = first(header.get("WindowCenter")), first(header.get("WindowWidth"))
    function = header.get("VOILUTFunction") or "LINEAR"
    if centre is None or width is None or width < (1 if function == "LINEAR" else 0):
        return stored_range(header)
    if function == "LINEAR":
        return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    return (centre - width / 2, centre + width / 2) if function == "LINEAR_EXACT" else None


def first(value: Any) -> float | None:
    """The first of a tag's values, of which there are none, one or several."""
    values = np.atleast_1d([] if value is None else value)
    return float(values[0]) if len(values) else None


def stored_range(header: Dataset) -> tuple[float, float] | None:
    """The least and the largest value, after the modality LUT, that the stored bits can hold; None for floats."""
    if table := header.get("ModalityLUTSequence"):
        return 0, 2.0 ** table[0].LUTDescriptor[2] - 1
    if "BitsStored" not in header:
        return None
    n_values = 2.0**header.BitsStored
    least = -n_values / 2 if header.get("PixelRepresentation") else 0
    slope, intercept = rescale_of(header)
    ends = sorted((slope * least + intercept, slope * (least + n_values - 1) + intercept))
    return ends[0], ends[1]
