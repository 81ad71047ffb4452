"""Writing files so that a reader never sees half of one."""

import csv
import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from advvae.errors import UserError

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG)


@contextmanager
def disk_errors_told(place: str) -> Iterator[None]:
    """Turn a disk that is full, read-only or takes no such name into a UserError; `place` is told where no file is."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise UserError(f"cannot write {error.filename or place}: {error.strerror}") from None


@contextmanager
def replacing(path: Path, previous: Path | None = None) -> Iterator[Path]:
    """A name beside `path` to write to; at the end of the block the new file takes the place of `path` at once.

    An error inside the block leaves `path` as it was, and nothing else; so does a machine that goes down: the new file
    is on the disk before it takes the place. The folder is made where it is missing.

    Args:
        previous: where to put the file that is replaced; None = nowhere.

    Raises:
        UserError: the file cannot be written, as on a full disk.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")  # two processes never share one
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        if previous is not None and path.is_file():
            path.replace(previous)
        unfinished.replace(path)
        _keep_names(path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # what kept it from being written may keep it from being looked for
            unfinished.unlink(missing_ok=True)


def _keep_names(folder: Path) -> None:
    """Have the disk keep a folder's list of files, where the system lets a folder be opened."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Remove what `replacing` was writing in a run's folder when its process was killed.

    Only for who works there alone: another process may be at work on such a file.
    """
    places = (folder, *(folder / name for name in (".hydra", "checkpoints", "samples", "reconstructions")))
    for path in (path for place in places for path in place.glob(".*.*")):
        if re.fullmatch(r"\..+\.\d+", path.name) and path.is_file():
            path.unlink(missing_ok=True)


@contextmanager
def csv_table(path: Path, columns: Iterable[str]) -> Iterator[Callable[[Iterable[Iterable[object]]], object]]:
    """A CSV file written as in `replacing`: the function given adds the rows that it is called with."""
    with replacing(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(columns)
        yield table.writerows


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file whose rows are all there."""
    with csv_table(path, columns) as add:
        add(rows)
