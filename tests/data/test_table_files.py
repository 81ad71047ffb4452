"""`Folder` with a CSV file: what is there, what is not, and what is told of it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from advvae.data.files import Folder
from advvae.errors import UserError
from tests.data.medical_files import PATIENT, write_dicom
from tests.data.test_files import save


def write(root: Path, *lines: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    path = root / "list.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_rows_give_images_labels_and_groups(tmp_path: Path) -> None:
    for name in ("a.png", "deep/er/b.png", "../elsewhere/c.png"):
        save(tmp_path / "images" / name)
    table = write(tmp_path / "images", "path,label,group,split", "a.png,x,p1,train", "deep/er/b.png,y,p2,test",
                  "../elsewhere/c.png,x,p1,train")  # fmt: skip
    source = Folder(csv=str(table))  # paths are relative to its own folder
    assert list(source.splits) == ["train", "test"]
    train, test = source.read("train", tmp_path), source.read("test", tmp_path)
    assert list(train.paths or ()) == [str(tmp_path / "images" / name) for name in ("a.png", "../elsewhere/c.png")]
    assert (train.labels.tolist(), train.classes) == ([0, 0], ["x", "y"])
    assert (test.labels.tolist(), test.classes) == ([1], ["x", "y"])
    assert (train.groups is not None and train.groups.tolist()) == ["p1", "p1"]
    assert (test.groups is not None and test.groups.tolist()) == ["p2"]
    assert train.images[1].size == (12, 12)


def test_root_and_table_may_lie_apart(tmp_path: Path) -> None:
    save(tmp_path / "images/a.png")
    table = write(tmp_path / "tables", "path", "a.png")
    paths = Folder(str(tmp_path / "images"), csv=str(table)).read("train", tmp_path).paths
    assert list(paths or ()) == [str(tmp_path / "images/a.png")]


def test_images_without_a_group_are_groups_of_their_own(tmp_path: Path) -> None:
    for name in "abc":
        save(tmp_path / f"images/{name}.png")
    table = write(tmp_path / "images", "path,group", "a.png,", "b.png,", "c.png,a")
    groups = Folder(csv=str(table)).read("train", tmp_path).groups
    assert groups is not None
    assert len(set(groups.tolist())) == 3
    table = write(tmp_path / "images", "path", "a.png", "b.png", "c.png")
    assert Folder(csv=str(table)).read("train", tmp_path).groups is None


def test_what_is_left_out_is_counted_and_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "images"
    for name in ("a.png", "b.png", "c.png", "extra/5.png", "extra/6.png", "extra/7.png", "8.png"):
        save(root / name)
    table = write(
        root,
        "path,label,split",
        "a.png,x,train",
        "b.png,x,test",
        "a.png,y,train",
        "gone.png,x,test",
        "c.png,x,",
    )
    source = Folder(str(root), str(table))
    with caplog.at_level(logging.INFO):
        train, test = source.read("train", tmp_path), source.read("test", tmp_path)
    assert caplog.messages == [
        f"{table}: 1 left out, as an earlier row names it too and says something else: a.png",
        f"{table}: 1 left out, as its row has no split and others have one: c.png",
        f"{table}: 1 left out, as there is no such file: gone.png",
        f"{table}: 4 left out, as no row names it: 8.png, extra/5.png, extra/6.png and 1 more",
    ]
    Folder(str(root), str(table)).read("train", tmp_path)  # as another set of the same command may
    assert len(caplog.messages) == 4
    assert test.left_out == [(str(root / "gone.png"), "there is no such file")]  # the rest is of no split: the first's
    assert [Path(path).name for path, _ in train.left_out] == ["a.png", "c.png", "8.png", "5.png", "6.png", "7.png"]


def test_beside_a_table_without_root_only_its_own_folders_are_looked_into(tmp_path: Path) -> None:
    for name in ("images/a.png", "images/b.png", "outputs/samples.png", "c.png"):
        save(tmp_path / name)
    table = write(tmp_path, "path", "images/a.png")
    left_out = Folder(csv=str(table)).read("train", tmp_path).left_out
    assert [path for path, _ in left_out] == [str(tmp_path / "c.png"), str(tmp_path / "images/b.png")]


def test_notes_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in "ab":
        save(tmp_path / f"images/{name}.png")
    table = write(tmp_path / "images", "path,label,split", "a.png,x;y,train", "b.png,normal,test")
    source = Folder(csv=str(table))
    with caplog.at_level(logging.INFO):
        train, test = source.read("train", tmp_path), source.read("test", tmp_path)
    assert caplog.messages == [f"{table}: an image may have several labels, and is normal where it has none"]
    assert (train.labels.tolist(), test.labels.tolist(), test.classes) == ([[1, 1]], [[0, 0]], ["x", "y"])


def test_no_file_of_a_split(tmp_path: Path) -> None:
    table = write(tmp_path, "path", "a.png")
    with pytest.raises(UserError, match=rf"list\.csv: no file of its train images is in {tmp_path}: check dataset"):
        Folder(csv=str(table)).read("train", tmp_path)


def test_files_name_the_table_its_images_and_masks(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "m/a.png"):
        save(tmp_path / name)
    table = write(tmp_path, "path,split,mask", "a.png,train,m/a.png", "b.png,test,")
    files = {split: Folder(csv=str(table)).files(split, tmp_path) for split in ("train", "test")}
    assert files["train"] == [table, tmp_path / "a.png", tmp_path / "m/a.png"]
    assert files["test"] == [table, tmp_path / "b.png"]


def test_reading_leaves_the_source_as_it_was(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    source = Folder(csv=str(write(tmp_path, "path", "a.png", "gone.png")))
    before = dict(vars(source))
    source.read("train", tmp_path)
    assert vars(source) == before  # they name the prepared copy


@pytest.mark.parametrize("column", [True, False])
def test_frames_of_a_file_belong_together(tmp_path: Path, column: bool) -> None:
    frames = np.arange(3 * 12 * 12, dtype=np.uint16).reshape(3, 12, 12)
    for name in ("scan", "twin"):
        write_dicom(tmp_path / f"images/{name}.dcm", frames)
    save(tmp_path / "images/z.png")
    rows = ("scan.dcm,x,p1", "twin.dcm,y,p1", "z.png,,") if column else ("scan.dcm,x", "twin.dcm,y", "z.png,")
    table = write(tmp_path / "images", "path,label,group" if column else "path,label", *rows)
    items = Folder(csv=str(table)).read("train", tmp_path)
    assert items.paths is not None
    assert items.groups is not None
    names = [Path(path).name for path in items.paths]
    assert names == ["scan.dcm#0", "scan.dcm#1", "scan.dcm#2", "twin.dcm#0", "twin.dcm#1", "twin.dcm#2", "z.png"]
    assert items.labels.tolist() == [0, 0, 0, 1, 1, 1, -1]
    groups = np.unique(items.groups, return_inverse=True)[1]
    assert len(set(groups[:3])) == 1
    assert (groups[0] == groups[3]) == column  # a patient of several files, where the table says so
    assert groups[6] not in groups[:6]
    assert PATIENT not in repr((items.paths, items.groups, items.left_out))


def test_volumes_of_a_tree_are_groups(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_dicom(tmp_path / f"images/{name}.dcm", np.zeros((2, 12, 12), np.uint8))
    groups = Folder(str(tmp_path / "images")).read("train", tmp_path).groups
    assert groups is not None
    assert groups.tolist() == ["a.dcm", "a.dcm", "b.dcm", "b.dcm"]  # wherever the folder lies
