from __future__ import annotations

from pathlib import Path

import pytest

from advvae.data import load_split
from advvae.errors import UserError
from tests.data import official_files
from tests.data.configured import source_of


def test_reads_the_archives_layout(tmp_path: Path) -> None:
    root = official_files.write_tiny_imagenet(tmp_path)
    train, val = (source_of("tinyimagenet").read(split, tmp_path) for split in ("train", "val"))
    assert train.classes == ["goldfish, Carassius auratus", "Egyptian cat"]  # by WordNet number
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert val.labels.tolist() == [1, 0]
    assert val.paths == [str(root / "val/images/val_0.JPEG"), str(root / "val/images/val_1.JPEG")]


def test_folders_of_images_are_watched(tmp_path: Path) -> None:
    root = official_files.write_tiny_imagenet(tmp_path)
    assert root / "train/n01443537/images" in source_of("tinyimagenet").files("train", tmp_path)
    assert root / "val/images" in source_of("tinyimagenet").files("val", tmp_path)


def test_official_val_is_the_test_split(tmp_path: Path) -> None:
    official_files.write_tiny_imagenet(tmp_path)
    test = load_split(source_of("tinyimagenet"), "test", name="tiny", size=64, channels=3, data_dir=tmp_path)
    assert (test.official_split, len(test)) == ("val", 2)
    val = load_split(source_of("tinyimagenet"), "val", name="tiny", size=64, channels=3, data_dir=tmp_path)
    assert (val.official_split, len(val)) == ("train", 1)


@pytest.mark.parametrize("file", ["wnids.txt", "words.txt", "val/val_annotations.txt"])
def test_missing_file_is_named(file: str, tmp_path: Path) -> None:
    (official_files.write_tiny_imagenet(tmp_path) / file).unlink()
    with pytest.raises(UserError, match=rf"tinyimagenet: .* is broken \(.*{file}.*\): remove the folder"):
        source_of("tinyimagenet").read("val", tmp_path)
