"""The prepared copy of a split: decoded, converted and resized once, then read from a memory-mapped file.

An entry is a folder `<name>-<split>-<size>px-<channels>c-<key>` with `images.npy` (N×C×H×W, uint8 or uint16),
`labels.npy` and `items.json`. It is written under a temporary name and renamed when complete, so what has the right
name is whole; the key is a digest of all that shapes it.
"""

from __future__ import annotations

import glob
import hashlib
import inspect
import json
import logging
import pickle
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from advvae.data.images import FILTER, resized, to_array
from advvae.data.locks import NO_ROOM, cache_folders, exclusive, undone_on_failure, writable_cache
from advvae.data.source import Items, Source
from advvae.errors import UserError
from advvae.progress import watched

log = logging.getLogger(__name__)

FORMAT = 2  # of entries; a change of how they are made or laid out raises it
IN_MEMORY = 512 * 2**20  # bytes up to which a prepared split is read into memory
CHUNK = 256  # images that one worker prepares at a time, or fewer where they have more values than
CHUNK_VALUES = 2**24

small_entries: WeakValueDictionary[Path, torch.Tensor] = WeakValueDictionary()


@dataclass(frozen=True, eq=False)
class Prepared:
    """images: (N, C, H, W) uint8 or uint16, in memory when small, else mapped. The rest as in Items."""

    images: torch.Tensor
    labels: np.ndarray
    classes: Sequence[str]
    paths: Sequence[str] | None
    groups: np.ndarray | None


def prepare(
    source: Source, split: str, *, name: str, size: int, channels: int, data_dir: Path, num_workers: int = 0
) -> Prepared:
    """The prepared copy of an official split, made when it is missing; two processes make it once.

    Raises UserError for a dataset that cannot be read or downloaded, unreadable images, and too small a disk.
    """
    stem = f"{name}-{split}-{size}px-{channels}c"

    def entry() -> str:
        return f"{stem}-{digest(source, split, size=size, channels=channels, data_dir=data_dir)}"

    before = entry()
    for folder in cache_folders(data_dir):
        if (found := load_entry(folder / before)) is not None:
            return found
    with undone_on_failure(data_dir / "cache"):
        cache = writable_cache(data_dir)
        with exclusive(cache / f".{stem}.lock", f"preparing {name} {split}"):
            if (found := load_entry(cache / entry())) is not None:
                return found
            for leftover in cache.glob(glob.escape(f".partial-{stem}-") + "*"):  # of processes that were killed
                shutil.rmtree(leftover, ignore_errors=True)
            items = checked(source.read(split, data_dir), f"{name} {split}")
            final = cache / entry()  # once more: a download has made new files
            write_entry(items, final, what=f"{name} {split}", size=size, channels=channels, num_workers=num_workers)
    prepared = load_entry(final)
    assert prepared is not None, f"{final} was just written"
    return prepared


def digest(source: Source, split: str, *, size: int, channels: int, data_dir: Path) -> str:
    """A short name for everything that shapes a prepared split; see Source for what is known about it."""
    kind = type(source)
    facts = {
        "format": [FORMAT, FILTER, split, size, channels, str(data_dir.resolve())],
        "source": [kind.__module__, kind.__qualname__, code_of(kind), vars(source)],
        "files": [file_facts(path) for path in source.files(split, data_dir)] if hasattr(source, "files") else None,
    }
    text = json.dumps(facts, sort_keys=True, default=content_of)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def content_of(value: object) -> str:
    """A digest of an argument that is no plain value; only its type where there is none (a lock, a file)."""
    try:
        return hashlib.sha256(pickle.dumps(value)).hexdigest()
    except Exception:  # objects raise what they like
        return str(type(value))


def code_of(kind: type) -> str:
    """The source code of a user's module, or nothing where there is none to read (a notebook, a compiled module).

    For the classes of this package, FORMAT says when they read differently.
    """
    if kind.__module__.startswith("advvae."):
        return ""
    try:
        return Path(inspect.getfile(kind)).read_text()
    except (OSError, TypeError, ValueError):
        return ""


