"""What a library unpacks: refused where it would lie outside its folder, or be more than a dataset's archive holds."""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import Any

from advvae.data.locks import check_room
from advvae.errors import UserError

ALWAYS = 10**9  # bytes that any archive may hold
RATIO = 50  # bytes that one may hold for each of its own: more than images and tables ever do


class UnsafeArchive(UserError):
    """An archive that is not unpacked, or no further."""


@contextmanager
def safely_unpacked() -> Iterator[None]:
    """While the block lasts, whoever unpacks a .tar or .zip gets plain files and folders, inside and not too large.

    Raises UnsafeArchive for the first member that is not so, before it is written.
    """
    if not hasattr(tarfile, "data_filter"):
        raise UnsafeArchive("this Python cannot unpack archives safely: update it to 3.10.12, 3.11.4, 3.12 or later")
    unpacked: Counter[str] = Counter()  # bytes so far, by archive
    unpack_zip, tar_filter = zipfile.ZipFile.extractall, vars(tarfile.TarFile)["extraction_filter"]

    def checked(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
        archive, target = str(tar.name), Path(folder, member.name)
        check_member(archive, member.name, plain=member.isreg() or member.isdir())
        unpacked[archive] += member.size
        check_size(archive, unpacked[archive])
        check_room(made(Path(folder)), member.size)
        if target.is_symlink():  # to a file that is there already, and that a newer one takes the place of
            target.unlink()
        return tarfile.data_filter(member, folder)

    def unpack_checked_zip(archive: zipfile.ZipFile, path: Any = None, *arguments: Any, **named: Any) -> None:
        check_zip(archive, Path(path or "."))
        unpack_zip(archive, path, *arguments, **named)

    tarfile.TarFile.extraction_filter = checked  # type: ignore[assignment]  # the first argument is the archive
    zipfile.ZipFile.extractall = unpack_checked_zip  # type: ignore  # it has no such hook
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = tar_filter
        zipfile.ZipFile.extractall = unpack_zip  # type: ignore[method-assign]


def check_zip(archive: zipfile.ZipFile, folder: Path) -> None:
    """No more than the size that a member declares is ever unpacked of it."""
    name = str(archive.filename)
    for member in archive.infolist():
        kind = stat.S_IFMT(member.external_attr >> 16)  # 0 = written on a system that has no such kinds
        check_member(name, member.filename, plain=kind in (0, stat.S_IFREG, stat.S_IFDIR))
    n_bytes = sum(member.file_size for member in archive.infolist())
    check_size(name, n_bytes)
    check_room(made(folder), n_bytes)


def made(folder: Path) -> Path:
    """The folder, made where it is missing, as unpacking would."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_gzip(path: Path) -> None:
    """Raises UnsafeArchive for a .gz file, which libraries unpack into memory, that holds too much."""
    n_bytes = 0
    with gzip.open(path) as file:
        while block := file.read(2**20):
            n_bytes += len(block)
            check_size(str(path), n_bytes)


def check_member(archive: str, name: str, plain: bool) -> None:
    parts = PureWindowsPath(name)  # which knows both slashes, and drives
    if parts.anchor or ".." in parts.parts:
        raise UnsafeArchive(f"{Path(archive).name} is not unpacked: {name!r} in it would lie outside its folder")
    if not plain:
        raise UnsafeArchive(f"{Path(archive).name} is not unpacked: {name!r} in it is a link or a device")


def check_size(archive: str, n_bytes: int) -> None:
    most = max(ALWAYS, RATIO * os.path.getsize(archive))
    if n_bytes > most:
        raise UnsafeArchive(f"{Path(archive).name} is not unpacked: it holds more than {most / 1e9:,.1f} GB")
