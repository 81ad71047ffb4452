"""Which images to use, by their classes: one-class and hold-out experiments."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from advvae.errors import UserError

NORMAL = "normal"  # what a set with several labels per image calls an image that has none of them
SYNONYMS = re.compile(r", | - ")  # between those in a name: "goldfish, Carassius auratus", "0 - zero"
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
    """The number of a class given by name, by number, or by one of its name's synonyms; in this order.

    Capitals count only where names differ by nothing else. Raises UserError for an unknown class and for a name that
    several classes have.
    """
    text = str(item).strip()
    if found := alike([[name] for name in classes], text):
        return the_one(found, item, key)
    if text.isdecimal() and int(text) < len(classes):
        return int(text)
    if found := alike([SYNONYMS.split(name) for name in classes], text):
        return the_one(found, item, key)
    if not classes:
        raise UserError(f"{key}: the set has no classes to choose from")
    listed = ", ".join(f"{number} ({name})" for number, name in enumerate(classes[:LISTED]))
    more = f" and {len(classes) - LISTED} more" if len(classes) > LISTED else ""
    raise UserError(f"{key}: {item!r} is not a class; the classes are {listed}{more}")


def alike(names: Sequence[Sequence[str]], text: str) -> list[int]:
    """The classes that have a name equal to `text`; without one, those where only capitals differ."""
    exact = [number for number, own in enumerate(names) if text in own]
    return exact or [number for number, own in enumerate(names) if text.lower() in map(str.lower, own)]


def the_one(found: Sequence[int], item: str | int, key: str) -> int:
    if len(found) > 1:
        raise UserError(f"{key}: {item!r} may be each of the classes {', '.join(map(str, found))}: give the number")
    return found[0]


def label_names(labels: np.ndarray, classes: Sequence[str]) -> list[str]:
    """One string per image: its class, its labels joined by ";" ("normal" if none is set), "" if it is unlabelled."""
    if labels.ndim == 2:
        return [";".join(classes[k] for k in np.flatnonzero(row).tolist()) or NORMAL for row in labels]
    return [classes[number] if number >= 0 else "" for number in labels]
