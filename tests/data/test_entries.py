from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advvae.data import chunks, entries, load_split, told
from advvae.data.cuts import split_rows
from advvae.data.source import Form
from advvae.errors import UserError
from tests.data.given import IMAGES, Given, folders, prepared

GREY = list(IMAGES[:100, :, :, 0])
BROKEN = np.zeros((9, 9, 7), np.uint8)  # no image has 7 channels
REASON = "shape (9, 9, 7) is not height × width × 1, 2, 3 or 4 channels"


def with_broken(*numbers: int, **items: Any) -> Given:
    images = [BROKEN if number in numbers else image for number, image in enumerate(GREY)]
    labels = np.arange(100) % 10
    paths = [f"{number}.png" for number in range(100)]
    classes = [str(number) for number in range(10)]
    items = {"labels": labels, "paths": paths, "classes": classes, "groups": np.arange(100) // 4} | items
    return Given(images, name="broken", **items)


def listed(data_dir: Path) -> list[list[str]]:
    (path,) = data_dir.glob("cache/*/left_out.csv")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_unreadable_images_are_left_out(tmp_path: Path) -> None:
    found = prepared(tmp_path, with_broken(7, 50), size=9, channels=1, max_unreadable=0.02)
    left = [number for number in range(100) if number not in (7, 50)]
    assert np.array_equal(found.images[:, 0], np.stack(GREY)[left])
    assert found.labels.tolist() == [number % 10 for number in left]
    assert list(found.paths or ()) == [f"{number}.png" for number in left]
    assert found.groups is not None
    assert found.groups.tolist() == [number // 4 for number in left]
    assert found.numbers.tolist() == left
    assert listed(tmp_path) == [["path", "reason"], ["7.png", REASON], ["50.png", REASON]]


def test_each_process_tells_of_what_is_left_out_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = [1, 2, 3, 4]
    source = with_broken(*numbers, left_out=[("absent.png", "there is no such file"), ("Ü.png", "its row says so")])
    prepared(tmp_path, source, channels=1, max_unreadable=0.04)
    assert listed(tmp_path)[-2:] == [["absent.png", "there is no such file"], ["Ü.png", "its row says so"]]
    (entry,) = folders(tmp_path / "cache")
    line = f"given test: 4 unreadable images, 2 files or rows left out, listed in {entry}/left_out.csv"
    assert caplog.messages == [*(f"given test: {number}.png: {REASON}" for number in (1, 2, 3)), line]
    caplog.clear()
    prepared(tmp_path, source, channels=1, max_unreadable=0.04)
    assert not caplog.messages
    monkeypatch.setattr(told, "told", set())  # as in a new process
    prepared(tmp_path, source, channels=1, max_unreadable=0.04)
    assert caplog.messages == [line]


def test_nothing_left_out_is_not_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prepared(tmp_path, with_broken(), channels=1)
    assert not caplog.messages
    assert not list(tmp_path.glob("cache/*/left_out.csv"))


def test_a_window_that_is_missing_is_asked_for(tmp_path: Path) -> None:
    remedy = "set dataset.window=[low,high] or dataset.percentiles=[0.5,99.5]"
    for images, reason in (
        (np.full((3, 9, 9), 7.5), "values from 7.5 to 7.5 do not lie in [0, 1]"),
        (np.zeros((3, 9, 9), np.int16), "values of type int16, where uint8, uint16 or float in [0, 1] is needed"),
    ):
        with pytest.raises(UserError) as error:
            prepared(tmp_path, Given(images), channels=1)
        told = "given test: 3 of its 3 images cannot be used without a window, such as image 0"
        assert str(error.value) == f"{told} ({reason}): {remedy}"


def test_more_unreadable_images_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = r"given test: 7.png is unreadable \(shape .*\), and so are 2 more of its 100 images: 3.0% of all, more "
    limit = r"than dataset.max_unreadable=0.02; remove or replace what .*/left_out.csv lists, or allow for more"
    source = with_broken(7, 8, 50)
    with pytest.raises(UserError, match=words + limit) as error:
        prepared(tmp_path, source, channels=1, max_unreadable=0.02)
    assert Path(str(error.value).split()[-6]).read_text().splitlines()[1] == f'7.png,"{REASON}"'
    asked = []

    def unreadable(image: np.ndarray, form: Form) -> None:
        asked.append(image.shape)
        raise ValueError

    monkeypatch.setattr(chunks, "to_array", unreadable)
    found = prepared(tmp_path, source, channels=1, max_unreadable=0.03)
    assert asked == [(9, 9, 7)] * 3  # to see whether these can be read by now; no other is decoded again
    assert len(found.images) == 97
    with pytest.raises(UserError, match=words + limit):  # in the same words of the copy that is there
        prepared(tmp_path, source, channels=1, max_unreadable=0.02)


@pytest.mark.parametrize("grouped", [True, False])
def test_unreadable_images_move_no_other_to_another_split(grouped: bool, tmp_path: Path) -> None:
    """Else a repaired file would bring images that were tested on into the training split, and the other way round."""
    groups = np.arange(100) // 4 if grouped else None
    source = with_broken(*range(0, 100, 9), groups=groups)
    source.splits = ("train",)
    for split in ("train", "val", "test"):
        found = load_split(source, split, name="given", size=9, channels=1, data_dir=tmp_path, max_unreadable=0.5)
        members = [number for number in split_rows(split, ["train"], 100, groups).tolist() if number % 9]
        assert list(found.paths or ()) == [f"{number}.png" for number in members]
        assert np.array_equal(found.images[found.rows, 0], np.stack(GREY)[members])


def masks() -> list[Any]:
    """Of image i, i in its only marked row; None of every fourth; two that are no masks of their images."""
    found: list[Any] = []
    for number in range(100):
        mask = np.zeros((9, 9), np.uint8)
        mask[number % 9] = 255
        found.append(mask if number % 4 else None)
    found[1] = np.zeros((9, 8), np.uint8)
    found[2] = "no image"
    return found


def test_masks_are_prepared_beside_their_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = prepared(tmp_path, with_broken(7, masks=masks()), size=9, channels=1).masks
    assert found is not None
    assert found.dtype == torch.uint8
    assert found.shape == (99, 9, 9)
    for row, number in enumerate(number for number in range(100) if number != 7):
        expected = torch.full((9, 9), 2)
        if number % 4 and number not in (1, 2):
            expected = torch.zeros(9, 9, dtype=torch.int64)
            expected[number % 9] = 1
        assert torch.equal(found[row].long(), expected)
    assert [path for path, _ in listed(tmp_path)[1:]] == ["7.png", "1.png", "2.png"]
    assert all(reason.startswith("its mask is not used: ") for _, reason in listed(tmp_path)[2:])
    assert ": 1 unreadable images, 2 masks left out, listed in " in caplog.messages[-1]


def test_masks_of_a_split_follow_its_images(tmp_path: Path) -> None:
    source = with_broken(masks=masks())
    split = load_split(source, "test", name="given", size=9, channels=1, data_dir=tmp_path, drop_classes=["0"])
    for part in (split, split.subset(torch.tensor([50, 3])), *split.halves()):
        found = part.masks_at(torch.arange(len(part)))
        for mask, row in zip(found, part.rows.tolist(), strict=True):
            assert mask.max() == (2 if row % 4 == 0 or row in (1, 2) else 1)
            assert mask.max() == 2 or mask[row % 9].min() == 1
    cropped = replace(split, crop=4).masks_at(torch.arange(len(split)))
    assert torch.equal(cropped, split.masks_at(torch.arange(len(split)))[:, 2:6, 2:6])  # as images are


def test_without_any_mask_there_is_no_file_of_them(tmp_path: Path) -> None:
    for name, given in (("none", None), ("unknown", [None] * 100)):
        found = prepared(tmp_path / name, with_broken(masks=given), channels=1)
        assert found.masks is None
        assert not list(tmp_path.glob(f"{name}/cache/*/masks.npy"))


def test_large_masks_stay_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory = prepared(tmp_path, with_broken(masks=masks()), channels=1).masks
    assert in_memory is not None
    assert prepared(tmp_path, with_broken(masks=masks()), channels=1).masks is in_memory
    monkeypatch.setattr(entries, "IN_MEMORY", in_memory.nbytes - 1)
    mapped = prepared(tmp_path, with_broken(masks=masks()), channels=1).masks
    assert mapped is not None
    assert mapped is not in_memory
    assert torch.equal(mapped, in_memory)


def test_an_entry_without_its_masks_is_made_again(tmp_path: Path) -> None:
    prepared(tmp_path, with_broken(masks=masks()), channels=1)
    (entry,) = folders(tmp_path / "cache")
    assert json.loads((entry / "items.json").read_text())["masks"] == [100, 8, 8]
    (entry / "masks.npy").unlink()
    found = prepared(tmp_path, with_broken(masks=masks()), channels=1)
    assert found.masks is not None


def test_as_many_masks_as_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"its source gives .*'masks': 2"):
        prepared(tmp_path, with_broken(masks=[None, None]), channels=1)
