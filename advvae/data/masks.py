"""Masks in files of their own: which file says where an image is anomalous."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from advvae.data.listing import OTHER_NAMES_OF_VAL, Entry, Listing, Unused
from advvae.data.nifti import Slices
from advvae.data.readers import SUFFIXES, ImageFiles, Place, image_files, places
from advvae.data.source import SPLITS
from advvae.errors import UserError

USUAL_FOLDERS = ("masks", "ground_truth")
ENDING = "_mask"  # of a mask's name, after that of its image
SPLIT_FOLDERS = (*SPLITS, *OTHER_NAMES_OF_VAL)


def mask_folders(root: Path, given: str | None) -> list[Path]:
    """The folder of masks that is given, relative to `root`, or the usual ones that `root` holds."""
    if not given:
        return [root / name for name in USUAL_FOLDERS if (root / name).is_dir()]
    folder = root / Path(given).expanduser()
    if not folder.is_dir():
        raise UserError(f"dataset.masks (or out_dataset.masks) = {given}: there is no folder {folder}")
    return [folder]


def with_masks(listing: Listing, root: Path, folder: Path) -> Listing:
    """The listing with the masks in `folder`. A mask is known by its image's path below `root`.

    That of root/[split/]a/b.png is folder/[split/]a/b.* or folder/[split/]a/b_mask.*, with the split's folder or
    without it. A file that may be the mask of several images is taken for none of them.
    """
    masks: dict[str, Path] = {}
    left_out = []
    for file in image_files(folder):
        if masks.setdefault(stem(file, folder), file) is not file:
            left_out.append(Unused(str(file), "another file is the mask of the same image"))
    entries = [entry._replace(mask=first_of(masks, names_of_mask(entry.path, root))) for entry in listing.entries]
    claims = Counter(entry.mask for entry in entries)
    for mask in masks.values():
        if claims[mask] != 1:
            reason = "it may be the mask of several images" if claims[mask] else "it is the mask of no image"
            left_out.append(Unused(str(mask), reason))
    entries = [entry if claims[entry.mask] == 1 else entry._replace(mask=None) for entry in entries]
    return replace(listing, entries=entries, left_out=[*listing.left_out, *left_out])


def first_of(masks: Mapping[str, Path], names: Iterable[str]) -> Path | None:
    return next((masks[name] for name in names if name in masks), None)


def names_of_mask(image: Path, root: Path) -> Iterator[str]:
    """Where the mask of an image may be, below the folder of the masks and without a suffix; the likelier first."""
    if image.is_relative_to(root):
        name = stem(image, root)
        split, _, inside = name.partition("/")
        for place in (name, inside) if split in SPLIT_FOLDERS else (name,):
            yield from (place, place + ENDING)


def stem(file: Path, folder: Path) -> str:
    """The path below `folder`, without the suffix of an image: names may have dots of their own."""
    name = file.relative_to(folder).as_posix()
    suffix = max((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), key=len, default="")
    return name[: len(name) - len(suffix)]


def places_of_masks(
    entries: Sequence[Entry], images: Sequence[Place], slices: Slices
) -> tuple[list[Place | None], list[Unused]]:
    """Where the mask of each image lies, and the masks that have not as many frames as their image.

    images: those of the entries' files. slices: which ones of volumes.
    """
    if not any(entry.mask for entry in entries):
        return [None] * len(images), []
    frames_of = frames(places(dict.fromkeys(entry.mask for entry in entries if entry.mask is not None), slices))
    images_of = frames(images)
    found: dict[Place, Place] = {}
    left_out = []
    for entry in entries:
        if entry.mask is None:
            continue
        own, masks = images_of.get(entry.path, []), frames_of.get(entry.mask, [])
        if len(own) == len(masks):
            found.update(zip(own, masks, strict=True))
        else:
            left_out.append(Unused(str(entry.mask), "it has not as many frames as its image", entry.split))
    return [found.get(image) for image in images], left_out


def frames(places: Iterable[Place]) -> dict[Path, list[Place]]:
    """The places in each file, in order."""
    found: dict[Path, list[Place]] = {}
    for place in places:
        found.setdefault(place.path, []).append(place)
    return found


class MaskFiles(Sequence[Any]):
    """A mask for each image, opened when it is asked for; None where there is none."""

    def __init__(self, places: Sequence[Place | None]) -> None:
        known = [place for place in places if place is not None]
        self.files = ImageFiles(known)
        number = {place: number for number, place in enumerate(known)}
        self.numbers = [None if place is None else number[place] for place in places]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:
        number = self.numbers[index]
        return None if number is None else self.files[number]
