"""TinyImageNet, which torchvision does not read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from advvae.data.download import OfficialFile, fetch, reason
from advvae.data.readers import ImageFiles, Place
from advvae.data.source import Items
from advvae.errors import UserError

ARCHIVE = OfficialFile(
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"
)


class TinyImageNet:
    """200 of ImageNet's classes at 64 px: `tiny-imagenet-200/` as its archive holds it, under data_dir.

    Its test images are unlabelled and not read.
    """

    splits = ("train", "val")

    def files(self, split: str, data_dir: Path) -> list[Path]:
        """Its tables, and its folders of images for the 110,000 files in them: listing these would take a second."""
        root = data_dir / "tiny-imagenet-200"
        return [path for pattern in ("*.txt", "val/*", f"{split}/*/images") for path in sorted(root.glob(pattern))]

    def read(self, split: str, data_dir: Path) -> Items:
        root = data_dir / "tiny-imagenet-200"
        if not root.is_dir():
            fetch("tinyimagenet", data_dir, [ARCHIVE], present=root.is_dir, kept=(), download=unpack)
        try:
            wnids = sorted((root / "wnids.txt").read_text().split())
            words = dict(line.split("\t", 1) for line in (root / "words.txt").read_text().splitlines())
            listed = list(images_of(root, split))
            labels = np.array([wnids.index(wnid) for _, wnid in listed], dtype=np.int64)
            classes = [words[wnid] for wnid in wnids]
        except (OSError, ValueError, KeyError) as error:
            remedy = "remove the folder, and it is downloaded again"
            raise UserError(f"tinyimagenet: {root} is broken ({reason(error)}): {remedy}") from error
        paths = [path for path, _ in listed]
        return Items(ImageFiles([Place(path) for path in paths]), labels, classes, [str(path) for path in paths])


def unpack(folder: Path) -> None:
    from torchvision.datasets.utils import extract_archive

    extract_archive(folder / ARCHIVE.path, folder)


def images_of(root: Path, split: str) -> Iterator[tuple[Path, str]]:
    """(file, WordNet number of its class) of every image of train or val, in a fixed order."""
    if split == "train":
        for path in sorted(root.glob("train/*/images/*.JPEG")):
            yield path, path.parent.parent.name
    else:
        for line in (root / "val" / "val_annotations.txt").read_text().splitlines():
            name, wnid = line.split("\t")[:2]
            yield root / "val" / "images" / name, wnid
