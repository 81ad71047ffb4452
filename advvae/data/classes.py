"""Which images to use, by their classes: one-class and hold-out experiments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from advvae.errors import UserError

NORMAL = "normal"  # what a set with several labels per image calls an image that has none of them
LISTED = 50  # classes that an error names


def chosen_rows(
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    name: str,
    keep_classes: Sequence[str | int] | None,
    drop_classes: Sequence[str | int] | None,
) -> np.ndarray:
    """(N,) bool: the images of a kept class (any, without `keep_classes`) and of no dropped one.

    labels: (N,) numbers of classes, or (N, K) of 0 and 1: then an image belongs to every class whose label it has.
    Raises UserError for an unknown class.
    """
    chosen = np.ones(len(labels), dtype=bool)
    if keep_classes is not None:
        chosen &= members(labels, classes, keep_classes, f"keep_classes of {name}")
    if drop_classes is not None:
        chosen &= ~members(labels, classes, drop_classes, f"drop_classes of {name}")
    return chosen


def members(labels: np.ndarray, classes: Sequence[str], wanted: Sequence[str | int], key: str) -> np.ndarray:
    """(N,) bool: the images that belong to one of the wanted classes."""
    if isinstance(wanted, str | int):
        raise UserError(f"{key}: {wanted!r} is not a list: write [{wanted}]")
    belongs = np.zeros(len(labels), dtype=bool)
    for item in wanted:
        if labels.ndim == 2 and str(item).lower() == NORMAL and NORMAL not in classes:
            belongs |= ~labels.any(axis=1)
        else:
            number = class_number(item, classes, key)
            belongs |= labels[:, number].astype(bool) if labels.ndim == 2 else labels == number
    return belongs


def class_number(item: str | int, classes: Sequence[str], key: str) -> int:
    """The number of a class given by name, in capitals or not, or by number. A name goes before a number."""
    names = [name.lower() for name in classes]
    text = str(item).strip().lower()
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < len(classes):
        return int(text)
    if not classes:
        raise UserError(f"{key}: the set has no classes to choose from")
    listed = ", ".join(f"{number} ({name})" for number, name in enumerate(classes[:LISTED]))
    more = f" and {len(classes) - LISTED} more" if len(classes) > LISTED else ""
    raise UserError(f"{key}: {item!r} is not a class; the classes are {listed}{more}")


def label_names(labels: np.ndarray, classes: Sequence[str]) -> list[str]:
    """One string per image: its class, its labels joined by ";" ("normal" if none is set), "" if it is unlabelled."""
    if labels.ndim == 2:
        return [";".join(classes[k] for k in np.flatnonzero(row).tolist()) or NORMAL for row in labels]
    return [classes[number] if number >= 0 else "" for number in labels]
