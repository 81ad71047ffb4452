from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from advvae.data import load_split
from advvae.data.medmnist_source import MedMNISTSource
from advvae.errors import UserError
from tests.data import official_files
from tests.data.configured import dataset_config, source_of, stacked

FLAGS = [
    "pathmnist", "chestmnist", "dermamnist", "octmnist", "pneumoniamnist", "retinamnist", "breastmnist", "bloodmnist",
    "tissuemnist", "organamnist", "organcmnist", "organsmnist",
]  # fmt: skip


@pytest.mark.parametrize("flag", FLAGS)
def test_every_2d_set(flag: str, tmp_path: Path) -> None:
    official_files.write_medmnist(tmp_path, flag)
    source = source_of(flag)
    assert list(source.splits) == ["train", "val", "test"]
    items = source.read("val", tmp_path)
    channels = dataset_config(flag)["channels"]
    assert items.images[0].shape == ((28, 28) if channels == 1 else (28, 28, 3))
    if flag == "chestmnist":
        assert items.labels.shape == (6, 14)
    else:
        assert items.labels.tolist() == [i % len(items.classes) for i in range(6)]


@pytest.mark.parametrize(
    ("size", "published"), [(28, 28), (32, 28), (33, 64), (64, 64), (65, 128), (129, 224), (512, 224)]
)
def test_published_size_that_suits(size: int, published: int, tmp_path: Path) -> None:
    assert MedMNISTSource("octmnist").at_size(size).published_size(tmp_path) == published


def test_larger_file_that_is_there_is_used(tmp_path: Path) -> None:
    official_files.write_medmnist(tmp_path, size=128)
    source = MedMNISTSource("octmnist").at_size(32)
    assert source.published_size(tmp_path / "MedMNIST") == 128
    assert stacked(source.read("test", tmp_path)).shape == (10, 128, 128)
    official_files.write_medmnist(tmp_path, size=28)
    assert stacked(source.read("test", tmp_path)).shape == (10, 28, 28)


def test_published_size_follows_the_size_of_the_split(tmp_path: Path) -> None:
    official_files.write_medmnist(tmp_path, size=28)
    official_files.write_medmnist(tmp_path, size=64)
    split = load_split(source_of("octmnist"), "test", name="octmnist", size=64, channels=1, data_dir=tmp_path)
    with np.load(tmp_path / "MedMNIST" / "octmnist_64.npz") as file:
        assert np.array_equal(split.images[:, 0].numpy(), file["test_images"])


def test_smaller_file_that_is_there_is_not(tmp_path: Path) -> None:
    official_files.write_medmnist(tmp_path, size=64)
    assert MedMNISTSource("octmnist").at_size(128).published_size(tmp_path / "MedMNIST") == 128


def test_official_splits_are_taken_whole(tmp_path: Path) -> None:
    official_files.write_medmnist(tmp_path)
    for split, count in official_files.COUNTS.items():
        loaded = load_split(source_of("octmnist"), split, name="octmnist", size=32, channels=1, data_dir=tmp_path)
        assert len(loaded) == count
        assert loaded.official_split == split


def test_normal_is_an_image_without_labels(tmp_path: Path) -> None:
    official_files.write_medmnist(tmp_path, "chestmnist")

    def rows(**choice: list[str | int]) -> list[int]:
        source = source_of("chestmnist")
        loaded = load_split(
            source, "test", name="chestmnist", size=32, channels=1, data_dir=tmp_path, keep_classes=choice.get("keep"),
            drop_classes=choice.get("drop"),
        )  # fmt: skip
        return loaded.rows.tolist()

    # Image i of the fixture has the label i, but for every fourth, which has none.
    assert rows(keep=["normal"]) == [0, 4, 8]
    assert rows(drop=["normal"]) == [1, 2, 3, 5, 6, 7, 9]
    assert rows(keep=["cardiomegaly", 2]) == [1, 2]


def test_broken_file_is_named(tmp_path: Path) -> None:
    path = official_files.write_medmnist(tmp_path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=f"octmnist: {path} is broken"):
        source_of("octmnist").read("test", tmp_path)


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "MedMNIST" / "octmnist.npz"
    path.parent.mkdir()
    np.savez(path, test_images=np.array([{}], dtype=object), test_labels=np.zeros((1, 1)))
    with pytest.raises(UserError, match="is broken"):
        source_of("octmnist").read("test", tmp_path)


def test_3d_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MedMNIST has no 2-D set of this name"):
        MedMNISTSource("organmnist3d").read("test", tmp_path)
