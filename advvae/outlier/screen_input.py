"""A user's own images, decoded as they are scored: they may be patients', so no copy of them goes to the disk."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advvae.data import Split
from advvae.data.array import Array, check_shape
from advvae.data.chunks import one_line
from advvae.data.images import in_16_bits, resized, to_array
from advvae.data.nifti import Slices, parse_slices
from advvae.data.readers import SUFFIXES, ImageFiles, image_files, is_image, places
from advvae.data.source import Form
from advvae.errors import UserError

CHUNK = 1024  # images in memory at a time


@dataclass(frozen=True)
class Place:
    """Where an image comes from: its file and its number among all in the folder, or an array's file and row there.

    path: with the frame or slice, where a file holds several, as in "scans/a.nii.gz#17".
    split: of an array's file that holds several, each of which numbers its own images; "" = there is one numbering.
    """

    path: str
    index: int
    split: str = ""

    @property
    def picture(self) -> str:
        """The name of a picture of the image, below a folder: its number, in a folder for each split."""
        return f"{self.split}/{self.index:05}" if self.split else f"{self.index:05}"

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
        form: what images are brought to.
        slices: which ones of NIfTI volumes, as `dataset.slices`.

    Attributes:
        unreadable: grows as chunks are read.
        n_values, n_ends: values read so far, and how many of them are black or white.

    Raises:
        UserError: nothing is there, or nothing that could be an image; no such slices; a package is missing.
    """

    def __init__(self, path: Path, form: Form, slices: str | list[Any] | None = None) -> None:
        self.path = path
        self.form = form
        self.unreadable: list[Unreadable] = []
        self.n_values = self.n_ends = 0
        self._sets = _image_sets(path.expanduser(), parse_slices(slices))
        if not any(images.n for images in self._sets):
            raise UserError(f"input={path} holds no images")

    @property
    def n_chunks(self) -> int:
        return sum(-(-images.n // CHUNK) for images in self._sets)

    def chunks(self) -> Iterator[tuple[list[Place], Split]]:
        """All images that can be read, in order, at most CHUNK of them together, and where each comes from."""
        for image_set in self._sets:
            yield from self._chunks_of(image_set)

    def _chunks_of(self, image_set: "ImageSet") -> Iterator[tuple[list[Place], Split]]:
        images = image_set.open()  # which this call alone holds: sets do not lie in memory together
        for start in range(0, image_set.n, CHUNK):
            read: list[Place] = []
            places = [image_set.place(index) for index in range(start, min(start + CHUNK, image_set.n))]
            if parts := list(resized(self._arrays(places, images, read), self.form)):
                yield read, self._split(read, parts)

    def _arrays(self, places: Sequence[Place], images: Sequence[Any], read: list[Place]) -> Iterator[np.ndarray]:
        """The images at these places as H×W×C arrays, one at a time; a place joins `read` or `unreadable`."""
        for place in places:
            try:
                array = to_array(images[place.index], self.form)
            except Exception as error:  # Pillow's readers raise almost anything for a broken file
                self.unreadable.append(Unreadable(place, one_line(error)))
                continue
            read.append(place)
            self.n_values += array.size
            self.n_ends += int(np.count_nonzero((array == 0) | (array == np.iinfo(array.dtype).max)))
            yield array

    def _split(self, places: Sequence[Place], parts: Sequence[np.ndarray]) -> Split:
        """Images (n, C, size, size) as a split without labels; 8-bit ones become 16-bit ones beside others of 16."""
        if len({part.dtype for part in parts}) > 1:
            parts = [in_16_bits(part) for part in parts]
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


@dataclass(frozen=True)
class ImageSet:
    """Images of one array or folder.

    place: where the image of an index, 0 ... n - 1, comes from.
    open: gives the sequence of the images.
    """

    n: int
    place: Callable[[int], Place]
    open: Callable[[], Sequence[Any]]


def _image_sets(path: Path, slices: Slices) -> list[ImageSet]:
    if not path.exists():
        raise UserError(f"input={path}: there is nothing there; name a folder of images, or an .npy or .npz file")
    if path.is_file() and not is_image(path):
        array = Array(str(path))
        return [_array_images(array, split) for split in array.splits]
    files = image_files(path) if path.is_dir() else [path]
    if not files:
        raise UserError(f"input={path} holds no images (looked for {', '.join(suffix[1:] for suffix in SUFFIXES)})")
    found = places(files, slices)
    return [ImageSet(len(found), lambda index: Place(str(found[index]), index), lambda: ImageFiles(found))]


def _array_images(array: Array, split: str) -> ImageSet:
    """The images of a split; where there are several, its name joins the file's."""
    several = len(array.splits) > 1
    path = f"{array.file}:{split}" if several else str(array.file)
    place = partial(Place, path, split=split if several else "")
    return ImageSet(_count(array, split), place, lambda: array.read(split, Path()).images)


def _count(array: Array, split: str) -> int:
    """How many images a split has, by the header of its array. Raises UserError for what is no array of images."""
    with array.opened() as arrays:
        key = f"{split}_images" if f"{split}_images" in arrays else "images"
        shape = _npz_shape(arrays, key) if isinstance(arrays, np.lib.npyio.NpzFile) else arrays[key].shape
    check_shape(np.broadcast_to(np.uint8(0), shape), f"{array.file}: {key}")
    return shape[0]


def _npz_shape(arrays: np.lib.npyio.NpzFile, key: str) -> tuple[int, ...]:
    assert arrays.zip is not None, "it is open"
    with arrays.zip.open(f"{key}.npy") as file:
        is_first = np.lib.format.read_magic(file) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
        return read(file)[0]
