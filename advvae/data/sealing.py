"""Checksums of a prepared split's files, so that one that was cut short or altered is made again."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

SEALS = "seals.json"  # of each file its size, and the CRC-32 of its blocks
BLOCK = 2**22  # bytes under one checksum
LOOKED_AT = 2**29  # bytes of a file up to which all blocks are compared
SAMPLE = 16  # blocks that are compared of a larger file


def write_seals(folder: Path, names: Iterable[str]) -> None:
    """Note what is in these files of a folder, which will not change any more."""
    paths = [folder / name for name in names]
    seals = {path.name: {"size": path.stat().st_size, "blocks": list(checksums(path))} for path in paths}
    (folder / SEALS).write_text(json.dumps(seals))


def first_broken(folder: Path) -> str | None:
    """The first file of a folder that is not as it was sealed; None = none that was found.

    Sizes are all compared, and all blocks of files up to 512 MB. Of a larger one, which is mapped and not read, only
    its first, its last and some blocks between: 64 MB, a tenth of a second. Raises OSError, ValueError, KeyError or
    TypeError where there are no seals.
    """
    for name, seal in json.loads((folder / SEALS).read_text()).items():
        path, blocks = folder / name, seal["blocks"]
        if not path.is_file() or path.stat().st_size != seal["size"]:
            return name
        looked_at: Sequence[int] = range(len(blocks))
        if seal["size"] > LOOKED_AT:
            looked_at = [round(i * (len(blocks) - 1) / (SAMPLE - 1)) for i in range(SAMPLE)]
        if any(found != blocks[i] for i, found in zip(looked_at, checksums(path, looked_at), strict=True)):
            return name
    return None


def checksums(path: Path, blocks: Iterable[int] | None = None) -> Iterator[int]:
    """The CRC-32 of these blocks of a file; None = of all."""
    with path.open("rb") as file:
        for block in range(-(-path.stat().st_size // BLOCK)) if blocks is None else blocks:
            file.seek(block * BLOCK)
            yield zlib.crc32(file.read(BLOCK))
