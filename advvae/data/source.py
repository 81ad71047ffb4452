"""What a dataset is to the rest of the program: named splits of labelled images, read from somewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class Items:
    """One official split as its source gives it.

    images: H×W or H×W×C arrays, uint8, uint16 (more than 8 bits) or float in [0, 1], C = 1 (grey), 2 (grey, alpha),
        3 (RGB) or 4 (RGB, alpha); Pillow images; or Raw. Any sequence: images are asked for one by one, so they may be
        decoded then. With a window (see Form) numbers of any type and range do.
    labels: (N,) int64, -1 = unlabelled; or (N, K) of 0 and 1 for sets with several labels per image.
    classes: the name of each class, or of each of the K labels.
    paths: the file of each image, where there is one.
    groups: (N,) str or int, equal for images that belong together, such as one patient's; where there are any.
    masks: for each image, where it is anomalous: an image of the same height and width whose values are not 0 there,
        asked for one by one too; None = it is not known of this image. None instead of them all = of no image.
    left_out: what the source found and does not give as an image: (path, reason).
    names: of each image, what stays the same when the set is moved or grows, such as its path in the set's folder.
        Where there are groups these, else the names decide in which split an image is that has to be cut; without both
        it is the number of images, and shares are exact.
    """

    images: Sequence[np.ndarray | Image.Image]
    labels: np.ndarray
    classes: Sequence[str]
    paths: Sequence[str] | None = None
    groups: np.ndarray | None = None
    masks: Sequence[np.ndarray | Image.Image | Raw | None] | None = None
    left_out: Sequence[tuple[str, str]] = ()
    names: Sequence[str] | None = None


@dataclass(frozen=True, eq=False)
class Raw:
    """Pixels in a unit of their own, such as Hounsfield's.

    values: H×W or H×W×C, C = 1 or 3, of any integer or float type.
    window: the values that are black and white where no window is asked for; None = there is no telling.
    inverted: low values are bright (DICOM's MONOCHROME1).
    """

    values: np.ndarray
    window: tuple[float, float] | None = None
    inverted: bool = False


@dataclass(frozen=True)
class Form:
    """What images are brought to.

    size: side in pixels. channels: 1 (grey) or 3 (RGB).
    window: (low, high) in the unit of the files, which become black and white; what lies outside is clipped. None =
        what each file says: the whole range of its type, or the window of a Raw image.
    resize: how an image that is not square becomes so. crop = the centred square; squash = both sides are scaled by
        factors of their own; pad = black is added on both sides of the shorter one.
    """

    size: int
    channels: int
    window: tuple[float, float] | None = None
    resize: str = "crop"


class Source(Protocol):
    """What `_target_` in a file of conf/dataset names: built-in, or a class of the user's own.

    Four attributes are optional. `private` says whether the images may be patients, which is taken for granted of
    sources from outside this package (`is_private`). `files(split, data_dir)`
    lists the files that a split is read from: the prepared copy is remade when one of them changes; without it, when
    the arguments or the code of the source do. `identity()` returns the folder of these files and all that shapes the
    images beside them, so that a copy is found again when the folder is moved; without it these are data_dir and all
    arguments. `at_size(size)` returns the source to use for images of that side,
    for sets that are published in several sizes.
    """

    @property
    def splits(self) -> Sequence[str]:
        """The official, labelled splits that there are: some of train, val, test."""

    def read(self, split: str, data_dir: Path) -> Items:
        """One official split, downloaded into `data_dir` when it is missing. Raises UserError when that fails."""


def is_private(source: Source) -> bool:
    """Whether the images may be patients, and so must not leave the machine unasked."""
    return getattr(source, "private", not type(source).__module__.startswith("advvae."))
