"""Each dataset of torchvision, in its official format, through its file of conf/dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from advvae.data import Items
from advvae.data.images import to_array
from advvae.data.source import Form
from advvae.errors import UserError
from tests.data import official_files
from tests.data.configured import source_of


def read(name: str, split: str, data_dir: Path) -> Items:
    items = source_of(name).read(split, data_dir)
    assert len(items.images) == len(items.labels)
    return items


def array_of(items: Items, index: int) -> np.ndarray:
    return to_array(items.images[index], Form(256, 3))


@pytest.mark.parametrize(
    ("name", "dataset"), [("mnist", "MNIST"), ("fashionmnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_mnist_like(name: str, dataset: str, tmp_path: Path) -> None:
    official_files.write_mnist(tmp_path, dataset)
    assert source_of(name).splits == ["train", "test"]
    items = read(name, "test", tmp_path)
    assert items.labels.tolist() == list(range(10))
    assert len(items.classes) == 10
    assert np.array_equal(array_of(items, 3)[:, :, 0], official_files.random_images(10, 28, 28, seed=1)[3])
    assert len(read(name, "train", tmp_path).images) == 20


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar(name: str, classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official_files.write_cifar(tmp_path, monkeypatch, classes)
    items = read(name, "test", tmp_path)
    assert items.labels.tolist() == list(range(10))
    assert items.classes[:2] == ["class 0", "class 1"]
    assert len(items.classes) == classes
    stored = official_files.random_images(10, 3072, seed=9)[3].reshape(3, 32, 32)
    assert np.array_equal(array_of(items, 3), stored.transpose(1, 2, 0))
    assert len(read(name, "train", tmp_path).images) == (100 if classes == 10 else 20)


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = official_files.write_svhn(tmp_path, monkeypatch)
    items = read("svhn", "test", tmp_path)
    assert items.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert items.classes == [str(digit) for digit in range(10)]
    assert np.array_equal(array_of(items, 3), images["test"][3])


def test_dtd(tmp_path: Path) -> None:
    official_files.write_dtd(tmp_path)
    for split, count in {"train": 4, "val": 2, "test": 4}.items():
        items = read("dtd", split, tmp_path)
        assert items.labels.tolist() == [0] * (count // 2) + [1] * (count // 2)
        assert items.classes == ["banded", "woven"]
    assert array_of(items, 0).shape == (30, 40, 3)
    assert items.paths is not None
    assert items.paths[0] == str(tmp_path / "dtd/dtd/images/banded/banded_0003.jpg")


def test_places365(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official_files.write_places365(tmp_path, monkeypatch)
    train, val = read("places365", "train", tmp_path), read("places365", "val", tmp_path)
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert val.labels.tolist() == [1, 0]
    assert train.classes == ["airfield", "zoo"]
    assert train.paths is not None
    assert train.paths[2] == str(tmp_path / "Places365/data_256_standard/z/zoo/00000001.jpg")
    assert array_of(val, 1).shape == (20, 20, 3)


def test_imagenet_from_its_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = official_files.write_imagenet_archives(tmp_path, monkeypatch)
    val = read("imagenet", "val", tmp_path)
    assert val.labels.tolist() == [0, 1]  # sorted by folder; the ground truth calls the first image a goldfish
    assert val.classes == ["tench, Tinca tinca", "goldfish"]
    assert val.paths is not None
    assert Path(val.paths[1]).name == "ILSVRC2012_val_00000001.JPEG"
    assert read("imagenet", "train", tmp_path).labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert sorted(
        path.name for path in root.iterdir() if path.name[0] != "." and path.suffix not in (".tar", ".gz")
    ) == [
        "meta.bin",
        "train",
        "val",
    ]


@pytest.mark.parametrize("unpacked", [True, False])
def test_celeba(unpacked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official_files.write_celeba(tmp_path, monkeypatch, unpacked=unpacked)
    items = read("celeba", "test", tmp_path)
    assert items.classes == ["Bald", "Smiling", "Young"]
    assert items.labels.tolist() == [[0, 1, 1], [1, 1, 1]]  # the numbers 6 and 7, lowest bit first
    assert items.paths == [str(tmp_path / f"celeba/img_align_celeba/00000{i}.jpg") for i in (7, 8)]
    assert array_of(items, 0).shape == (218, 178, 3)
    assert len(read("celeba", "train", tmp_path).images) == 4
    assert len(read("celeba", "val", tmp_path).images) == 2


def test_grey_files_of_a_colour_set_stay_grey(tmp_path: Path) -> None:
    official_files.write_dtd(tmp_path)
    path = tmp_path / "dtd/dtd/images/banded/banded_0000.jpg"
    Image.open(path).convert("L").save(path)
    assert array_of(read("dtd", "train", tmp_path), 0).shape == (30, 40, 1)


def test_truncated_mnist_is_named(tmp_path: Path) -> None:
    path = official_files.write_mnist(tmp_path) / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=rf"MNIST: {path} is broken \(.*\): remove it") as error:
        read("mnist", "test", tmp_path)
    assert "\n" not in str(error.value)


def test_corrupted_cifar_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = official_files.write_cifar(tmp_path, monkeypatch) / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"CIFAR10: {path} is broken"):
        read("cifar10", "test", tmp_path)


def test_corrupted_svhn_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official_files.write_svhn(tmp_path, monkeypatch)
    path = tmp_path / "SVHN" / "test_32x32.mat"
    path.write_bytes(b"not a mat file")
    with pytest.raises(UserError, match=f"SVHN: {path} is broken"):
        read("svhn", "test", tmp_path)
    assert len(read("svhn", "train", tmp_path).images) == 20


def test_one_missing_file_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with official_files.server(tmp_path / "web") as url:
        official_files.write_mnist_archives(tmp_path / "web", monkeypatch, url)
        path = official_files.write_mnist(tmp_path) / "train-labels-idx1-ubyte"
        path.unlink()
        assert len(read("mnist", "test", tmp_path).images) == 10
    assert path.is_file()


def test_imagenet_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = official_files.write_imagenet_archives(tmp_path, monkeypatch)
    read("imagenet", "val", tmp_path)
    next(root.glob("*devkit*")).unlink()  # what was in it is in meta.bin
    assert len(read("imagenet", "train", tmp_path).images) == 6


def test_replaced_image_is_noticed(tmp_path: Path) -> None:
    official_files.write_dtd(tmp_path)
    assert tmp_path / "dtd/dtd/images/banded/banded_0000.jpg" in source_of("dtd").files("train", tmp_path)


def test_imagenet_without_archives_says_which(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read("imagenet", "val", tmp_path)
    assert f"save it as {tmp_path}/ImageNet/ILSVRC2012_devkit_t12.tar.gz" in str(error.value)
    assert f"save it as {tmp_path}/ImageNet/ILSVRC2012_img_val.tar" in str(error.value)
    assert "image-net.org" in str(error.value)
    assert "train.tar" not in str(error.value)
    assert ".partial" not in str(error.value)


def test_unknown_class_of_torchvision(tmp_path: Path) -> None:
    source: Any = source_of("mnist", dataset="MNOST")
    official_files.write_mnist(tmp_path)
    with pytest.raises(UserError, match=r"MNOST: torchvision\.datasets has no class of this name"):
        source.read("test", tmp_path)
