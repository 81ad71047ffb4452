"""A source that gives what it was given, and its prepared copy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from advvae.data import Items, contents
from advvae.data.entries import Prepared
from advvae.data.source import Form
from advvae.data.store import prepare
from tests.data.official_files import random_images

IMAGES = random_images(300, 9, 9, 3)  # more than one chunk


class Given:
    """A source as a user may write one; it counts how often it was read.

    items: fields of Items; without labels, all are 0.
    """

    splits: Sequence[str] = ("train", "test")
    reads: ClassVar[Counter[str]] = Counter()

    def __init__(self, images: Any = IMAGES, name: str = "given", **items: Any) -> None:
        self.images = images
        self.name = name
        self.items = items

    def read(self, split: str, data_dir: Path) -> Items:
        Given.reads[self.name] += 1
        labels = np.zeros(len(self.images), dtype=np.int64)
        items: dict[str, Any] = {"labels": labels, "classes": ["only"]} | self.items
        return Items(list(self.images) if isinstance(self.images, np.ndarray) else self.images, **items)


def prepared(data_dir: Path, source: Any = None, split: str = "test", **changes: Any) -> Prepared:
    """Prepare with these changes; size, channels, window and resize make the form."""
    form = {"size": 8, "channels": 3} | {key: changes.pop(key) for key in vars(Form(8, 3)) if key in changes}
    options: dict[str, Any] = {"name": "given", "num_workers": 0} | changes
    return prepare(source or Given(), split, form=Form(**form), data_dir=data_dir, **options)


def folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_dir() and path.name != contents.FOLDER)
