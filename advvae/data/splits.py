"""Train, val and test of any dataset, and their batches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from advvae.data.classes import chosen_rows, label_names
from advvae.data.images import to_array
from advvae.data.source import SPLITS, Source
from advvae.data.store import IN_MEMORY, checked, one_line, prepare
from advvae.errors import UserError

log = logging.getLogger(__name__)

VAL_SHARE = 0.1  # of the training images, where a set has no official validation split
TEST_SHARE = 0.2  # of all images, where a set has no official labelled split to test on
SMALLEST = 8  # pixels; the smallest side that the networks take


@dataclass(frozen=True, eq=False)
class Split:
    """One of train, val, test of a dataset: `rows` of an official split's prepared images.

    name, split: as in "mnist", "test".
    images: (N, C, H, W) uint8 or uint16, in memory or memory-mapped: all images of the official split.
    rows: (n,) int64, this split's rows of `images`.
    official_split: the official split that `rows` number; "train" for a validation split that was cut from it.
    labels, classes, paths, groups: as in Items, of these n images.
    transform: what `batches` does to each batch: (images (B, C, H, W) float32 in [-1, 1], their rows (B,) int64 on the
        CPU) -> images. It must treat each image by itself. None = nothing.
    crop: side in pixels of the square that `batches` cuts out of each image, after `transform`. None = whole images.
    """

    name: str
    split: str
    images: torch.Tensor
    rows: torch.Tensor
    official_split: str
    labels: np.ndarray
    classes: Sequence[str]
    paths: Sequence[str] | None
    groups: np.ndarray | None = None
    transform: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    crop: int | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, positions: torch.Tensor) -> Split:
        """The images at these positions (int64, from 0 to n − 1), in this order."""
        chosen = positions.tolist()
        paths = None if self.paths is None else [self.paths[i] for i in chosen]
        groups = None if self.groups is None else self.groups[chosen]
        return replace(self, rows=self.rows[positions], labels=self.labels[chosen], paths=paths, groups=groups)

    def halves(self) -> tuple[Split, Split]:
        """Two disjoint halves (select, calibrate), always the same ones; if n is odd, the first has one more.

        No group is in both: halves of groups are as equal as whole groups make them, and of a single one the second
        is empty.
        """
        order, ends = fixed_order(len(self), self.groups)
        middle = nearest_end(ends, (len(self) + 1) // 2, left=1)
        return self.subset(order[:middle].sort().values), self.subset(order[middle:].sort().values)

    def label_names(self) -> list[str]:
        """One string per image: its class, several joined by ";", "" if it is unlabelled."""
        return label_names(self.labels, self.classes)

    def batches(
        self,
        batch_size: int,
        device: str | torch.device = "cpu",
        *,
        shuffle: torch.Generator | None = None,
        num_workers: int = 0,
    ) -> Iterator[torch.Tensor]:
        """Every image once, as (B, C, H, W) float32 in [-1, 1] on `device`, channels last in memory.

        shuffle: a CPU generator that draws the order and where images are cropped, advanced at this call; None = in
            the order of `rows`, cropped at the centre.
        num_workers: processes that read what lies on disk; the values do not depend on it.
        The global random state is left alone. Raises UserError for a crop larger than the images.
        """
        device = torch.device(device)
        order = torch.arange(len(self)) if shuffle is None else torch.randperm(len(self), generator=shuffle)
        rows = divide(self.rows[order], batch_size)
        loader: DataLoader = DataLoader(
            Rows(self.images),
            batch_size=None,
            sampler=rows,
            num_workers=num_workers if self.images.nbytes > IN_MEMORY else 0,  # there is nothing to wait for
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else a loader draws its seed from the global one
        )
        batches: Iterator[torch.Tensor] = (to_floats(batch, device) for batch in loader)
        if self.transform is not None:
            batches = map(self.transform, batches, rows)
        if self.crop is not None:
            corners = divide(self.crop_corners(self.crop, shuffle), batch_size)
            batches = map(partial(cropped, side=self.crop), batches, corners)
        return batches

    def crop_corners(self, side: int, shuffle: torch.Generator | None) -> torch.Tensor:
        """(n, 2) int64: top and left of each image's crop, drawn by `shuffle`, or of the centred one without it."""
        room = self.images.shape[-1] - side
        if room < 0:
            raise UserError(f"crop={side}: the images of {self.name} have {self.images.shape[-1]} px, which is less")
        if shuffle is None:
            return torch.full((len(self), 2), room // 2)
        return torch.randint(room + 1, (len(self), 2), generator=shuffle)


class Rows(Dataset):
    """Batches of an image tensor, by their rows."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        return self.images[rows]


def divide(rows: torch.Tensor, batch_size: int) -> list[torch.Tensor]:
    """Consecutive batches. A single image left over joins the batch before it: alone it has no batch statistics."""
    batches = list(rows.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def to_floats(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8 or uint16 images to float32 in [-1, 1], exactly -1 for 0 and 1 for the largest value of their type."""
    pinned = device.type == "cuda"
    if images.dtype == torch.uint16:  # which few devices and operations know: carried as int16, without its sign there
        half = 32767.5
        images = images.view(torch.int16).to(device, non_blocking=pinned).to(torch.int32) & 65535
    else:
        half = 127.5
        images = images.to(device, non_blocking=pinned)
    return images.to(torch.float32, memory_format=torch.channels_last).div_(half).sub_(1)


def cropped(images: torch.Tensor, corners: torch.Tensor, *, side: int) -> torch.Tensor:
    """(B, C, side, side), channels last in memory: of each image the square with this top and left; corners (B, 2)."""
    image = torch.arange(len(images), device=images.device)
    tops, lefts = (corners.to(images.device)[:, :, None] + torch.arange(side, device=images.device)).unbind(1)
    return images[image[:, None, None], :, tops[:, :, None], lefts[:, None, :]].permute(0, 3, 1, 2)


def load_split(
    source: Source,
    split: str,
    *,
    name: str,
    size: int,
    channels: int,
    data_dir: str | Path,
    keep_classes: Sequence[str | int] | None = None,
    drop_classes: Sequence[str | int] | None = None,
    num_workers: int = 0,
) -> Split:
    """One of train, val, test of a dataset; downloads and prepares no more than the official split it lies in.

    name: the dataset's name, for messages and files. size: side in pixels. channels: 1 (grey) or 3 (RGB).
    keep_classes, drop_classes: use only, or do not use, the images of these classes, by name or number.
    num_workers: processes that decode, when the split is first prepared.
    Raises UserError for everything that a user can set right.
    """
    assert split in SPLITS
    assert channels in (1, 3)
    if size < SMALLEST:
        raise UserError(f"size={size}: the networks need images of at least {SMALLEST} px")
    data_dir = Path(data_dir).expanduser()
    source = at_size(source, size)
    official = official_split(split, source.splits, name)
    prepared = prepare(
        source, official, name=name, size=size, channels=channels, data_dir=data_dir, num_workers=num_workers
    )
    rows = split_rows(split, source.splits, len(prepared.labels), prepared.groups)
    if split != "train" and official == "train":
        told = "%s has no %s split: %d of its %d training images, always the same, are used"
        log.info(told, name, split, len(rows), len(prepared.labels))
    labels = prepared.labels[rows.numpy()]
    paths = None if prepared.paths is None else [prepared.paths[row] for row in rows.tolist()]
    groups = None if prepared.groups is None else prepared.groups[rows.numpy()]
    whole = Split(name, split, prepared.images, rows, official, labels, prepared.classes, paths, groups)
    chosen = chosen_rows(labels, prepared.classes, name=name, keep_classes=keep_classes, drop_classes=drop_classes)
    if not chosen.any():
        raise UserError(f"{name}: no image is left in its {split} split: it has too few, or check keep/drop_classes")
    return whole.subset(torch.from_numpy(chosen.nonzero()[0]))


def infer_channels(source: Source, data_dir: str | Path, size: int = 32) -> int:
    """1 if the first image (of train, where there is one) is grey, else 3. Downloads what is missing.

    size: the side that the images will have; only sets published in several sizes look at it.
    """
    source = at_size(source, size)
    split = next(split for split in SPLITS if split in source.splits)
    items = checked(source.read(split, Path(data_dir).expanduser()), split)
    try:
        channels = 1 if to_array(items.images[0], size).shape[2] <= 2 else 3
    except Exception as error:  # Pillow's readers raise almost anything for a broken file
        first = items.paths[0] if items.paths else f"the first image of {split}"
        raise UserError(f"{first} is unreadable ({one_line(error)}): remove or replace it") from None
    log.info("channels=%d, as the first image", channels)
    return channels


def at_size(source: Source, size: int) -> Source:
    return source.at_size(size) if hasattr(source, "at_size") else source


def official_split(split: str, official: Sequence[str], name: str) -> str:
    """The official split that `split` lies in. Raises UserError when there is none."""
    if split == "test":
        candidates = ["test", "val", "train"]  # an official val is the test split of a set without a labelled one
    elif split == "val" and "test" in official:
        candidates = ["val", "train"]
    else:
        candidates = ["train"]
    for candidate in candidates:
        if candidate in official:
            return candidate
    raise UserError(f"{name}: has no images for {split}: it has only {', '.join(official)}")


def split_rows(split: str, official: Sequence[str], n: int, groups: np.ndarray | None = None) -> torch.Tensor:
    """(m,) int64, rising: the rows of `split` in the official split of n images that it lies in.

    What an official split does not give is cut from train: first 20 % to test on, then 10 % of the rest to validate.
    groups: as in Items; each stays whole, so shares are as near as that allows. Where there are enough groups, each
        split has one at least, and validation two, for its halves.
    """
    if official_split(split, official, "") != "train":
        return torch.arange(n)
    order, ends = fixed_order(n, groups)
    n_test = n_val = 0
    if "test" not in official and "val" not in official:
        n_test = nearest_end(ends, max(1, round(TEST_SHARE * n)), left=2)
    if "test" not in official or "val" not in official:
        wanted = max(1, round(VAL_SHARE * (n - n_test)))
        n_val = nearest_end(ends[ends > n_test] - n_test, wanted, left=1, least=1 if groups is None else 2)
    test, val, train = order[:n_test], order[n_test : n_test + n_val], order[n_test + n_val :]
    return {"test": test, "val": val, "train": train}[split].sort().values


def fixed_order(n: int, groups: np.ndarray | None = None) -> tuple[torch.Tensor, np.ndarray]:
    """The same permutation of n at all times, whatever the seed of a run. NumPy's, which is stable across versions.

    groups: (n,), as in Items; None = each image is one by itself. It is the groups that are permuted.
    Returns (n,) int64, the images of each group side by side, and (n_groups,), where each group ends in it.
    """
    if groups is None:
        return torch.from_numpy(np.random.default_rng(0).permutation(n)).to(torch.int64), np.arange(1, n + 1)
    _, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(0).permutation(len(sizes))
    places = order.argsort()[numbers]  # of each image's group in that order
    return torch.from_numpy(places.argsort(kind="stable")).to(torch.int64), sizes[order].cumsum()


def nearest_end(ends: np.ndarray, wanted: int, *, left: int, least: int = 1) -> int:
    """The end of a group nearest to `wanted` images, the lower of two; 0 = there are no groups.

    ends: (n_groups,) rising. left, least: groups that stay behind it and lie before it, if there are so many.
    """
    most = max(1, len(ends) - left)
    possible = ends[min(least, most) - 1 : most]
    return int(possible[np.abs(possible - wanted).argmin()]) if len(possible) else 0
