import numpy as np
import pytest
from scipy.stats import binom

from advvae.outlier.conformal import exchanged_interval, false_alarm_interval, false_alarms, fisher, p_values, threshold


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
    none = false_alarms(np.arange(18.0), np.full(100, 50.0), 0.05)
    assert (none.n_calibrate, none.threshold, none.n) == (18, None, 100)
    assert (none.count, none.rate, none.low, none.high) == (0, None, 0, 0)


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
    assert (counted.threshold, counted.count, counted.rate, counted.n, counted.n_calibrate) == (19.0, 2, 0.5, 4, 19)
    assert counted.n_calibrate_groups is counted.n_groups is None


# Groups

PATIENTS = np.array(["b", "a", "b", "c", "b"])  # of the calibration scores 1 ... 5


def test_p_values_of_groups_by_hand() -> None:
    """Each patient counts once: b's images a third each."""
    found = p_values(np.arange(1.0, 6.0), np.array([5.5, 5, 4, 3, 2, 1, 0]), PATIENTS)
    sums = [0, 1 / 3, 4 / 3, 5 / 3, 8 / 3, 3, 3]
    assert found == pytest.approx([(1 + each) / 4 for each in sums], abs=1e-9)
    assert found[-1] == 1


def test_the_threshold_of_groups_by_hand() -> None:
    """p above 5, 4, 3, 2 is 3/12, 4/12, 7/12, 8/12."""
    calibration = np.arange(1.0, 6.0)
    limits = [threshold(calibration, alpha, PATIENTS) for alpha in (0.24, 0.25, 0.33, 0.34, 0.58, 0.59, 0.67)]
    assert limits == [None, 5, 5, 4, 4, 3, 2]


def test_tenths_add_up_to_one() -> None:
    """The 30 highest scores are those of three of 79 patients: p of the lowest of them is 4/80, which is 0.05."""
    patients = np.append(np.arange(30) % 3, np.arange(3, 79))
    calibration = np.append(100.0 + np.arange(30), np.arange(76.0))
    assert p_values(calibration, np.array([100.0]), patients) == 0.05
    assert threshold(calibration, 0.05, patients) == 75


@pytest.mark.parametrize("decimals", [0, 9])
def test_groups_of_one_image_change_no_bit(decimals: int) -> None:
    random = np.random.default_rng(0)
    for n in (1, 18, 19, 99, 997):
        calibration, scores = random.normal(0, 3, n).round(decimals), random.normal(0, 3, 500).round(decimals)
        below = np.searchsorted(np.sort(calibration), scores)
        single, patients = p_values(calibration, scores), random.permutation(n)
        assert (single == (1 + n - below) / (n + 1)).all()
        assert (single == p_values(calibration, scores, patients)).all()
        for alpha in (0.01, 0.05, 0.1, 0.29, 0.57):
            assert threshold(calibration, alpha, patients) == threshold(calibration, alpha)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1, 0.29, 0.57])
@pytest.mark.parametrize("decimals", [0, 9])
def test_a_score_is_above_the_threshold_of_groups_where_its_p_value_is_at_most_alpha(
    alpha: float, decimals: int
) -> None:
    random = np.random.default_rng(1)
    patients = np.repeat(np.arange(120), random.integers(1, 12, 120))
    calibration = (random.normal(0, 3, 120)[patients] + random.normal(size=len(patients))).round(decimals)
    scores = random.normal(0, 4, 500).round(decimals)
    limit = threshold(calibration, alpha, patients)
    assert limit is not None
    assert ((p_values(calibration, scores, patients) <= alpha) == (scores > limit)).all()


def of_patients(random: np.random.Generator, n_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of 1 to 20 images of each patient, nearly all of whose variance is between patients; their groups."""
    groups = np.repeat(np.arange(n_groups), random.integers(1, 21, n_groups))
    return random.normal(size=n_groups)[groups] + 0.1 * random.normal(size=len(groups)), groups


def test_a_new_patient_raises_false_alarms_at_a_rate_of_at_most_alpha() -> None:
    """25 patients to calibrate with, 1,000 times, and 200 new ones each time.

    At alpha = 0.05 no more than 5 % of a new patient's images are flagged on average over draws; the rate has a
    standard deviation of 0.04 between draws, so 0.0013 of the mean. Images taken for independent evidence flag more.
    """
    random = np.random.default_rng(0)
    by_group: list[float] = []
    by_image: list[float] = []
    for _ in range(1000):
        (calibration, groups), (inliers, in_groups) = of_patients(random, 25), of_patients(random, 200)
        for rates, own_groups in ((by_group, groups), (by_image, None)):
            limit = threshold(calibration, 0.05, own_groups)
            assert limit is not None
            flagged = np.bincount(in_groups, inliers > limit) / np.bincount(in_groups)
            rates.append(flagged.mean())
    assert 0.03 < np.mean(by_group) < 0.05 + 3 * 0.0013
    assert np.mean(by_image) > 0.06


def test_false_alarms_of_groups_are_counted_and_averaged_by_hand() -> None:
    """Patient x has both images flagged, y one of three, z none: 3 of 6 images, and a mean of (1 + 1/3 + 0) / 3."""
    inliers, in_groups = np.array([6.0, 7, 8, 1, 1, 1]), np.array(["x", "x", "y", "y", "y", "z"])
    found = false_alarms(np.arange(1.0, 6.0), inliers, 0.25, groups=PATIENTS, in_groups=in_groups)
    assert (found.threshold, found.count, found.rate) == (5.0, 3, pytest.approx(4 / 9))
    assert (found.n_calibrate, found.n_calibrate_groups, found.n, found.n_groups) == (5, 3, 6, 3)


def test_false_alarms_of_exchangeable_patients_lie_where_they_should() -> None:
    """Of 100 divisions at least 95 % lie in the central 95 %: no fewer than 95 - 2.6 √(100 · 0.95 · 0.05) = 89.

    The interval of single images, which patients' images are not, holds far fewer.
    """
    random = np.random.default_rng(0)
    inside, as_images = 0, 0
    for _ in range(100):
        (calibration, groups), (inliers, in_groups) = of_patients(random, 50), of_patients(random, 40)
        found = false_alarms(calibration, inliers, 0.1, groups=groups, in_groups=in_groups)
        inside += found.low <= found.count <= found.high
        low, high = false_alarm_interval(len(inliers), len(calibration), 0.1)
        as_images += low <= found.count <= high
    assert inside >= 89
    assert as_images < 75


def test_exchanging_single_images_gives_the_interval_of_theory() -> None:
    random = np.random.default_rng(0)
    calibration, inliers = random.normal(size=199), random.normal(size=300)
    found = exchanged_interval(calibration, inliers, 0.05, np.arange(199), None)
    assert found == pytest.approx(false_alarm_interval(300, 199, 0.05), abs=3)


def test_scores_that_tie_raise_no_alarm_whichever_groups_change_sides() -> None:
    """All images score the same, so that p is 1 for each of them."""
    same = np.ones(40)
    assert exchanged_interval(same, same, 0.05, np.arange(40) // 2, np.arange(40) // 2) == (0, 0)
