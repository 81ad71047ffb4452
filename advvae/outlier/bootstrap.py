"""Detection metrics of many bootstrap draws at once.

A draw resamples each set with replacement. It is held as how often it takes each image: images are sorted by score
once, and every metric follows from cumulated counts; no resampled set is ever made or sorted. Counts are float32, which
is exact up to 2²⁴ images and half the memory traffic; whatever is no count is float64.
"""

from collections.abc import Iterator

import numpy as np

BLOCK = 2**17  # counts of one block of draws: 512 KiB, which stay in the processor's cache


def drawn_counts(groups: np.ndarray, seed: tuple[int, ...], draws: range) -> np.ndarray:
    """How often each draw takes each image, (draws, n). Draws take whole groups, as many as there are.

    Args:
        groups: (n,) the group of each image, 0 ... n_groups - 1; a group per image makes the plain bootstrap.
        draws: numbers of the draws: what one takes depends on its number, the seed and the number of groups alone.
    """
    n_groups = int(groups.max()) + 1
    counts = np.empty((len(draws), n_groups), np.float32)
    for row, draw in zip(counts, draws, strict=True):
        taken = np.random.default_rng([*seed, draw]).integers(n_groups, size=n_groups)
        row[:] = np.bincount(taken, minlength=n_groups)
    return counts.take(groups, axis=1)


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
