"""Features of real images, and what is measured between them, kept in the cache folder for the next run."""

import hashlib
import json
import logging
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from advvae.data import Split
from advvae.errors import UserError
from advvae.features import Extractor
from advvae.files import replacing

logger = logging.getLogger(__name__)

FORMAT = 1  # of what is kept; a change of how features are computed raises it
TOGETHER = 1024  # images that are read at once


def key_of(extractor: Extractor, *splits: Split) -> str:
    """A digest of all that features follow from: weights and pixels, wherever both come from."""
    digest = hashlib.sha256(json.dumps([FORMAT, extractor.name]).encode())
    for name, tensor in extractor.network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().data)
    for split in splits:
        assert split.transform is None, "what a function does to images has no digest"
        digest.update(json.dumps([str(split.images.dtype), split.crop, len(split), *split.images.shape[1:]]).encode())
        for rows in split.rows.split(TOGETHER):
            digest.update(split.images[rows].numpy().data)
    return digest.hexdigest()[:16]


def file_for(cache: Path, what: str, split: Split, extractor: Extractor, key: str) -> Path:
    """Where what is known of a split's images lies; its name tells people what it is, and ends in its key."""
    return cache / f"{what}-{split.name}-{split.split}-{split.images.shape[-1]}px-{extractor.name}-{key}"


def kept_features(path: Path, n: int) -> Tensor | None:
    """(n, F) float32 that `keep_features` has written; None = there is no such file, or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            features = arrays["features"]
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile):
        return None
    return torch.from_numpy(features) if features.dtype == np.float32 and len(features) == n else None


def keep_features(path: Path, features: Tensor) -> None:
    """Write features (n, F), with a checksum; where that cannot be, the next run computes them again."""
    try:
        with replacing(path) as unfinished, unfinished.open("wb") as file:
            np.savez(file, features=features.numpy())
    except UserError as error:
        logger.info(str(error))


def kept_numbers(path: Path) -> dict[str, float]:
    """What `keep_numbers` has written; empty = there is no such file, or it is damaged."""
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    is_whole = isinstance(numbers, dict) and all(isinstance(number, float) for number in numbers.values())
    return numbers if is_whole else {}


def keep_numbers(path: Path, numbers: dict[str, float]) -> None:
    """Write numbers by name; where that cannot be, the next run computes them again."""
    try:
        with replacing(path) as unfinished:
            unfinished.write_text(json.dumps(numbers), encoding="utf-8")
    except UserError as error:
        logger.info(str(error))
