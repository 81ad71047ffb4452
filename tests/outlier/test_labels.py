import time

import numpy as np
import pytest

from advvae.outlier import bootstrap
from advvae.outlier.labels import auroc_by_label
from advvae.outlier.statistics import UNDEFINED, evaluate_scores

METRICS = ("auroc", "auroc_low", "auroc_high")


def noisy(seed: int, n_in: int, n_out: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Two scores with many ties, of inliers and of outliers that score one higher."""
    random = np.random.default_rng(seed)
    sides = [{name: (shift + random.normal(size=n)).round(1) for name in "st"} for shift, n in ((0, n_in), (1, n_out))]
    return sides[0], sides[1]


def test_auroc_by_hand() -> None:
    """Inliers 0, 2; the label of each outlier, one with two of them and one without."""
    inliers, outliers = np.array([0.0, 2.0]), np.array([1.0, 3.0, 2.0, -1.0, 5.0])
    table = auroc_by_label({"s": inliers}, {"s": outliers}, ["cat;dog", "cat", "dog", "", "owl"])
    assert list(table) == ["cat", "dog", "owl"]
    assert [(found.n, found.n_groups) for found in table.values()] == [(2, None), (2, None), (1, None)]
    assert table["cat"].metrics["s"]["auroc"] == 3 / 4  # 1 beats one of two, 3 both
    assert table["dog"].metrics["s"]["auroc"] == (1 + 1.5) / 4  # 2 ties with one
    assert table["owl"].metrics["s"]["auroc"] == UNDEFINED


def test_a_label_that_an_image_names_twice_counts_once() -> None:
    inliers, outliers = ({"s": np.array(values)} for values in ([0.0, 2.0], [1.0, 3.0]))
    twice, once = (auroc_by_label(inliers, outliers, labels) for labels in (["a;a", "a;b;a"], ["a", "b;a"]))
    assert twice == once


@pytest.mark.parametrize("place", [0, 1])
def test_a_score_that_is_no_number_is_refused(place: int) -> None:
    """Not counted as the most outlying: `evaluate_scores` takes none either."""
    inliers, outliers = {"s": np.array([0.0, 2.0, 1.0])}, {"s": np.array([1.0, 3.0, 2.0])}
    (inliers, outliers)[place]["s"][1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        auroc_by_label(inliers, outliers, ["cat", "cat", "dog"])
    with pytest.raises(ValueError, match="NaN"):
        evaluate_scores(inliers, outliers)


@pytest.mark.parametrize("grouped", [False, True])
def test_values_and_intervals_are_those_of_the_label_alone(grouped: bool) -> None:
    """An image of two labels counts under each; a patient, too."""
    inliers, outliers = noisy(0, 50, 60)
    labels = np.random.default_rng(1).choice(["a", "b", "a;b", ""], 60).tolist()
    in_groups, out_groups = (np.arange(50) // 3, np.arange(60) // 4) if grouped else (None, None)
    table = auroc_by_label(inliers, outliers, labels, in_groups=in_groups, out_groups=out_groups, seed=3)
    for label in ("a", "b"):
        rows = [row for row, joined in enumerate(labels) if label in joined]
        alone = evaluate_scores(
            inliers,
            {score: values[rows] for score, values in outliers.items()},
            in_groups=in_groups,
            out_groups=None if out_groups is None else out_groups[rows],
            seed=3,
        )
        assert (table[label].n, table[label].n_groups) == (alone.n_out, alone.n_out_groups)
        for score in inliers:
            expected = {metric: alone.metrics[score][metric] for metric in METRICS}
            assert table[label].metrics[score] == pytest.approx(expected, abs=1e-12)


def test_a_label_of_one_patient_has_no_interval() -> None:
    inliers, outliers = noisy(0, 20, 6)
    table = auroc_by_label(inliers, outliers, ["a"] * 3 + ["b"] * 3, out_groups=np.array([1, 1, 1, 1, 2, 3]))
    assert [table[label].n_groups for label in "ab"] == [1, 3]
    assert isinstance(table["a"].metrics["s"]["auroc"], float)
    assert table["a"].metrics["s"]["auroc_low"] == table["a"].metrics["s"]["auroc_high"] == UNDEFINED
    assert isinstance(table["b"].metrics["s"]["auroc_low"], float)


def test_very_many_images_are_drawn_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    inliers, outliers = noisy(0, 50, 60)
    monkeypatch.setattr(bootstrap, "COUNTS", 300 * 110)
    few = auroc_by_label(inliers, outliers, ["a"] * 60)
    assert few == auroc_by_label(inliers, outliers, ["a"] * 60, draws=300)
    assert few != auroc_by_label(inliers, outliers, ["a"] * 60, draws=299)


def test_fourteen_findings_take_no_time() -> None:
    """0.3 s on one core for two scores of 10,000 images; more is allowed for a busy machine."""
    inliers, outliers = noisy(0, 10_000, 10_000)
    labels = np.random.default_rng(0).choice([f"finding {k}" for k in range(14)], 10_000).tolist()
    start = time.process_time()
    assert len(auroc_by_label(inliers, outliers, labels)) == 14
    assert time.process_time() - start < 5
