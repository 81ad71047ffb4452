"""Downloads from a server on this machine: complete, or nothing at all."""

from __future__ import annotations

import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

from advvae.data import load_split, tiny_imagenet
from advvae.data.download import OfficialFile, fetch
from advvae.errors import UserError
from tests.data import official_files
from tests.data.configured import source_of
from tests.data.official_files import server

NOWHERE = "http://127.0.0.1:9/"  # the discard port: nothing listens


def visible(folder: Path) -> list[str]:
    """All files below a folder but the hidden lock files."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")


def test_mnist_is_downloaded_from_its_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_dir = tmp_path / "data"
    with server(tmp_path / "web") as url:
        official_files.write_mnist_archives(tmp_path / "web", monkeypatch, url)
        assert len(source_of("mnist").read("test", data_dir).images) == 10
    assert len(source_of("mnist").read("train", data_dir).images) == 20  # all four files came at once
    assert not list(data_dir.glob(".partial*"))


def test_mnist_archives_put_there_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official_files.write_mnist_archives(tmp_path / "MNIST" / "raw", monkeypatch, NOWHERE)
    assert len(source_of("mnist").read("test", tmp_path).images) == 10
    assert not (tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz").is_symlink()


def test_truncated_download_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_dir, web = tmp_path / "data", tmp_path / "web"
    with server(web) as url:
        official_files.write_mnist_archives(web, monkeypatch, url)
        archive = web / "t10k-images-idx3-ubyte.gz"
        archive.write_bytes(archive.read_bytes()[:500])
        with pytest.raises(UserError, match=r"MNIST could not be downloaded .*File not found or corrupted"):
            source_of("mnist").read("test", data_dir)
    assert not data_dir.exists()


def test_failed_download_leaves_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medmnist import INFO

    monkeypatch.setitem(INFO, "octmnist", {**INFO["octmnist"], "url": NOWHERE})
    with pytest.raises(UserError, match="could not be downloaded"):
        load_split(source_of("octmnist"), "test", name="oct", size=32, channels=1, data_dir=tmp_path / "new" / "data")
    assert list(tmp_path.iterdir()) == []


def test_no_network_says_what_to_get_and_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", [NOWHERE])
    with pytest.raises(UserError) as error:
        source_of("mnist").read("test", tmp_path)
    message = str(error.value)
    assert message.startswith("MNIST could not be downloaded (")
    assert "Connection refused" in message
    assert (
        f"get {NOWHERE}t10k-labels-idx1-ubyte.gz and save it as {tmp_path}/MNIST/raw/t10k-labels-idx1-ubyte.gz"
        in message
    )
    assert "\n" not in message


def test_every_downloaded_set_says_where_its_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", fail)
    expected = {
        "fashionmnist": "FashionMNIST/raw/train-images-idx3-ubyte.gz",
        "kmnist": "KMNIST/raw/train-images-idx3-ubyte.gz",
        "cifar10": "cifar-10-python.tar.gz",
        "cifar100": "cifar-100-python.tar.gz",
        "svhn": "SVHN/train_32x32.mat",
        "dtd": "dtd/dtd-r1.0.1.tar.gz",
        "places365": "Places365/train_256_places365standard.tar",
        "tinyimagenet": "tiny-imagenet-200.zip",
        "octmnist": "MedMNIST/octmnist.npz",
    }
    for name, path in expected.items():
        with pytest.raises(UserError, match=r"could not be downloaded \(no network\): get http") as error:
            source_of(name).read("train", tmp_path)
        assert f"and save it as {tmp_path}/{path}" in str(error.value)
    assert visible(tmp_path) == []


def test_celeba_names_its_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr("torchvision.datasets.celeba.download_file_from_google_drive", fail)
    with pytest.raises(UserError, match="no network") as error:
        source_of("celeba").read("train", tmp_path)
    url = "https://drive.google.com/file/d/0B7EVK8r0v71pZjFTYXZWM3FlRnM"
    assert f"get {url} and save it as {tmp_path}/celeba/img_align_celeba.zip" in str(error.value)


def test_celeba_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gdown", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"CelebA .* \(it needs gdown: pip install gdown\): get http"):
        source_of("celeba").read("train", tmp_path)


def test_broken_archive_put_there_by_hand_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "MNIST" / "raw"
    official_files.write_mnist_archives(folder, monkeypatch, NOWHERE)
    path = folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(b"an error page")
    with pytest.raises(UserError, match=f"MNIST: {path} is broken .its checksum is wrong.: remove it"):
        source_of("mnist").read("test", tmp_path)


def test_medmnist_is_downloaded_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medmnist import INFO

    content = official_files.medmnist_file("octmnist")
    official_files.write_file(tmp_path / "web" / "octmnist.npz", content)
    with server(tmp_path / "web") as url:
        info = {**INFO["octmnist"], "url": f"{url}octmnist.npz?download=1", "MD5": official_files.md5(content)}
        monkeypatch.setitem(INFO, "octmnist", info)
        assert len(source_of("octmnist").read("val", tmp_path / "good").images) == 6
        monkeypatch.setitem(INFO, "octmnist", {**info, "MD5": official_files.md5(b"other")})
        with pytest.raises(UserError, match="octmnist could not be downloaded"):
            source_of("octmnist").read("val", tmp_path / "bad")
    assert visible(tmp_path / "good") == ["MedMNIST/octmnist.npz"]
    assert visible(tmp_path / "bad") == []


def test_dtd_archive_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import DTD

    archive = official_files.tar({f"./{name}": content for name, content in official_files.dtd_files().items()}, "w:gz")
    official_files.write_file(tmp_path / "dtd" / "dtd-r1.0.1.tar.gz", archive)
    monkeypatch.setattr(DTD, "_MD5", official_files.md5(archive))
    assert len(source_of("dtd").read("val", tmp_path).images) == 2
    assert (tmp_path / "dtd" / "dtd-r1.0.1.tar.gz").is_file()


def test_tiny_imagenet_archive_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = official_files.tiny_imagenet_archive()
    official_files.write_file(tmp_path / "web" / "tiny.zip", archive)
    with server(tmp_path / "web") as url:
        official = OfficialFile(f"{url}tiny.zip", "tiny.zip", official_files.md5(archive))
        monkeypatch.setattr(tiny_imagenet, "ARCHIVE", official)
        assert len(source_of("tinyimagenet").read("val", tmp_path / "data").images) == 2


def test_two_at_once_download_once(tmp_path: Path) -> None:
    root, calls = tmp_path / "data", []

    def download(folder: Path) -> None:
        calls.append(folder)
        (folder / "set").mkdir()
        (folder / "set" / "file").write_text("content")

    def start() -> None:
        present = (root / "set" / "file").is_file
        fetch("set", root, [OfficialFile(NOWHERE, "set.zip")], present=present, kept=(), download=download)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert visible(root) == ["set/file"]


def test_interrupted_download_is_cleared_away(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("set", tmp_path, [OfficialFile(NOWHERE, "a")], present=lambda: False, kept=(), download=interrupted)
    assert visible(tmp_path) == []
    assert not (tmp_path / ".partial-set").exists()


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"set is not in .*, which cannot be written: get http.* or set data_dir"):
        fetch("set", tmp_path / "data", [OfficialFile(NOWHERE, "a")], present=lambda: False, kept=(), download=print)


def test_full_disk(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"set: .* cannot be written \(No space left on device\): set data_dir"):
        fetch("set", tmp_path, [OfficialFile(NOWHERE, "a")], present=lambda: False, kept=(), download=full)


def test_archive_stays_inside_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The .zip that is unpacked here may name files outside; they end up inside."""
    archive = tmp_path / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../escaped", b"")
    monkeypatch.setattr(tiny_imagenet, "ARCHIVE", OfficialFile(NOWHERE, archive.name, official_files.md5(archive)))
    with pytest.raises(UserError):
        source_of("tinyimagenet").read("val", tmp_path)
    assert not (tmp_path.parent / "escaped").exists()
