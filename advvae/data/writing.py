"""Preparing a split: chunk by chunk into an entry that has a temporary name, and goes on where a kill left it."""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from advvae.data.chunks import Chunk, Chunks, Tally, made
from advvae.data.entries import write_facts, write_left_out
from advvae.data.images import FILTER, in_16_bits
from advvae.data.locks import NO_ROOM, check_room
from advvae.data.source import Form, Items
from advvae.errors import UserError

log = logging.getLogger(__name__)

JOURNAL = "journal.jsonl"  # of an entry in the making: a Tally for each chunk that is in its arrays
HEADER = 128  # bytes before the values of an array
TOLD = 3  # images left out that the log names
BLOCK = 2**24  # values turned from 8 into 16 bits at a time


def write_entry(
    items: Items,
    folder: Path,
    *,
    what: str,
    home: Path | None,
    form: Form,
    num_workers: int,
    max_unreadable: float,
) -> None:
    """Prepare all images into `folder`: 8 bits each, unless one of them has more.

    home: the folder that the set's files are in; None = it has none that is known.
    Raises UserError where more than this share of them cannot be read, and for a disk that is full. What is there of
    the entry stays but in the latter case, and the next call goes on with it.
    """
    shutil.rmtree(folder, ignore_errors=True)  # an entry that is not whole
    if folder.exists():
        raise UserError(f"{folder} is damaged, and of another user: have it removed, or set data_dir")
    partial = partial_of(folder)
    chunks = Chunks(items, form)
    try:
        with Unfinished(partial, chunks) as entry:
            tally = entry.tally
            chunks.start = tally.n_images
            tell_start(chunks, what)
            for chunk in made(chunks, f"preparing {what}", num_workers):
                entry.append(chunk)
        write_left_out(partial, items, tally).check(what, max_unreadable)
        doubts = [f"{what}: {doubt}" for doubt in doubts_of(tally, form, entry.arrays[0].dtype)]
        write_facts(partial, items, tally, (tally.n_read, *chunks.shape[1:]), doubts, home)
        partial.rename(folder)
    except OSError as error:
        if folder.is_dir():  # another user, behind another lock, was faster
            shutil.rmtree(partial, ignore_errors=True)
            return
        if error.errno not in NO_ROOM:
            raise
        shutil.rmtree(partial, ignore_errors=True)
        message = f"{what}: {folder.parent} cannot be written ({error.strerror}): set data_dir to another disk"
        raise UserError(f"{message}, or a smaller size") from None
    (folder / JOURNAL).unlink()
    if not tally.n_masks:
        (folder / "masks.npy").unlink(missing_ok=True)
    tell_findings(tally, what)


def tell_start(chunks: Chunks, what: str) -> None:
    form, n = chunks.form, len(chunks.items.images)
    after = f", going on after the {chunks.start} of before" if chunks.start else ""
    log.info("preparing %s: %d images to %d px (%s, resize=%s)%s", what, n, form.size, FILTER, form.resize, after)


def tell_findings(tally: Tally, what: str) -> None:
    """What the user should know of the images."""
    for path, reason in tally.failures[:TOLD]:
        log.warning("%s: %s: %s", what, path, reason)
    for note, count in tally.notes.items():
        log.info("%s: %d images %s", what, count, note)


def doubts_of(tally: Tally, form: Form, dtype: np.dtype) -> Iterator[str]:
    """What speaks against the window, or for one. dtype: of the prepared images."""
    if form.window is None and dtype == np.uint16 and tally.largest < 2**15:
        dark = f"no value of its 16-bit images is above {tally.largest} of 65535"
        seen = f"the networks see [-1, {tally.largest / 65535 * 2 - 1:.3f}]"
        remedy = "set dataset.window=[low,high], or dataset.percentiles=[0.5,99.5]"
        yield f"{dark}: {seen}; {remedy}"
    if form.window is not None and tally.n_clipped:
        low, high = form.window
        images = f"{tally.n_clipped} of its {tally.n_read} images have more than half of their values"
        share = f"{tally.n_outside / tally.n_values:.0%} of all"
        yield f"{images} outside the window [{low:g},{high:g}], black or white then ({share}): check dataset.window"
    if 0 < tally.n_shallow < tally.n_read:
        mixed = f"{tally.n_shallow} of its {tally.n_read} images have 8 bits and the others more"
        yield f"{mixed}: the window takes their values for the same unit: bring the files to equal bits"


def partial_of(folder: Path) -> Path:
    """Where an entry is made, each user in a place of their own: what another has left may not be written to."""
    user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
    return folder.with_name(f".partial-{folder.name}{user}")


