"""Detection metrics of many bootstrap draws at once.

A draw resamples each set with replacement. It is held as how often it takes each image: images are sorted by score
once, and every metric follows from cumulated counts; no resampled set is ever made or sorted. Counts are float32, which
is exact up to 2²⁴ images and half the memory traffic; whatever is no count is float64.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

COUNTS = 10**8  # draws × images: about 1.5 s per score on one core
FEWEST = 200  # draws, below which percentiles are too rough
SIDES = 4  # sets of images whose draws are kept: those of the inliers are the same for every outlier set
KEPT = 2**26  # bytes of counts that are kept of each, 64 MiB
BLOCK = 2**17  # counts of one block of draws: 512 KiB, which stay in the processor's cache


def group_numbers(groups: np.ndarray | None, n: int) -> np.ndarray:
    """The group of each of n images as a number, (n,) 0 ... n_groups - 1; None = each image is one by itself."""
    return np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]


def drawn_counts(groups: np.ndarray, seed: tuple[int, ...], draws: range) -> np.ndarray:
    """How often each draw takes each image, (draws, n). Draws take whole groups, as many as there are.

    Args:
        groups: (n,) the group of each image, 0 ... n_groups - 1; a group per image makes the plain bootstrap.
        draws: numbers of the draws: what one takes depends on its number, the seed and the number of groups alone.
    """
    n_groups = int(groups.max()) + 1
    counts = np.stack([_group_counts(n_groups, seed, draw) for draw in draws])
    return counts.take(groups, axis=1).astype(np.float32)


def affordable(draws: int, n_images: int) -> int:
    """`draws`, or fewer: as many as make COUNTS counts of this many images, but not fewer than FEWEST."""
    return min(draws, max(FEWEST, COUNTS // n_images))


def _group_counts(n_groups: int, seed: tuple[int, ...], draw: int) -> np.ndarray:
    """How often a draw takes each group, (n_groups,) uint8: that one is taken 256 times has a chance below 1e-500."""
    kept = _kept(n_groups, seed)
    if (counts := kept.get(draw)) is None:
        taken = np.random.default_rng([*seed, draw]).integers(n_groups, size=n_groups)
        counts = np.bincount(taken, minlength=n_groups).astype(np.uint8)
        if (len(kept) + 1) * n_groups <= KEPT:
            kept[draw] = counts
    return counts


@lru_cache(SIDES)
def _kept(n_groups: int, seed: tuple[int, ...]) -> dict[int, np.ndarray]:
    """The counts by draw that are kept of this many groups and seed."""
    return {}


def blocks(draws: int, n: int) -> Iterator[range]:
    """The numbers of the draws, in runs whose counts of n images fit the cache."""
    size = max(1, BLOCK // n)
    return (range(start, min(start + size, draws)) for start in range(0, draws, size))


class Ranking:
    """Where inliers (n_in,) and outliers (n_out,) stand by one score: found once, used for every draw."""

    def __init__(self, inliers: np.ndarray, outliers: np.ndarray) -> None:
        self.in_order, self.out_order = np.argsort(inliers), np.argsort(outliers)
        ins, outs = inliers[self.in_order], outliers[self.out_order]
        self.ins_below_out, self.ins_up_to_out = np.searchsorted(ins, outs), np.searchsorted(ins, outs, "right")
        self.outs_below_out = np.searchsorted(outs, outs)
        self.ins_up_to_in = np.searchsorted(ins, ins, "right")
        self.outs_up_to_in = np.searchsorted(outs, ins, "right")

    def metrics(self, in_counts: np.ndarray, out_counts: np.ndarray) -> np.ndarray:
        """`statistics.METRICS` of draws (draws, n_in) and (draws, n_out): (metrics, draws)."""
        ins, outs = in_counts.take(self.in_order, 1), out_counts.take(self.out_order, 1)
        in_sums, out_sums = cumulated(ins), cumulated(outs)
        n_in, n_out = np.int64(in_sums[:, -1]), np.int64(out_sums[:, -1])

        # with each outlier, then each inlier, as the threshold; what ties with it is caught, flagged and accepted
        below, up_to = in_sums.take(self.ins_below_out, 1), in_sums.take(self.ins_up_to_out, 1)
        caught, flagged = out_sums[:, -1:] - out_sums.take(self.outs_below_out, 1), in_sums[:, -1:] - below
        in_accepted, out_accepted = in_sums.take(self.ins_up_to_in, 1), out_sums.take(self.outs_up_to_in, 1)

        def flagged_at(percent: int) -> np.ndarray:
            threshold = np.count_nonzero(caught >= _needed(percent, n_out), axis=1) - 1
            return np.take_along_axis(flagged, threshold[:, None], 1)[:, 0] / n_in

        def accepted_at(percent: int) -> np.ndarray:
            threshold = np.count_nonzero(in_accepted < _needed(percent, n_in), axis=1)
            return np.take_along_axis(out_accepted, threshold[:, None], 1)[:, 0] / n_out

        return np.stack(
            [
                (_weighted_sum(outs, below) + _weighted_sum(outs, up_to)) / (2 * n_in * n_out),
                _precision_sum(outs, caught, flagged) / n_out,
                _precision_sum(ins, in_accepted, out_accepted) / n_in,
                flagged_at(95),
                accepted_at(95),
                flagged_at(80),
                1 - accepted_at(90),
                1 - accepted_at(95),
            ]
        )


def cumulated(counts: np.ndarray) -> np.ndarray:
    """Column j: how often the first j images were taken. (draws, n) -> (draws, n + 1)."""
    sums = np.zeros((counts.shape[0], counts.shape[1] + 1), np.float32)
    np.cumsum(counts, axis=1, out=sums[:, 1:])
    return sums


def _needed(percent: int, n: np.ndarray) -> np.ndarray:
    """`percent` % of each n, rounded up, as a column of counts."""
    return np.float32(-(-percent * n[:, None] // 100))


def _weighted_sum(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.einsum("dn,dn->d", counts, values, dtype=np.float64)


def _precision_sum(positives: np.ndarray, true: np.ndarray, false: np.ndarray) -> np.ndarray:
    """Precision at the threshold of each positive, summed over them, (draws,); `true` and `false` pass it."""
    precision = np.add(true, false, dtype=np.float64)
    np.maximum(precision, 1, out=precision)  # 0 only where the positive itself was not taken
    np.divide(true, precision, out=precision)  # in place: fresh memory would cost as much as the division
    return _weighted_sum(positives, precision)
