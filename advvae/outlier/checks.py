"""What a score has to give; a score of the user's own that gives something else is told so."""

import numpy as np
from torch import Tensor

from advvae.data import Split
from advvae.errors import UserError
from advvae.outlier.evidence import described


def check_shape(name: str, values: object, n_images: int) -> None:
    """Raises UserError unless `values` is a tensor (n_images,)."""
    if not isinstance(values, Tensor) or values.shape != (n_images,):
        raise UserError(
            f"scores: '{name}' gave {described(values)} for {n_images} images: return a tensor ({n_images},), one "
            "number per image"
        )


def check_statistics(name: str, statistics: object, n_images: int) -> None:
    """Raises UserError unless `statistics` is a tensor (n_images, k) of finite numbers."""
    if not isinstance(statistics, Tensor) or statistics.ndim != 2 or len(statistics) != n_images:
        raise UserError(
            f"scores: the statistics of '{name}' are {described(statistics)} for {n_images} images: return a tensor "
            f"({n_images}, k), one row per image"
        )
    if not statistics.isfinite().all():
        raise UserError(
            f"scores: '{name}' cannot be fitted, its statistics of some training images are not finite: train again or "
            "leave the score out"
        )


def finite(name: str, values: np.ndarray, split: Split) -> np.ndarray:
    """The values (n,) of the images of `split`. Raises UserError if one of them is not finite."""
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise UserError(
            f"scores: '{name}' is {values[bad[0]]} for {_image(split, bad[0])} of {split.name} {split.split} "
            f"({len(bad)} of {len(values)} images are not finite): train again or leave the score out"
        )
    return values


def _image(split: Split, position: int) -> str:
    return split.paths[position] if split.paths else f"image {split.rows[position]}"
