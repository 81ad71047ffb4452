"""MedMNIST: twelve sets of 2-D medical images, each published at 28, 64, 128 and 224 px."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np

from advvae.data.download import OfficialFile, fetch, reason
from advvae.data.source import SPLITS, Items
from advvae.errors import UserError

FOLDER = "MedMNIST"  # under data_dir
SIZES = (28, 64, 128, 224)  # pixels


class MedMNISTSource:
    """One set, at the published size that suits: 28 for up to 32 px, else the smallest that is not below.

    flag: its name in MedMNIST, such as octmnist. size: the side that the images will have, in pixels.
    """

    splits = SPLITS

    def __init__(self, flag: str, size: int = 28) -> None:
        self.flag = flag
        self.size = size

    def at_size(self, size: int) -> MedMNISTSource:
        sized = copy.copy(self)
        sized.size = size
        return sized

    def published_size(self, root: Path) -> int:
        """The size of the file to read: a larger one that is there goes before a download."""
        enough = [size for size in SIZES if size >= self.size or (size == 28 and self.size <= 32)] or [SIZES[-1]]
        present = [size for size in enough if (root / self.file_name(size)).is_file()]
        return (present or enough)[0]

    def file_name(self, size: int) -> str:
        return f"{self.flag}.npz" if size == 28 else f"{self.flag}_{size}.npz"

    def files(self, split: str, data_dir: Path) -> list[Path]:
        root = data_dir / FOLDER
        path = root / self.file_name(self.published_size(root))
        return [path] if path.is_file() else []

    def read(self, split: str, data_dir: Path) -> Items:
        root = data_dir / FOLDER
        size = self.published_size(root)
        official = self.official(size)
        path = root / official.path
        if not path.is_file():
            fetch(self.flag, root, [official], present=path.is_file, kept=(), download=lambda folder: None)
        try:
            dataset = self.kind()(split, root=str(root), size=size)
        except Exception as error:  # a broken .npz fails in many ways
            remedy = "remove it, and it is downloaded again"
            raise UserError(f"{self.flag}: {path} is broken ({reason(error)}): {remedy}") from error
        labels = dataset.labels.astype(np.int64)
        names = dataset.info["label"]
        classes = [names[str(number)] for number in range(len(names))]
        return Items(dataset.imgs, labels[:, 0] if labels.shape[1] == 1 else labels, classes)

    def kind(self) -> Any:
        import medmnist

        if self.flag not in medmnist.INFO or self.flag.endswith("3d"):
            raise UserError(f"dataset.flag={self.flag}: MedMNIST has no 2-D set of this name")
        return getattr(medmnist, medmnist.INFO[self.flag]["python_class"])

    def official(self, size: int) -> OfficialFile:
        from medmnist import INFO

        suffix = "" if size == 28 else f"_{size}"
        info = INFO[self.kind().flag]
        return OfficialFile(info[f"url{suffix}"], self.file_name(size), info[f"MD5{suffix}"])
