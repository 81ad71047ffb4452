"""Which images of which official split train, val and test are; no patient is in two of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from advvae.errors import UserError

VAL_SHARE = 0.1  # of the training images, where a set has no official validation split
TEST_SHARE = 0.2  # of all images, where a set has no official labelled split to test on


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
