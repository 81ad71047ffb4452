"""What is in a source's files: each is read once, and then known by its name, size and time of change."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from advvae.data.locks import cache_folders
from advvae.data.texts import encoded
from advvae.errors import UserError
from advvae.files import replacing
from advvae.progress import watched

FOLDER = ".contents"  # in a cache folder: a file for each state of a set's files, with the digest of what is in them
READERS = 4  # threads: each waits for the disk most of the time
TOGETHER = 4096  # files whose digests are asked for at once
BLOCK = 2**22  # bytes


def contents_digest(files: Sequence[Path], home: Path, data_dir: Path) -> str:
    """A digest of the names of these files, as seen from `home`, and all that is in them; wherever `home` lies.

    A file is read when its size or a time of change, its content's or its own, is not that of the last time. Of a
    folder, the names and sizes of all that is in it count.
    """
    state = hashlib.sha256(encoded(str(home.absolute())))
    for path in files:
        state.update(json.dumps(file_facts(path)).encode())
    name = state.hexdigest()[:32]
    for folder in cache_folders(data_dir):
        with suppress(OSError):
            if len(known := (folder / FOLDER / name).read_text()) == 64:
                return known
    found = digest_of(files, home)
    for folder in cache_folders(data_dir):
        with suppress(OSError, UserError), replacing(folder / FOLDER / name) as unfinished:
            unfinished.write_text(found)
            break
    return found


def digest_of(files: Sequence[Path], home: Path) -> str:
    digest = hashlib.sha256()
    parts = [files[start : start + TOGETHER] for start in range(0, len(files), TOGETHER)]
    with ThreadPoolExecutor(READERS) as readers:
        for part in watched(parts, "reading files", len(parts)):
            for path, of_file in zip(part, readers.map(sha256_of, part), strict=True):
                digest.update(json.dumps([name_below(path, home), of_file]).encode())
    return digest.hexdigest()


def name_below(path: Path, home: Path) -> str:
    """What a file is called, wherever `home` lies, if it lies in that."""
    return path.relative_to(home).as_posix() if path.is_relative_to(home) else str(path.absolute())


def sha256_of(path: Path) -> str:
    """Of what is in a file or folder; "" of what cannot be read, which is told when it is opened as an image."""
    digest = hashlib.sha256()
    try:
        if path.is_dir():
            for entry in inside(path):
                digest.update(json.dumps(entry).encode())
            return digest.hexdigest()
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()


def inside(folder: Path) -> Iterator[tuple[str, int]]:
    """Path and size of each file in a folder and those below it, in a fixed order."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(parent, name)
            yield os.path.relpath(path, folder), os.path.getsize(path) if os.path.exists(path) else -1


def file_facts(path: Path) -> tuple[str, int, int, int]:
    try:
        stat = path.stat()
    except OSError:  # a link to nowhere: as unreadable as any other broken file, when it is opened
        return str(path.absolute()), 0, 0, 0
    return str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
