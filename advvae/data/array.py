"""A user's own images in one NumPy file."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from advvae.data.source import SPLITS, Items
from advvae.errors import UserError

PREFIXES = ("", *(f"{split}_" for split in SPLITS))
BESIDE_IMAGES = ("labels", "groups", "masks")
GROUPS = tuple(f"{split}_groups" for split in SPLITS)
LABELS = tuple(f"{prefix}labels" for prefix in PREFIXES)
LARGEST = 65535  # number of a class
KEYS = "<split>_images with <split> = train, val or test, or images"


class Array:
    """N×H×W or N×H×W×C images, uint8, uint16 or float in [0, 1], or with a window (see Form) numbers of any kind.

    They are kept with 16 bits, or 8 where these do.

    path: an .npy file, or an .npz file with the keys `<split>_images` and, where there are any, `<split>_labels` (as
        MedMNIST's), or with `images` and `labels`. Labels are (N,) or (N, 1) numbers of classes, or (N, K) of 0 and 1.
        `<split>_groups` or `groups` say which images belong together, such as one patient's: (N,) or (N, 1) whole
        numbers or strings. `<split>_masks` or `masks`, N×H×W, are not 0 where an image is anomalous.
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
        with self.opened() as arrays:
            keys = list(arrays)
        named = [split for split in SPLITS if f"{split}_images" in keys]
        if named and "images" in keys:
            raise UserError(f"{self.file}: has images and {named[0]}_images: rename or remove one of them")
        if not named and "images" not in keys:
            raise UserError(f"{self.file}: has the keys {', '.join(keys) or 'none'}, but needs {KEYS}")
        return named or ["train"]

    def files(self, split: str, data_dir: Path) -> list[Path]:
        return [self.file]

    def identity(self) -> tuple[Path, Mapping[str, Any]]:
        return self.file.parent, {}

    def read(self, split: str, data_dir: Path) -> Items:
        with self.opened() as arrays:
            prefix = f"{split}_" if f"{split}_images" in arrays else ""
            images = arrays[f"{prefix}images"]
            labels = {key: arrays[key] for key in arrays if key in LABELS}
            groups, masks = arrays.get(f"{prefix}groups"), arrays.get(f"{prefix}masks")
            lonely = keys_without_images(arrays)
            check_groups({key: arrays[key] for key in arrays if key in GROUPS}, str(self.file))
        if lonely:
            raise UserError(f"{self.file}: has {', '.join(lonely)}, but no images by that name: rename or remove them")
        check_shape(images, f"{self.file}: {prefix}images")
        if groups is not None:
            groups = to_groups(groups, f"{self.file}: {prefix}groups")
        if masks is not None:
            check_masks(masks, images, f"{self.file}: {prefix}masks")
        labels = {key: to_labels(numbers, f"{self.file}: {key}") for key, numbers in labels.items()}
        own = labels.get(f"{prefix}labels")
        check_lengths({f"{prefix}labels": own, f"{prefix}groups": groups}, len(images), str(self.file))
        if own is None:
            own, count = np.full(len(images), -1, dtype=np.int64), 0
        elif own.ndim == 2:
            count = own.shape[1]
        else:  # of all splits: a number means the same in each
            count = 1 + max(int(numbers.max(initial=-1)) for numbers in labels.values())
        classes = [str(number) for number in range(count)]
        return Items(Rows(images), own, classes, groups=groups, masks=None if masks is None else Rows(masks))

    @contextmanager
    def opened(self) -> Iterator[Mapping[str, np.ndarray]]:
        """The file's arrays by key, read when they are asked for; an .npy file has its images alone."""
        try:
            content = np.load(self.file, mmap_mode="r", allow_pickle=False)
            if isinstance(content, np.ndarray):
                yield {"images": content}
            else:
                with content:
                    yield Archive(content)
        except UserError:
            raise
        except Exception as error:  # broken headers and archives fail in many ways
            if "allow_pickle" in str(error) or "Python objects" in str(error):
                remedy = "holds Python objects, which could run code when loaded: save plain arrays of numbers"
                raise UserError(f"{self.file} is no NumPy file, or {remedy}") from None
            raise UserError(f"{self.file} is broken or no .npy or .npz file ({error})") from None


class Archive(Mapping[str, np.ndarray]):
    """The arrays of an .npz file, each read when it is asked for.

    Raises UserError for one that no memory here could hold, before it is unpacked: zeros pack well.
    """

    def __init__(self, content: Any) -> None:
        self.content = content
        self.sizes = {member.filename.removesuffix(".npy"): member.file_size for member in content.zip.infolist()}

    def __getitem__(self, key: str) -> np.ndarray:
        if (size := self.sizes.get(key, 0)) > (memory := memory_of_machine()):
            sizes = f"{size / 1e9:.0f} GB, and this machine has {memory / 1e9:.0f} GB of memory"
            remedy = "save its images as .npy, which stays on disk"
            raise UserError(f"{self.content.zip.filename}: {key} unpacks to {sizes}: {remedy}")
        array = self.content[key]
        if not isinstance(array, np.ndarray):  # but the bytes of a member of another kind
            raise ValueError(f"{key} is no array")
        return array

    def __contains__(self, key: object) -> bool:
        return key in self.content.files

    def __iter__(self) -> Iterator[str]:
        return iter(self.content.files)

    def __len__(self) -> int:
        return len(self.content.files)


def memory_of_machine() -> float:
    """Bytes; infinite where the system does not tell."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf


def keys_without_images(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Those that describe images which are not there."""
    described = {f"{prefix}{name}": f"{prefix}images" for prefix in PREFIXES for name in BESIDE_IMAGES}
    return [key for key in arrays if key in described and described[key] not in arrays]


class Rows(Sequence[np.ndarray]):
    """The images of an array, each taken from it when it is asked for: the file may be larger than the memory."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Any:
        return self.images[index]


def check_groups(groups: Mapping[str, np.ndarray], what: str) -> None:
    """Raises UserError for a group that is in two splits; groups: by key of the file."""
    names = {key: set(to_groups(values, f"{what}: {key}").tolist()) for key, values in groups.items()}
    for first, second in combinations(names, 2):
        if shared := names[first] & names[second]:
            torn = f"{len(shared)} groups are in {first} and in {second}"
            raise UserError(f"{what}: {torn}: no patient may be in two splits")


def check_shape(images: np.ndarray, what: str) -> None:
    """Raises UserError for what is no array of images; their values are looked at when they are prepared."""
    if images.ndim == 3 and images.shape[2] <= 4:
        remedy = "for one image with channels, images[None] makes N×H×W×C of it"
        raise UserError(f"{what} have the shape {images.shape}: N×H×W with W > 4 is needed; {remedy}")
    if images.ndim not in (3, 4) or 0 in images.shape[1:] or (images.ndim == 4 and images.shape[3] > 4):
        raise UserError(f"{what} have the shape {images.shape}: N×H×W or N×H×W×C with C = 1, 3 or 4 is needed")


def check_lengths(arrays: Mapping[str, np.ndarray | None], n_images: int, what: str) -> None:
    for key, values in arrays.items():
        if values is not None and len(values) != n_images:
            raise UserError(f"{what}: {key} are {len(values)} for {n_images} images: one for each image is needed")


def check_masks(masks: np.ndarray, images: np.ndarray, what: str) -> None:
    if masks.shape != images.shape[:3]:
        raise UserError(f"{what} have the shape {masks.shape}: {images.shape[:3]} is needed, that of the images")


def to_labels(labels: np.ndarray, what: str) -> np.ndarray:
    """(N,) numbers of classes, -1 = unlabelled, or (N, K) of 0 and 1; int64."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    limit = 1 if labels.ndim == 2 else LARGEST
    whole = labels.dtype.kind in "iub" and labels.ndim in (1, 2)
    if not whole or labels.min(initial=0) < labels.ndim - 2 or labels.max(initial=0) > limit:
        numbers = f"whole numbers from -1 (unlabelled) to {LARGEST}"
        raise UserError(f"{what} must be (N,) or (N, 1) {numbers}, or (N, K) of 0 and 1")
    return labels.astype(np.int64)


def to_groups(groups: np.ndarray, what: str) -> np.ndarray:
    """(N,) str or int of an array (N,) or (N, 1)."""
    if groups.ndim == 2 and groups.shape[1] == 1:
        groups = groups[:, 0]
    if groups.ndim != 1 or groups.dtype.kind not in "iuU":
        raise UserError(f"{what} must be (N,) or (N, 1) whole numbers or strings, one per image")
    return groups
