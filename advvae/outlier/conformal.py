"""Decisions from normal images alone: p-values and thresholds of split conformal prediction.

The `calibrate` half of the validation images was used for nothing else, so that it is exchangeable with further normal
images; nothing else is assumed (Vovk et al. 2005; as outlier tests: Bates et al. 2023, "Testing for outliers with
conformal p-values"). The images of one group, such as a patient, are like each other: there it is the groups that are
exchangeable, and each of them counts once, however many images it has (hierarchical conformal prediction: Lee, Barber &
Willett 2023, "Distribution-free inference with hierarchical data"). Images without groups are groups of one image each.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from advvae.outlier.bootstrap import group_numbers

EXCHANGES = 1000  # random ones of groups, from which an interval is taken
LEVEL = 0.95  # of intervals


@dataclass(frozen=True)
class FalseAlarms:
    """How many of `n` normal images were flagged at a false-alarm rate `alpha`.

    Attributes:
        n_calibrate, n_calibrate_groups: calibration images, and their groups; None = each is one by itself.
        threshold: None where these are too few for `alpha`; nothing is flagged then.
        n_groups: groups of the `n` images.
        rate: the share of images that is flagged; with groups its mean over groups, which is what `alpha` bounds. None
            without a threshold.
        low, high: where `count` lies with 95 % chance if the images, or their groups, are exchangeable with those of
            calibration.
    """

    alpha: float
    n_calibrate: int
    n_calibrate_groups: int | None
    threshold: float | None
    n: int
    n_groups: int | None
    count: int
    rate: float | None
    low: int
    high: int


def p_values(calibration: np.ndarray, scores: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    """(1 + Σ_g share of g's calibration scores that are >= s) / (n_groups + 1) of each score s, (B,) in (0, 1].

    A normal image has p <= alpha with a chance of at most alpha: an image drawn from a new group.

    Args:
        calibration: (n,). scores: (B,).
        groups: (n,) of the calibration scores; None = each is one by itself: (1 + #{calibration >= s}) / (n + 1).
    """
    order, shares, n_groups = np.argsort(calibration), *_shares(groups, len(calibration))
    p_by_rank = (1 + _sums_from(shares[order])) / (n_groups + 1)
    return p_by_rank[np.searchsorted(calibration[order], scores)]


def threshold(calibration: np.ndarray, alpha: float, groups: np.ndarray | None = None) -> float | None:
    """The smallest calibration score above which p <= alpha: an image is flagged above it.

    Of n scores without groups it is the k-th smallest, k = ⌈(n + 1)(1 - alpha)⌉. None where p is above alpha however
    high an image scores: 1 / (n_groups + 1) is.
    """
    ascending = np.sort(np.float64(calibration))
    low_enough = p_values(calibration, np.nextafter(ascending, math.inf), groups) <= alpha
    return float(ascending[low_enough.argmax()]) if low_enough.any() else None


def fisher(p_values: np.ndarray) -> np.ndarray:
    """Fisher's combination -2 Σ ln p of the p-values (m, B) of m scores: (B,), larger = more outlying.

    Scores of one image are not independent, so this is a score with a threshold of its own, not a χ² statistic.
    """
    return -2 * np.log(p_values).sum(axis=0)


def false_alarms(
    calibration: np.ndarray,
    inliers: np.ndarray,
    alpha: float,
    *,
    groups: np.ndarray | None = None,
    in_groups: np.ndarray | None = None,
) -> FalseAlarms:
    """Count the inliers (m,) that the threshold calibrated with (n,) flags; their groups (n,), (m,)."""
    limit = threshold(calibration, alpha, groups)
    flagged = np.zeros(len(inliers), bool) if limit is None else inliers > limit
    shares, n_in_groups = _shares(in_groups, len(inliers))
    if groups is None and in_groups is None:
        low, high = false_alarm_interval(len(inliers), len(calibration), alpha)
    else:
        low, high = exchanged_interval(calibration, inliers, alpha, groups, in_groups)
    return FalseAlarms(
        alpha=alpha,
        n_calibrate=len(calibration),
        n_calibrate_groups=None if groups is None else _shares(groups, len(calibration))[1],
        threshold=limit,
        n=len(inliers),
        n_groups=None if in_groups is None else n_in_groups,
        count=int(flagged.sum()),
        rate=None if limit is None else float(shares[flagged].sum() / n_in_groups),
        low=low,
        high=high,
    )


def false_alarm_interval(m: int, n: int, alpha: float) -> tuple[int, int]:
    """How many of m normal images are flagged, given n calibration scores, with 95 % chance: the central interval.

    The count follows BetaBinomial(m, n + 1 - k, k) where images are exchangeable and scores do not tie.
    """
    from scipy.stats import betabinom

    k = math.ceil((n + 1) * (1 - Fraction(str(alpha))))  # in exact decimals: in binary ones, 100 × (1 - 0.71) > 29
    if k > n:  # there is no threshold
        return 0, 0
    low, high = betabinom(m, n + 1 - k, k).interval(LEVEL)
    return int(low), int(high)


def exchanged_interval(
    calibration: np.ndarray,
    inliers: np.ndarray,
    alpha: float,
    groups: np.ndarray | None,
    in_groups: np.ndarray | None,
) -> tuple[int, int]:
    """The central 95 % of how many inliers are flagged once groups have changed sides at random.

    If the groups of both sides are exchangeable, each such division of them is as likely as that at hand. This is a
    permutation test, which is exact for groups of any size and scores of any kind; the interval follows from the scores
    of both sides, and so does not tell a score under which all groups of one side differ a little from the other's.
    """
    n_calibrate_groups = _shares(groups, len(calibration))[1]
    in_numbers = n_calibrate_groups + group_numbers(in_groups, len(inliers))
    numbers, scores = np.append(group_numbers(groups, len(calibration)), in_numbers), np.append(calibration, inliers)
    order = np.argsort(scores)
    numbers, first = numbers[order], np.searchsorted(scores[order], scores[order])  # of those that tie
    shares, n_groups = _shares(numbers, len(numbers))
    random = np.random.default_rng(0)
    counts = []
    for _ in range(EXCHANGES):
        calibrates = (random.permutation(n_groups) < n_calibrate_groups)[numbers]
        p = (1 + _sums_from(shares * calibrates)[first]) / (n_calibrate_groups + 1)
        counts.append(np.sum(p[~calibrates] <= alpha))
    low, high = np.quantile(counts, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    return int(low), int(high)


def _shares(groups: np.ndarray | None, n: int) -> tuple[np.ndarray, int]:
    """What share of its group each of n images is, (n,), and how many groups there are."""
    numbers = group_numbers(groups, n)
    sizes = np.bincount(numbers)
    return 1 / sizes[numbers], len(sizes)


def _sums_from(shares: np.ndarray) -> np.ndarray:
    """Entry j: the sum of shares j, j + 1, ... (n,) -> (n + 1,).

    Rounded, so that three thirds are one in any order, and p is alpha where it should be.
    """
    return np.append(np.cumsum(shares[::-1])[::-1], 0).round(9)
