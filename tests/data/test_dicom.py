from __future__ import annotations

import builtins
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from advvae.data.dicom import PIXEL_TAGS, DicomFile, n_frames, read_header
from advvae.data.images import raw_values, to_array
from advvae.data.source import Form
from advvae.errors import UserError
from tests.data.medical_files import PATIENT, write_dicom, write_report

AS_IT_SAYS = Form(8, 1)
TWELVE_BITS = np.array([[0, 1, 1000, 2047], [2048, 3000, 4094, 4095]], np.uint16)


def shown(path: Path, form: Form = AS_IT_SAYS) -> list[int]:
    """The pixels of a file, as they are prepared, with 16 bits."""
    array = to_array(DicomFile(path).image(), form)
    return (array.astype(int) * (257 if array.dtype == np.uint8 else 1)).ravel().tolist()


def shares(values: Any, low: float, high: float) -> list[int]:
    """(v − low) / (high − low), clipped, with 16 bits; half rounds up."""
    y = np.clip((np.asarray(values, np.float64).ravel() - low) / (high - low), 0, 1)
    return np.floor(y * 65535 + 0.5).astype(int).tolist()


# Values


def test_8_bits_stay_as_they_are(tmp_path: Path) -> None:
    pixels = np.array([[0, 1, 100, 255]], np.uint8)
    array = to_array(DicomFile(write_dicom(tmp_path / "a.dcm", pixels)).image(), AS_IT_SAYS)
    assert array.dtype == np.uint8
    assert array[:, :, 0].tolist() == pixels.tolist()