def file_facts(path: Path) -> tuple[str, int, int]:
    try:
        stat = path.stat()
    except OSError:  # a link to nowhere: as unreadable as any other broken file, when it is opened
        return str(path.absolute()), 0, 0
    return str(path.absolute()), stat.st_size, stat.st_mtime_ns


def checked(items: Items, what: str) -> Items:
    """The items, when they are whole. Raises UserError otherwise: sources may be a user's own code."""
    counts = {"images": len(items.images), "labels": len(items.labels)}
    if items.paths is not None:
        counts["paths"] = len(items.paths)
    if items.groups is not None:
        counts["groups"] = len(items.groups)
    if len(set(counts.values())) > 1:
        raise UserError(f"{what}: its source gives {counts}: these numbers must be equal")
    if not counts["images"]:
        raise UserError(f"{what}: holds no images")
    return items


def load_entry(folder: Path) -> Prepared | None:
    """A prepared split from its folder; None when it is not there or not whole, so that it is made again."""
    try:
        facts = json.loads((folder / "items.json").read_text())
        shape, classes, paths = facts["shape"], facts["classes"], facts["paths"]
        groups = facts["groups"]  # an entry from before there were groups is not whole: its source may have some
        images = np.load(folder / "images.npy", mmap_mode="c")  # "c": torch wants writable memory, the file stays
        labels = np.load(folder / "labels.npy")
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None
    if list(images.shape) != shape or len(labels) != len(images) or labels.dtype != np.int64:
        return None
    return Prepared(as_tensor(folder, images), labels, classes, paths, None if groups is None else np.array(groups))


def as_tensor(folder: Path, images: np.ndarray) -> torch.Tensor:
    """Large arrays stay mapped. Small ones are read, once: train and the val cut from it share one entry."""
    if images.nbytes > IN_MEMORY:
        return torch.from_numpy(images)
    if (tensor := small_entries.get(folder)) is None:
        tensor = small_entries[folder] = torch.from_numpy(np.array(images))
    return tensor


def write_entry(items: Items, folder: Path, *, what: str, size: int, channels: int, num_workers: int) -> None:
    """Prepare all images into `folder`: 8 bits each, unless one of them has more."""
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(folder, ignore_errors=True)  # an entry that is not whole
    log.info("preparing %s: %d images of %d px", what, len(items.images), size)
    try:
        partial.mkdir(parents=True)
        chunks = Chunks(items, what, size, channels)
        if not write_images(partial, chunks, np.dtype(np.uint8), num_workers):
            write_images(partial, chunks, np.dtype(np.uint16), num_workers)
        np.save(partial / "labels.npy", np.asarray(items.labels, dtype=np.int64))
        paths = None if items.paths is None else [str(path) for path in items.paths]
        groups = None if items.groups is None else np.asarray(items.groups).tolist()
        shape = [len(items.images), channels, size, size]
        classes = [str(name) for name in items.classes]
        facts = {"shape": shape, "classes": classes, "paths": paths, "groups": groups}
        (partial / "items.json").write_text(json.dumps(facts))
        partial.rename(folder)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise UserError(f"{what}: {folder.parent} cannot be written ({error.strerror}): set data_dir") from None
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_images(folder: Path, chunks: Chunks, dtype: np.dtype, num_workers: int) -> bool:
    """Write `images.npy`, chunk by chunk in order; False when an image has more bits than `dtype`.

    Written as a file and not through a memory map, for which a full disk is no exception but the process's end.
    """
    check_room(folder, chunks, dtype)
    failures: list[tuple[str, str]] = []
    notes: Counter[str] = Counter()
    largest = 0
    with (folder / "images.npy").open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": chunks.shape}
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in made(chunks, num_workers):
            failures += chunk.failures
            notes += chunk.notes
            if any(part.dtype.itemsize > dtype.itemsize for part in chunk.parts):
                return False
            for part in chunk.parts:
                values = part if part.dtype == dtype else part.astype(dtype) * 257  # 255·257 = 65535
                largest = max(largest, int(values.max()))
                file.write(values.tobytes())
    if failures:
        (first, reason), others = failures[0], len(failures) - 1
        more = f", and so are {others} more of its {len(chunks.items.images)} images" if others else ""
        raise UserError(f"{chunks.what}: {first} is unreadable ({reason}){more}: remove or replace them")
    for note, count in notes.items():
        log.info("%s: %d images %s", chunks.what, count, note)
    if dtype == np.uint16 and largest < 2**15:
        message = (
            "%s: no value of its 16-bit images is above %d of 65535: the networks see [-1, %.3f]; rescale them first"
        )
        log.warning(message, chunks.what, largest, largest / 65535 * 2 - 1)
    return True


