"""Downloads from a server on this machine: complete, or nothing at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from advvae.data import load_split, tiny_imagenet
from advvae.data.download import OfficialFile, fetch
from advvae.errors import UserError
from tests.command import TINY
from tests.data import official_files
from tests.data.configured import source_of
from tests.data.official_files import server
from tests.data.unreliable import send, stalled, status, truncated, unreliable_server

NOWHERE = "http://127.0.0.1:9/"  # the discard port: nothing listens


def files_in(folder: Path) -> list[str]:
    """All files below a folder, hidden ones too, but the lock files."""
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"
    )


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


def test_wrong_file_is_removed_and_the_others_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_dir, web = tmp_path / "data", tmp_path / "web"
    official_files.write_mnist_archives(web, monkeypatch)
    archive = web / "t10k-images-idx3-ubyte.gz"
    whole = archive.read_bytes()
    archive.write_bytes(whole[:500])
    with unreliable_server(web) as server:
        monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", [server.url])
        with pytest.raises(UserError) as error:
            source_of("mnist").read("test", data_dir)
        message = str(error.value)
        assert message.startswith(f"MNIST could not be downloaded (the checksum of {archive.name} is wrong): ")
        assert f" are kept in {data_dir}/.fetched-MNIST, and the same command goes on from there; or get " in message
        assert "train-" not in message  # the files that are there are not asked for
        assert files_in(data_dir) == [
            ".fetched-MNIST/MNIST/raw/train-images-idx3-ubyte.gz",
            ".fetched-MNIST/MNIST/raw/train-labels-idx1-ubyte.gz",
        ]
        archive.write_bytes(whole)
        server.asked.clear()
        assert len(source_of("mnist").read("test", data_dir).images) == 10
    assert [name for name, _ in server.asked] == [archive.name, "t10k-labels-idx1-ubyte.gz"]
    assert not list(data_dir.glob(".fetched*"))


def test_wrong_file_alone_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_dir, web = tmp_path / "data", tmp_path / "web"
    with server(web) as url:
        official_files.write_mnist_archives(web, monkeypatch, url)
        (web / "train-images-idx3-ubyte.gz").write_bytes(b"an error page")
        with pytest.raises(UserError, match=r"the checksum of train-images-idx3-ubyte\.gz is wrong"):
            source_of("mnist").read("test", data_dir)
    assert not data_dir.exists()


def test_mnist_has_several_mirrors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import MNIST

    with server(tmp_path / "web") as url:
        official_files.write_mnist_archives(tmp_path / "web", monkeypatch, url)
        monkeypatch.setattr(MNIST, "mirrors", [NOWHERE, url])
        assert len(source_of("mnist").read("test", tmp_path / "data").images) == 10


def test_a_server_that_gives_up_and_a_later_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from torchvision.datasets import SVHN

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    web, data_dir = tmp_path / "web", tmp_path / "data"
    official_files.write_svhn(tmp_path / "web", monkeypatch)
    train = web / "SVHN" / "train_32x32.mat"
    n_bytes = train.stat().st_size
    with unreliable_server(web / "SVHN", [truncated(1000), *[status(503)] * 5]) as server:
        table = {split: (server.url + name, name, md5) for split, (_, name, md5) in SVHN.split_list.items()}
        monkeypatch.setattr(SVHN, "split_list", table)
        with pytest.raises(
            UserError, match=r"SVHN could not be downloaded \(HTTP Error 503: .*\): 1\.0 kB are kept in"
        ):
            source_of("svhn").read("train", data_dir)
        source_of("svhn").read("test", data_dir)  # another split leaves it alone
        assert files_in(data_dir / "SVHN") == [".fetched-SVHN/train_32x32.mat.part", "test_32x32.mat"]
        server.n_sent = 0
        with caplog.at_level("INFO"):
            source_of("svhn").read("train", data_dir)
    assert server.asked[-1] == (train.name, "bytes=1000-")
    assert server.n_sent == n_bytes - 1000
    assert "train_32x32.mat" in caplog.text
    assert "going on at 1.0 kB" in caplog.text
    assert files_in(data_dir / "SVHN") == ["test_32x32.mat", "train_32x32.mat"]


def test_interrupted_transfer_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    official_files.write_file(tmp_path / "web" / "octmnist.npz", official_files.medmnist_file("octmnist"))
    with unreliable_server(tmp_path / "web", [truncated(1000)]) as server, caplog.at_level("INFO"):
        official = OfficialFile(f"{server.url}octmnist.npz", "octmnist.npz", "0" * 32)
        with pytest.raises(KeyboardInterrupt):
            fetch("oct", tmp_path / "data", [official], present=lambda: False, kept=(), download=lambda folder: None)
    assert files_in(tmp_path / "data") == [".fetched-oct/octmnist.npz.part"]
    assert "oct: 1.0 kB are kept in " in caplog.text


def test_file_put_there_by_hand_is_taken_before_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("MNIST", "raw")
    official_files.write_mnist_archives(tmp_path / folder, monkeypatch, NOWHERE)
    official_files.write_file(tmp_path / ".fetched-MNIST" / folder / "train-images-idx3-ubyte.gz.part", b"half")
    source_of("mnist").read("test", tmp_path)
    assert not (tmp_path / ".fetched-MNIST").exists()
    assert len(visible(tmp_path / folder)) == 8


def test_broken_archive_put_there_by_hand_is_not_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import DTD

    archive = official_files.write_file(
        tmp_path / "web" / "dtd-r1.0.1.tar.gz", official_files.tar(official_files.dtd_files(), "w:gz")
    )
    path = official_files.write_file(tmp_path / "dtd" / archive.name, "mine")
    with server(tmp_path / "web") as url:
        monkeypatch.setattr(DTD, "_URL", f"{url}{archive.name}")
        monkeypatch.setattr(DTD, "_MD5", official_files.md5(archive))
        with pytest.raises(UserError, match=f"DTD: {path} is broken .its checksum is wrong.: remove it"):
            source_of("dtd").read("val", tmp_path)
        assert path.read_text() == "mine"
        path.unlink()
        assert len(source_of("dtd").read("val", tmp_path).images) == 2


def test_places365_is_downloaded_as_far_as_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with unreliable_server(tmp_path / "web") as server:
        official_files.write_places365_archives(tmp_path / "web", monkeypatch, server.url)
        root = tmp_path / "data" / "Places365"
        assert len(source_of("places365").read("val", tmp_path / "data").images) == 2
        (root / "filelist_places365-standard.tar").unlink()
        assert len(source_of("places365").read("train", tmp_path / "data").images) == 4
        assert [name for name, _ in server.asked] == [
            "filelist_places365-standard.tar", "val_256.tar", "train_256_places365standard.tar"
        ]  # fmt: skip
        (root / "places365_val.txt").unlink()  # its tables again: those that are there give way
        assert len(source_of("places365").read("val", tmp_path / "data").images) == 2
    assert [name for name, _ in server.asked[3:]] == ["filelist_places365-standard.tar"]
    assert not any(path.is_symlink() for path in root.rglob("*"))


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


@pytest.mark.slow
def test_two_processes_download_once(tmp_path: Path) -> None:
    archive = official_files.write_file(tmp_path / "web" / "tiny.zip", official_files.tiny_imagenet_archive())
    code = (
        "import sys, pathlib; from advvae.data import tiny_imagenet; from advvae.data.download import OfficialFile;"
        "tiny_imagenet.ARCHIVE = OfficialFile(sys.argv[1], 'tiny.zip', sys.argv[2]);"
        "print(len(tiny_imagenet.TinyImageNet().read('val', pathlib.Path(sys.argv[3])).images))"
    )
    with unreliable_server(tmp_path / "web", [stalled(1000)]) as web:  # the first is at it for half a second
        code = "from advvae.data import transfer; transfer.SILENCE = 0.5;" + code
        arguments = [f"{web.url}tiny.zip", official_files.md5(archive), str(tmp_path / "data")]
        processes = [
            subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        assert [process.communicate(timeout=100)[0] for process in processes] == ["2\n", "2\n"]
    assert web.asked == [("tiny.zip", None), ("tiny.zip", "bytes=1000-")]


@pytest.mark.slow
def test_a_killed_command_and_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import MNIST

    official_files.write_mnist_archives(tmp_path / "web", monkeypatch)
    names = [name for name, _ in MNIST.resources]
    with unreliable_server(tmp_path / "web", [send, stalled(10)]) as web:
        (tmp_path / "command.py").write_text(
            "from torchvision.datasets import MNIST\nfrom advvae.cli import main\n"
            f"MNIST.mirrors, MNIST.resources = [{web.url!r}], {MNIST.resources}\nmain()"
        )
        command = [sys.executable, "command.py", "mode=train", "dataset=mnist", *TINY]
        environment = {**os.environ, "ADVVAE_DATA": str(tmp_path / "data"), "PYTHONPATH": os.getcwd()}
        first = subprocess.Popen(command, cwd=tmp_path, env=environment)
        part = tmp_path / "data" / ".fetched-MNIST" / "MNIST" / "raw" / f"{names[1]}.part"
        while first.poll() is None and not (part.is_file() and part.stat().st_size):
            time.sleep(0.05)
        first.kill()
        first.wait()
        assert subprocess.run(command, cwd=tmp_path, env=environment).returncode == 0
    rest = [(names[1], "bytes=10-"), (names[2], None), (names[3], None)]
    assert web.asked == [(names[0], None), (names[1], None), *rest]
    assert not list((tmp_path / "data").glob(".[pf]*"))


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


def test_full_disk_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    official_files.write_file(tmp_path / "web" / "set.zip", bytes(3000))
    part = official_files.write_file(tmp_path / "data" / ".fetched-set" / "set.zip.part", bytes(1000))
    with unreliable_server(tmp_path / "web") as web:
        official = [OfficialFile(f"{web.url}set.zip", "set.zip", official_files.md5(bytes(3000)))]
        with pytest.raises(UserError, match=r"set data_dir to another disk, or make room: 1\.0 kB of it are kept in"):
            fetch("set", tmp_path / "data", official, present=lambda: False, kept=(), download=print)
    assert part.stat().st_size == 1000
