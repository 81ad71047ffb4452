"""Images in files of their own: a user's folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from advvae.data.source import SPLITS, Items
from advvae.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

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

    The class of an image is the first folder below its split's (or below root); without one it is unlabelled.

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
    def splits(self) -> Sequence[str]:
        return [split for split in SPLITS if (self.folder / split).is_dir()] or ["train"]

    def folder_of(self, split: str) -> Path:
        return self.folder / split if (self.folder / split).is_dir() else self.folder

    def files(self, split: str, data_dir: Path) -> list[Path]:
        return image_files(self.folder_of(split))

    def read(self, split: str, data_dir: Path) -> Items:
        names = [self.class_names(other) for other in self.splits]
        classes = sorted(set().union(*names) - {""})  # of all splits, so that a number means the same in each
        paths = self.files(split, data_dir)
        if not paths:
            known = ", ".join(suffix[1:] for suffix in SUFFIXES)
            raise UserError(f"{self.folder_of(split)} holds no images (looked for {known}): check dataset.root")
        numbers = {"": -1} | {name: number for number, name in enumerate(classes)}
        labels = [numbers[class_of(path, self.folder_of(split))] for path in paths]
        return Items(ImageFiles(paths), np.array(labels, dtype=np.int64), classes, [str(path) for path in paths])

    def class_names(self, split: str) -> set[str]:
        folder = self.folder_of(split)
        return {class_of(path, folder) for path in image_files(folder)}


def image_files(folder: Path) -> list[Path]:
    """All files below `folder` that are images by their name, in a fixed order; hidden ones are left out."""
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        found += [Path(parent, name) for name in names if name.lower().endswith(SUFFIXES) and name[0] != "."]
    return sorted(found)


def class_of(path: Path, folder: Path) -> str:
    inside = path.relative_to(folder).parts
    return inside[0] if len(inside) > 1 else ""