def check_room(folder: Path, chunks: Chunks, dtype: np.dtype) -> None:
    needed = int(np.prod(chunks.shape)) * dtype.itemsize
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{chunks.what}: preparing it needs {needed / 1e9:.1f} GB in {folder.parent}, where {free / 1e9:.1f} GB "
            "are free: set data_dir to another disk, or a smaller size"
        )


@dataclass
class Chunk:
    """Prepared images (parts, in order), what is worth telling of how many, and (image, reason) of the unreadable."""

    parts: list[np.ndarray] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, str]] = field(default_factory=list)


class Chunks(Dataset):
    """The images of a split, prepared in chunks: always the same ones, whatever the number of workers."""

    def __init__(self, items: Items, what: str, size: int, channels: int) -> None:
        self.items = items
        self.what = what
        self.size = size
        self.channels = channels
        self.shape = (len(items.images), channels, size, size)
        self.step = max(1, min(CHUNK, CHUNK_VALUES // (channels * size * size)))

    def __len__(self) -> int:
        return -(-len(self.items.images) // self.step)

    def __getitem__(self, number: int) -> Chunk:
        chunk = Chunk()
        numbers = range(len(self.items.images))[number * self.step : (number + 1) * self.step]
        chunk.parts = list(resized(self.arrays(numbers, chunk), self.size, self.channels))
        return chunk

    def arrays(self, numbers: Sequence[int], chunk: Chunk) -> Iterator[np.ndarray]:
        """The images of these numbers as H×W×C arrays; what is worth telling goes into `chunk`."""
        for number in numbers:
            try:
                image = self.items.images[number]
                several = getattr(image, "n_frames", 1) > 1
                array = to_array(image, self.size)
            except Exception as error:  # Pillow's readers raise almost anything for a broken file
                chunk.failures.append((self.name_of(number), one_line(error)))
                continue
            chunk.notes["have several pages or frames; of these, only the first is used"] += several
            chunk.notes["are not square; of these, the centred square is used"] += array.shape[0] != array.shape[1]
            chunk.notes["are in colour and become grey, as channels=1"] += array.shape[2] > 2 and self.channels == 1
            yield array

    def name_of(self, index: int) -> str:
        return self.items.paths[index] if self.items.paths is not None else f"image {index}"


def one_line(error: BaseException) -> str:
    """The message of an exception, or its kind where it has none, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def made(chunks: Chunks, num_workers: int) -> Iterator[Chunk]:
    """All chunks in order, with a progress bar on a terminal."""
    loader: Any = DataLoader(
        chunks, batch_size=None, collate_fn=unchanged, num_workers=num_workers, generator=torch.Generator()
    )
    return watched(loader, f"preparing {chunks.what}", len(chunks))


def unchanged(chunk: Any) -> Any:
    """In place of a loader's own collation, which makes tensors in shared memory; chunks travel through a pipe."""
    return chunk
