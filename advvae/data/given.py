"""Images that a caller has in memory, as files of them would be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from advvae.data.images import in_16_bits, resized, to_array
from advvae.data.source import Form
from advvae.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    Images = Tensor | np.ndarray | Sequence[np.ndarray | Tensor | Image.Image]


def given_pixels(images: Images, form: Form) -> Tensor:
    """A caller's images as (n, channels, size, size) uint8 or uint16, as files of them would be read.

    Raises:
        UserError: it is no sequence of images, or one has another shape, type or range than this module says.
    """
    if isinstance(images, Tensor):
        if images.ndim != 4:
            raise UserError(f"a tensor of images is (n, C, H, W), got {tuple(images.shape)}")
        images = _array(images.permute(0, 2, 3, 1))
    elif isinstance(images, np.ndarray) and images.ndim not in (3, 4):
        raise UserError(f"an array of images is (n, H, W) or (n, H, W, C), got {images.shape}")
    arrays = []
    try:
        items = list(images)
    except TypeError:
        raise UserError(f"images are a tensor, an array or a list of images, got {type(images).__name__}") from None
    for number, image in enumerate(items):
        if isinstance(image, Tensor):
            if image.ndim != 3:
                raise UserError(f"image {number}: a tensor of an image is (C, H, W), got {tuple(image.shape)}")
            image = _array(image.permute(1, 2, 0))
        try:
            arrays.append(to_array(image, form))
        except (ValueError, AttributeError, TypeError) as error:
            raise UserError(f"image {number}: {error}; floats are in [0, 1]") from None
    if not arrays:
        raise UserError("there are no images")
    parts = list(resized(arrays, form))
    if len({part.dtype for part in parts}) > 1:
        parts = [in_16_bits(part) for part in parts]
    return torch.from_numpy(np.concatenate(parts))


def _array(tensor: Tensor) -> np.ndarray:
    """NumPy has no bfloat16."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
