import csv
import logging
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from advvae.data.files import Folder
from advvae.data.source import Form
from advvae.data.store import prepare
from advvae.errors import UserError
from advvae.losses import Objective
from advvae.models import AdversarialVAE
from advvae.outlier import screen as screen_module
from advvae.outlier import screen_input
from advvae.outlier.detector import Detector
from advvae.outlier.evidence import Evidence
from advvae.outlier.screen import screen
from advvae.outlier.screen_input import ScreenInput
from tests.data.medical_files import PATIENT, write_deep, write_dicom, write_nifti, write_report

Screen = Callable[..., dict[str, Any]]


def brightness(evidence: Evidence) -> Tensor:
    """From 0 to 255, as the pixels, in whole numbers."""
    return ((evidence.images.flatten(1).mean(1) + 1) * 127.5).round()


def darkness(evidence: Evidence) -> Tensor:
    return -brightness(evidence)


NORMAL = np.arange(10.0, 200.0, 10.0)  # 19 images: the threshold at alpha = 0.05 is the largest, 190


@pytest.fixture
def detector() -> Detector:
    return Detector({"bright": brightness}, (), {}, {"bright": NORMAL})


@pytest.fixture
def run(networks: AdversarialVAE, objective: Objective, detector: Detector, tmp_path: Path) -> Screen:
    """screen on the networks of the tests, into the folder `run`."""

    def call(source_path: Path, detector: Detector = detector, **arguments: Any) -> dict[str, Any]:
        settings: dict[str, Any] = {"form": Form(8, 1), "alpha": 0.05, "batch_size": 2}
        return screen(
            detector,
            networks,
            objective,
            source_path=source_path,
            device="cpu",
            folder=tmp_path / "run",
            **(settings | arguments),
        )

    return call


def grey(value: int, size: int = 8, mode: str = "L") -> Image.Image:
    colour = value if mode in ("L", "I;16") else (value,) * 3
    return Image.new(mode, (size, size), colour)


