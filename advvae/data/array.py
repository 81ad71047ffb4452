"""A user's own images in one NumPy file."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from advvae.data.source import SPLITS, Items
from advvae.errors import UserError

KEYS = "<split>_images with <split> = train, val or test, or images"


class Array:
    """N×H×W or N×H×W×C images, uint8, uint16 or float in [0, 1]; floats are kept with 16 bits, or 8 where these do.

    path: an .npy file, or an .npz file with the keys `<split>_images` and, where there are any, `<split>_labels` (as
        MedMNIST's), or with `images` and `labels`. Labels are (N,) or (N, 1) numbers of classes, or (N, K) of 0 and 1.
    """

    private = True

    def __init__(self, path: str | None = None) -> None:
        self.path = path

    @property
    def file(self) -> Path:
        if not self.path:
            raise UserError("dataset.path (or out_dataset.path) is not set: give an .npy or .npz file of images")
        file = Path(self.path).expanduser()
        if not file.is_file():
            raise UserError(f"dataset.path (or out_dataset.path) = {file}: there is no such file")
        return file

    @property
    def splits(self) -> Sequence[str]:
        keys = self.keys()
        named = [split for split in SPLITS if f"{split}_images" in keys]
        if not named and "images" not in keys:
            raise UserError(f"{self.file}: has the keys {', '.join(keys) or 'none'}, but needs {KEYS}")
        return named or ["train"]

    def files(self, split: str, data_dir: Path) -> list[Path]:
        return [self.file]

    def read(self, split: str, data_dir: Path) -> Items:
        arrays = self.arrays()
        prefix = f"{split}_" if f"{split}_images" in arrays else ""
        images = to_integers(self.load(arrays, f"{prefix}images"), f"{self.file}: {prefix}images")
        if f"{prefix}labels" not in arrays:
            return Items(list(images), np.full(len(images), -1, dtype=np.int64), [])
        labels = {key: to_labels(self.load(arrays, key), f"{self.file}: {key}") for key in label_keys(arrays)}
        own = labels[f"{prefix}labels"]
        largest = max(int(numbers.max(initial=-1)) for numbers in labels.values())
        count = own.shape[1] if own.ndim == 2 else largest + 1  # of all splits: a number means the same in each
        return Items(list(images), own, [str(number) for number in range(count)])

    def keys(self) -> list[str]:
        return list(self.arrays())

    def arrays(self) -> Mapping[str, np.ndarray]:
        """The file's arrays by key, read when they are asked for; an .npy file has its images alone."""
        with self.readable():
            content = np.load(self.file, mmap_mode="r", allow_pickle=False)
            return {"images": content} if isinstance(content, np.ndarray) else content

    def load(self, arrays: Mapping[str, np.ndarray], key: str) -> np.ndarray:
        with self.readable():
            return arrays[key]

    @contextmanager
    def readable(self) -> Iterator[None]:
        """What goes wrong inside, in one line."""
        try:
            yield
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            if "allow_pickle" in str(error) or "Python objects" in str(error):
                remedy = "holds Python objects, which could run code when loaded: save plain arrays of numbers"
                raise UserError(f"{self.file} is no NumPy file, or {remedy}") from None
            raise UserError(f"{self.file} is broken or no .npy or .npz file ({error})") from None


def label_keys(arrays: Mapping[str, np.ndarray]) -> list[str]:
    return [key for key in arrays if key in ("labels", *(f"{split}_labels" for split in SPLITS))]


def to_integers(images: np.ndarray, what: str) -> np.ndarray:
    """uint8 or uint16 images; floats with 8 bits when these hold them all, as uint8 images divided by 255 are."""
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 2, 3, 4)):
        raise UserError(f"{what} have the shape {images.shape}: N×H×W or N×H×W×C with C = 1, 3 or 4 is needed")
    if images.dtype in (np.uint8, np.uint16):
        return images
    if images.dtype.kind != "f":
        raise UserError(f"{what} are of type {images.dtype}: uint8, uint16 or float in [0, 1] is needed")
    low, high = images.min(initial=0), images.max(initial=0)
    if not (low >= 0 and high <= 1):  # written so that NaN fails too
        raise UserError(f"{what} are floats from {low:g} to {high:g}: they must lie in [0, 1]")
    limit, dtype = (255, np.uint8) if all(map(holds_8_bits, images)) else (65535, np.uint16)
    integers = np.empty(images.shape, dtype=dtype)
    for index, image in enumerate(images):  # one by one: the file may be larger than the memory
        integers[index] = np.rint(image.astype(np.float32) * limit)
    return integers


def holds_8_bits(image: np.ndarray) -> bool:
    scaled = image.astype(np.float32) * 255
    return bool(np.abs(scaled - np.rint(scaled)).max() < 1e-3)


def to_labels(labels: np.ndarray, what: str) -> np.ndarray:
    """(N,) numbers of classes, -1 = unlabelled, or (N, K) of 0 and 1; int64."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    limit = 1 if labels.ndim == 2 else np.inf
    whole = labels.dtype.kind in "iub" and labels.ndim in (1, 2)
    if not whole or labels.min(initial=0) < labels.ndim - 2 or labels.max(initial=0) > limit:
        raise UserError(f"{what} must be (N,) or (N, 1) whole numbers from -1 (unlabelled), or (N, K) of 0 and 1")
    return labels.astype(np.int64)
