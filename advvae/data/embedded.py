"""The two sets that scikit-learn ships: they need no download."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from advvae.data.source import Items


class Digits:
    """1,797 handwritten digits, 8×8, from the test set of UCI's optical recognition of handwritten digits."""

    splits = ("train",)

    def read(self, split: str, data_dir: Path) -> Items:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # the set's values are 0 to 16
        return Items(images=list(images), labels=digits.target.astype(np.int64), classes=[str(i) for i in range(10)])


class Photos:
    """RGB patches of two photographs (a temple in China, a flower).

    Each photograph is cut into 4 × 5 blocks; 12 of them, drawn once and for all, make train, 4 val, 4 test. Patches
    lie inside their block, so those of different splits share no pixel.

    patch: side of a patch in pixels. step: pixels between neighbouring patches.
    """

    splits = ("train", "val", "test")

    def __init__(self, patch: int = 64, step: int = 6) -> None:
        self.patch = patch
        self.step = step

    def read(self, split: str, data_dir: Path) -> Items:
        from sklearn.datasets import load_sample_images

        photos = load_sample_images()
        images, labels = [], []
        for label, photo in enumerate(photos.images):
            patches = [patch for block in blocks_of(photo, split) for patch in self.patches_of(block)]
            images += patches
            labels += [label] * len(patches)
        classes = [Path(name).stem for name in photos.filenames]
        return Items(images=images, labels=np.array(labels, dtype=np.int64), classes=classes)

    def patches_of(self, block: np.ndarray) -> list[np.ndarray]:
        tops = range(0, block.shape[0] - self.patch + 1, self.step)
        lefts = range(0, block.shape[1] - self.patch + 1, self.step)
        return [block[top : top + self.patch, left : left + self.patch] for top in tops for left in lefts]


def blocks_of(photo: np.ndarray, split: str, rows: int = 4, columns: int = 5) -> Sequence[np.ndarray]:
    """The blocks of an H×W×3 photograph that belong to a split."""
    height, width = photo.shape[0] // rows, photo.shape[1] // columns
    order = np.random.default_rng(0).permutation(rows * columns)
    chosen = {"train": order[:12], "val": order[12:16], "test": order[16:]}[split]
    corners = [(block // columns * height, block % columns * width) for block in sorted(chosen)]
    return [photo[top : top + height, left : left + width] for top, left in corners]
