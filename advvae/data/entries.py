"""Prepared splits on disk, as they are read.

An entry is a folder with `images.npy` (N×C×H×W, uint8 or uint16: the images that could be read), `masks.npy` (N×H×W,
where there are masks), `labels.npy` and, where there are any, `groups.npy`, `paths.txt` and `names.txt` (of all images
of the source; see `texts`), `items.json`, `seals.json` (see `sealing`), and `left_out.csv` (path and reason of what is
not among them, where something is not). What grows with the number of images stays on disk when it is read.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch

from advvae.data.chunks import Tally
from advvae.data.images import REMEDY
from advvae.data.sealing import SEALS, first_broken, write_seals
from advvae.data.source import Items
from advvae.data.texts import beginning, from_inside, read_texts, take, to_inside, write_texts
from advvae.data.told import tell_once
from advvae.errors import UserError

log = logging.getLogger(__name__)

IN_MEMORY = 512 * 2**20  # bytes up to which a prepared split is read into memory

small_arrays: WeakValueDictionary[Path, torch.Tensor] = WeakValueDictionary()
kept: list[torch.Tensor] = []  # those read last, up to IN_MEMORY: the next job of a sweep asks for them again


@dataclass(frozen=True, eq=False)
class Prepared:
    """An official split: the N images of it that could be read.

    images: (N, C, H, W) uint8 or uint16, in memory when small, else mapped.
    labels, classes, paths, groups, names: as in Items.
    masks: (N, H, W) uint8, in memory when small, else mapped: 0 normal, 1 anomalous, 2 not known; None = of no image.
    numbers: (N,) int64, rising: the numbers that these images have among all of the source.
    source_groups, source_names: (n_source,) those of all images of the source, as in Items; None = there are none.
    left_out: what is missing.
    sha256: of the checksums of all its files.
    doubts: lines on what speaks against the window that the images were prepared with.
    """

    images: torch.Tensor
    labels: np.ndarray
    classes: Sequence[str]
    paths: Sequence[str] | None
    groups: np.ndarray | None
    names: Sequence[str] | None
    masks: torch.Tensor | None
    numbers: np.ndarray
    source_groups: np.ndarray | None
    source_names: Sequence[str] | None
    left_out: LeftOut
    doubts: Sequence[str]
    sha256: str


@dataclass(frozen=True)
class LeftOut:
    """What of an official split is not among its prepared images.

    file: the list of it all, with the reasons.
    n_source: images of the source, unreadable ones too.
    unreadable: (number, path, reason) of each image that could not be read.
    n_others: what the source found and does not give as an image.
    n_masks: masks that could not be used; their images are there.
    """

    file: Path
    n_source: int
    unreadable: Sequence[tuple[int, str, str]]
    n_others: int
    n_masks: int

    def check(self, what: str, max_unreadable: float) -> None:
        """Raises UserError where more than this share of the images cannot be read."""
        share = len(self.unreadable) / self.n_source
        if share <= max_unreadable:
            return
        (_, first, reason), n = self.unreadable[0], len(self.unreadable)
        if all(REMEDY in reason for *_, reason in self.unreadable):
            needed = f"{n} of its {self.n_source} images cannot be used without a window"
            raise UserError(f"{what}: {needed}, such as {first} ({reason.removesuffix(f': {REMEDY}')}): {REMEDY}")
        more = f", and so are {n - 1} more of its {self.n_source} images" if n > 1 else ""
        raise UserError(
            f"{what}: {first} is unreadable ({reason}){more}: {share:.1%} of all, more than dataset.max_unreadable="
            f"{max_unreadable:g}; remove or replace what {self.file} lists, or allow for more"
        )

    def tell(self, what: str) -> None:
        """One line per process, where something is left out."""
        counts = {"unreadable images": len(self.unreadable), "files or rows": self.n_others, "masks": self.n_masks}
        if told := ", ".join(f"{count} {kind}" for kind, count in counts.items() if count):
            tell_once(log, self.file, f"{what}: {told} left out, listed in {self.file}")


def load_entry(folder: Path, home: Path | None = None) -> Prepared | None:
    """A prepared split from its folder; None when it is not there or not whole, so that it is made again.

    home: the folder that the set's files are in by now; None = it has none that is known.
    """
    start = beginning(home)
    try:
        if broken := first_broken(folder):
            tell_once(log, folder, f"{folder / broken} is damaged: the images are prepared again")
            return None
        facts = json.loads((folder / "items.json").read_text())
        images = load_array(folder / "images.npy", facts["shape"])
        masks = load_array(folder / "masks.npy", facts["masks"]) if facts["masks"] else None
        labels = np.load(folder / "labels.npy", mmap_mode="r")
        groups = np.load(folder / "groups.npy", mmap_mode="r") if facts["groups"] else None
        paths = read_texts(folder / "paths.txt", start) if facts["paths"] else None
        names = read_texts(folder / "names.txt") if facts["names"] else None
        unreadable = [(number, from_inside(path, start), reason) for number, path, reason in facts["unreadable"]]
        left_out = LeftOut(folder / "left_out.csv", len(labels), unreadable, facts["n_others"], facts["n_bad_masks"])
        doubts = [str(doubt) for doubt in facts["doubts"]]
        classes = facts["classes"]
        sha256 = hashlib.sha256((folder / SEALS).read_bytes()).hexdigest()
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None
    numbers = np.delete(np.arange(len(labels)), [number for number, *_ in unreadable])
    beside = [part for part in (groups, paths, names) if part is not None]
    if len(numbers) != len(images) or labels.dtype != np.int64 or any(len(part) != len(labels) for part in beside):
        return None
    return Prepared(
        images,
        labels[numbers],
        classes,
        take(paths, numbers),
        None if groups is None else groups[numbers],
        take(names, numbers),
        masks,
        numbers,
        groups,
        names,
        left_out,
        doubts,
        sha256,
    )


def load_array(path: Path, shape: Sequence[int]) -> torch.Tensor:
    """Large arrays stay mapped. Small ones are read, once: train and the val cut from it share one entry."""
    array = np.load(path, mmap_mode="c")  # "c": torch wants writable memory, the file stays
    if list(array.shape) != shape:
        raise ValueError(f"{path} has another shape")
    if array.nbytes > IN_MEMORY:
        return torch.from_numpy(array)
    if (tensor := small_arrays.get(path)) is None:
        tensor = small_arrays[path] = torch.from_numpy(np.array(array))
        kept.append(tensor)
        while sum(array.nbytes for array in kept) > IN_MEMORY:
            kept.pop(0)
    return tensor


def write_facts(
    folder: Path, items: Items, tally: Tally, shape: Sequence[int], doubts: Sequence[str], home: Path | None = None
) -> None:
    """All of an entry but its arrays of images and masks.

    shape: (N, C, H, W) of the images that could be read. home: as in load_entry.
    """
    start = beginning(home)
    np.save(folder / "labels.npy", np.asarray(items.labels, dtype=np.int64))
    if items.groups is not None:
        np.save(folder / "groups.npy", np.asarray(items.groups))
    if items.paths is not None:
        write_texts(folder / "paths.txt", (to_inside(str(path), start) for path in items.paths))
    if items.names is not None:
        write_texts(folder / "names.txt", map(str, items.names))
    facts: dict[str, Any] = {
        "shape": list(shape),
        "masks": [shape[0], *shape[2:]] if tally.n_masks else None,
        "classes": [str(name) for name in items.classes],
        **{part: getattr(items, part) is not None for part in ("paths", "groups", "names")},
        "unreadable": [(number, to_inside(path, start), reason) for number, path, reason in tally.unreadable],
        "n_others": len(items.left_out),
        "n_bad_masks": len(tally.bad_masks),
        "doubts": list(doubts),
    }
    (folder / "items.json").write_text(json.dumps(facts))
    written = {path.name for path in folder.iterdir() if path.suffix in (".npy", ".txt", ".json")}
    unsealed = {SEALS} if tally.n_masks else {SEALS, "masks.npy"}  # a killed process may have left seals
    write_seals(folder, sorted(written - unsealed))


def write_left_out(folder: Path, items: Items, tally: Tally) -> LeftOut:
    """`left_out.csv`, if there is something to list."""
    path, n_others = folder / "left_out.csv", len(items.left_out)
    if rows := [*tally.failures, *items.left_out]:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "reason"), *rows])
    return LeftOut(path, tally.n_images, tally.unreadable, n_others, len(tally.bad_masks))
