"""Train, val and test of any dataset, and their batches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from advvae.data.chunks import one_line
from advvae.data.classes import chosen_rows, label_names
from advvae.data.cuts import half_rows, official_split, split_rows
from advvae.data.entries import Prepared
from advvae.data.images import raw_values
from advvae.data.reading import gathered
from advvae.data.source import SPLITS, Form, Source
from advvae.data.store import checked, prepare
from advvae.data.texts import take
from advvae.errors import UserError

log = logging.getLogger(__name__)

ASKED = 16  # images, of which the first that can be read tells how many channels a set has
SMALLEST = 8  # pixels; the smallest side that the networks take


@dataclass(frozen=True, eq=False)
class Split:
    """One of train, val, test of a dataset: `rows` of an official split's prepared images.

    name, split: as in "mnist", "test".
    images: (N, C, H, W) uint8 or uint16, in memory or memory-mapped: all images of the official split.
    rows: (n,) int64, this split's rows of `images`.
    official_split: the official split that `rows` number; "train" for a validation split that was cut from it.
    labels, classes, paths, groups, names: as in Items, of these n images.
    masks: (N, H, W) uint8, of all images of the official split as `images` is: 0 where an image is normal, 1 where it
        is anomalous, 2 where that is not known. None = it is known of no image.
    transform: what `batches` does to each batch: (images (B, C, H, W) float32 in [-1, 1], their rows (B,) int64 on the
        CPU) -> images. It must treat each image by itself. None = nothing.
    crop: side in pixels of the square that `batches` cuts out of each image, after `transform`. None = whole images.
    sha256: of the checksums of the official split's files. None = it was not prepared.
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
    masks: torch.Tensor | None = None
    transform: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    crop: int | None = None
    names: Sequence[str] | None = None
    sha256: str | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def n_groups(self) -> int | None:
        """How many groups these images come from, such as patients; None = it is not known."""
        return None if self.groups is None else len(np.unique(self.groups))

    def masks_at(self, positions: torch.Tensor) -> torch.Tensor:
        """(n, H, W) uint8: the masks of the images at these positions, cropped as `batches` does without `shuffle`."""
        assert self.masks is not None
        masks = self.masks[self.rows[positions]]
        if self.crop is None:
            return masks
        top = (masks.shape[-1] - self.crop) // 2
        return masks[:, top : top + self.crop, top : top + self.crop]

    def subset(self, positions: torch.Tensor) -> Split:
        """The images at these positions (int64, from 0 to n − 1), in this order."""
        chosen = positions.numpy()
        return replace(
            self,
            rows=self.rows[positions],
            labels=self.labels[chosen],
            paths=take(self.paths, chosen),
            groups=None if self.groups is None else self.groups[chosen],
            names=take(self.names, chosen),
        )

    def halves(self) -> tuple[Split, Split]:
        """Two disjoint halves (select, calibrate), always the same ones; if n is odd, the first has one more.

        A group, or a name where there are no groups, falls in either with equal chance, by what it is called. Where
        there are two, neither half is empty; of a single one the second is.
        """
        select, calibrate = half_rows(len(self), self.groups, self.names)
        return self.subset(select), self.subset(calibrate)

    def label_names(self) -> list[str]:
        """One string per image: its class, several joined by ";", "" if it is unlabelled."""
        return label_names(self.labels, self.classes)

    def batches(
        self,
        batch_size: int,
        device: str | torch.device = "cpu",
        *,
        shuffle: torch.Generator | None = None,
        skip: int = 0,
        num_workers: int = 0,
        rank: int = 0,
        n_ranks: int = 1,
    ) -> Iterator[torch.Tensor]:
        """Every image once, as (B, C, H, W) float32 in [-1, 1] on `device`, channels last in memory.

        shuffle: a CPU generator that draws the order and where images are cropped, advanced at this call; None = in
            the order of `rows`, cropped at the centre.
        skip: how many images to leave out at the start: whole batches that are done.
        num_workers: threads that read ahead what lies on disk, 0 = a few; the values do not depend on it.
        rank, n_ranks: of each batch, every n-th image from this one on.
        The global random state is left alone. Raises UserError for a crop larger than the images.
        """
        device = torch.device(device)
        order = torch.arange(len(self)) if shuffle is None else torch.randperm(len(self), generator=shuffle)
        rows = [batch[rank::n_ranks] for batch in divide(self.rows[order[skip:]], batch_size, n_ranks)]
        read = gathered(self.images, rows, device, num_workers)
        batches: Iterator[torch.Tensor] = (to_floats(batch, device) for batch in read)
        if self.transform is not None:
            batches = map(self.transform, batches, rows)
        if self.crop is not None:
            drawn = self.crop_corners(self.crop, shuffle).to(device)
            corners = [batch[rank::n_ranks] for batch in divide(drawn[skip:], batch_size, n_ranks)]
            batches = map(partial(cropped, side=self.crop), batches, corners)
        return batches

    def batch_sizes(self, batch_size: int, n_ranks: int = 1, skip: int = 0) -> list[int]:
        """How many images there are in each batch after the first `skip` images, over all ranks."""
        return [len(batch) for batch in divide(self.rows[skip:], batch_size, n_ranks)]

    def crop_corners(self, side: int, shuffle: torch.Generator | None) -> torch.Tensor:
        """(n, 2) int64: top and left of each image's crop, drawn by `shuffle`, or of the centred one without it."""
        room = self.images.shape[-1] - side
        if room < 0:
            raise UserError(f"crop={side}: the images of {self.name} have {self.images.shape[-1]} px, which is less")
        if shuffle is None:
            return torch.full((len(self), 2), room // 2)
        return torch.randint(room + 1, (len(self), 2), generator=shuffle)


def divide(rows: torch.Tensor, batch_size: int, n_ranks: int = 1) -> list[torch.Tensor]:
    """Consecutive batches. What is left over joins the batch before it, unless each rank has two images of it.

    A single image has no batch statistics.
    """
    batches = list(rows.split(batch_size)) if len(rows) else []
    if len(batches) > 1 and len(batches[-1]) < 2 * n_ranks:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def to_floats(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8 or uint16 images to float32 in [-1, 1], exactly -1 for 0 and 1 for the largest value of their type.

    uint16, which few devices and operations know, may come as int16, and is carried as that.
    """
    plain = images.view(torch.int16) if images.dtype == torch.uint16 else images
    images = plain.to(device, non_blocking=device.type == "cuda")
    half = 127.5
    if images.dtype == torch.int16:
        half = 32767.5
        images = images.to(torch.int32) & 65535  # without its sign
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
    window: tuple[float, float] | None = None,
    resize: str = "crop",
    max_unreadable: float = 0.01,
) -> Split:
    """One of train, val, test of a dataset; downloads and prepares no more than the official split it lies in.

    name: the dataset's name, for messages and files.
    size, channels, window, resize: what images are brought to, see Form.
    keep_classes, drop_classes: use only, or do not use, the images of these classes, by name or number.
    num_workers: processes that decode, when the split is first prepared.
    max_unreadable: share of the official split's images that may be unreadable; these are left out.
    Raises UserError for everything that a user can set right.
    """
    assert split in SPLITS
    assert channels in (1, 3)
    if size < SMALLEST:
        raise UserError(f"size={size}: the networks need images of at least {SMALLEST} px")
    source = at_size(source, size)
    official = official_split(split, source.splits, name)
    prepared = prepare(
        source,
        official,
        name=name,
        form=Form(size, channels, None if window is None else (float(window[0]), float(window[1])), resize),
        data_dir=Path(data_dir).expanduser(),
        num_workers=num_workers,
        max_unreadable=max_unreadable,
    )
    rows = rows_of(split, source.splits, prepared)
    if split != "train" and official == "train":
        told = "%s has no %s split: %d of its %d training images, always the same, are used"
        log.info(told, name, split, len(rows), len(prepared.labels))
    whole = all_prepared(prepared, name, split, official).subset(rows)
    classes = {"keep_classes": keep_classes, "drop_classes": drop_classes}
    chosen = chosen_rows(whole.labels, whole.classes, name=name, **classes)
    if not chosen.any():
        raise UserError(f"{name}: no image is left in its {split} split: it has too few, or check keep/drop_classes")
    used = whole.subset(torch.from_numpy(chosen.nonzero()[0]))
    if split == "train" and window is not None:
        check_contrast(used, window)
    return used


def all_prepared(prepared: Prepared, name: str, split: str, official: str) -> Split:
    """All images of an official split, under the name of the split that is to be cut from it."""
    return Split(
        name,
        split,
        prepared.images,
        torch.arange(len(prepared.images)),
        official,
        prepared.labels,
        prepared.classes,
        prepared.paths,
        prepared.groups,
        prepared.masks,
        names=prepared.names,
        sha256=prepared.sha256,
    )


def check_contrast(train: Split, window: tuple[float, float]) -> None:
    """Raises UserError where a window made all images black, or all white."""
    images = train.images.numpy()
    for colour, value in (("black", 0), ("white", np.iinfo(images.dtype).max)):
        if all((images[row] == value).all() for row in train.rows.tolist()):  # the first image with another ends it
            low, high = window
            raise UserError(
                f"dataset.window=[{low:g},{high:g}] makes all training images of {train.name} {colour}: "
                "give it in the unit of the files"
            )


def rows_of(split: str, official: Sequence[str], prepared: Prepared) -> torch.Tensor:
    """(m,) int64, rising: the rows of `split` among the prepared images.

    All images of the source are divided, and then the unreadable ones left out: these move no other to another split.
    """
    n_source, groups, names = prepared.left_out.n_source, prepared.source_groups, prepared.source_names
    members = split_rows(split, official, n_source, groups, names)
    return torch.from_numpy(np.isin(prepared.numbers, members.numpy()).nonzero()[0])


def infer_channels(source: Source, data_dir: str | Path, size: int = 32) -> int:
    """1 if the first image (of train, where there is one) is grey, else 3. Downloads what is missing.

    size: the side that the images will have; only sets published in several sizes look at it.
    """
    source = at_size(source, size)
    split = next(split for split in SPLITS if split in source.splits)
    items = checked(source.read(split, Path(data_dir).expanduser()), split)
    reasons = []
    for number in range(min(len(items.images), ASKED)):
        try:
            channels = raw_values(items.images[number]).shape[2]
        except Exception as error:  # readers raise almost anything for a broken file
            reasons.append(one_line(error))
            continue
        log.info("channels=%d, as the first image", channels)
        return channels
    first = items.paths[0] if items.paths else f"the first image of {split}"
    others = f", and so are the {len(reasons) - 1} after it" if len(reasons) > 1 else ""
    raise UserError(f"{first} is unreadable ({reasons[0]}){others}: remove or replace it")


def at_size(source: Source, size: int) -> Source:
    return source.at_size(size) if hasattr(source, "at_size") else source