class Unfinished:
    """An entry in the making. Each chunk joins the arrays, and then, in one line, the journal.

    So whatever moment a kill comes at, the lines of the journal that are whole tell what is right in the arrays.
    """

    def __init__(self, folder: Path, chunks: Chunks) -> None:
        self.folder = folder
        shape = chunks.shape
        shapes: dict[str, tuple[int, ...]] = {"images.npy": shape}
        if chunks.items.masks is not None:
            shapes["masks.npy"] = (shape[0], *shape[2:])
        self.tally = self._resumed(chunks, shapes)
        if not self.tally.n_images:
            shutil.rmtree(folder, ignore_errors=True)
            check_room(folder.parent, sum(map(math.prod, shapes.values())))
            folder.mkdir()
        self.arrays = [GrowingArray(folder / name, shape, self.tally.n_read) for name, shape in shapes.items()]
        self.journal = (folder / JOURNAL).open("a")

    def _resumed(self, chunks: Chunks, shapes: Mapping[str, tuple[int, ...]]) -> Tally:
        """What is right in the arrays that were left here; nothing of them, where an image can be read by now."""
        path = self.folder / JOURNAL
        tally, size = Tally(), 0
        try:
            for line in path.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):  # else the kill came before its end
                    tally.add(Tally.from_json(line))
                    size += len(line)
            os.truncate(path, size)
            whole = all(has_rows(self.folder / name, shape, tally.n_read) for name, shape in shapes.items())
        except (OSError, ValueError, TypeError, KeyError):
            return Tally()
        if not whole or any(chunks.reason_unreadable(number) is None for number, *_ in tally.unreadable):
            return Tally()
        return tally

    def __enter__(self) -> Unfinished:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self.journal.close()
        for array in self.arrays:
            array.close(finished=kind is None)

    def append(self, chunk: Chunk) -> None:
        images, *masks = self.arrays
        for part in chunk.parts:
            images.append(part)
        for array in masks:
            assert chunk.masks is not None
            array.append(chunk.masks)
        self.journal.write(chunk.tally.to_json() + "\n")
        self.journal.flush()
        self.tally.add(chunk.tally)


class GrowingArray:
    """An .npy file that grows: uint8, until uint16 values come.

    Written as a file and not through a memory map, for which a full disk is no exception but the process's end.

    shape: (N, …), all rows that there may be.
    n_rows: how many rows of the file are right, if it is there; what comes after them is cut off.
    """

    def __init__(self, path: Path, shape: Sequence[int], n_rows: int) -> None:
        self.path = path
        self.shape = tuple(shape)
        self.n_rows = n_rows
        self.dtype = np.dtype(np.uint8)
        if n_rows:
            self.dtype = dtype_of(path)
            self.file = path.open("r+b")
            self.file.truncate(n_bytes(n_rows, shape, self.dtype))
        else:
            self.file = path.open("w+b")
            self.file.write(npy_header(self.dtype, self.shape))
        self.file.seek(0, os.SEEK_END)

    def append(self, rows: np.ndarray) -> None:
        """Write (n, …) uint8 or uint16 rows at the end, and out of this process."""
        if rows.dtype.itemsize > self.dtype.itemsize:
            self._deepen(rows.dtype)
        self.file.write((rows if rows.dtype == self.dtype else in_16_bits(rows)).tobytes())
        self.file.flush()
        self.n_rows += len(rows)

    def _deepen(self, dtype: np.dtype) -> None:
        """Turn all rows into 16 bits. Done in another file, which takes the place of this one when it is whole."""
        check_room(self.path.parent, math.prod(self.shape) * dtype.itemsize)
        self.dtype = dtype
        self.file.seek(HEADER)
        deeper = self.path.with_suffix(".deeper")
        with deeper.open("wb") as file:
            file.write(npy_header(dtype, self.shape))
            while values := self.file.read(BLOCK):
                file.write(in_16_bits(np.frombuffer(values, np.uint8)).tobytes())
        self.file.close()
        deeper.replace(self.path)
        self.file = self.path.open("r+b")
        self.file.seek(0, os.SEEK_END)

    def close(self, finished: bool) -> None:
        """finished: no more rows come, so that the header can tell how many there are."""
        if finished:
            self.file.seek(0)
            self.file.write(npy_header(self.dtype, (self.n_rows, *self.shape[1:])))
        self.file.close()


def npy_header(dtype: np.dtype, shape: Sequence[int]) -> bytes:
    """The first bytes of an .npy file, format 1.0: always as many, so that they can be written again."""
    facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": tuple(shape)}
    magic = np.lib.format.magic(1, 0)
    length = HEADER - len(magic) - 2
    return magic + length.to_bytes(2, "little") + f"{facts!r:<{length - 1}}\n".encode("latin1")


def dtype_of(path: Path) -> np.dtype:
    """The type of the values in an .npy file, which need not be whole."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        return np.lib.format.read_array_header_1_0(file)[2]


def n_bytes(n_rows: int, shape: Sequence[int], dtype: np.dtype) -> int:
    """Of an array's file with this many rows, each of shape[1:]."""
    return HEADER + n_rows * math.prod(shape[1:]) * dtype.itemsize


def has_rows(path: Path, shape: Sequence[int], n_rows: int) -> bool:
    """Whether an array's file holds at least this many rows."""
    return path.stat().st_size >= n_bytes(n_rows, shape, dtype_of(path))
