"""Archives made to harm: nothing of them is written outside their folder, nor without measure."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from advvae.data import archives, tiny_imagenet
from advvae.data.archives import UnsafeArchive, check_gzip, safely_unpacked
from advvae.data.download import OfficialFile
from advvae.errors import UserError
from tests.data import official_files
from tests.data.configured import source_of

OUTSIDE = ["../escaped", "/tmp/advvae-escaped", "good/../../escaped", "..\\escaped", "C:\\escaped"]
NOWHERE = "http://127.0.0.1:9/"  # the discard port: nothing listens


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname, info.mode = kind, size, link, 0o6777
    return info


def write_tar(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for info in members:
            file.addfile(info, io.BytesIO(bytes(info.size)))
    return path


def write_zip(path: Path, name: str, content: bytes = b"", kind: int = 0) -> Path:
    info = zipfile.ZipInfo(name)
    info.external_attr = kind << 16
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("good", b"")
        file.writestr(info, content, zipfile.ZIP_DEFLATED)
    return path


def unpack(path: Path) -> list[str]:
    """As torchvision does; the files that are there then, of the folder `inside` and beside it."""
    from torchvision.datasets.utils import extract_archive

    with safely_unpacked():
        extract_archive(path, path.parent / "inside")
    return files_of(path.parent)


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_good_archives_are_unpacked(tmp_path: Path) -> None:
    unpack(write_tar(tmp_path / "set.tar.gz", member("./folder", tarfile.DIRTYPE), member("./folder/a..b", size=3)))
    assert unpack(write_zip(tmp_path / "set.zip", "folder/zipped")) == [
        "inside/folder/a..b", "inside/folder/zipped", "inside/good", "set.tar.gz", "set.zip"
    ]  # fmt: skip
    assert stat.S_IMODE((tmp_path / "inside/folder/a..b").stat().st_mode) == 0o755  # no setuid, no writing by others


@pytest.mark.parametrize("name", OUTSIDE)
def test_members_outside_their_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsafeArchive, match=r"set\.tar\.gz is not unpacked: .*escaped' in it would lie outside"):
        unpack(write_tar(tmp_path / "set.tar.gz", member("good"), member(name)))
    assert files_of(tmp_path) == ["inside/good", "set.tar.gz"]
    with pytest.raises(UnsafeArchive, match=r"set\.zip is not unpacked: .*escaped' in it would lie outside"):
        unpack(write_zip(tmp_path / "set.zip", name))
    assert not Path("/tmp/advvae-escaped").exists()
    assert files_of(tmp_path) == ["inside/good", "set.tar.gz", "set.zip"]


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE], ids=str
)
def test_tars_with_links_and_devices(kind: bytes, tmp_path: Path) -> None:
    through = member("door/escaped")  # where the door is a link to a folder outside
    with pytest.raises(UnsafeArchive, match="'door' in it is a link or a device"):
        unpack(write_tar(tmp_path / "set.tar.gz", member("door", kind, link=".."), through))
    assert files_of(tmp_path) == ["set.tar.gz"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_zips_with_links_and_devices(kind: int, tmp_path: Path) -> None:
    with pytest.raises(UnsafeArchive, match="'door' in it is a link or a device"):
        unpack(write_zip(tmp_path / "set.zip", "door", b"..", kind))
    assert files_of(tmp_path) == ["set.zip"]


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "ALWAYS", 10**6)
    unpack(write_tar(tmp_path / "good.tar.gz", member("a", size=500_000), member("b", size=500_000)))
    with pytest.raises(UnsafeArchive, match=r"bad\.tar\.gz is not unpacked: it holds more than 0\.0 GB"):
        unpack(write_tar(tmp_path / "bad.tar.gz", member("c", size=500_000), member("d", size=500_001)))
    assert not (tmp_path / "inside" / "d").exists()
    unpack(write_zip(tmp_path / "good.zip", "e", bytes(10**6)))
    with pytest.raises(UnsafeArchive, match=r"bad\.zip is not unpacked: it holds more than"):
        unpack(write_zip(tmp_path / "bad.zip", "f", bytes(10**6 + 1)))
    assert not (tmp_path / "inside" / "f").exists()
    gzipped = official_files.write_file(tmp_path / "bad.gz", gzip.compress(bytes(10**6 + 1)))
    with pytest.raises(UnsafeArchive, match=r"bad\.gz is not unpacked: it holds more than"):
        check_gzip(gzipped)


def test_large_archives_may_hold_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "ALWAYS", 0)
    path = write_zip(tmp_path / "set.zip", "noise", official_files.random_images(100_000).tobytes())
    assert "inside/noise" in unpack(path)  # it holds as many bytes as it has


def test_more_than_the_disk_has_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)._replace(free=999)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    for path in (
        write_tar(tmp_path / "set.tar.gz", member("a", size=1000)),
        write_zip(tmp_path / "a.zip", "b", bytes(1000)),
    ):
        with pytest.raises(OSError, match="GB are needed"):
            unpack(path)
    assert files_of(tmp_path) == ["a.zip", "set.tar.gz"]


def test_outside_the_block_nothing_is_changed(tmp_path: Path) -> None:
    before = vars(tarfile.TarFile)["extraction_filter"], zipfile.ZipFile.extractall
    with pytest.raises(UnsafeArchive):
        unpack(write_zip(tmp_path / "set.zip", "../escaped"))
    assert (vars(tarfile.TarFile)["extraction_filter"], zipfile.ZipFile.extractall) == before


def test_an_old_python_unpacks_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(UnsafeArchive, match="this Python cannot unpack archives safely: update it"):
        unpack(write_tar(tmp_path / "set.tar.gz", member("good")))


def test_a_dataset_whose_zip_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(tmp_path / "web.zip", "../../escaped")
    with official_files.server(tmp_path) as url:
        official = OfficialFile(f"{url}web.zip", "tiny-imagenet-200.zip", official_files.md5(path))
        monkeypatch.setattr(tiny_imagenet, "ARCHIVE", official)
        with pytest.raises(UserError) as error:
            source_of("tinyimagenet").read("val", tmp_path / "data")
    where = "'../../escaped' in it would lie outside its folder"
    assert str(error.value) == f"tinyimagenet: tiny-imagenet-200.zip is not unpacked: {where}"
    assert files_of(tmp_path) == ["web.zip"]


def test_a_dataset_whose_tar_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import DTD

    (tmp_path / "dtd").mkdir()
    path = write_tar(tmp_path / "dtd" / "dtd-r1.0.1.tar.gz", member("door", tarfile.SYMTYPE, link="/tmp"))
    monkeypatch.setattr(DTD, "_MD5", official_files.md5(path))
    with pytest.raises(UserError, match=r"^DTD: dtd-r1\.0\.1\.tar\.gz is not unpacked: 'door' in it is a link"):
        source_of("dtd").read("val", tmp_path)
    assert [name for name in files_of(tmp_path) if "/." not in f"/{name}"] == ["dtd/dtd-r1.0.1.tar.gz"]


def test_a_dataset_whose_gzip_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "ALWAYS", 10_000)
    monkeypatch.setattr(archives, "RATIO", 0)
    official_files.write_mnist_archives(tmp_path / "MNIST" / "raw", monkeypatch, NOWHERE)
    with pytest.raises(UserError, match=r"^MNIST: train-images-idx3-ubyte\.gz is not unpacked: it holds more than"):
        source_of("mnist").read("test", tmp_path)


def test_archives_within_archives_are_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import imagenet

    root = official_files.write_imagenet_archives(tmp_path, monkeypatch)
    train = root / imagenet.ARCHIVE_META["train"][0]
    inner = official_files.tar({"../escaped.JPEG": b""})
    train.write_bytes(official_files.tar({"n01440764.tar": inner}))
    monkeypatch.setitem(imagenet.ARCHIVE_META, "train", (train.name, official_files.md5(train)))
    with pytest.raises(UserError, match=r"^ImageNet: n01440764\.tar is not unpacked: '\.\./escaped\.JPEG' in it"):
        source_of("imagenet").read("train", tmp_path)
    assert not list(tmp_path.rglob("escaped*"))
