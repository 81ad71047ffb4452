"""Many strings: as Python's own, the paths of a million images would take a gigabyte."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

INSIDE = "\0"  # no path of a file holds it


class Texts(Sequence[str]):
    """Strings that are decoded when they are asked for.

    content: uint8, the strings in UTF-8, a line end after each.
    starts: int64, where in `content` each begins, and its length.
    positions: int64, which of these strings are meant, in this order.
    home: what stands for INSIDE at their beginning, if these are paths: the set's folder, with a separator at its end.
    """

    def __init__(self, content: np.ndarray, starts: np.ndarray, positions: np.ndarray, home: str | None = None) -> None:
        self.content = content
        self.starts = starts
        self.positions = positions
        self.home = home

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        position = self.positions[index]
        text = decoded(self.content[self.starts[position] : self.starts[position + 1] - 1].tobytes())
        return from_inside(text, self.home)

    def take(self, positions: np.ndarray) -> Texts:
        """Those at these positions, in this order."""
        return Texts(self.content, self.starts, self.positions[positions], self.home)


def take(texts: Sequence[str] | None, positions: np.ndarray) -> Sequence[str] | None:
    """The strings at these positions, in this order; None = there are none."""
    if texts is None or isinstance(texts, Texts):
        return texts and texts.take(positions)
    return [texts[position] for position in positions.tolist()]


def packed(texts: Iterable[str]) -> Texts:
    """These strings, in memory."""
    content, starts = bytearray(), array("q", [0])
    for text in texts:
        content += encoded(text) + b"\n"
        starts.append(len(content))
    return Texts(np.frombuffer(content, np.uint8), np.frombuffer(starts, np.int64), np.arange(len(starts) - 1))


def write_texts(path: Path, texts: Iterable[str]) -> None:
    """Two files: `path` with a line for each string, and beside it where each begins: a string may hold line ends."""
    starts = array("q", [0])
    with path.open("wb") as file:
        for text in texts:
            starts.append(starts[-1] + file.write(encoded(text) + b"\n"))
    np.save(starts_of(path), np.frombuffer(starts, np.int64))


def read_texts(path: Path, home: str | None = None) -> Texts:
    """What `write_texts` has written, mapped. Raises OSError or ValueError for what is not there or not whole.

    home: as in Texts.
    """
    content, starts = np.memmap(path, np.uint8, "r"), np.load(starts_of(path), mmap_mode="r")
    if starts[-1] != len(content):
        raise ValueError(f"{path} is not whole")
    return Texts(np.asarray(content), np.asarray(starts), np.arange(len(starts) - 1), home)


def beginning(home: Path | None) -> str | None:
    """What the paths of files in this folder begin with."""
    return None if home is None else str(home / INSIDE)[: -len(INSIDE)]


def to_inside(path: str, home: str | None) -> str:
    """A path as it is kept, so that it stays right where the set's folder is moved; home: as in Texts."""
    if home is None or not path.startswith(home) or os.path.isabs(path[len(home) :]):
        return path
    return INSIDE + path[len(home) :]


def from_inside(path: str, home: str | None) -> str:
    return path if home is None or not path.startswith(INSIDE) else home + path[len(INSIDE) :]


def starts_of(path: Path) -> Path:
    return path.with_suffix(".starts.npy")


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # a file's name need not be UTF-8


def decoded(text: bytes) -> str:
    return text.decode("utf-8", "surrogatepass")
