import numpy as np
import pytest
from scipy.stats import binom

from advvae.outlier.conformal import FalseAlarms, false_alarm_interval, false_alarms, fisher, p_values, threshold


def test_p_values_by_hand() -> None:
    """Of four calibration scores, those as high as the score count, and one more of each."""
    calibration = np.array([3.0, 1.0, 2.0, 2.0])
    assert p_values(calibration, np.array([0.5, 2.0, 2.5, 9.0])).tolist() == [5 / 5, 4 / 5, 2 / 5, 1 / 5]


@pytest.mark.parametrize(("alpha", "k"), [(0.05, 95), (0.71, 29), (0.01, 99), (0.5, 50), (1 / 3, 67)])
def test_the_threshold_is_the_kth_smallest_of_99(alpha: float, k: int) -> None:
    """k = ⌈100 (1 - alpha)⌉, also where 100 * (1 - 0.71) is above 29 in binary."""
    assert threshold(np.random.default_rng(0).permutation(99) + 1.0, alpha) == k


def test_too_few_calibration_scores_give_no_threshold() -> None:
    """⌈20 · 0.95⌉ = 19, ⌈19 · 0.95⌉ = 19 > 18."""
    assert threshold(np.arange(19.0), 0.05) == 18
    assert threshold(np.arange(18.0), 0.05) is None
    assert false_alarm_interval(100, 18, 0.05) == (0, 0)
    assert false_alarms(np.arange(18.0), np.full(100, 50.0), 0.05) == FalseAlarms(0.05, 18, None, 100, 0, 0, 0)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1, 0.29, 0.3, 0.57])
@pytest.mark.parametrize("decimals", [0, 9])
def test_a_score_is_above_the_threshold_where_its_p_value_is_at_most_alpha(alpha: float, decimals: int) -> None:
    """Also where scores tie."""
    random = np.random.default_rng(0)
    calibration, scores = random.normal(0, 3, 99).round(decimals), random.normal(0, 3, 500).round(decimals)
    limit = threshold(calibration, alpha)
    assert limit is not None
    assert ((p_values(calibration, scores) <= alpha) == (scores > limit)).all()


def test_fisher_by_hand() -> None:
    combined = fisher(np.array([[1.0, 0.5], [1.0, 0.1]]))
    assert combined == pytest.approx([0, -2 * np.log(0.05)])


def test_with_endless_calibration_the_interval_is_the_binomial_one() -> None:
    low, high = false_alarm_interval(1000, 10**7 - 1, 0.05)
    assert (low, high) == binom(1000, 0.05).interval(0.95)


def test_one_calibration_image_makes_the_count_uniform() -> None:
    """BetaBinomial(m, 1, 1) is uniform on 0 ... m: of 0 ... 99, the central 95 % are 2 ... 97."""
    assert false_alarm_interval(99, 1, 0.5) == (2, 97)


def test_false_alarms_of_exchangeable_splits_lie_where_they_should() -> None:
    """Of 400 splits, 95 % lie in the central 95 %: 380 ± 2.6 √(400 · 0.95 · 0.05) = 11, more where counts are coarse.

    A binomial interval, which takes the threshold for known, would hold far fewer.
    """
    random = np.random.default_rng(0)
    found = [false_alarms(random.normal(size=199), random.normal(size=1000), 0.05) for _ in range(400)]
    inside = sum(each.low <= each.count <= each.high for each in found)
    assert 380 - 11 <= inside <= 380 + 16
    assert np.mean([each.count for each in found]) == pytest.approx(50, abs=3 * 17 / 20)  # sd 17 over 400 splits
    low, high = binom(1000, 0.05).interval(0.95)
    assert sum(low <= each.count <= high for each in found) < 300


def test_false_alarms_are_counted_above_the_threshold() -> None:
    counted = false_alarms(np.arange(1, 20.0), np.array([18.0, 19.0, 19.5, 40.0]), 0.05)
    assert (counted.threshold, counted.count, counted.n, counted.n_calibrate) == (19.0, 2, 4, 19)
