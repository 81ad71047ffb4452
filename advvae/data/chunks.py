"""The images of a split, decoded and resized in chunks, each in one of several processes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from advvae.data.images import height_and_width, raw_values, resized, resized_mask, to_array, to_raw
from advvae.data.source import Form, Items
from advvae.progress import watched

CHUNK = 256  # images that one worker prepares at a time, or fewer where they have more values than
CHUNK_VALUES = 2**24
UNKNOWN = 2  # in masks: whether a pixel is normal is not known
STRETCH = 1.1  # ratio of the two factors that squash scales by, above which it is told


@dataclass
class Tally:
    """What was found in some images, one after the other.

    n_images: how many were asked for.
    n_masks: how many of them can be read and have a mask that can.
    unreadable: (number, path, reason) of those that cannot be read.
    bad_masks: (path, reason) of those whose mask cannot be used.
    notes: what is worth telling, of how many of them.
    largest: value, of 65535.
    n_values, n_outside: values that a window was asked for, and those that lie outside.
    n_clipped: images of which more than half of the values lie outside.
    n_shallow: images whose values have 8 bits in the file, where a window was asked for.
    """

    n_images: int = 0
    n_masks: int = 0
    unreadable: list[tuple[int, str, str]] = field(default_factory=list)
    bad_masks: list[tuple[str, str]] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    largest: int = 0
    n_values: int = 0
    n_outside: int = 0
    n_clipped: int = 0
    n_shallow: int = 0

    @property
    def n_read(self) -> int:
        return self.n_images - len(self.unreadable)

    @property
    def failures(self) -> list[tuple[str, str]]:
        """(path, reason) of each image that cannot be read, and then of each mask."""
        return [*((path, reason) for _, path, reason in self.unreadable), *self.bad_masks]

    def add(self, later: Tally) -> None:
        """Join what was found in the images that come next."""
        for name in (part.name for part in fields(self)):
            mine, its = getattr(self, name), getattr(later, name)
            setattr(self, name, max(mine, its) if name == "largest" else mine + its)

    def to_json(self) -> str:
        return json.dumps(vars(self))

    @staticmethod
    def from_json(text: str | bytes) -> Tally:
        """Raises ValueError or TypeError for what `to_json` has not written."""
        values = json.loads(text)
        return Tally(**values | {"notes": Counter(values["notes"])})


@dataclass
class Chunk:
    """Prepared images that could be read: parts (n, C, H, W) in order, and their masks (n, H, W), if any."""

    parts: list[np.ndarray]
    masks: np.ndarray | None
    tally: Tally


class Chunks(Dataset):
    """The images of a split, prepared in chunks: always the same ones, whatever the number of workers.

    start: how many of the first images are left to others.
    """

    def __init__(self, items: Items, form: Form, start: int = 0) -> None:
        self.items = items
        self.form = form
        self.shape = (len(items.images), form.channels, form.size, form.size)
        self.step = max(1, min(CHUNK, CHUNK_VALUES // (form.channels * form.size**2)))
        self.start = start

    def __len__(self) -> int:
        return -(-(len(self.items.images) - self.start) // self.step)

    def __getitem__(self, number: int) -> Chunk:
        first = self.start + number * self.step
        numbers = range(len(self.items.images))[first : first + self.step]
        masks: list[np.ndarray] = []
        chunk = Chunk([], None, Tally())
        chunk.parts = list(resized(self._arrays(numbers, masks, chunk.tally), self.form))
        if self.items.masks is not None:
            chunk.masks = np.stack(masks) if masks else np.empty((0, *self.shape[2:]), np.uint8)
        for part in chunk.parts:
            largest = int(part.max()) * (257 if part.dtype == np.uint8 else 1)
            chunk.tally.largest = max(chunk.tally.largest, largest)
        return chunk

    def reason_unreadable(self, number: int) -> str | None:
        """Why this image cannot be read; None = it can."""
        try:
            to_array(self.items.images[number], self.form)
        except Exception as error:  # readers raise almost anything for a broken file
            return one_line(error)
        return None

    def _arrays(self, numbers: Sequence[int], masks: list[np.ndarray], tally: Tally) -> Iterator[np.ndarray]:
        """The images of these numbers as H×W×C arrays; their masks, and what was found, grow as they are asked for."""
        for number in numbers:
            tally.n_images += 1
            try:
                image: Any = self.items.images[number]
                n_frames, shape = getattr(image, "n_frames", 1), height_and_width(image)
                image = to_raw(image) if self.form.window else image  # decoded once, and looked at twice
                array = to_array(image, self.form)
                if self.form.window:
                    compare(raw_values(image), self.form.window, tally)
            except Exception as error:  # readers raise almost anything for a broken file
                tally.unreadable.append((number, self.name_of(number), one_line(error)))
                continue
            tally.notes.update(self._notes(array, n_frames))
            if self.items.masks is not None:
                masks.append(self._mask(number, shape, tally))
            yield array

    def _notes(self, array: np.ndarray, n_frames: int) -> Iterator[str]:
        """What is worth telling of one image."""
        short, long = sorted(array.shape[:2])
        if n_frames > 1:
            yield "have several pages or frames; of these, only the first is used"
        if short != long and self.form.resize == "crop":
            yield "are not square; of these, the centred square is used (resize=crop)"
        if short != long and self.form.resize == "pad":
            yield "are not square; these get black edges (resize=pad)"
        if long > STRETCH * short and self.form.resize == "squash":
            yield "change their aspect ratio by more than 10 % (resize=squash; crop and pad keep it)"
        if array.shape[2] > 2 and self.form.channels == 1:
            yield "are in colour and become grey, as channels=1"

    def _mask(self, number: int, shape: tuple[int, int], tally: Tally) -> np.ndarray:
        """(H, W) uint8: the mask of an image that can be read and is of this shape."""
        assert self.items.masks is not None
        try:
            if (mask := self.items.masks[number]) is not None:
                prepared = resized_mask(mask, self.form, shape)
                tally.n_masks += 1
                return prepared
        except Exception as error:  # readers raise almost anything for a broken file
            tally.bad_masks.append((self.name_of(number), f"its mask is not used: {one_line(error)}"))
        return np.full(self.shape[2:], UNKNOWN, np.uint8)

    def name_of(self, number: int) -> str:
        return self.items.paths[number] if self.items.paths is not None else f"image {number}"


def compare(values: np.ndarray, window: tuple[float, float], tally: Tally) -> None:
    """Count what speaks against the window in the values of an image."""
    low, high = window
    n_outside = int(np.count_nonzero((values < low) | (values > high)))
    tally.n_values += values.size
    tally.n_outside += n_outside
    tally.n_clipped += n_outside > values.size / 2
    tally.n_shallow += values.dtype.itemsize == 1


def one_line(error: BaseException) -> str:
    """The message of an exception, or its kind where it has none, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def made(dataset: Dataset, what: str, num_workers: int) -> Iterator[Any]:
    """All that a dataset holds, in order, made by `num_workers` processes, with a progress bar on a terminal."""
    loader: Any = DataLoader(
        dataset, batch_size=None, collate_fn=unchanged, num_workers=num_workers, generator=torch.Generator()
    )
    return watched(loader, what, len(loader))


def unchanged(chunk: Any) -> Any:
    """In place of a loader's own collation, which makes tensors in shared memory; chunks travel through a pipe."""
    return chunk
