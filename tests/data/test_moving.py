"""Sets that are moved, copied or touched are known again; those that have changed are not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from advvae.data import Items, store
from advvae.data.array import Array
from advvae.data.entries import Prepared
from advvae.data.files import Folder
from advvae.errors import UserError
from tests.data import official_files
from tests.data.configured import source_of
from tests.data.given import Given, folders, prepared


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the entries that are made."""
    names: list[str] = []
    write_entry = store.write_entry

    def noted(items: Items, folder: Path, **options: Any) -> None:
        names.append(folder.name)
        write_entry(items, folder, **options)

    monkeypatch.setattr(store, "write_entry", noted)
    return names


def write_images(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9), number, np.uint8)).save(root / name)


def paths_of(found: Prepared) -> list[str]:
    return list(found.paths or ())


def test_a_folder_that_is_moved_copied_or_touched(tmp_path: Path, made: list[str]) -> None:
    old, new, copy = (tmp_path / name for name in ("old", "new/place", "copy"))
    write_images(old, "test/a/1.png", "test/b/2.png")
    (old / "test/b/3.png").write_bytes(b"no image")
    options: dict[str, Any] = {"data_dir": tmp_path, "max_unreadable": 0.5}
    assert paths_of(prepared(source=Folder(str(old)), **options)) == [f"{old}/test/a/1.png", f"{old}/test/b/2.png"]
    new.parent.mkdir()
    old.rename(new)
    shutil.copytree(new, copy)
    for root in (new, copy):
        found = prepared(source=Folder(str(root)), **options)
        assert paths_of(found) == [f"{root}/test/a/1.png", f"{root}/test/b/2.png"]
        assert [path for _, path, _ in found.left_out.unreadable] == [f"{root}/test/b/3.png"]
    os.utime(copy / "test/a/1.png", (1, 1))
    prepared(source=Folder(str(copy)), **options)
    assert len(made) == 1
    shutil.copy(copy / "test/a/1.png", copy / "test/b/2.png")
    assert prepared(source=Folder(str(copy)), **options).images[1].max() == 0
    assert len(made) == 2


def test_paths_follow_the_current_folder(tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "scans", "test/1.png")
    for root in (str(tmp_path / "scans"), "scans", ".", str(tmp_path / "scans")):
        monkeypatch.chdir(tmp_path / "scans" if root == "." else tmp_path)
        found = prepared(tmp_path, Folder(root))
        assert paths_of(found) == [str(Path(root) / "test/1.png")]
    assert len(made) == 1


def test_a_table_elsewhere_and_files_elsewhere(
    tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path, "root/1.png", "away/2.png")
    table = tmp_path / "table.csv"
    table.write_text(f"path,split\n1.png,test\n{tmp_path}/away/2.png,test")
    monkeypatch.chdir(tmp_path / "root")
    assert paths_of(prepared(tmp_path, Folder(".", csv=str(table)))) == ["1.png", f"{tmp_path}/away/2.png"]
    (tmp_path / "root").rename(tmp_path / "moved")
    found = prepared(tmp_path, Folder(str(tmp_path / "moved"), csv=str(table)))
    assert paths_of(found) == [f"{tmp_path}/moved/1.png", f"{tmp_path}/away/2.png"]
    assert len(made) == 1


@pytest.mark.parametrize("change", [{"masks": "other"}, {"slices": "coronal"}])
def test_arguments_beside_the_folder_count(change: dict[str, Any], tmp_path: Path, made: list[str]) -> None:
    write_images(tmp_path / "root", "1.png", "other/1.png")  # the same files are read with and without
    for arguments in ({}, change):
        prepared(tmp_path, Folder(str(tmp_path / "root"), **arguments), split="train")
    assert len(made) == 2


def test_a_class_that_another_split_gets_gives_new_numbers(tmp_path: Path) -> None:
    write_images(tmp_path, "train/a/1.png", "test/c/1.png")
    assert prepared(tmp_path, Folder(str(tmp_path))).labels.tolist() == [1]
    write_images(tmp_path, "train/b/1.png")
    found = prepared(tmp_path, Folder(str(tmp_path)))
    assert (found.labels.tolist(), list(found.classes)) == ([2], ["a", "b", "c"])


def test_an_array_that_is_moved(tmp_path: Path, made: list[str]) -> None:
    np.savez(tmp_path / "a.npz", test_images=np.zeros((3, 9, 9), np.uint8))
    prepared(tmp_path, Array(str(tmp_path / "a.npz")))
    (tmp_path / "new").mkdir()
    (tmp_path / "a.npz").rename(tmp_path / "new" / "a.npz")
    prepared(tmp_path, Array(str(tmp_path / "new" / "a.npz")))
    assert len(made) == 1


def test_a_data_dir_that_is_moved_or_copied(tmp_path: Path, made: list[str]) -> None:
    old, new, copy = (tmp_path / name for name in ("old", "new", "copy"))
    official_files.write_dtd(old)
    official_files.write_mnist(old)
    for data_dir in (old, new, copy):
        prepared(data_dir, source_of("mnist"), channels=1)
        found = prepared(data_dir, source_of("dtd"), split="val")
        assert all(Path(path).is_relative_to(data_dir) and Path(path).is_file() for path in paths_of(found))
        if data_dir == old:
            old.rename(new)
            shutil.copytree(new, copy)
    assert len(made) == 2


def test_files_in_a_folder_of_an_official_set_count(tmp_path: Path, made: list[str]) -> None:
    root = official_files.write_tiny_imagenet(tmp_path)
    found = prepared(tmp_path, source_of("tinyimagenet"), split="train")
    first = Path(paths_of(found)[0])
    assert first.is_relative_to(root)
    shutil.copy(first, first.with_name("another.JPEG"))
    assert len(prepared(tmp_path, source_of("tinyimagenet"), split="train").images) == len(found.images) + 1
    assert len(made) == 2


class Changing(Given):
    """Its file gets another content while its images are prepared."""

    def files(self, split: str, data_dir: Path) -> list[Path]:
        return [data_dir / "file"]

    def read(self, split: str, data_dir: Path) -> Items:
        class Images(list[np.ndarray]):
            def __getitem__(self, index: Any) -> Any:
                (data_dir / "file").write_text("changed")
                return super().__getitem__(index)

        return Items(Images(self.images[:3]), np.zeros(3, np.int64), ["only"])


def test_files_that_change_on_the_way_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    with pytest.raises(UserError, match="given test: its files have changed while they were prepared: start again"):
        prepared(tmp_path, Changing())
    assert not folders(tmp_path / "cache")
    assert len(prepared(tmp_path, Changing()).images) == 3