def folder_of(folder: Path, *values: int) -> Path:
    """PNG files 00.png, 01.png … of these grey values."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, value in enumerate(values):
        grey(value).save(folder / f"{number:02}.png")
    return folder


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def scores_of(folder: Path) -> list[float]:
    return [float(row["bright"]) for row in read(folder / "screen.csv")]


# What is said of the images


def test_scores_p_values_and_flags_by_hand(run: Screen, tmp_path: Path) -> None:
    scans = folder_of(tmp_path / "scans", 0, 105, 190, 191)
    result = run(scans)
    rows = read(tmp_path / "run" / "screen.csv")
    assert list(rows[0]) == ["path", "index", "bright", "bright_p", "bright_flag"]
    assert [row["path"] for row in rows] == [str(scans / f"0{number}.png") for number in range(4)]
    assert [row["index"] for row in rows] == ["0", "1", "2", "3"]
    assert [float(row["bright"]) for row in rows] == [0, 105, 190, 191]
    p_values = [20 / 20, 10 / 20, 2 / 20, 1 / 20]  # of the 19, those from 110, or 190 alone, are not below
    assert [float(row["bright_p"]) for row in rows] == p_values
    assert [row["bright_flag"] for row in rows] == ["0", "0", "0", "1"]
    assert result == {
        "n": 4,
        "n_unreadable": 0,
        "n_calibrate": 19,
        "alpha": 0.05,
        "thresholds": {"bright": 190.0},
        "flagged": {"bright": 1},
    }


def test_every_score_has_its_columns_the_fused_one_too(run: Screen, tmp_path: Path) -> None:
    normal = {"bright": NORMAL, "dark": -NORMAL}
    fused = np.linspace(0, 1, 19)
    detector = Detector({"bright": brightness, "dark": darkness}, ("bright", "dark"), normal, normal | {"fused": fused})
    result = run(folder_of(tmp_path / "scans", 3, 250), detector)
    rows = read(tmp_path / "run" / "screen.csv")
    names = ["bright", "dark", "fused"]
    assert list(rows[0])[2:] == [name + end for name in names for end in ("", "_p", "_flag")]
    assert result["flagged"] == {"bright": 1, "dark": 1, "fused": 2}
    expected = -2 * np.log([20 / 20 * 1 / 20] * 2)  # either is the brightest or the darkest, and not the other
    np.testing.assert_allclose([float(row["fused"]) for row in rows], expected)


def test_too_few_normal_images_give_no_threshold(run: Screen, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    few = Detector({"bright": brightness}, (), {}, {"bright": NORMAL[:18]})
    with caplog.at_level(logging.WARNING):
        result = run(folder_of(tmp_path / "scans", 0, 255), few)
    assert result["thresholds"] == result["flagged"] == {"bright": None}
    assert caplog.messages == ["no image is flagged: alpha=0.05 needs 19 images to calibrate with, and there are 18"]
    rows = read(tmp_path / "run" / "screen.csv")
    assert [row["bright_flag"] for row in rows] == ["", ""]
    assert float(rows[1]["bright_p"]) == 1 / 19


def test_thresholds_follow_from_patients(run: Screen, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of 19 patients of two images, whose brighter one counts for half: p of 180 is (1 + 2 / 2) / 20."""
    calibration = {"bright": np.concatenate([NORMAL, np.zeros(19)])}
    detector = Detector({"bright": brightness}, (), {}, calibration, groups=np.arange(38) % 19)
    result = run(folder_of(tmp_path / "scans", 180, 191), detector)
    assert (result["n_calibrate"], result["n_calibrate_groups"]) == (38, 19)
    assert [float(row["bright_p"]) for row in read(tmp_path / "run" / "screen.csv")] == [2 / 20, 1 / 20]
    assert result["thresholds"] == {"bright": 190.0}
    few = Detector({"bright": brightness}, (), {}, calibration, groups=np.arange(38) % 18)
    with caplog.at_level(logging.WARNING):
        assert run(folder_of(tmp_path / "others", 191), few)["flagged"] == {"bright": None}
    assert caplog.messages == ["no image is flagged: alpha=0.05 needs 19 groups to calibrate with, and there are 18"]


def test_nothing_to_calibrate_with(run: Screen, tmp_path: Path) -> None:
    none = Detector({"bright": brightness}, (), {}, {"bright": np.empty(0)})
    assert run(folder_of(tmp_path / "scans", 0, 255), none)["n_calibrate"] == 0
    assert [row["bright_p"] for row in read(tmp_path / "run" / "screen.csv")] == ["1.0", "1.0"]
    assert not (tmp_path / "run" / "histogram.png").exists()  # there is nothing to compare with


# What images may be


def test_a_tree_of_images_of_every_kind(run: Screen, tmp_path: Path) -> None:
    """Grey, colour and 16 bits, of any size, in folders of their own: each is what it would be alone."""
    scans = folder_of(tmp_path / "scans", 10)
    (scans / "ward" / "b").mkdir(parents=True)
    grey(20, size=32, mode="RGB").save(scans / "ward" / "1.JPG", quality=100)
    Image.fromarray(np.full((16, 9), 30 * 257, np.uint16)).save(scans / "ward" / "b" / "2.png")
    grey(40).save(scans / "ward" / "b" / "3.tif")
    (scans / "notes.txt").write_text("no image")
    (scans / ".hidden.png").write_text("left out")
    assert run(scans)["n"] == 4
    assert scores_of(tmp_path / "run") == [10, 20, 30, 40]
    paths = [Path(row["path"]).relative_to(scans).as_posix() for row in read(tmp_path / "run" / "screen.csv")]
    assert paths == ["00.png", "ward/1.JPG", "ward/b/2.png", "ward/b/3.tif"]


