"""Official files of a dataset: fetched, then checked and unpacked by its library, complete or not at all."""

from __future__ import annotations

import logging
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.filesize import decimal

from advvae.data.archives import UnsafeArchive, check_gzip, safely_unpacked
from advvae.data.locks import NO_ROOM, exclusive, undone_on_failure, writable
from advvae.data.transfer import SILENCE, part_of, size_of, transfer
from advvae.errors import UserError

log = logging.getLogger(__name__)


class OfficialFile(NamedTuple):
    """An archive that a dataset is published as: where it is, and its path under the dataset's root folder.

    md5 is None where nothing is known to compare it with: then the library fetches it.
    mirrors: further addresses. holds: paths under the root of what it unpacks to; where they are, it is not needed.
    page: the address is a page for people, or for a library that knows it.
    """

    url: str
    path: str
    md5: str | None = None
    mirrors: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    page: bool = False


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

    download: the library's own, which checks and unpacks what is in the folder given to it, and downloads the rest.
    kept: patterns of files under `root` that the download builds on. They, and official archives that a user has put
        there, are shown to it as links.
    Raises UserError when it fails. It leaves nothing behind then but archives, or the beginnings of them, that have
    arrived: the next call goes on with these.
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
    fetched = root / f".fetched-{name}"
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    try:
        partial.mkdir()
        fetched.mkdir(exist_ok=True)
        link_existing(root, partial, [file.path for file in official] + list(kept))
        log.info("fetching %s into %s", name, root)
        with impatient(), safely_unpacked():
            fetch_archives(partial, fetched, official)
            download(partial)
        move_archives(fetched, root, official)  # first: without them there is nothing to begin again with
        move_into_place(partial, root)
    except UnsafeArchive as error:
        for file in official:
            (fetched / file.path).unlink(missing_ok=True)
        raise UserError(f"{name}: {error}") from error
    except Exception as error:  # downloads and archives fail in many ways, and libraries wrap them in more
        raise UserError(failure(name, root, fetched, official, error)) from error
    except KeyboardInterrupt:
        if n_bytes := bytes_in(fetched):
            log.info("%s: %s are kept in %s, and the same command goes on from there", name, decimal(n_bytes), fetched)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if not bytes_in(fetched):
            shutil.rmtree(fetched, ignore_errors=True)


def fetch_archives(partial: Path, fetched: Path, official: Sequence[OfficialFile]) -> None:
    """Fetch those archives that are not in `partial` and whose addresses are known, into `fetched`, and link them."""
    official = [file for file in official if file.md5 is not None and not file.page]
    if (broken := first_broken(partial, official)) is not None:
        raise OSError(f"{broken} has a wrong checksum")
    wanted = missing(partial, official)
    for file in official:
        if file in wanted:
            transfer((file.url, *file.mirrors), fetched / file.path, str(file.md5))
        else:  # of a file that has been put there by hand since
            part_of(fetched / file.path).unlink(missing_ok=True)
    link_existing(fetched, partial, [file.path for file in official])
    for file in official:
        if file.path.endswith(".gz") and not file.path.endswith(".tar.gz") and (partial / file.path).is_file():
            check_gzip(partial / file.path)


def missing(root: Path, official: Sequence[OfficialFile]) -> list[OfficialFile]:
    """The archives that are not there, and neither is what they hold."""

    def there(file: OfficialFile) -> bool:
        held = [(root / path).exists() for path in file.holds]
        return (root / file.path).is_file() or (bool(held) and all(held))

    return [file for file in official if not there(file)]


def bytes_in(folder: Path) -> int:
    """Of all files below a folder; 0 = there is no such folder."""
    return sum(size_of(path) for path in folder.rglob("*"))


def link_existing(root: Path, partial: Path, patterns: Sequence[str]) -> None:
    for pattern in patterns:
        for path in root.glob(pattern):
            link = partial / path.relative_to(root)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(path.absolute())


def move_archives(fetched: Path, root: Path, official: Sequence[OfficialFile]) -> None:
    """Move those of these archives that have been fetched; beside them may lie parts of another split's."""
    for file in official:
        if (fetched / file.path).is_file():
            (root / file.path).parent.mkdir(parents=True, exist_ok=True)
            (fetched / file.path).replace(root / file.path)


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


def failure(name: str, root: Path, fetched: Path, official: Sequence[OfficialFile], error: BaseException) -> str:
    """What went wrong, what there is of it, and what to do, in one line."""
    n_bytes = bytes_in(fetched)
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        kept = f", or make room: {decimal(n_bytes)} of it are kept in {fetched}" if n_bytes else ""
        return f"{name}: {root} cannot be written ({error.strerror}): set data_dir to another disk{kept}"
    if (broken := first_broken(root, official)) is not None:
        return f"{name}: {broken} is broken (its checksum is wrong): remove it, and it is downloaded again"
    kept = f"{decimal(n_bytes)} are kept in {fetched}, and the same command goes on from there; or " if n_bytes else ""
    wanted = [file for file in official if not (fetched / file.path).is_file()] or official
    return f"{name} could not be downloaded ({reason(error)}): {kept}{by_hand(root, wanted)}"


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
    wanted = missing(root, official) or official
    return "; ".join(f"get {file.url} and save it as {root / file.path}" for file in wanted)


def reason(error: BaseException) -> str:
    """What the first cause says in its last line, but for advice: libraries bury it under more of that."""
    while error.__context__ is not None:
        error = error.__context__
    if isinstance(error, ModuleNotFoundError):
        return f"it needs {error.name}: pip install {error.name}"
    lines = str(error).strip().splitlines()
    return lines[-1].strip().split(". ")[0].rstrip(".") if lines else type(error).__name__
