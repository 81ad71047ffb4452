"""What is in a source's files: each is read once, and then known by its name, size and time of change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from advvae.data.locks import cache_folders
from advvae.errors import UserError
from advvae.files import replacing
from advvae.progress import watched

FOLDER = ".contents"  # in a cache folder: a file for each state of a set's files, with the digest of what is in them
READERS = 4  # threads: each waits for the disk most of the time
TOGETHER = 4096  # files whose digests are asked for at once
BLOCK = 2**22  # bytes


def contents_digest(files: Sequence[Path], data_dir: Path) -> str:
    """A digest of the names of these files and all that is in them.

    A file is read when its size or time of change is not that of the last time; a copy of a file that keeps both, in
    the same place, goes unnoticed.
    """
    state = hashlib.sha256()
    for path in files:
        state.update(json.dumps(file_facts(path)).encode())
    name = state.hexdigest()[:32]
    for folder in cache_folders(data_dir):
        with suppress(OSError):
            if len(known := (folder / FOLDER / name).read_text()) == 64:
                return known
    found = digest_of(files)
    for folder in cache_folders(data_dir):
        with suppress(OSError, UserError), replacing(folder / FOLDER / name) as unfinished:
            unfinished.write_text(found)
            break
    return found


def digest_of(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    parts = [files[start : start + TOGETHER] for start in range(0, len(files), TOGETHER)]
    with ThreadPoolExecutor(READERS) as readers:
        for part in watched(parts, "reading files", len(parts)):
            for path, of_file in zip(part, readers.map(sha256_of, part), strict=True):
                digest.update(json.dumps([str(path.absolute()), of_file]).encode())
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """Of what is in a file; "" of one that cannot be read, which is told when it is opened as an image."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()


def file_facts(path: Path) -> tuple[str, int, int]:
    try:
        stat = path.stat()
    except OSError:  # a link to nowhere: as unreadable as any other broken file, when it is opened
        return str(path.absolute()), 0, 0
    return str(path.absolute()), stat.st_size, stat.st_mtime_ns