def test_8_bit_images_beside_others_of_16_are_as_they_are_alone(tmp_path: Path) -> None:
    scans = folder_of(tmp_path / "scans", 255, 10)
    ((_, alone),) = ScreenInput(scans, Form(8, 1)).chunks()
    Image.fromarray(np.full((8, 8), 65535, np.uint16)).save(scans / "deep.png")
    ((_, beside),) = ScreenInput(scans, Form(8, 1)).chunks()
    assert (alone.images.dtype, beside.images.dtype) == (torch.uint8, torch.uint16)
    expected, got = next(alone.batches(2)), next(beside.batches(3))
    assert torch.equal(got[:2], expected)
    assert (got[2] == 1).all()


def test_a_single_image(run: Screen, tmp_path: Path) -> None:
    scans = folder_of(tmp_path / "scans", 10, 20)
    assert run(scans / "01.png")["n"] == 1
    assert scores_of(tmp_path / "run") == [20]


@pytest.mark.parametrize("channels", [1, 3])
def test_an_array(channels: int, run: Screen, tmp_path: Path) -> None:
    images = np.repeat(np.arange(5, dtype=np.uint8) * 10, 12 * 12).reshape(5, 12, 12)
    np.save(tmp_path / "scans.npy", images)
    detector = Detector({"bright": brightness}, (), {}, {"bright": NORMAL})
    source = ScreenInput(tmp_path / "scans.npy", Form(8, channels))
    ((_, split),) = source.chunks()
    assert split.images.shape == (5, channels, 8, 8)
    run(tmp_path / "scans.npy", detector)
    rows = read(tmp_path / "run" / "screen.csv")
    assert [(row["path"], row["index"]) for row in rows] == [(str(tmp_path / "scans.npy"), str(i)) for i in range(5)]
    assert scores_of(tmp_path / "run") == [0, 10, 20, 30, 40]


def test_all_splits_of_an_array_with_what_cannot_be_read(run: Screen, tmp_path: Path) -> None:
    train = np.stack([np.full((8, 8), value, np.float32) for value in (0.2, np.nan, 0.4)])
    np.savez(tmp_path / "scans.npz", train_images=train, test_images=np.full((2, 8, 8), 51, np.uint8))
    result = run(tmp_path / "scans.npz")
    assert (result["n"], result["n_unreadable"]) == (4, 1)
    place = f"{tmp_path / 'scans.npz'}"
    rows = read(tmp_path / "run" / "screen.csv")
    assert [(row["path"], row["index"]) for row in rows] == [
        (f"{place}:train", "0"),
        (f"{place}:train", "2"),
        (f"{place}:test", "0"),
        (f"{place}:test", "1"),
    ]
    assert scores_of(tmp_path / "run") == [51, 102, 51, 51]
    (unreadable,) = read(tmp_path / "run" / "unreadable.csv")
    assert (unreadable["path"], unreadable["index"]) == (f"{place}:train", "1")
    assert "no numbers (NaN)" in unreadable["reason"]


def scans_of_every_kind(folder: Path) -> Path:
    """Frames of -1000, 0 and 1000, an inverted image of 500, coronal slices of 150, 300, 450 and 600, a PNG of 250."""
    frames = np.stack([np.full((12, 8), value, np.uint16) for value in (0, 1000, 2000)])
    write_dicom(folder / "a.dcm", frames, BitsStored=12, RescaleSlope=1, RescaleIntercept=-1000)
    write_dicom(folder / "b", np.full((8, 8), 500, np.int16), PhotometricInterpretation="MONOCHROME1")
    write_nifti(
        folder / "c.nii.gz", np.ones((8, 4, 8), np.int16) * np.arange(1, 5)[:, None].astype(np.int16), slope=150
    )
    write_deep(folder / "d.png", np.full((8, 8), 250, np.uint16))
    return folder


def test_files_of_frames_and_slices_in_a_window(run: Screen, tmp_path: Path) -> None:
    scans = scans_of_every_kind(tmp_path / "scans")
    form = Form(8, 1, window=(-1000, 1000), resize="squash")
    assert run(scans, form=form, slices=["coronal", 1, None])["n"] == 8
    names = [row["path"] for row in read(tmp_path / "run" / "screen.csv")]
    files = ["a.dcm#0", "a.dcm#1", "a.dcm#2", "b", "c.nii.gz#1", "c.nii.gz#2", "c.nii.gz#3", "d.png"]
    assert names == [str(scans / name) for name in files]
    shares = [0, 1 / 2, 1, 1 / 4, 0.65, 0.725, 0.8, 0.625]
    assert scores_of(tmp_path / "run") == [round(255 * share) for share in shares]


