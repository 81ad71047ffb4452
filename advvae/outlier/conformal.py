"""Decisions from normal images alone: p-values and thresholds of split conformal prediction.

The `calibrate` half of the validation images was used for nothing else, so that it is exchangeable with further normal
images; nothing else is assumed (Vovk et al. 2005; as outlier tests: Bates et al. 2023, "Testing for outliers with
conformal p-values").
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np


@dataclass(frozen=True)
class FalseAlarms:
    """How many of `n` normal images were flagged at a false-alarm rate `alpha`.

    Attributes:
        threshold: None where `n_calibrate` scores are too few for `alpha`; nothing is flagged then.
        low, high: where `count` lies with 95 % chance if the images are exchangeable with the calibration images.
    """

    alpha: float
    n_calibrate: int
    threshold: float | None
    n: int
    count: int
    low: int
    high: int


def p_values(calibration: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(1 + #{calibration >= s}) / (n + 1) of each score, calibration (n,), scores (B,) -> (B,) in (0, 1].

    A normal image has p <= alpha with a chance of at most alpha.
    """
    n = len(calibration)
    below = np.searchsorted(np.sort(calibration), scores)
    return (1 + n - below) / (n + 1)


def threshold(calibration: np.ndarray, alpha: float) -> float | None:
    """The k-th smallest of n scores, k = ⌈(n + 1)(1 - alpha)⌉; an image is flagged above it, where its p <= alpha.

    None with k > n: n scores are too few for this alpha.
    """
    k = _rank(len(calibration), alpha)
    return float(np.sort(calibration)[k - 1]) if k <= len(calibration) else None


def fisher(p_values: np.ndarray) -> np.ndarray:
    """Fisher's combination -2 Σ ln p of the p-values (m, B) of m scores: (B,), larger = more outlying.

    Scores of one image are not independent, so this is a score with a threshold of its own, not a χ² statistic.
    """
    return -2 * np.log(p_values).sum(axis=0)


def false_alarm_interval(m: int, n: int, alpha: float, level: float = 0.95) -> tuple[int, int]:
    """How many of m normal images are flagged, given n calibration scores: the central interval of that level.

    The count follows BetaBinomial(m, n + 1 - k, k) where images are exchangeable and scores do not tie.
    """
    from scipy.stats import betabinom

    k = _rank(n, alpha)
    if k > n:  # there is no threshold
        return 0, 0
    low, high = betabinom(m, n + 1 - k, k).interval(level)
    return int(low), int(high)


def false_alarms(calibration: np.ndarray, inliers: np.ndarray, alpha: float) -> FalseAlarms:
    """Count the inliers that the calibrated threshold flags."""
    limit = threshold(calibration, alpha)
    count = 0 if limit is None else int(np.sum(inliers > limit))
    interval = false_alarm_interval(len(inliers), len(calibration), alpha)
    return FalseAlarms(alpha, len(calibration), limit, len(inliers), count, *interval)


def _rank(n: int, alpha: float) -> int:
    """k of `threshold`. In exact decimals: in binary ones, 100 × (1 - 0.71) is above 29."""
    return math.ceil((n + 1) * (1 - Fraction(str(alpha))))
