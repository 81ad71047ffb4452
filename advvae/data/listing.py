"""Which image files a set has, and what is known of each before it is opened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

OTHER_NAMES_OF_VAL = ("valid", "validation")


class Entry(NamedTuple):
    """An image file.

    split: the official split that it belongs to.
    labels: the names of its classes; () = it is unlabelled or, where images may have several labels, has none of them.
    group: what it shares with others that belong together, such as their patient; "" = it is one by itself.
    mask: the file that says where it is anomalous; None = not known.
    """

    path: Path
    split: str
    labels: tuple[str, ...] = ()
    group: str = ""
    mask: Path | None = None


class Unused(NamedTuple):
    """What was found and is not used, why ("as …"), and the official split that would have it; "" = none."""

    path: str
    reason: str
    split: str = ""


@dataclass(frozen=True)
class Listing:
    """All image files of a set, in order.

    has_groups, has_masks: whether the set says what belongs together, and which file is whose mask.
    multi_label: whether an image may have several labels.
    notes: what was decided and is worth a line.
    """

    entries: Sequence[Entry]
    has_groups: bool = False
    has_masks: bool = False
    multi_label: bool = False
    left_out: Sequence[Unused] = ()
    notes: Sequence[str] = ()

    def of(self, split: str) -> Listing:
        return replace(self, entries=[entry for entry in self.entries if entry.split == split])

    @property
    def files(self) -> list[Path]:
        """The images, and their masks."""
        return [entry.path for entry in self.entries] + [entry.mask for entry in self.entries if entry.mask is not None]

    @property
    def classes(self) -> list[str]:
        """Those of all splits, so that a number means the same in each."""
        return sorted({name for entry in self.entries for name in entry.labels})

    def numbers(self, entries: Iterable[Entry]) -> np.ndarray:
        """The labels of these entries as Items has them: (n,) int64, -1 = unlabelled, or (n, K) of 0 and 1."""
        number = {name: k for k, name in enumerate(self.classes)}
        if not self.multi_label:
            return np.array([number[entry.labels[0]] if entry.labels else -1 for entry in entries], dtype=np.int64)
        return np.array([[name in entry.labels for name in number] for entry in entries], dtype=np.int64)


def present(listing: Listing) -> Listing:
    """Without the files that are not there."""
    entries = []
    left_out = list(listing.left_out)
    for entry in listing.entries:
        if not entry.path.is_file():
            left_out.append(Unused(str(entry.path), "there is no such file", entry.split))
            continue
        if entry.mask is not None and not entry.mask.is_file():
            left_out.append(Unused(str(entry.mask), "there is no such mask", entry.split))
            entry = entry._replace(mask=None)
        entries.append(entry)
    return replace(listing, entries=entries, left_out=left_out)
