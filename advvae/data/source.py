"""What a dataset is to the rest of the program: named splits of labelled images, read from somewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class Items:
    """One official split as its source gives it.

    images: H×W or H×W×C arrays, uint8, uint16 (more than 8 bits) or float in [0, 1], C = 1 (grey), 2 (grey, alpha),
        3 (RGB) or 4 (RGB, alpha); or Pillow images. Any sequence: images are asked for one by one, so they may be
        decoded then.
    labels: (N,) int64, -1 = unlabelled; or (N, K) of 0 and 1 for sets with several labels per image.
    classes: the name of each class, or of each of the K labels.
    paths: the file of each image, where there is one.
    groups: (N,) str or int, equal for images that belong together, such as one patient's; where there are any.
    """

    images: Sequence[np.ndarray | Image.Image]
    labels: np.ndarray
    classes: Sequence[str]
    paths: Sequence[str] | None = None
    groups: np.ndarray | None = None


class Source(Protocol):
    """What `_target_` in a file of conf/dataset names: built-in, or a class of the user's own.

    Three attributes are optional. `private = True` says that the images may be patients. `files(split, data_dir)`
    lists the files that a split is read from: the prepared copy is remade when one of them changes; without it, when
    the arguments or the code of the source do. `at_size(size)` returns the source to use for images of that side,
    for sets that are published in several sizes.
    """

    @property
    def splits(self) -> Sequence[str]:
        """The official, labelled splits that there are: some of train, val, test."""

    def read(self, split: str, data_dir: Path) -> Items:
        """One official split, downloaded into `data_dir` when it is missing. Raises UserError when that fails."""
