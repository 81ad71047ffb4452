"""A CSV file that names images: their labels, groups (patients), splits and masks."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from advvae.data.classes import NORMAL
from advvae.data.listing import OTHER_NAMES_OF_VAL, Entry, Listing, Unused
from advvae.data.source import SPLITS
from advvae.errors import UserError

DELIMITERS = ",;\t"
BETWEEN_LABELS = re.compile("[;|]")
WITHOUT_LABELS = (NORMAL, "no finding")  # what a cell says of an image that has none of a set's several labels
SPLIT_WORDS = {**{split: split for split in SPLITS}, **dict.fromkeys(OTHER_NAMES_OF_VAL, "val")}

REPEATED = "an earlier row names it too"
CONTRADICTED = "an earlier row names it too and says something else"
WITHOUT_SPLIT = "its row has no split and others have one"
WITHOUT_PATH = "it names no file"


class Row(NamedTuple):
    """The cells that are kept of a row, without blanks around them.

    number: as a spreadsheet counts; the header is row 1.
    """

    number: int
    path: str
    label: str
    group: str
    split: str
    mask: str


COLUMNS = Row._fields[1:]


def read_table(file: Path, root: Path) -> Listing:
    """The images that a CSV file names.

    file: UTF-8, cells parted by comma, semicolon or tab. Of its columns, these are read:
        path (required), mask: files, relative to `root`.
        label: one, or several parted by ";" or "|". If a row has several, all rows are taken for lists of labels, where
            an empty cell and the single words "normal" and "No Finding" mean none. Else each label is a class, one
            that is called normal like any other, and an empty cell means that the image is unlabelled.
        group: what belongs together, such as a patient's images; an image with an empty cell is one by itself.
        split: train, val or test. If no row has one, all images are the training split, from which the others are cut.
    The files are not looked for. Raises UserError for what is no such table, unknown splits, and a group that is in
    two splits.
    """
    try:
        facts = file.stat()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): check dataset.csv") from None
    return listing(file, root, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=8)
def listing(file: Path, root: Path, *version: int) -> Listing:
    """As read_table, which asks for the same table many times. version: tells a changed file from the one before."""
    columns, rows = read_rows(file)
    rows, left_out = distinct(rows, root)
    has_splits = any(row.split for row in rows)
    splits = {row: split_of(row, file) if has_splits else "train" for row in rows}
    left_out += [Unused(os.path.join(root, row.path), WITHOUT_SPLIT) for row in rows if not splits[row]]
    rows = [row for row in rows if splits[row]]
    check_groups(rows, splits, file)
    labels, multi_label, notes = labels_of(rows, file)
    entries = [
        Entry(root / row.path, splits[row], labels[row], row.group, root / row.mask if row.mask else None)
        for row in rows
    ]
    if not entries:
        raise UserError(f"{file} lists no images: it needs a row for each, with its file in the column path")
    if "group" not in columns and (unread := ", ".join(name for name in columns if name and name not in COLUMNS)):
        without = "it has no column group, so that each file is taken for a patient of its own"
        notes.append(f"{without}; columns that are not read: {unread}")
    if alone := sum(not row.group for row in rows) if "group" in columns else 0:
        notes.append(f"{alone} of {len(rows)} images have no group: each of these is a group of its own")
    return Listing(
        entries,
        has_groups=any(row.group for row in rows),
        has_masks="mask" in columns,
        multi_label=multi_label,
        left_out=left_out,
        notes=notes,
    )


def read_rows(file: Path) -> tuple[list[str], list[Row]]:
    """The columns of a CSV file, in lower case, and its rows; blank ones are skipped."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            first = lines.readline()
            headers = {mark: names_in(first, mark) for mark in DELIMITERS}
            delimiter = max(DELIMITERS, key=lambda mark: ("path" in headers[mark], len(headers[mark])))
            columns = headers[delimiter]
            check_columns(columns, file)
            return columns, list(rows_of(csv.reader(lines, delimiter=delimiter, strict=True), columns, file))
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8: save it as such (a spreadsheet calls it CSV UTF-8)") from None
    except (OSError, csv.Error) as error:
        raise UserError(f"{file} cannot be read as a CSV file ({error}): check dataset.csv") from None


def names_in(header: str, delimiter: str) -> list[str]:
    return [name.strip().lower() for name in next(csv.reader([header], delimiter=delimiter), [])]