def test_a_single_volume(run: Screen, tmp_path: Path) -> None:
    path = scans_of_every_kind(tmp_path / "scans") / "c.nii.gz"
    assert run(path, form=Form(8, 1, window=(0, 600)))["n"] == 8
    assert [row["path"] for row in read(tmp_path / "run" / "screen.csv")] == [f"{path}#{n}" for n in range(8)]


def test_what_needs_a_window_is_listed_without_one(run: Screen, tmp_path: Path) -> None:
    """Each of the others is shown in the range that its file says: 12 bits, 16 with a sign, 16."""
    scans = scans_of_every_kind(tmp_path / "scans")
    result = run(scans, slices="coronal")
    assert (result["n"], result["n_unreadable"]) == (5, 4)
    shares = [0, 1000 / 4095, 2000 / 4095, 1 - (500 + 32768) / 65535, 250 / 65535]
    assert scores_of(tmp_path / "run") == [round(255 * share) for share in shares]
    rows = read(tmp_path / "run" / "unreadable.csv")
    assert [Path(row["path"]).name for row in rows] == [f"c.nii.gz#{n}" for n in range(4)]
    assert all("set dataset.window=[low,high] or dataset.percentiles" in row["reason"] for row in rows)


def test_slices_that_are_none_or_that_no_volume_has(run: Screen, tmp_path: Path) -> None:
    scans = scans_of_every_kind(tmp_path / "scans")
    with pytest.raises(UserError, match=r"dataset\.slices .* takes axial, coronal or sagittal.*, got transverse"):
        run(scans, slices="transverse")
    with pytest.raises(UserError, match=r"input=.*c\.nii\.gz holds no images"):
        run(scans / "c.nii.gz", slices=["axial", 8])


def test_no_patient_is_named(run: Screen, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scans = scans_of_every_kind(tmp_path / "scans")
    whole = (scans / "b").read_bytes()
    assert PATIENT.encode() in whole
    (scans / "b").write_bytes(whole[:-20])
    write_report(scans / "report.dcm")
    assert run(scans, form=Form(8, 1, window=(0, 1)))["n_unreadable"] == 2
    written = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert b"Planted" not in written
    assert "Planted" not in caplog.text


def test_unreadable_files_are_listed_and_the_others_scored(
    run: Screen, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scans = folder_of(tmp_path / "scans", 10, 20, 30, 40)
    (scans / "01.png").write_bytes((scans / "01.png").read_bytes()[:40])
    (scans / "02.png").write_text("no image")
    with caplog.at_level(logging.WARNING):
        result = run(scans)
    assert (result["n"], result["n_unreadable"]) == (2, 2)
    assert [row["index"] for row in read(tmp_path / "run" / "screen.csv")] == ["0", "3"]
    assert scores_of(tmp_path / "run") == [10, 40]
    listed = read(tmp_path / "run" / "unreadable.csv")
    assert [row["path"] for row in listed] == [str(scans / "01.png"), str(scans / "02.png")]
    assert all(row["reason"] for row in listed)
    assert all(any(row["path"] in message for message in caplog.messages) for row in listed)
    assert "images that cannot be read: 2, listed in" in caplog.messages[-1]


def test_the_log_names_the_first_unreadable_files_alone(
    run: Screen, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scans = folder_of(tmp_path / "scans", 10)
    for number in range(20):
        (scans / f"broken {number:02}.png").touch()
    with caplog.at_level(logging.WARNING):
        assert run(scans)["n_unreadable"] == 20
    assert len(caplog.messages) == 6
    assert len(read(tmp_path / "run" / "unreadable.csv")) == 20


IMAGES = np.full((2, 8, 8), 51, np.uint8)


def save_array(path: Path, images: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, images)


def save_arrays(path: Path, **images: np.ndarray) -> None:
    with path.open("wb") as file:
        np.savez(file, **images)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, r"input=.*scans: there is nothing there"),
        (lambda path: path.mkdir(), r"input=.*scans holds no images \(looked for png, jpg"),
        (lambda path: path.write_text("text"), "scans is no NumPy file"),
        (lambda path: save_array(path, np.zeros((0, 8, 8), np.uint8)), "input=.*scans holds no images$"),
        (lambda path: save_arrays(path, train_images=np.zeros((0, 8, 8))), "input=.*scans holds no images$"),
        (
            lambda path: save_arrays(path, train_images=IMAGES, test_images=IMAGES[0]),
            r"test_images have the shape \(8, 8\)",
        ),
        (
            lambda path: (path.mkdir(), (path / "a.png").write_text("text")),
            r"input=.*scans: none of its images can be read; a\.png \[0\]: cannot identify",
        ),
    ],
)
def test_input_without_images(make: Callable[[Path], object], message: str, run: Screen, tmp_path: Path) -> None:
    make(tmp_path / "scans")
    with pytest.raises(UserError, match=message):
        run(tmp_path / "scans")
    assert not list(tmp_path.glob("run/*"))


