"""A user's own images, decoded as they are scored: they may be patients', so no copy of them goes to the disk."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advvae.data import Split
from advvae.data.array import Array
from advvae.data.files import SUFFIXES, ImageFiles, image_files
from advvae.data.images import resized, to_array
from advvae.data.store import one_line
from advvae.errors import UserError

CHUNK = 1024  # images in memory at a time


@dataclass(frozen=True)
class Place:
    """Where an image comes from: a file and its number in the folder, or an array's file and its row there."""

    path: str
    index: int

    def __str__(self) -> str:
        return f"{Path(self.path).name} [{self.index}]"


@dataclass(frozen=True)
class Unreadable:
    """An image that is none, and why."""

    place: Place
    reason: str


class ScreenInput:
    """The images of a folder (any tree), of one image file, or of an .npy or .npz file, all of its splits.

    Args:
        size, channels: what images are brought to: side in pixels; 1 (grey) or 3 (RGB).

    Attributes:
        unreadable: grows as chunks are read.

    Raises:
        UserError: nothing is there, or nothing that could be an image.
    """

    def __init__(self, path: Path, size: int, channels: int) -> None:
        self.path = path
        self.size = size
        self.channels = channels
        self.unreadable: list[Unreadable] = []
        self._sets = _image_sets(path.expanduser())

    @property
    def n_chunks(self) -> int:
        return sum(-(-len(images) // CHUNK) for _, images in self._sets)

    def chunks(self) -> Iterator[tuple[list[Place], Split]]:
        """All images that can be read, in order, at most CHUNK of them together, and where each comes from."""
        for places, images in self._sets:
            for start in range(0, len(places), CHUNK):
                read: list[Place] = []
                arrays = self._arrays(places[start : start + CHUNK], images, read)
                if parts := list(resized(arrays, self.size, self.channels)):
                    yield read, self._split(read, parts)

    def _arrays(self, places: Sequence[Place], images: Sequence[Any], read: list[Place]) -> Iterator[np.ndarray]:
        """The images at these places as H×W×C arrays, one at a time; a place joins `read` or `unreadable`."""
        for place in places:
            try:
                array = to_array(images[place.index], self.size)
            except Exception as error:  # Pillow's readers raise almost anything for a broken file
                self.unreadable.append(Unreadable(place, one_line(error)))
                continue
            read.append(place)
            yield array

    def _split(self, places: Sequence[Place], parts: Sequence[np.ndarray]) -> Split:
        """Images (n, C, size, size) as a split without labels; 8-bit ones become 16-bit ones beside others of 16."""
        if len({part.dtype for part in parts}) > 1:
            parts = [part if part.dtype == np.uint16 else part.astype(np.uint16) * 257 for part in parts]  # 255 · 257
        n = len(places)
        return Split(
            name=self.path.name,
            split="images",
            images=torch.from_numpy(np.concatenate(parts)),
            rows=torch.arange(n),
            official_split="images",
            labels=np.full(n, -1),
            classes=[],
            paths=[str(place) for place in places],
        )


def _image_sets(path: Path) -> list[tuple[list[Place], Sequence[Any]]]:
    """The places of images, and the sequence that gives each by its index."""
    if not path.exists():
        raise UserError(f"input={path}: there is nothing there; name a folder of images, or an .npy or .npz file")
    if path.is_file() and not path.name.lower().endswith(SUFFIXES):
        array = Array(str(path))
        return [_array_images(array, split) for split in array.splits]
    files = image_files(path) if path.is_dir() else [path]
    if not files:
        raise UserError(f"input={path} holds no images (looked for {', '.join(suffix[1:] for suffix in SUFFIXES)})")
    return [([Place(str(file), index) for index, file in enumerate(files)], ImageFiles(files))]


def _array_images(array: Array, split: str) -> tuple[list[Place], Sequence[Any]]:
    """The images of a split; where there are several, its name joins the file's."""
    images = array.read(split, Path()).images
    path = f"{array.file}:{split}" if len(array.splits) > 1 else str(array.file)
    return [Place(path, index) for index in range(len(images))], images
