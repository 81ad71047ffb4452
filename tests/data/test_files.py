from __future__ import annotations

from pathlib import Path

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
    assert items.paths == [str(path) for path in paths]
    assert (items.labels.tolist(), list(items.classes)) == ([-1] * 20, [])
    splits = [load(tmp_path / "images", split, tmp_path) for split in ("train", "val", "test")]
    assert [len(split) for split in splits] == [14, 2, 4]  # 20 % to test on, 10 % of the other 16 to validate
    assert splits[0].label_names() == [""] * 14


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
    assert message.endswith("), and so are 2 more of its 5 images: remove or replace them")
    assert "\n" not in message
    assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


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
    assert load(root, "test", tmp_path).paths == [str(root / "test/2.png")]
