"""Official files of a dataset: fetched by its library, complete or not at all."""

from __future__ import annotations

import logging
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from advvae.data.locks import NO_ROOM, exclusive, undone_on_failure, writable
from advvae.errors import UserError

log = logging.getLogger(__name__)

SILENCE = 30  # seconds without an answer after which a server counts as unreachable


class OfficialFile(NamedTuple):
    """An archive that a dataset is published as: where it is, and its path under the dataset's root folder.

    md5 is None where nothing is known to compare it with.
    """

    url: str
    path: str
    md5: str | None = None


def fetch(
    name: str,
    root: Path,
    official: Sequence[OfficialFile],
    *,
    present: Callable[[], bool],
    kept: Sequence[str],
    download: Callable[[Path], None],
) -> None:
    """Fill `root` with a dataset's files, unless `present()`: downloaded and unpacked elsewhere, then moved into place.

    download: the library's own, which downloads into the folder that it is given, checks and unpacks.
    kept: patterns of files under `root` that the download builds on. They, and official archives that a user has put
        there, are shown to it as links.
    Raises UserError, and leaves nothing behind, when it fails.
    """
    with undone_on_failure(root):
        if not writable(root):
            remedy = f"{by_hand(root, official)}, or set data_dir"
            raise UserError(f"{name} is not in {root}, which cannot be written: {remedy}")
        with exclusive(root / f".{name}.lock", f"downloading {name}"):
            if not present():
                fill(name, root, official, kept, download)


def fill(
    name: str, root: Path, official: Sequence[OfficialFile], kept: Sequence[str], download: Callable[[Path], None]
) -> None:
    """What `fetch` does once it is alone and nothing is there."""
    partial = root / f".partial-{name}"
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    try:
        partial.mkdir()
        link_existing(root, partial, [file.path for file in official] + list(kept))
        log.info("fetching %s into %s", name, root)
        with impatient():
            download(partial)
        move_into_place(partial, root)
    except Exception as error:  # downloads and archives fail in many ways, and libraries wrap them in more
        raise UserError(failure(name, root, official, error)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def link_existing(root: Path, partial: Path, patterns: Sequence[str]) -> None:
    for pattern in patterns:
        for path in root.glob(pattern):
            link = partial / path.relative_to(root)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(path.absolute())


def move_into_place(folder: Path, target: Path) -> None:
    """Move what is in `folder` into `target`, where folders of equal name are merged; links stay behind."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and (target / path.name).is_dir():
            move_into_place(path, target / path.name)
        elif not path.is_symlink():
            os.replace(path, target / path.name)


@contextmanager
def impatient() -> Iterator[None]:
    """The libraries set no timeout: behind a firewall that drops packets they would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def failure(name: str, root: Path, official: Sequence[OfficialFile], error: BaseException) -> str:
    """What went wrong, and what to do, in one line."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return f"{name}: {root} cannot be written ({error.strerror}): set data_dir to another disk"
    if (broken := first_broken(root, official)) is not None:
        return f"{name}: {broken} is broken (its checksum is wrong): remove it, and it is downloaded again"
    return f"{name} could not be downloaded ({reason(error)}): {by_hand(root, official)}"


def first_broken(root: Path, files: Sequence[OfficialFile]) -> Path | None:
    """The first of these files that is there and has another checksum than it should."""
    from torchvision.datasets.utils import check_md5

    for file in files:
        path = root / file.path
        if file.md5 is not None and path.is_file() and not check_md5(path, file.md5):
            return path
    return None


def by_hand(root: Path, official: Sequence[OfficialFile]) -> str:
    """How to get the files that are not there yet."""
    if not official:
        return f"get its official files and put them into {root}"
    missing = [file for file in official if not (root / file.path).is_file()] or official
    return "; ".join(f"get {file.url} and save it as {root / file.path}" for file in missing)


def reason(error: BaseException) -> str:
    """What the first cause says in its last line, but for advice: libraries bury it under more of that."""
    while error.__context__ is not None:
        error = error.__context__
    if isinstance(error, ModuleNotFoundError):
        return f"it needs {error.name}: pip install {error.name}"
    lines = str(error).strip().splitlines()
    return lines[-1].strip().split(". ")[0].rstrip(".") if lines else type(error).__name__
