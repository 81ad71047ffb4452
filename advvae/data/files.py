"""Images in files of their own: a user's folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from advvae.data.source import SPLITS, Items
from advvae.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

OTHER_NAMES_OF_VAL = ("valid", "validation")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".pgm", ".ppm", ".pbm", ".jp2")


def open_image(path: str | Path) -> Image.Image:
    """The image in a file, not yet decoded."""
    from PIL import Image

    return Image.open(path)


class ImageFiles(Sequence["Image.Image"]):
    """Files as images, opened when they are asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        return open_image(self.paths[index])


class Folder:
    """Any tree of images: with the folders train, val, test (any of them) or without, with class folders or without.

    Beside train or test, a folder valid or validation is taken for val. The class of an image is the first folder
    below its split's (or below root); without one it is unlabelled.

    root: the folder.
    """

    private = True

    def __init__(self, root: str | None = None) -> None:
        self.root = root

    @property
    def folder(self) -> Path:
        if not self.root:
            raise UserError("dataset.root (or out_dataset.root) is not set: give the folder that holds your images")
        folder = Path(self.root).expanduser()
        if not folder.is_dir():
            raise UserError(f"dataset.root (or out_dataset.root) = {folder}: there is no such folder")
        return folder

    @property
    def folders(self) -> dict[str, Path]:
        """The folder of each split that has one; `valid` and `validation` are that of val beside one of the others."""
        found = {split: self.folder / split for split in SPLITS if (self.folder / split).is_dir()}
        for name in OTHER_NAMES_OF_VAL:
            if found and "val" not in found and (self.folder / name).is_dir():
                found["val"] = self.folder / name
        return found

    @property
    def splits(self) -> Sequence[str]:
        return list(self.folders) or ["train"]

    def folder_of(self, split: str) -> Path:
        return self.folders.get(split, self.folder)

    def files(self, split: str, data_dir: Path) -> list[Path]:
        return image_files(self.folder_of(split), skipped=[self.folder, *self.folders.values()])

    def read(self, split: str, data_dir: Path) -> Items:
        names = {}
        for other in self.splits:  # all, so that a number means the same in each
            folder = self.folder_of(other)
            names[other] = [class_of(path, folder) for path in self.files(other, data_dir)]
        classes = sorted(set().union(*names.values()) - {""})
        paths = self.files(split, data_dir)
        if not paths:
            known = ", ".join(suffix[1:] for suffix in SUFFIXES)
            raise UserError(f"{self.folder_of(split)} holds no images (looked for {known}): check dataset.root")
        self.tell_unused()
        numbers = {"": -1} | {name: number for number, name in enumerate(classes)}
        labels = np.array([numbers[name] for name in names[split]], dtype=np.int64)
        return Items(ImageFiles(paths), labels, classes, [str(path) for path in paths])

    def tell_unused(self) -> None:
        """Say where images lie that belong to no split."""
        if used := self.folders:
            others = image_files(self.folder, skipped=list(used.values()))
            if unused := sorted({class_of(path, self.folder) or "the folder itself" for path in others}):
                names = ", ".join(path.name for path in used.values())
                log.warning("%s: only %s are used; the images in %s are not", self.folder, names, ", ".join(unused))


def image_files(folder: Path, skipped: Sequence[Path] = ()) -> list[Path]:
    """All files below `folder` that are images by their name, in a fixed order; hidden ones are left out.

    Links are followed, but no folder is entered twice; nor, below `folder`, one of `skipped`.
    Raises UserError for a folder that cannot be read.
    """

    def unreadable(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): set its permissions, or remove it")

    found = []
    seen = {os.path.realpath(path) for path in skipped} - {os.path.realpath(folder)}
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=unreadable):
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        found += [Path(parent, name) for name in names if name.lower().endswith(SUFFIXES) and name[0] != "."]
    return sorted(found)


def class_of(path: Path, folder: Path) -> str:
    inside = path.relative_to(folder).parts
    return inside[0] if len(inside) > 1 else ""
