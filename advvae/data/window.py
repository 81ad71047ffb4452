"""The values that become black and white, as percentiles of the training images."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from advvae.data.chunks import made, one_line
from advvae.data.classes import chosen_rows
from advvae.data.cuts import official_split, split_rows
from advvae.data.images import raw_values
from advvae.data.locks import found_or_made
from advvae.data.source import Items, Source
from advvae.data.splits import at_size
from advvae.data.store import checked, digest
from advvae.errors import UserError

log = logging.getLogger(__name__)

AT_MOST = 2**26  # values that the percentiles are taken of


def percentile_window(
    source: Source,
    percentiles: Sequence[float],
    *,
    name: str,
    size: int,
    data_dir: str | Path,
    keep_classes: Sequence[str | int] | None = None,
    drop_classes: Sequence[str | int] | None = None,
    num_workers: int = 0,
) -> tuple[float, float]:
    """(low, high): two percentiles of the values in the files of the images that are trained on, in their own unit.

    Of validation and test images, and of classes that are not trained on, no value counts; nor of unreadable images.
    Decodes all images once, in `num_workers` processes; the result is kept beside the prepared copies.

    percentiles: two numbers from 0 to 100, rising. size: the side that is trained on, see Source.at_size.
    Raises UserError where both come out equal, and where no image can be read.
    """
    data_dir = Path(data_dir).expanduser()
    source = at_size(source, size)
    official = official_split("train", source.splits, name)
    what = f"the window of {name}"
    chosen = [[float(percentile) for percentile in percentiles], keep_classes, drop_classes]

    def entry() -> str:
        return f"{name}-window-{digest(source, official, chosen, data_dir)}.json"

    def make(cache: Path) -> Path:
        items = checked(source.read(official, data_dir), f"{name} {official}")
        rows = split_rows("train", source.splits, len(items.labels), items.groups, items.names).numpy()
        rows = rows[chosen_rows(items.labels[rows], items.classes, name=name, **classes)]
        window = np.percentile(values_of(items, rows, what, num_workers), percentiles, overwrite_input=True)
        path = cache / entry()  # only now: a download has made new files
        path.write_text(json.dumps(window.tolist()))
        return path

    classes = {"keep_classes": keep_classes, "drop_classes": drop_classes}
    purpose = f"taking {what}"
    low, high = found_or_made(entry, load_window, make, data_dir=data_dir, lock=f"{name}-window", purpose=purpose)
    if low == high:
        asked = ",".join(f"{percentile:g}" for percentile in percentiles)
        raise UserError(
            f"dataset.percentiles=[{asked}]: both are {low:g} in the training images of {name}: "
            "set them further apart, or dataset.window=[low,high]"
        )
    return low, high


def load_window(path: Path) -> tuple[float, float] | None:
    try:
        low, high = json.loads(path.read_text())
    except (OSError, ValueError, TypeError):
        return None
    return low, high


def values_of(items: Items, rows: np.ndarray, what: str, num_workers: int) -> np.ndarray:
    """(n,) float64: values of these images, of each as many as there is room for. Raises UserError without any."""
    if not len(rows):
        raise UserError(f"{what}: no image is left to train on: check dataset.keep_classes and dataset.drop_classes")
    samples = list(made(Samples(items, rows, AT_MOST // len(rows)), f"taking {what}", num_workers))
    values = [sample for sample in samples if isinstance(sample, np.ndarray)]
    reasons = [sample for sample in samples if isinstance(sample, str)]
    if not values:
        raise UserError(f"{what}: none of its {len(rows)} images can be read ({reasons[0]})")
    log.info("%s: taken of %d images", what, len(values))
    return np.concatenate(values, dtype=np.float64)


class Samples(Dataset):
    """Of each image (n,) values in their own type, at most `at_most`; where it cannot be read, the reason."""

    def __init__(self, items: Items, rows: np.ndarray, at_most: int) -> None:
        self.items = items
        self.rows = rows
        self.at_most = max(1, at_most)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> np.ndarray | str:
        try:
            values = raw_values(self.items.images[int(self.rows[index])]).ravel()
        except Exception as error:  # readers raise almost anything for a broken file
            return one_line(error)
        sample = spread(values, self.at_most, np.random.default_rng(index))
        return sample if np.isfinite(sample).all() else "some of its values are not finite"


def spread(values: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """All values, or n of them where there are more: one, drawn by chance, of each of n equally long stretches.

    With a fixed step instead, it could be the left edge of every row that is taken.
    """
    if len(values) <= n:
        return values
    places = (np.arange(n) + generator.random(n)) * (len(values) / n)
    return values[places.astype(np.int64).clip(max=len(values) - 1)]
