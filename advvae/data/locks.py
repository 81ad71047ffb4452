"""Folders that several processes write to: who may, where, whether there is room, and one at a time."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from advvae.errors import UserError

log = logging.getLogger(__name__)

Made = TypeVar("Made")

SHARED = 0o666  # of a lock's file: whoever may write beside it may hold it, whatever the umask of who made it
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def writable(folder: Path) -> bool:
    """Whether a file can be made in `folder`, which is made when missing. Permission bits alone do not tell."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def check_room(folder: Path, needed: int) -> None:
    """Raises OSError where the disk has less room than this, in bytes: better now than on the way."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} are free")


def cache_folders(data_dir: Path) -> list[Path]:
    """Where prepared copies may lie: under `data_dir`, else in the user's own cache folder."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return [data_dir / "cache", home / "advvae"]


def writable_cache(data_dir: Path) -> Path:
    """The first folder for prepared copies that can be written. Raises UserError when there is none."""
    preferred, fallback = cache_folders(data_dir)
    if writable(preferred):
        return preferred
    if writable(fallback):
        log.warning("data_dir=%s cannot be written: prepared images go to %s", data_dir, fallback)
        return fallback
    raise UserError(f"data_dir={data_dir}: neither {preferred} nor {fallback} can be written: set data_dir")


def found_or_made(
    name: Callable[[], str],
    load: Callable[[Path], Made | None],
    make: Callable[[Path], Path],
    *,
    data_dir: Path,
    lock: str,
    purpose: str,
) -> Made:
    """What lies in a cache folder, made there when it is missing; of several processes, only one makes it.

    name: of its file or folder. load: from its path; None = it is not there, or not whole.
    make: in this cache folder, and returns its path, whose name a download may have changed.
    lock: a name shared by all that must not be made at once. purpose: as in "another process is <purpose>".
    """
    before = name()
    for folder in cache_folders(data_dir):
        if (found := load(folder / before)) is not None:
            return found
    with undone_on_failure(data_dir / "cache"):
        cache = writable_cache(data_dir)
        with exclusive(cache / f".{lock}.lock", purpose):
            if (found := load(cache / name())) is None:
                found = load(make(cache))
    assert found is not None, f"{cache / name()} was just written"
    return found


@contextmanager
def exclusive(lock: Path, purpose: str) -> Iterator[None]:
    """Only one process at a time goes on; the others say that they wait.

    lock: a file made for this; it stays, but for a failure, when there is nothing that the next process could find.
    """
    try:
        file_lock = held(lock, purpose)
    except PermissionError:  # another user's, who lets nobody else hold it
        lock = lock.with_name(f"{lock.name}-{os.getuid()}")
        file_lock = held(lock, purpose)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            lock.unlink()  # while it is held: those who wait see that it has gone
        raise
    finally:
        file_lock.release()


def held(lock: Path, purpose: str) -> FileLock:
    """This file's lock, as soon as no other process has it."""
    file_lock = FileLock(lock, mode=SHARED)
    try:
        file_lock.acquire(timeout=1)
    except Timeout:
        log.info("another process is %s: waiting for it", purpose)
        file_lock.acquire()
    return file_lock


@contextmanager
def undone_on_failure(folder: Path) -> Iterator[None]:
    """Where the block fails, it leaves none of `folder` and its parents that it has made and that are empty."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        for path in missing:
            with suppress(OSError):
                path.rmdir()
        raise
