from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from advvae.data import infer_channels, load_split
from advvae.data.files import Folder
from advvae.data.splits import Split
from advvae.errors import UserError
from tests.data.official_files import random_images


def save(path: Path, seed: int = 0, channels: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (12, 12, 3) if channels == 3 else (12, 12)
    Image.fromarray(random_images(*shape, seed=seed)).save(path)
    return path


def load(root: Path, split: str, data_dir: Path, channels: int = 3) -> Split:
    return load_split(Folder(str(root)), split, name="folder", size=8, channels=channels, data_dir=data_dir)


def test_flat_without_classes(tmp_path: Path) -> None:
    paths = [save(tmp_path / "images" / f"{i:02d}.png", i) for i in range(20)]
    source = Folder(str(tmp_path / "images"))
    items = source.read("train", tmp_path)
    assert list(source.splits) == ["train"]
    assert list(items.paths or ()) == [str(path) for path in paths]
    assert (items.labels.tolist(), list(items.classes)) == ([-1] * 20, [])
    splits = [load(tmp_path / "images", split, tmp_path) for split in ("train", "val", "test")]
    assert [len(split) for split in splits] == [13, 2, 5]  # by chance, as the names have it: about 14, 2, 4
    assert splits[0].label_names() == [""] * 13


def test_flat_with_classes_at_any_depth(tmp_path: Path) -> None:
    save(tmp_path / "images/cat/a/b/1.JPG")
    save(tmp_path / "images/dog/2.bmp")
    save(tmp_path / "images/3.png")
    save(tmp_path / "images/.hidden/4.png")
    save(tmp_path / "images/cat/._5.png")
    (tmp_path / "images/cat/notes.txt").write_text("no image")
    items = Folder(str(tmp_path / "images")).read("train", tmp_path)
    assert list(items.classes) == ["cat", "dog"]
    assert items.paths is not None
    named = {Path(path).name: label for path, label in zip(items.paths, items.labels.tolist(), strict=True)}
    assert named == {"1.JPG": 0, "2.bmp": 1, "3.png": -1}


def test_classes_have_the_same_number_in_every_split(tmp_path: Path) -> None:
    save(tmp_path / "images/train/good/1.png")
    save(tmp_path / "images/test/broken/1.png")
    save(tmp_path / "images/test/good/2.png")
    source = Folder(str(tmp_path / "images"))
    assert list(source.splits) == ["train", "test"]
    assert source.read("train", tmp_path).labels.tolist() == [1]
    assert source.read("test", tmp_path).labels.tolist() == [0, 1]
    assert list(source.read("train", tmp_path).classes) == ["broken", "good"]


def test_links_are_followed_once(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere/1.png")
    save(tmp_path / "images/cat/2.png")
    (tmp_path / "images/dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images/self").symlink_to(".")
    items = Folder(str(tmp_path / "images")).read("train", tmp_path)
    assert list(items.paths or ()) == [str(tmp_path / "images" / name) for name in ("cat/2.png", "dog/1.png")]


def test_links_do_not_mix_splits(tmp_path: Path) -> None:
    root = tmp_path / "images"
    train, test = save(root / "train/1.png"), save(root / "test/2.png")
    (root / "train/up").symlink_to(root)
    (root / "train/other").symlink_to(root / "test")
    (root / "val").symlink_to("test")
    read = {split: list(Folder(str(root)).read(split, tmp_path).paths or ()) for split in ("train", "val", "test")}
    assert read == {"train": [str(train)], "val": [str(root / "val/2.png")], "test": [str(test)]}


def test_link_to_nowhere_is_an_unreadable_image(tmp_path: Path) -> None:
    save(tmp_path / "images/test/1.png")
    (tmp_path / "images/test/2.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match=r"test/2\.png is unreadable .* No such file"):
        load(tmp_path / "images", "test", tmp_path)


def test_unreadable_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "images/cat/1.png")
    scandir = os.scandir

    def refuse(path: Any) -> Any:  # root may read all folders, so that permissions prove nothing
        if str(path).endswith("cat"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"images/cat cannot be read \(Permission denied\)"):
        Folder(str(tmp_path / "images")).read("train", tmp_path)


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_other_names_of_val(name: str, tmp_path: Path) -> None:
    path = save(tmp_path / "images" / name / "1.png")
    assert Folder(str(tmp_path / "images")).splits == ["train"]  # alone, it is a class
    save(tmp_path / "images/test/2.png")
    source = Folder(str(tmp_path / "images"))
    assert set(source.splits) == {"val", "test"}
    assert list(source.read("val", tmp_path).paths or ()) == [str(path)]


def test_images_of_no_split_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "images"
    for path in ("train/1.png", "extra/2.png", "extra/deep/3.png", "4.png", ".hidden/5.png", "__MACOSX/6.png"):
        save(root / path)
    Folder(str(root)).read("train", tmp_path)
    named = "4.png, extra/2.png, extra/deep/3.png"
    assert caplog.messages == [f"{root}: 3 left out, as only train are used: {named}"]


def test_what_archives_of_apple_hold_is_left_out(tmp_path: Path) -> None:
    path = save(tmp_path / "images/1.png")
    save(tmp_path / "images/__MACOSX/1.png")
    assert Folder(str(tmp_path / "images")).files("train", tmp_path) == [path]


def test_only_the_first_page_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pages = [Image.fromarray(random_images(12, 12, seed=seed)) for seed in range(2)]
    (tmp_path / "images/test").mkdir(parents=True)
    for suffix in ("tif", "gif"):
        pages[0].save(tmp_path / f"images/test/several.{suffix}", save_all=True, append_images=pages[1:])
        pages[0].save(tmp_path / f"images/test/one.{suffix}")
    deep = Image.fromarray(random_images(12, 12).astype(np.uint16) * 256)
    deep.save(tmp_path / "images/test/deep.tif", save_all=True, append_images=[deep])
    with caplog.at_level(logging.INFO):
        load(tmp_path / "images", "test", tmp_path, channels=1)
    assert "folder test: 3 images have several pages or frames; of these, only the first is used" in caplog.messages


def test_cut_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for i in range(30):
        save(tmp_path / "images" / f"{i:02d}.png")
    with caplog.at_level(logging.INFO):
        load(tmp_path / "images", "test", tmp_path)
    assert "folder has no test split: 6 of its 30 training images, always the same, are used" in caplog.messages


def test_inferred_channels_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "grey/1.png", channels=1)
    with caplog.at_level(logging.INFO):
        infer_channels(Folder(str(tmp_path / "grey")), tmp_path)
    assert caplog.messages == ["channels=1, as the first image"]


def test_channels_follow_the_first_image(tmp_path: Path) -> None:
    save(tmp_path / "grey/1.png", channels=1)
    save(tmp_path / "colour/1.png")
    save(tmp_path / "test_only/test/1.png", channels=1)
    assert infer_channels(Folder(str(tmp_path / "grey")), tmp_path) == 1
    assert infer_channels(Folder(str(tmp_path / "colour")), tmp_path) == 3
    assert infer_channels(Folder(str(tmp_path / "test_only")), tmp_path) == 1


def test_root_is_asked_for() -> None:
    with pytest.raises(UserError, match=r"dataset\.root .* is not set"):
        _ = Folder().splits


def test_missing_root(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.root .*/nowhere: there is no such folder"):
        load(tmp_path / "nowhere", "test", tmp_path)


def test_empty_root(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"/empty holds no images \(looked for png, .*\): check dataset\.root"):
        load(tmp_path / "empty", "test", tmp_path)


def test_split_without_images(tmp_path: Path) -> None:
    save(tmp_path / "images/test/1.png")
    with pytest.raises(UserError, match="has no images for train: it has only test"):
        load(tmp_path / "images", "train", tmp_path)
    assert len(load(tmp_path / "images", "test", tmp_path)) == 1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_unreadable_images_are_named_and_counted(num_workers: int, tmp_path: Path) -> None:
    paths = [save(tmp_path / "images/test" / f"{i}.png", i) for i in range(5)]
    paths[1].write_bytes(paths[1].read_bytes()[:100])  # truncated
    paths[2].write_text("no image at all")
    paths[4].write_bytes(b"")
    with pytest.raises(UserError) as error:
        load_split(
            Folder(str(tmp_path / "images")), "test", name="folder", size=8, channels=3, data_dir=tmp_path,
            num_workers=num_workers,
        )  # fmt: skip
    message = str(error.value)
    assert message.startswith(f"folder test: {paths[1]} is unreadable (")
    assert "), and so are 2 more of its 5 images: 60.0% of all, more than dataset.max_unreadable=0.01; " in message
    assert "\n" not in message


def test_unreadable_first_image_when_channels_are_inferred(tmp_path: Path) -> None:
    path = save(tmp_path / "images/1.png")
    path.write_text("no image")
    with pytest.raises(UserError, match=f"{path} is unreadable"):
        infer_channels(Folder(str(tmp_path / "images")), tmp_path)


def test_changed_files_are_prepared_again(tmp_path: Path) -> None:
    root = tmp_path / "images"
    save(root / "test/1.png", seed=1)
    before = load(root, "test", tmp_path)
    save(root / "test/1.png", seed=2)
    changed = load(root, "test", tmp_path)
    assert not np.array_equal(before.images.numpy(), changed.images.numpy())
    save(root / "test/2.png", seed=3)
    assert len(load(root, "test", tmp_path)) == 2
    (root / "test/1.png").unlink()
    assert list(load(root, "test", tmp_path).paths or ()) == [str(root / "test/2.png")]