def test_12_bits_fill_the_range_of_16(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", TWELVE_BITS, BitsStored=12)
    assert np.array_equal(DicomFile(path).image().values, TWELVE_BITS)
    assert shown(path) == shares(TWELVE_BITS, 0, 4095)


def test_16_bits_stay_as_they_are(tmp_path: Path) -> None:
    pixels = np.array([[0, 1, 255, 256, 40000, 65535]], np.uint16)
    assert shown(write_dicom(tmp_path / "a.dcm", pixels)) == pixels.ravel().tolist()


def test_values_with_a_sign(tmp_path: Path) -> None:
    pixels = np.array([[-2048, 0, 2047]], np.int16)
    path = write_dicom(tmp_path / "a.dcm", pixels, BitsStored=12)
    assert DicomFile(path).image().window == (-2048, 2047)
    assert shown(path) == [0, 32776, 65535]  # 2048 / 4095 · 65535 = 32775.5


def test_rescaled_values_are_in_their_unit(tmp_path: Path) -> None:
    """Hounsfield units of a CT image."""
    path = write_dicom(tmp_path / "a.dcm", TWELVE_BITS, BitsStored=12, RescaleSlope=2, RescaleIntercept=-1024)
    raw = DicomFile(path).image()
    assert raw.values.tolist() == [[-1024, -1022, 976, 3070], [3072, 4976, 7164, 7166]]
    assert raw.window == (-1024, 7166)
    assert raw_values(raw).ravel().tolist() == raw.values.ravel().tolist()
    assert shown(path, Form(8, 1, window=(-1024, 976))) == shares(raw.values, -1024, 976)


def test_a_falling_rescale_keeps_black_below_white(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", TWELVE_BITS, BitsStored=12, RescaleSlope=-1, RescaleIntercept=100)
    assert DicomFile(path).image().window == (-3995, 100)


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    tags: dict[str, Any] = {"BitsStored": 12, "PhotometricInterpretation": "MONOCHROME1"}
    path = write_dicom(tmp_path / "a.dcm", TWELVE_BITS, **tags)
    assert shown(path) == shares(4095 - TWELVE_BITS.astype(int), 0, 4095)
    assert shown(path, Form(8, 1, window=(1000, 3000))) == shares(4000 - TWELVE_BITS.astype(int), 1000, 3000)


@pytest.mark.parametrize(
    ("tags", "values", "window"),
    [
        ({"RescaleSlope": 2}, [0, 10], (0, 8190)),
        ({"RescaleIntercept": -7}, [-7, -2], (-7, 4088)),
        ({"RescaleSlope": None, "RescaleIntercept": None}, [0, 5], (0, 4095)),
    ],
)
def test_a_slope_or_intercept_that_is_missing_or_empty(tags: Any, values: Any, window: Any, tmp_path: Path) -> None:
    raw = DicomFile(write_dicom(tmp_path / "a.dcm", np.array([[0, 5]], np.uint16), BitsStored=12, **tags)).image()
    assert (raw.values[0].tolist(), raw.window) == (values, window)


def table_of(start: int, bits: int, entries: list[int] | bytes, kind: str = "US") -> Dataset:
    """An item of ModalityLUTSequence. start: the stored value of the first entry."""
    table = Dataset()
    table.add_new("LUTDescriptor", kind, [len(entries) if isinstance(entries, list) else 0, start, bits])  # 0 = 2**16
    table.add_new("LUTData", "US" if isinstance(entries, list) else "OW", entries)
    return table


@pytest.mark.parametrize("syntax", ["ImplicitVRLittleEndian", "ExplicitVRLittleEndian"])
def test_a_table_instead_of_a_slope(syntax: str, tmp_path: Path) -> None:
    table = table_of(10, 16, [0, 500, 1000, 60000])
    path = write_dicom(tmp_path / "a.dcm", np.array([[0, 10, 11, 13, 99]], np.uint16), ModalityLUTSequence=[table])
    file = pydicom.dcmread(path)
    file.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    file.save_as(path, implicit_vr=syntax.startswith("Implicit"), little_endian=True)
    assert shown(path) == [0, 0, 500, 60000, 60000]


def test_a_table_of_12_bits(tmp_path: Path) -> None:
    tables = [table_of(0, 12, [0, 4095])]
    raw = DicomFile(write_dicom(tmp_path / "a.dcm", np.array([[0, 1]], np.uint8), ModalityLUTSequence=tables)).image()
    assert (raw.values.tolist(), raw.window) == ([[0, 4095]], (0, 4095))


def test_a_table_that_starts_far_below_0(tmp_path: Path) -> None:
    """In the 16 bits of the stored values, 0 − (−32768) is −32768."""
    tables = [table_of(-32768, 16, np.arange(65536).astype("<u2").tobytes(), kind="SS")]
    pixels = np.array([[-32768, 0, 32767]], np.int16)
    assert shown(write_dicom(tmp_path / "a.dcm", pixels, ModalityLUTSequence=tables)) == [0, 32768, 65535]


@pytest.mark.parametrize(("kind", "expected"), [(np.uint16, 0xABC), (np.int16, 0xABC - 4096)])
def test_bits_that_are_not_stored_mean_nothing(kind: Any, expected: int, tmp_path: Path) -> None:
    """Old files keep overlays in them."""
    pixels = np.array([[0x5ABC]], np.uint16).astype(kind)
    assert DicomFile(write_dicom(tmp_path / "a.dcm", pixels, BitsStored=12)).image().values.item() == expected


# The window of the file


@pytest.mark.parametrize(
    ("function", "window"),
    [
        ({}, (-160, 239)),  # 40 − 0.5 ∓ (400 − 1) / 2
        ({"VOILUTFunction": "LINEAR"}, (-160, 239)),
        ({"VOILUTFunction": "LINEAR_EXACT"}, (-160, 240)),  # 40 ∓ 400 / 2
    ],
)
def test_the_first_window_of_the_file_counts(function: dict[str, str], window: Any, tmp_path: Path) -> None:
    pixels = np.array([[-1000, -160, 0, 40, 239, 3000]], np.int16)
    tags: dict[str, Any] = {"WindowCenter": [40, 300], "WindowWidth": [400, 1500], **function}
    path = write_dicom(tmp_path / "a.dcm", pixels, RescaleSlope=1, RescaleIntercept=0, **tags)
    assert DicomFile(path).image().window == window
    assert shown(path) == shares(pixels, *window)
    assert shown(path, Form(8, 1, window=(0, 100))) == shares(pixels, 0, 100)  # the one that is asked for counts


def test_the_narrowest_window(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", np.array([[3, 4, 5]], np.uint8), WindowCenter=4.5, WindowWidth=1)
    assert shown(path) == [0, 0, 65535]  # above 4.5 − 0.5 is white


@pytest.mark.parametrize(("centre", "width"), [(None, None), (40, None), (40, 0), (40, -3)])
def test_no_window_is_the_range_of_the_bits(centre: Any, width: Any, tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", TWELVE_BITS, BitsStored=12, WindowCenter=centre, WindowWidth=width)
    assert DicomFile(path).image().window == (0, 4095)


def test_a_sigmoid_is_refused_unless_a_window_is_given(tmp_path: Path) -> None:
    tags: dict[str, Any] = {"WindowCenter": 2000, "WindowWidth": 4000, "VOILUTFunction": "SIGMOID"}
    path = write_dicom(tmp_path / "a.dcm", TWELVE_BITS, BitsStored=12, **tags)
    with pytest.raises(ValueError, match=r"nothing says which of its values from 0 to 4095 .*: set dataset\.window"):
        shown(path)
    assert shown(path, Form(8, 1, window=(0, 4095))) == shares(TWELVE_BITS, 0, 4095)


# Colour, frames, compression


@pytest.mark.parametrize("compress", [None, "RLELossless"])
def test_rgb(compress: str | None, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    tags: dict[str, Any] = {"PhotometricInterpretation": "RGB", "compress": compress}
    raw = DicomFile(write_dicom(tmp_path / "a.dcm", pixels, **tags)).image()
    assert np.array_equal(to_array(raw, AS_IT_SAYS), pixels)


def test_ybr_becomes_rgb(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", np.full((2, 2, 3), 128, np.uint8), PhotometricInterpretation="RGB")
    file = pydicom.dcmread(path)
    file.PhotometricInterpretation = "YBR_FULL"
    file.PixelData = bytes([76, 85, 255] * 4)  # red by PS3.3 C.7.6.3.1.2
    file.save_as(path)
    np.testing.assert_allclose(to_array(DicomFile(path).image(), AS_IT_SAYS), np.full((2, 2, 3), [254, 0, 0]), atol=1)


def test_palettes_are_looked_up(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", np.array([[0, 1]], np.uint8), PhotometricInterpretation="PALETTE COLOR")
    file = pydicom.dcmread(path)
    for colour, entries in {"Red": (255, 0), "Green": (0, 0), "Blue": (0, 51)}.items():
        file.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [2, 0, 8])
        setattr(file, f"{colour}PaletteColorLookupTableData", bytes(entries))
    file.save_as(path)
    assert to_array(DicomFile(path).image(), AS_IT_SAYS).tolist() == [[[255, 0, 0], [0, 0, 51]]]


@pytest.mark.parametrize("compress", [None, "RLELossless"])
def test_each_frame_by_itself(compress: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.random.default_rng(0).integers(0, 4096, (5, 4, 3)).astype(np.uint16)
    path = write_dicom(tmp_path / "a.dcm", frames, BitsStored=12, compress=compress)
    assert n_frames(path) == 5
    asked: list[int | None] = []
    decode = pydicom.pixels.pixel_array

    def watched(source: Any, index: int) -> np.ndarray:
        asked.append(index)
        return decode(source, index=index)

    monkeypatch.setattr(pydicom.pixels, "pixel_array", watched)
    file = DicomFile(path)
    for index in (3, 0, 4):
        assert np.array_equal(file.image(index).values, frames[index])
    assert asked == [3, 0, 4]


def test_frames_with_slopes_and_windows_of_their_own(tmp_path: Path) -> None:
    """Enhanced files say in functional groups what others say once."""

    def group(name: str, **tags: Any) -> Dataset:
        item, holder = Dataset(), Dataset()
        for keyword, value in tags.items():
            setattr(item, keyword, value)
        setattr(holder, name, [item])
        return holder

    shared = group("FrameVOILUTSequence", WindowCenter=100.5, WindowWidth=201)
    own = [group("PixelValueTransformationSequence", RescaleSlope=k, RescaleIntercept=-k) for k in (1, 10)]
    path = write_dicom(
        tmp_path / "a.dcm",
        np.array([[[0, 30]], [[0, 30]]], np.uint16),
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=own,
    )
    first, second = (DicomFile(path).image(index) for index in (0, 1))
    assert (first.values.tolist(), second.values.tolist()) == ([[-1, 29]], [[-10, 290]])
    assert first.window == second.window == (0, 200)


@pytest.mark.parametrize("pixels", [TWELVE_BITS, TWELVE_BITS.astype(np.uint8), TWELVE_BITS.astype(np.int16) - 2000])
def test_run_length_encoding_changes_nothing(pixels: np.ndarray, tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", pixels, compress="RLELossless")
    assert np.array_equal(DicomFile(path).image().values, pixels)


@pytest.mark.parametrize(
    "syntax", ["ImplicitVRLittleEndian", "ExplicitVRLittleEndian", "DeflatedExplicitVRLittleEndian"]
)
def test_uncompressed_syntaxes(syntax: str, tmp_path: Path) -> None:
    file = pydicom.dcmread(write_dicom(tmp_path / "a.dcm", TWELVE_BITS, BitsStored=12))
    file.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    file.save_as(tmp_path / "b.dcm", implicit_vr=syntax.startswith("Implicit"), little_endian=True)
    assert np.array_equal(DicomFile(tmp_path / "b.dcm").image().values, TWELVE_BITS)


# What cannot be read


def stored_as(syntax: str, path: Path, content: bytes = b"\xff\xd8 no image") -> Path:
    file = pydicom.dcmread(write_dicom(path, TWELVE_BITS, BitsStored=12))
    file.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    file.PixelData = pydicom.encaps.encapsulate([content])
    file["PixelData"].VR = "OB"
    file.save_as(path)
    return path


def cut(path: Path, keep: int) -> Path:
    """A file of which the end, or of `keep` < 0 the last bytes, are lost."""
    content = write_dicom(path, TWELVE_BITS, BitsStored=12).read_bytes()
    path.write_bytes(content[:keep])
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: written(path, b""), "it is no DICOM file: DICM is missing at byte 128"),
        (lambda path: written(path, b"Dear colleague, " * 50), "it is no DICOM file"),
        (lambda path: cut(path, 300), "it holds no image: it is a report or the like, or its header is cut off"),
        (lambda path: cut(path, -1), "its pixels are missing, broken or cut off"),
        (lambda path: cut(path, -8), "its pixels are missing, broken or cut off"),
        (lambda path: cut(path, -24), "its pixels are missing, broken or cut off"),
        (write_report, "it holds no image: it is a report"),
        (lambda path: stored_as("RLELossless", path), "its pixels are missing, broken or cut off"),
        (
            lambda path: stored_as("JPEGLSLossless", path),
            r"compressed as JPEG-LS Lossless Image .*, for which a decoder is missing: pip install 'advvae\[dicom\]'",
        ),
        (
            lambda path: stored_as("JPEG2000Lossless", path),
            r"broken or cut off .* another decoder may read JPEG 2000 .*: pip install 'advvae\[dicom\]'",
        ),
        (lambda path: stored_as("MPEG2MPML", path), "stored as MPEG2 Main Profile .* which pydicom does not decode"),
    ],
)
def test_what_is_no_image_is_told(make: Callable[[Path], Path], reason: str, tmp_path: Path) -> None:
    path = make(tmp_path / "a.dcm")
    assert n_frames(path) == 1
    with pytest.raises(ValueError, match="(?s)" + reason) as error:
        DicomFile(path).image()
    assert "Planted" not in str(error.value)


def test_a_decoder_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored_as("JPEGLSLossless", tmp_path / "a.dcm")
    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.is_available", False)
    with pytest.raises(ValueError, match=r"JPEG-LS .* a decoder is missing: pip install 'advvae\[dicom\]'"):
        DicomFile(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DicomFile(tmp_path / "a.dcm")


def test_pydicom_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dicom(tmp_path / "a.dcm", TWELVE_BITS)
    load = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name == "pydicom":
            raise ImportError(name)
        return load(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    for read in (n_frames, DicomFile):
        with pytest.raises(UserError, match=r"pydicom, which is not installed: pip install 'advvae\[dicom\]'"):
            read(path)


# Privacy


def test_no_tag_is_read_that_pixels_do_not_need(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", TWELVE_BITS, BitsStored=12, WindowCenter=40, WindowWidth=80)
    assert PATIENT.encode() in path.read_bytes()
    header = read_header(path)
    assert {element.keyword for element in header} <= set(PIXEL_TAGS)
    assert PATIENT not in str(header)
    assert not [tag for tag in PIXEL_TAGS if "Patient" in tag or "Name" in tag]


def test_nothing_is_said_of_a_file_but_what_is_raised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """pydicom logs and warns of values that it takes for wrong, once for each file."""
    path = cut(tmp_path / "a.dcm", -8)
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings():
        warnings.simplefilter("error")
        n_frames(path)
        with pytest.raises(ValueError, match="cut off"):
            DicomFile(path).image()
        with pytest.raises(ValueError, match="cut off"):
            DicomFile(stored_as("JPEG2000Lossless", tmp_path / "b.dcm")).image()
    assert caplog.messages == []