def check_columns(columns: list[str], file: Path) -> None:
    if "path" not in columns:
        found = ", ".join(name or '""' for name in columns) or "none"
        raise UserError(f"{file} has no column path, which names the image of each row; its columns are: {found}")
    if twice := [name for name in COLUMNS if columns.count(name) > 1]:
        raise UserError(f"{file} has several columns {twice[0]}: rename all but one")


def rows_of(lines: Iterator[list[str]], columns: list[str], file: Path) -> Iterator[Row]:
    places = [columns.index(name) if name in columns else None for name in COLUMNS]
    for number, cells in numbered(lines, file):
        if any(map(str.strip, cells[len(columns) :])):
            raise UserError(
                f"{file}: row {number} has {len(cells)} cells and the header {len(columns)}: quote what holds a "
                'separator, as in "a;b"'
            )
        cells += [""] * (len(columns) - len(cells))
        if any(map(str.strip, cells)):
            yield Row(number, *("" if place is None else cells[place].strip() for place in places))


def numbered(lines: Iterator[list[str]], file: Path) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row under the header, which is row 1. Raises UserError for a row whose quotes are wrong."""
    number = 1
    try:
        for number, cells in enumerate(lines, start=2):
            yield number, cells
    except csv.Error as error:
        remedy = 'look for a quote (") in it that is not closed, or not doubled inside of a cell'
        raise UserError(f"{file}: row {number + 1} cannot be read ({error}): {remedy}") from None


def distinct(rows: list[Row], root: Path) -> tuple[list[Row], list[Unused]]:
    """The first row of each file, and what the others are left out for."""
    first: dict[str, Row] = {}
    left_out = []
    for row in rows:
        place = os.path.normpath(os.path.join(root, row.path))
        if not row.path:
            left_out.append(Unused(f"row {row.number}", WITHOUT_PATH))
        elif (before := first.setdefault(place, row)) is not row:
            left_out.append(Unused(place, REPEATED if row[2:] == before[2:] else CONTRADICTED))
    return list(first.values()), left_out


def split_of(row: Row, file: Path) -> str:
    if row.split and row.split.lower() not in SPLIT_WORDS:
        words = ", ".join(SPLIT_WORDS)
        raise UserError(f"{file}: row {row.number} has the split {row.split!r}, which is none of {words}")
    return SPLIT_WORDS.get(row.split.lower(), "")


def check_groups(rows: list[Row], splits: dict[Row, str], file: Path) -> None:
    """Refuse a group whose images are in two splits. Its name is not told: it may be a patient's."""
    first: dict[str, Row] = {}
    torn: dict[str, Row] = {}
    for row in rows:
        if row.group and splits[first.setdefault(row.group, row)] != splits[row]:
            torn.setdefault(row.group, row)
    if torn:
        group, row = next(iter(torn.items()))
        raise UserError(
            f"{file}: {len(torn)} groups have images in two splits, such as that of row {first[group].number} "
            f"({splits[first[group]]}) and row {row.number} ({splits[row]}): no patient may be in two splits"
        )


def labels_of(rows: list[Row], file: Path) -> tuple[dict[Row, tuple[str, ...]], bool, list[str]]:
    """The names of each row's labels, whether an image may have several, and what is worth a line."""
    cells = (filter(None, map(str.strip, BETWEEN_LABELS.split(row.label))) for row in rows)
    labels = {row: tuple(dict.fromkeys(names)) for row, names in zip(rows, cells, strict=True)}
    multi_label = any(len(names) > 1 for names in labels.values())
    notes = []
    if multi_label:
        unset = sum(not row.label for row in rows)
        both = sum(len(names) > 1 and any(map(is_normal, names)) for names in labels.values())
        labels = {row: tuple(name for name in names if not is_normal(name)) for row, names in labels.items()}
        notes.append("an image may have several labels, and is normal where it has none")
        notes += [f"{unset} images with an empty label are taken for normal"] * (unset > 0)
        notes += [f"{both} images are called normal beside other labels: these count"] * (both > 0)
    spelt: dict[str, str] = {}
    for name in (name for names in labels.values() for name in names):
        if (other := spelt.setdefault(name.lower(), name)) != name:
            raise UserError(f"{file}: the labels {other} and {name} differ in capitals alone: spell them alike")
    return labels, multi_label, notes


def is_normal(label: str) -> bool:
    return label.lower() in WITHOUT_LABELS
