"""Images in files of their own: a user's folder, or the rows of a CSV file."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from advvae.data.listing import OTHER_NAMES_OF_VAL, Entry, Listing, Unused, present
from advvae.data.masks import MaskFiles, mask_folders, places_of_masks, with_masks
from advvae.data.nifti import parse_slices
from advvae.data.readers import SUFFIXES, ImageFiles, PackedPlaces, Place, image_files, places
from advvae.data.source import SPLITS, Items
from advvae.data.table import read_table
from advvae.data.texts import packed
from advvae.data.told import tell_once
from advvae.errors import UserError

log = logging.getLogger(__name__)

NAMED = 3  # files that a warning names


class Folder:
    """Any tree of images, or those that a CSV file names.

    A tree has the folders train, val, test (any of them) or none of them, with class folders or without. Beside train
    or test, a folder valid or validation is taken for val. The class of an image is the first folder below its split's
    (or below root); without one it is unlabelled.
    A file of several images (frames, slices) gives all of them. Where no group is named for it, they are one.

    root: the folder. None = the one that `csv` lies in.
    csv: the file; read_table says what its columns mean. Class folders and those of splits mean nothing then.
    masks: the folder of the masks, relative to root; with_masks says how they are named. None = masks or ground_truth
        in root, if there is one. What is in it is no image of the set.
    slices: which ones of volumes; see parse_slices.
    """

    private = True

    def __init__(
        self,
        root: str | None = None,
        csv: str | None = None,
        masks: str | None = None,
        slices: str | list[Any] | None = None,
    ) -> None:
        self.root = root
        self.csv = csv
        self.masks = masks
        self.slices = slices
        parse_slices(slices)  # a mistake in it is told before anything is read

    @property
    def folder(self) -> Path:
        if not self.root and not self.csv:
            raise UserError("dataset.root (or out_dataset.root) is not set: give the folder that holds your images")
        folder = Path(self.root).expanduser() if self.root else self.table.parent
        if not folder.is_dir():
            raise UserError(f"dataset.root (or out_dataset.root) = {folder}: there is no such folder")
        return folder

    @property
    def table(self) -> Path:
        assert self.csv
        return Path(self.csv).expanduser()

    @property
    def mask_folders(self) -> list[Path]:
        return mask_folders(self.folder, self.masks)

    @property
    def folders(self) -> dict[str, Path]:
        """The folder of each split that has one; `valid` and `validation` are that of val beside one of the others."""
        found = {split: self.folder / split for split in SPLITS if (self.folder / split).is_dir()}
        for name in OTHER_NAMES_OF_VAL:
            if found and "val" not in found and (self.folder / name).is_dir():
                found["val"] = self.folder / name
        return found

    @property
    def splits(self) -> Sequence[str]:
        if self.csv:
            named = {entry.split for entry in read_table(self.table, self.folder).entries}
            return [split for split in SPLITS if split in named]
        return list(self.folders) or ["train"]

    def files(self, split: str, data_dir: Path) -> list[Path]:
        return [*([self.table] if self.csv else []), *self.listing().of(split).files]

    def identity(self) -> tuple[Path, Mapping[str, Any]]:
        """Class folders of any split give the classes of all their numbers."""
        tops = self.folders.values() or [self.folder]
        classes = sorted({name for top in tops for name in next(os.walk(top), ("", [], []))[1]})
        table = name_in(self.folder, self.table) if self.csv else None
        return self.folder, {"csv": table, "masks": self.masks, "slices": self.slices, "folders": classes}

    def read(self, split: str, data_dir: Path) -> Items:
        listing = self.checked()
        entries = listing.of(split).entries
        if not entries:
            raise self.nothing_in(split)
        slices = parse_slices(self.slices)
        images = places([entry.path for entry in entries], slices)
        if not images:
            raise UserError(f"dataset.slices={self.slices} leaves no image of the volumes in {self.folder}: widen it")
        masks, mismatched = places_of_masks(entries, images, slices)
        self.tell(mismatched)
        shown = list(entries_of(images, entries))
        grouped = listing.has_groups or any(one is next_one for one, next_one in pairwise(shown))
        left_out = [*listing.left_out, *mismatched]
        home, folder = self.splits[0], self.folder  # home of what belongs to no split
        names = packed(name_in(folder, entry.path) for entry in shown)
        groups = [entry.group or name for entry, name in zip(shown, names, strict=True)] if grouped else None
        return Items(
            ImageFiles(PackedPlaces(images)),
            listing.numbers(shown),
            listing.classes,
            paths=packed(map(str, images)),
            groups=np.array(groups) if groups else None,
            masks=MaskFiles(masks) if any(masks) else None,
            left_out=[(item.path, item.reason) for item in left_out if (item.split or home) == split],
            names=names,
        )

    def nothing_in(self, split: str) -> UserError:
        if self.csv:
            return UserError(f"{self.csv}: no file of its {split} images is in {self.folder}: check dataset.root")
        known = ", ".join(suffix[1:] for suffix in SUFFIXES)
        return UserError(
            f"{self.folders.get(split, self.folder)} holds no images (looked for {known}): check dataset.root"
        )

    def listing(self) -> Listing:
        """All that the set names, whether it is there or not."""
        listing = read_table(self.table, self.folder) if self.csv else Listing(list(self.tree()))
        if listing.has_masks:
            if self.masks:
                raise UserError(f"{self.csv} has a column mask: leave out that, or dataset.masks")
            return listing
        if len(self.mask_folders) > 1:
            several = " and ".join(folder.name for folder in self.mask_folders)
            raise UserError(f"{self.folder} holds {several}: name the one that holds the masks in dataset.masks")
        for folder in self.mask_folders:
            listing = with_masks(listing, self.folder, folder)
            if not self.masks:
                listing = replace(listing, notes=[*listing.notes, f"masks are taken from {folder}"])
        return listing

    def tree(self) -> Iterator[Entry]:
        for split in self.splits:
            folder = self.folders.get(split, self.folder)
            for path in self.images_below(folder, self.folder, *self.folders.values()):
                name = class_of(path, folder)
                yield Entry(path, split, (name,) if name else ())

    def images_below(self, folder: Path, *skipped: Path) -> list[Path]:
        return image_files(folder, skipped=[*skipped, *self.mask_folders])

    def checked(self) -> Listing:
        """The listing of what is there. What is left out and what was decided is told once per process."""
        listing = self.listing()
        listing = present(listing) if self.csv else listing
        listing = replace(listing, left_out=[*listing.left_out, *self.unnamed(listing)])
        for note in listing.notes:
            tell_once(log, self.folder, f"{self.csv or self.root}: {note}", logging.INFO)
        self.tell(listing.left_out)
        return listing

    def unnamed(self, listing: Listing) -> list[Unused]:
        """The images in root that neither the table names nor the folders of splits hold.

        Where the table alone is given, what lies beside it may be anything: only folders that it names are looked into.
        """
        if not self.csv:
            reason = f"only {', '.join(folder.name for folder in self.folders.values())} are used"
            found = self.images_below(self.folder, *self.folders.values()) if self.folders else []
            return [Unused(str(path), reason) for path in found]
        left_out = [Path(item.path) for item in listing.left_out]
        named = {os.path.abspath(path) for path in (*listing.files, *left_out)}
        skipped = []
        if not self.root:
            own = {os.path.relpath(path, self.folder).split(os.sep)[0] for path in named}
            skipped = [path for path in self.folder.iterdir() if path.is_dir() and path.name not in own]
        found = self.images_below(self.folder, *skipped)
        return [Unused(str(path), "no row names it") for path in found if os.path.abspath(path) not in named]

    def tell(self, left_out: Sequence[Unused]) -> None:
        """A line for each reason."""
        for reason, count in Counter(item.reason for item in left_out).items():
            names = [below(item.path, self.folder) for item in left_out if item.reason == reason][:NAMED]
            more = f" and {count - NAMED} more" if count > NAMED else ""
            tell_once(
                log, self.folder, f"{self.csv or self.root}: {count} left out, as {reason}: {', '.join(names)}{more}"
            )


def entries_of(places: Iterable[Place], entries: Iterable[Entry]) -> Iterator[Entry]:
    """The entry of each place, these being in the entries' order: a file is shown once for each of its images."""
    remaining = iter(entries)
    entry = next(remaining)
    for place in places:
        while entry.path != place.path:  # a file without any
            entry = next(remaining)
        yield entry


def class_of(path: Path, folder: Path) -> str:
    inside = path.relative_to(folder).parts
    return inside[0] if len(inside) > 1 else ""


def name_in(folder: Path, path: Path) -> str:
    """What a file of a set in `folder` is called, wherever the set lies and on every system."""
    path, folder = path.absolute(), folder.absolute()
    inside = path.relative_to(folder) if path.is_relative_to(folder) else path
    return Path(os.path.normpath(inside)).as_posix()


def below(path: str, folder: Path) -> str:
    """The path as seen from the folder, where it lies in that."""
    return os.path.relpath(path, folder) if Path(path).is_relative_to(folder) else path
