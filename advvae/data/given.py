"""Images that a caller has in memory, as files of them would be read."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from advvae.data.chunks import one_line
from advvae.data.decoding import decode
from advvae.data.images import ROUNDING, in_16_bits, resized, to_array
from advvae.data.source import Form, Raw
from advvae.errors import UserError

if TYPE_CHECKING:
    Images = Tensor | np.ndarray | Sequence[np.ndarray | Tensor | Image.Image]

NARROW = 100  # width of a window: in a wider one, an image whose raw values all lie in [0, 1] would be of one colour
MOST_CHANNELS = 4  # of an image: a last side of so few is no width


def given_pixels(images: Images, form: Form, raw: bool | None = None) -> Tensor:
    """A caller's images as (n, channels, size, size) uint8 or uint16, as files of them would be read.

    Args:
        raw: with a window, whether the images are in its unit, or have been through it. None = they are in its unit,
            but for floats in [0, 1], which have been through it, as those that a model gives.

    Raises:
        UserError: it is no sequence of images; one is unreadable, or has a shape, type or range that none has; floats
            are in [0, 1], and by the window they may be either.
    """
    items = [_plain(image, number) for number, image in enumerate(_listed(images))]
    if not items:
        raise UserError("there are no images")
    arrays = []
    for number, (item, own_form) in enumerate(zip(items, _forms(items, form, raw), strict=True)):
        try:
            arrays.append(to_array(item, own_form))
        except Exception as error:  # Pillow's readers raise almost anything for a broken file
            hint = "" if own_form.window else "; floats are in [0, 1]"
            raise UserError(f"image {number}: {one_line(error)}{hint}") from None
    parts = list(resized(arrays, form))
    if len({part.dtype for part in parts}) > 1:
        parts = [in_16_bits(part) for part in parts]
    return torch.from_numpy(np.concatenate(parts))


def _listed(images: Any) -> list[Any]:
    """The images one by one.

    Raises:
        UserError: it is no sequence of images, or an array that may be one image or several.
    """
    shape = tuple(getattr(images, "shape", ()))
    if isinstance(images, Tensor) and len(shape) != 4:
        raise UserError(f"a tensor of images is (n, C, H, W), got {shape}")
    if isinstance(images, np.ndarray) and len(shape) not in (3, 4):
        raise UserError(f"an array of images is (n, H, W) or (n, H, W, C), got {shape}")
    if isinstance(images, np.ndarray) and len(shape) == 3 and shape[2] <= MOST_CHANNELS:
        raise UserError(
            f"an array {shape} may be one image with {shape[2]} channels, or {shape[0]} grey ones: "
            "give images[None] for the one, images[..., None] for the others"
        )
    try:
        return list(images)
    except TypeError:
        raise UserError(f"images are a tensor, an array or a list of images, got {type(images).__name__}") from None


def _plain(image: Any, number: int) -> Any:
    """An image as `to_array` takes it, which alters none of the caller's own.

    Raises:
        UserError: a tensor of another shape, or a file that cannot be read.
    """
    if isinstance(image, Tensor):
        if image.ndim != 3:
            raise UserError(f"image {number}: a tensor of an image is (C, H, W), got {tuple(image.shape)}")
        image = image.detach().cpu().permute(1, 2, 0)
        return (image.float() if image.is_floating_point() else image).numpy()  # NumPy has no bfloat16
    if isinstance(image, Image.Image):
        try:
            own = _own(image)
            return decode(own) if own.mode == "F" else own
        except Exception as error:  # Pillow's readers raise almost anything for a broken file
            raise UserError(f"image {number}: {one_line(error)}") from None
    return image if isinstance(image, Raw) else np.asarray(image)


def _own(image: Image.Image) -> Image.Image:
    """An image that is not yet decoded, opened anew: to decode Pillow's images shrinks some, and closes others."""
    file = getattr(image, "fp", None)
    if file is None or not getattr(image, "tile", None):
        return image
    place = file.tell()
    file.seek(0)
    own = Image.open(io.BytesIO(file.read()))
    file.seek(place)
    own.seek(image.tell())
    return own


def _forms(items: Sequence[Any], form: Form, raw: bool | None) -> list[Form]:
    """What each image is brought to: without the window where it has been through it.

    Raises:
        UserError: there is no telling.
    """
    shown = replace(form, window=None)
    if form.window is None or raw is not None:
        return [form if raw else shown] * len(items)
    is_float = [isinstance(item, np.ndarray) and item.dtype.kind == "f" for item in items]
    floats = [item for item, known in zip(items, is_float, strict=True) if known]
    within = {bool(item.min() >= -ROUNDING and item.max() <= 1 + ROUNDING) for item in floats if item.size}
    low, high = form.window
    if True in within and (False in within or high - low < NARROW):
        raise UserError(
            f"floats in [0, 1] may be in the unit of dataset.window=[{low:g},{high:g}], or have been through it: "
            "say raw=True or raw=False"
        )
    return [shown if known and True in within else form for known in is_float]
