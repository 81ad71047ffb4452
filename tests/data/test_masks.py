"""Which file is whose mask, by a CSV file's column or by its name in a folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from advvae.data.files import Folder
from advvae.data.source import Items
from advvae.errors import UserError
from tests.data.medical_files import write_dicom


def save(path: Path, value: int = 0) -> Path:
    """A picture of one value, by which it is known again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((12, 12), value, np.uint8)).save(path)
    return path


def values(items: Items) -> list[int | None]:
    """The value of each image's mask."""
    assert items.masks is not None
    return [None if mask is None else int(np.asarray(mask)[0, 0]) for mask in items.masks]


def test_masks_of_mvtec(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("train/good/000", "test/good/000", "test/crack/000", "test/crack/001"):
        save(tmp_path / f"{name}.png")
    save(tmp_path / "ground_truth/crack/000_mask.png", 10)
    save(tmp_path / "ground_truth/crack/001_mask.png", 11)
    source = Folder(str(tmp_path))
    assert list(source.splits) == ["train", "test"]
    with caplog.at_level(logging.INFO):
        train, test = source.read("train", tmp_path), source.read("test", tmp_path)
    assert caplog.messages == [f"{tmp_path}: masks are taken from {tmp_path / 'ground_truth'}"]
    assert test.classes == ["crack", "good"]  # and no ground_truth
    assert (values(test), train.masks) == ([10, 11, None], None)
    assert source.files("test", tmp_path)[3:] == [tmp_path / f"ground_truth/crack/00{i}_mask.png" for i in range(2)]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("test/a/b.png", "test/a/b.bmp"),
        ("test/a/b.png", "test/a/b_mask.png"),
        ("test/a/b.png", "a/b.tif"),
        ("test/b.1.png", "b.1.png"),
        ("a/b.png", "a/b.png"),
        ("b.JPG", "b.PNG"),
    ],
)
def test_names_of_masks(tmp_path: Path, image: str, mask: str) -> None:
    save(tmp_path / "images" / image)
    save(tmp_path / "images/masks" / mask, 7)
    source = Folder(str(tmp_path / "images"))
    assert values(source.read(source.splits[0], tmp_path)) == [7]


def test_the_likelier_name_counts(tmp_path: Path) -> None:
    save(tmp_path / "images/test/a.png")
    for value, name in enumerate(("test/a", "test/a_mask", "a", "a_mask")):
        save(tmp_path / f"images/masks/{name}.png", value)
    items = Folder(str(tmp_path / "images")).read("test", tmp_path)
    assert values(items) == [0]
    assert [reason for _, reason in items.left_out] == ["it is the mask of no image"] * 3


def test_masks_that_fit_no_image_or_several_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("train/x/0.png", "test/x/0.png", "test/x/1.png"):
        save(tmp_path / name)
    for name in ("x/0.png", "x/1.png", "x/1.bmp", "y/2.png"):
        save(tmp_path / "masks" / name, 1)
    source = Folder(str(tmp_path))
    test, train = source.read("test", tmp_path), source.read("train", tmp_path)
    assert caplog.messages == [
        f"{tmp_path}: 1 left out, as another file is the mask of the same image: masks/x/1.png",
        f"{tmp_path}: 1 left out, as it may be the mask of several images: masks/x/0.png",
        f"{tmp_path}: 1 left out, as it is the mask of no image: masks/y/2.png",
    ]
    assert (train.masks, values(test)) == (None, [None, 1])
    assert (len(train.left_out), test.left_out) == (3, [])


def test_a_folder_that_is_named(tmp_path: Path) -> None:
    save(tmp_path / "images/a/1.png")
    save(tmp_path / "images/masks/1.png")  # here, an ordinary class
    save(tmp_path / "images/drawn/a/1.png", 3)
    save(tmp_path / "elsewhere/a/1.png", 4)
    for name, value in (("drawn", 3), ("../elsewhere", 4), (str(tmp_path / "elsewhere"), 4)):
        items = Folder(str(tmp_path / "images"), masks=name).read("train", tmp_path)
        assert values(items)[0] == value
        assert set(items.classes) - {"drawn"} == {"a", "masks"}
    assert Folder(str(tmp_path / "images"), masks="drawn").read("train", tmp_path).classes == ["a", "masks"]
    with pytest.raises(UserError, match=r"dataset\.masks .* = nowhere: there is no folder"):
        Folder(str(tmp_path / "images"), masks="nowhere").read("train", tmp_path)


def test_two_usual_folders(tmp_path: Path) -> None:
    for name in ("a.png", "masks/a.png", "ground_truth/a.png"):
        save(tmp_path / name)
    with pytest.raises(UserError, match=r"holds masks and ground_truth: name the one .* in dataset\.masks"):
        Folder(str(tmp_path)).read("train", tmp_path)


def test_masks_of_a_column(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.png", "b.png", "c.png", "masks/other.png"):
        save(tmp_path / name)
    save(tmp_path / "drawn/1.png", 5)
    table = tmp_path / "list.csv"
    table.write_text("path,mask\na.png,drawn/1.png\nb.png,\nc.png,drawn/gone.png\n")
    source = Folder(str(tmp_path), str(table))
    items = source.read("train", tmp_path)
    assert values(items) == [5, None, None]
    assert caplog.messages == [f"{table}: 1 left out, as there is no such mask: drawn/gone.png"]
    with pytest.raises(UserError, match=r"has a column mask: leave out that, or dataset\.masks"):
        Folder(str(tmp_path), str(table), masks="masks").read("train", tmp_path)


def test_a_folder_of_masks_beside_a_table(tmp_path: Path) -> None:
    save(tmp_path / "images/test/a.png")
    save(tmp_path / "images/masks/a_mask.png", 6)
    table = tmp_path / "list.csv"
    table.write_text(f"path\n{tmp_path}/images/test/a.png\n")
    items = Folder(str(tmp_path / "images"), str(table)).read("train", tmp_path)
    assert (values(items), items.left_out) == ([6], [])  # whose files are no images without a row


def test_frames_of_a_mask_go_with_those_of_its_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames = np.zeros((3, 12, 12), np.uint8)
    for name in ("a", "b"):
        write_dicom(tmp_path / f"{name}.dcm", frames)
    write_dicom(tmp_path / "masks/a.dcm", frames + np.array([1, 2, 3], np.uint8)[:, None, None])
    write_dicom(tmp_path / "masks/b.dcm", frames[:2])
    items = Folder(str(tmp_path)).read("train", tmp_path)
    assert items.masks is not None
    of_a: list[Any] = [items.masks[i] for i in range(3)]
    assert [mask.values[0, 0] for mask in of_a] == [1, 2, 3]
    assert [items.masks[i] for i in range(3, 6)] == [None] * 3
    assert caplog.messages == [f"{tmp_path}: 1 left out, as it has not as many frames as its image: masks/b.dcm"]
