"""Which images of which official split train, val and test are; no patient is in two of them.

Where images have groups or names, these alone decide: a file that comes or goes moves no other to another split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from advvae.data.texts import encoded
from advvae.errors import UserError

VAL_SHARE = 0.1  # of the training images, where a set has no official validation split
TEST_SHARE = 0.2  # of all images, where a set has no official labelled split to test on
DIGEST = 16  # bytes


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


def split_rows(
    split: str, official: Sequence[str], n: int, groups: np.ndarray | None = None, names: Sequence[str] | None = None
) -> torch.Tensor:
    """(m,) int64, rising: the rows of `split` in the official split of n images that it lies in.

    What an official split does not give is cut from train: first 20 % to test on, then 10 % of the rest to validate;
    with groups or names each of these falls in a split with that chance.
    groups, names: as in Items; each group stays whole. Where there are enough, each split has one at least, and
        validation two, for its halves: only in sets so small does one that is added move others.
    """
    if official_split(split, official, "") != "train":
        return torch.arange(n)
    ranks, places = ordered(n, groups, names, "split")
    n_units = n if places is None else len(places)
    n_test = n_val = 0
    least_val = 1 if places is None else 2
    if "test" not in official and "val" not in official:
        wanted = round(TEST_SHARE * n) if places is None else n_below(TEST_SHARE, places)
        n_test = within(wanted, n_units, left=least_val + 1)
    if "test" not in official or "val" not in official:
        start = TEST_SHARE if n_test else 0
        end = start + VAL_SHARE * (1 - start)
        wanted = round(VAL_SHARE * (n - n_test)) if places is None else n_below(end, places) - n_test
        n_val = within(wanted, n_units - n_test, left=1, least=least_val)
    first, last = {"test": (0, n_test), "val": (n_test, n_test + n_val), "train": (n_test + n_val, n_units)}[split]
    return torch.from_numpy(((first <= ranks) & (ranks < last)).nonzero()[0])


def half_rows(n: int, groups: np.ndarray | None, names: Sequence[str] | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Two int64 tensors, rising: the rows of each half of n images; see Split.halves."""
    ranks, places = ordered(n, groups, names, "halves")
    n_units, wanted = (n, (n + 1) // 2) if places is None else (len(places), n_below(0.5, places))
    first = ranks < within(wanted, n_units, left=1)
    return torch.from_numpy(first.nonzero()[0]), torch.from_numpy((~first).nonzero()[0])


def ordered(
    n: int, groups: np.ndarray | None, names: Sequence[str] | None, purpose: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """What is divided, in the order in which it is: groups, else names by their places, else single images.

    Returns (n,) int64, the rank of each image's group, and (n_groups,) the places of these, rising. Without groups and
    names the order is the same permutation of n whatever the seed of a run (NumPy's, stable across versions), and
    there are no places.
    """
    texts = names if groups is None else map(str, groups)
    if texts is None:
        return np.random.default_rng(0).permutation(n).argsort(), None
    # Bytes and not strings, 16 of each: there may be millions. No two of so many names share them.
    digests = np.fromiter((digest(text, purpose) for text in texts), f"S{DIGEST}", count=n)
    units, ranks = np.unique(digests, return_inverse=True)
    return ranks, places_of(units)


def place(name: str, purpose: str) -> float:
    """A number in [0, 1) that follows from the name alone, and is another one for each purpose."""
    return places_of(np.array([digest(name, purpose)], f"S{DIGEST}")).item()


def digest(name: str, purpose: str) -> bytes:
    return hashlib.sha256(encoded(f"{purpose}/{name}")).digest()[:DIGEST]


def places_of(digests: np.ndarray) -> np.ndarray:
    """(n,) float64 in [0, 1), in the order of the digests: their first 48 bits."""
    numbers = np.zeros((len(digests), 8), np.uint8)
    numbers[:, 2:] = digests.view(np.uint8).reshape(-1, DIGEST)[:, :6]
    return numbers.view(">u8")[:, 0] / 2**48


def n_below(end: float, places: np.ndarray) -> int:
    return int(np.searchsorted(places, end))


def within(wanted: int, n: int, *, left: int, least: int = 1) -> int:
    """`wanted` of n, but `least` and so few that `left` are left over, as far as n allows."""
    most = min(n, max(1, n - left))
    return min(max(wanted, least), most)
