"""The prepared copy of a split: decoded, converted and resized once, then read from a memory-mapped file.

An entry (see `entries`) is a folder `<name>-<split>-<size>px-<channels>c-<key>`. It is written under a temporary name
and renamed when complete, so what has the right name is whole; the key is a digest of all that shapes it.
"""

from __future__ import annotations

import glob
import hashlib
import inspect
import json
import logging
import pickle
import shutil
from pathlib import Path

from advvae.data.contents import contents_digest
from advvae.data.cuts import official_split
from advvae.data.entries import Prepared, load_entry
from advvae.data.images import FILTER
from advvae.data.locks import found_or_made
from advvae.data.source import Form, Items, Source
from advvae.data.texts import encoded
from advvae.data.told import tell_once
from advvae.data.writing import partial_of, write_entry
from advvae.errors import UserError

log = logging.getLogger(__name__)

FORMAT = 8  # of entries; a change of how they are made or laid out raises it


def prepare(
    source: Source,
    split: str,
    *,
    name: str,
    form: Form,
    data_dir: Path,
    num_workers: int = 0,
    max_unreadable: float = 0.01,
) -> Prepared:
    """The prepared copy of an official split, made when it is missing; two processes make it once.

    form: what the images are brought to. num_workers: processes that decode.
    max_unreadable: share of the images that may be unreadable; these are left out.
    Raises UserError for a dataset that cannot be read or downloaded, more unreadable images, and too small a disk.
    """
    what = f"{name} {split}"
    home = home_of(source, data_dir)
    stem = f"{name}-{split}-{form.size}px-{form.channels}c"

    def entry() -> str:
        return f"{stem}-{digest(source, split, form, data_dir)}"

    def load(folder: Path) -> Prepared | None:
        return load_entry(folder, home)

    def make(cache: Path) -> Path:
        items = checked(source.read(split, data_dir), what)
        final = cache / entry()  # only now: a download has made new files
        for leftover in cache.glob(glob.escape(f".partial-{stem}-") + "*"):  # of processes that were killed
            if leftover != partial_of(final):
                shutil.rmtree(leftover, ignore_errors=True)
        write_entry(
            items, final, what=what, home=home, form=form, num_workers=num_workers, max_unreadable=max_unreadable
        )
        if entry() != final.name:
            shutil.rmtree(final)
            raise UserError(f"{what}: its files have changed while they were prepared: start again")
        return final

    prepared = found_or_made(entry, load, make, data_dir=data_dir, lock=stem, purpose=f"preparing {what}")
    prepared.left_out.check(what, max_unreadable)
    prepared.left_out.tell(what)
    for doubt in prepared.doubts:
        tell_once(log, prepared.left_out.file, doubt)
    return prepared


def digest(source: Source, split: str, shape: object, data_dir: Path) -> str:
    """A short name for all that something made of a split follows from; see Source for what is known about it.

    Of files, what is in them and their names below the set's folder count, and not where that lies.
    shape: what shapes it beside the images themselves.
    """
    kind = type(source)
    home, arguments = source.identity() if hasattr(source, "identity") else (data_dir, vars(source))
    facts = {
        "format": [FORMAT, FILTER, split, repr(shape)],
        "source": [kind.__module__, kind.__qualname__, code_of(kind), arguments],
        "has files": hasattr(source, "files"),
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True, default=content_of).encode())
    if not hasattr(source, "files"):
        key.update(encoded(str(data_dir.resolve())))
    elif files := source.files(split, data_dir):
        key.update(contents_digest(files, home, data_dir).encode())
    return key.hexdigest()[:16]


def home_of(source: Source, data_dir: Path) -> Path | None:
    """The folder that the files of a set are named in; None = it does not say which files it is read from."""
    if not hasattr(source, "files"):
        return None
    return source.identity()[0] if hasattr(source, "identity") else data_dir


def normals_digest(source: Source, name: str, data_dir: Path) -> str | None:
    """A digest of all that train and val are read from; None where that is not at hand, which is said."""
    try:
        official = dict.fromkeys(official_split(split, source.splits, name) for split in ("train", "val"))
        if hasattr(source, "files") and not all(source.files(split, data_dir) for split in official):
            raise UserError("its files are not there")
        return " ".join(digest(source, split, None, data_dir) for split in official)
    except (UserError, OSError) as error:
        log.warning("%s: whether it has changed since scores were fitted cannot be told: %s", name, error)
        return None


def content_of(value: object) -> str:
    """A digest of an argument that is no plain value; only its type where there is none (a lock, a file)."""
    try:
        return hashlib.sha256(pickle.dumps(value)).hexdigest()
    except Exception:  # objects raise what they like
        return str(type(value))


def code_of(kind: type) -> str:
    """The source code of a user's module, or nothing where there is none to read (a notebook, a compiled module).

    For the classes of this package, FORMAT says when they read differently.
    """
    if kind.__module__.startswith("advvae."):
        return ""
    try:
        return Path(inspect.getfile(kind)).read_text()
    except (OSError, TypeError, ValueError):
        return ""


def checked(items: Items, what: str) -> Items:
    """The items, when they are whole. Raises UserError otherwise: sources may be a user's own code."""
    counts = {"images": len(items.images), "labels": len(items.labels)}
    for part in ("paths", "groups", "names", "masks"):
        if (values := getattr(items, part)) is not None:
            counts[part] = len(values)
    if len(set(counts.values())) > 1:
        raise UserError(f"{what}: its source gives {counts}: these numbers must be equal")
    if not counts["images"]:
        raise UserError(f"{what}: holds no images")
    return items
