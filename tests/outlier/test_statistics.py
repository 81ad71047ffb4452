import numpy as np
import pytest

from advvae.outlier.statistics import detection_metrics, false_positive_rate


def test_metrics_by_hand() -> None:
    """Outliers 1, 3 among inliers 0, 2: of four pairs, three are in order."""
    assert detection_metrics(np.array([0.0, 2.0]), np.array([1.0, 3.0])) == pytest.approx(
        {
            "auroc": 3 / 4,
            "aupr_out": (1 / 1 + 2 / 3) / 2,  # precision at 3, then at 1
            "aupr_in": (1 / 1 + 2 / 3) / 2,  # precision at 0, then at 2
            "fpr95_out": 1 / 2,  # both outliers are caught at 1: inlier 2 is flagged
            "fpr95_in": 1 / 2,  # both inliers are accepted up to 2: outlier 1 is accepted
        }
    )


def test_fpr95_tells_its_two_ways_apart() -> None:
    """One of ten outliers hides below all inliers: catching 95 % of outliers flags all inliers, not the reverse."""
    inliers = np.linspace(0, 1, 20)
    outliers = np.array([-1.0] + [2.0] * 9)
    metrics = detection_metrics(inliers, outliers)
    assert metrics["fpr95_out"] == 1
    assert metrics["fpr95_in"] == pytest.approx(1 / 10)


def test_fpr95_lets_one_of_twenty_go() -> None:
    outliers = np.array([-5.0] + [1.0] * 19)
    assert false_positive_rate(outliers, np.array([0.0, 0.5, 2.0, 3.0])) == 2 / 4
    assert false_positive_rate(outliers[:19], np.array([0.0, 0.5, 2.0, 3.0])) == 1  # 18 of 19 are not 95 %


def test_ties_at_the_threshold_count_as_flagged_and_as_half_a_win() -> None:
    metrics = detection_metrics(np.array([0.0, 1.0, 1.0, 1.0]), np.array([1.0, 1.0, 2.0]))
    assert metrics["fpr95_out"] == 3 / 4  # threshold 1
    assert metrics["fpr95_in"] == 2 / 3  # all inliers are accepted up to 1
    assert metrics["auroc"] == pytest.approx((3 * 1 + 9 * 1 - 6 * 0.5) / 12)  # 6 of 12 pairs tie


@pytest.mark.parametrize("seed", range(5))
def test_fpr95_agrees_with_the_roc_curve(seed: int) -> None:
    from sklearn.metrics import roc_curve

    random = np.random.default_rng(seed)
    inliers, outliers = random.integers(0, 30, 83), random.integers(5, 35, 47)  # many ties
    truth = np.repeat([0, 1], [83, 47])
    flagged, caught, _ = roc_curve(truth, np.concatenate([inliers, outliers]), drop_intermediate=False)
    assert false_positive_rate(outliers, inliers) == flagged[np.argmax(caught >= 0.95)]


def test_a_set_against_itself_is_chance() -> None:
    scores = np.random.default_rng(0).normal(size=500)
    metrics = detection_metrics(scores, scores)
    assert metrics["auroc"] == 0.5
    assert metrics["fpr95_out"] == metrics["fpr95_in"] == 0.95


def test_swapping_the_sets_mirrors_the_auroc() -> None:
    random = np.random.default_rng(0)
    inliers, outliers = random.normal(size=100).round(1), random.normal(1, size=70).round(1)
    forward, backward = detection_metrics(inliers, outliers), detection_metrics(outliers, inliers)
    assert forward["auroc"] > 0.6
    assert backward["auroc"] == pytest.approx(1 - forward["auroc"], abs=1e-12)


@pytest.mark.parametrize(("offset", "scale"), [(1e6, 1e-6), (-1e6, 1e-6), (0, 1e-12), (0, 1e12), (40, 1)])
def test_no_score_is_squashed(offset: float, scale: float) -> None:
    """A sigmoid, or float32, would turn these into ties."""
    inliers, outliers = np.array([0.0, 2.0]), np.array([1.0, 3.0])
    metrics = detection_metrics(offset + scale * inliers, offset + scale * outliers)
    assert metrics == detection_metrics(inliers, outliers)