# Many images


def test_chunks_change_nothing_but_the_memory_they_need(
    run: Screen, detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = folder_of(tmp_path / "scans", *range(0, 250, 25))
    (scans / "04.png").write_text("no image")
    whole = run(scans)
    text = (tmp_path / "run" / "screen.csv").read_text()
    lengths: list[int] = []
    score = Detector.score

    def counted(self: Detector, networks: Any, objective: Any, split: Any, **arguments: Any) -> Any:
        lengths.append(len(split))
        return score(self, networks, objective, split, **arguments)

    monkeypatch.setattr(Detector, "score", counted)
    monkeypatch.setattr(screen_input, "CHUNK", 4)
    assert run(scans) == whole
    assert (tmp_path / "run" / "screen.csv").read_text() == text
    assert lengths == [4, 3, 2]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_splits_of_a_file_do_not_lie_in_memory_together(
    save: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "scans.npz", train_images=IMAGES, val_images=IMAGES[:0], test_images=IMAGES + 1)
    read = screen_input.Array.read
    opened: list[weakref.ref] = []

    def watched(self: Any, split: str, data_dir: Path) -> Any:
        assert not any(images() for images in opened)
        items = read(self, split, data_dir)
        opened.append(weakref.ref(items.images))
        return items

    monkeypatch.setattr(screen_input.Array, "read", watched)
    source = ScreenInput(tmp_path / "scans.npz", Form(8, 1))
    assert (source.n_chunks, opened) == (2, [])
    places = [str(place) for read_places, _ in source.chunks() for place in read_places]
    assert places == [f"scans.npz:{split} [{index}]" for split in ("train", "test") for index in (0, 1)]
    assert len(opened) == 3


def test_an_image_that_may_be_drawn_keeps_no_other_in_memory(
    run: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[screen_module.Outlying] = []
    monkeypatch.setattr(screen_module, "_draw_most_outlying", lambda shown, *rest: kept.extend(shown))
    run(folder_of(tmp_path / "scans", *range(9)))
    assert [image.image.untyped_storage().nbytes() for image in kept] == [4 * 8 * 8] * 9


def test_a_chunk_without_a_readable_image_is_passed_over(
    run: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen_input, "CHUNK", 1)
    scans = folder_of(tmp_path / "scans", 10, 20, 30)
    (scans / "01.png").write_text("no image")
    run(scans)
    assert scores_of(tmp_path / "run") == [10, 30]


def test_images_are_opened_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large originals must not lie in memory together: each is resized before many others are decoded."""
    decoded: list[int] = []
    to_array = screen_input.to_array

    def counted(image: Any, form: Form) -> np.ndarray:
        decoded.append(1)
        return to_array(image, form)

    resized_after: list[int] = []
    resized = screen_input.resized

    def watched(arrays: Any, form: Form) -> Any:
        for part in resized(arrays, form):
            resized_after.append(len(decoded))
            yield part

    monkeypatch.setattr(screen_input, "to_array", counted)
    monkeypatch.setattr(screen_input, "resized", watched)
    (tmp_path / "scans").mkdir()
    for number in range(6):
        grey(9, size=1024).save(tmp_path / "scans" / f"{number}.png")
    list(ScreenInput(tmp_path / "scans", Form(8, 1)).chunks())
    assert resized_after == [2, 3, 4, 5, 6, 6]  # the next one is decoded when the group before it is resized


def test_nothing_is_kept_outside_the_run_folder(run: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scans = folder_of(tmp_path / "scans", 10, 20)
    (tmp_path / "current").mkdir()
    monkeypatch.chdir(tmp_path / "current")
    monkeypatch.setenv("ADVVAE_DATA", str(tmp_path / "data"))
    run(scans)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "run", "scans"]
    assert sorted(path.name for path in scans.iterdir()) == ["00.png", "01.png"]
    assert not list((tmp_path / "current").iterdir())
    files = ["histogram.png", "most_outlying.png", "screen.csv"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == files


# Pictures


def test_the_most_outlying_of_all_chunks_are_drawn_in_order(
    run: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, networks: AdversarialVAE
) -> None:
    monkeypatch.setattr(screen_input, "CHUNK", 3)
    monkeypatch.setattr(screen_module, "SHOWN", 4)
    drawn: dict[str, Any] = {}

    def draw(images: Tensor, reconstructions: Tensor, captions: Sequence[str], path: Path, title: str) -> None:
        drawn.update(images=images, reconstructions=reconstructions, captions=captions, path=path, title=title)

    monkeypatch.setattr(screen_module, "error_maps", draw)
    run(folder_of(tmp_path / "scans", 0, 200, 100, 50, 200, 7, 210, 90))
    assert ((drawn["images"][:, 0, 0, 0] + 1) * 127.5).round().tolist() == [210, 200, 200, 100]
    assert drawn["captions"] == [
        "06.png [6]\n210, p = 0.05",
        "01.png [1]\n200, p = 0.05",
        "04.png [4]\n200, p = 0.05",
        "02.png [2]\n100, p = 0.55",
    ]
    assert drawn["title"] == "Most outlying by bright"
    assert drawn["path"] == tmp_path / "run" / "most_outlying.png"
    networks.eval()
    with torch.no_grad():
        torch.testing.assert_close(drawn["reconstructions"], networks.reconstruct(drawn["images"]))


def test_the_histogram_shows_all_images(run: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen_input, "CHUNK", 2)
    drawn: list[Any] = []
    monkeypatch.setattr(screen_module, "screen_histogram", lambda *arguments: drawn.extend(arguments))
    run(folder_of(tmp_path / "scans", 5, 6, 7))
    calibration, screened, threshold, name, path, n_groups = drawn
    assert (calibration == NORMAL).all()
    assert screened.tolist() == [5, 6, 7]
    assert (threshold, name, path, n_groups) == (190, "bright", tmp_path / "run" / "histogram.png", None)


@pytest.mark.parametrize("arguments", [{}, {"crop": 6}, {"has_vae": False}])
def test_the_pictures_can_be_looked_at(
    arguments: dict[str, Any], run: Screen, networks: AdversarialVAE, tmp_path: Path
) -> None:
    """Networks that cannot reconstruct whole images still get a contact sheet."""
    if not arguments.pop("has_vae", True):
        networks.encoder = networks.decoder = None
    run(folder_of(tmp_path / "scans", *range(0, 250, 7)), **arguments)
    assert Image.open(tmp_path / "run" / "most_outlying.png").width > 300
    assert Image.open(tmp_path / "run" / "histogram.png").width > 300


# Error maps


def test_maps_are_written_in_the_order_of_the_rows(
    run: Screen, networks: AdversarialVAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen_input, "CHUNK", 2)
    scans = folder_of(tmp_path / "scans", 10, 20, 30, 250)
    (scans / "01.png").write_text("no image")
    run(scans, maps=True)
    folder = tmp_path / "run" / "maps"
    images = torch.tensor([10.0, 30.0, 250.0]).reshape(3, 1, 1, 1).expand(-1, 1, 8, 8) / 127.5 - 1
    networks.eval()
    with torch.no_grad():
        expected = (images - networks.reconstruct(images)).abs()[:, 0] / 2
    np.testing.assert_allclose(np.load(folder / "difference.npy"), expected, atol=1e-6)
    assert np.load(folder / "smoothed.npy").shape == (3, 8, 8)
    names = [f"{int(row['index']):05}.png" for row in read(tmp_path / "run" / "screen.csv")]
    assert names == ["00000.png", "00002.png", "00003.png"]
    for name in ("difference", "smoothed"):
        assert sorted(path.name for path in (folder / name).iterdir()) == names
    assert [(row["row"], row["picture"]) for row in read(folder / "pictures.csv")] == list(
        zip("012", names, strict=True)
    )


def test_maps_of_several_splits_do_not_take_each_others_names(run: Screen, tmp_path: Path) -> None:
    np.savez(tmp_path / "scans.npz", train_images=IMAGES, test_images=IMAGES)
    run(tmp_path / "scans.npz", maps=True)
    folder = tmp_path / "run" / "maps"
    names = ["train/00000.png", "train/00001.png", "test/00000.png", "test/00001.png"]
    assert [row["picture"] for row in read(folder / "pictures.csv")] == names
    assert all((folder / "smoothed" / name).is_file() for name in names)
    np.save(tmp_path / "scans.npy", IMAGES)
    run(tmp_path / "scans.npy", maps=True)
    assert [row["picture"] for row in read(folder / "pictures.csv")] == ["00000.png", "00001.png"]


def test_maps_are_left_out_where_nothing_is_reconstructed_and_the_log_says_why(
    run: Screen, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        run(folder_of(tmp_path / "scans", 10), maps=True, crop=6)
    reason = "the networks reconstruct no whole images, since they were trained on crops of 6 px"
    assert f"no error maps: {reason}" in caplog.text
    assert not (tmp_path / "run" / "maps").exists()


def test_no_maps_are_left_of_images_that_cannot_be_read(run: Screen, tmp_path: Path) -> None:
    scans = folder_of(tmp_path / "scans", 10)
    (scans / "00.png").write_text("no image")
    with pytest.raises(UserError, match="none of its images can be read"):
        run(scans, maps=True)
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file()]


def test_frames_slices_and_16_bits_are_read_as_a_dataset_reads_them(tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    generator = np.random.default_rng(0)
    write_dicom(scans / "a.dcm", generator.integers(0, 4096, (3, 9, 8), dtype=np.uint16), RescaleIntercept=-1024)
    write_nifti(scans / "b.nii.gz", generator.integers(-1024, 3072, (9, 9, 4), dtype=np.int16))
    write_deep(scans / "c.png", generator.integers(0, 65536, (9, 9), dtype=np.uint16))
    form = Form(8, 1, window=(-500.0, 1500.0), resize="pad")
    ((places, screened),) = ScreenInput(scans, form, ["axial", 1, 3]).chunks()
    assert [place.path for place in places] == [
        str(scans / name) for name in ("a.dcm#0", "a.dcm#1", "a.dcm#2", "b.nii.gz#1", "b.nii.gz#2", "c.png")
    ]
    source = Folder(str(scans), slices=["axial", 1, 3])
    prepared = prepare(source, "train", name="scans", form=form, data_dir=tmp_path / "data", max_unreadable=0)
    assert screened.images.dtype == prepared.images.dtype == torch.uint16
    assert np.array_equal(screened.images.numpy(), prepared.images.numpy())
