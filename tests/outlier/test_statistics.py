import time
import warnings

import numpy as np
import pytest

from advvae.outlier import bootstrap
from advvae.outlier.statistics import (
    METRICS,
    UNDEFINED,
    Comparison,
    Evaluation,
    below_chance,
    best_baseline_words,
    compare,
    detection_metrics,
    evaluate_scores,
    false_positive_rate,
    mean_evaluation,
    roc_band,
)


def test_metrics_by_hand() -> None:
    """Outliers 1, 3 among inliers 0, 2: of four pairs, three are in order."""
    assert detection_metrics(np.array([0.0, 2.0]), np.array([1.0, 3.0])) == pytest.approx(
        {
            "auroc": 3 / 4,
            "aupr_out": (1 / 1 + 2 / 3) / 2,  # precision at 3, then at 1
            "aupr_in": (1 / 1 + 2 / 3) / 2,  # precision at 0, then at 2
            "fpr95_out": 1 / 2,  # both outliers are caught at 1: inlier 2 is flagged
            "fpr95_in": 1 / 2,  # both inliers are accepted up to 2: outlier 1 is accepted
            "fpr80_out": 1 / 2,
            "sensitivity90": 1 / 2,  # no inlier may be flagged: outlier 3 alone is above 2
            "sensitivity95": 1 / 2,
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
def test_metrics_at_a_threshold_agree_with_the_roc_curve(seed: int) -> None:
    from sklearn.metrics import roc_curve

    random = np.random.default_rng(seed)
    inliers, outliers = random.integers(0, 30, 83), random.integers(5, 35, 47)  # many ties
    truth = np.repeat([0, 1], [83, 47])
    flagged, caught, _ = roc_curve(truth, np.concatenate([inliers, outliers]), drop_intermediate=False)
    metrics = detection_metrics(inliers, outliers)
    assert metrics["fpr95_out"] == flagged[np.argmax(caught >= 0.95)]
    assert metrics["fpr80_out"] == flagged[np.argmax(caught >= 0.80)]
    assert metrics["sensitivity90"] == pytest.approx(caught[flagged <= 0.10].max())
    assert metrics["sensitivity95"] == pytest.approx(caught[flagged <= 0.05].max())


def test_specificity_by_hand() -> None:
    """Of 20 inliers, two may be flagged at a specificity of 90 %, one at 95 %; what ties with the third is not."""
    inliers, outliers = np.arange(20.0), np.array([5, 17, 17.5, 18.5, 19.5])
    metrics = detection_metrics(inliers, outliers)
    assert metrics["sensitivity90"] == pytest.approx(3 / 5)  # those above 17
    assert metrics["sensitivity95"] == pytest.approx(2 / 5)  # those above 18
    assert metrics["fpr80_out"] == 3 / 20  # four of five outliers are caught at 17: inliers 17, 18, 19
    assert metrics["fpr95_out"] == 15 / 20


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


def tied(seed: int, n_in: int, n_out: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(0, 12, n_in) / 4, random.integers(3, 15, n_out) / 4


def counts(n_groups: int, seed: int, side: int, draw: int) -> np.ndarray:
    """The rule of the draws, written down once more."""
    taken = np.random.default_rng([seed, side, draw]).integers(n_groups, size=n_groups)
    return np.array([(taken == group).sum() for group in range(n_groups)])


@pytest.mark.parametrize(("n_in", "n_out"), [(37, 23), (2, 2), (5, 200), (203, 90)])
def test_each_draw_is_the_metrics_of_the_resampled_images(n_in: int, n_out: int) -> None:
    inliers, outliers = tied(0, n_in, n_out)
    draws = evaluate_scores({"s": inliers}, {"s": outliers}, seed=7, draws=20).draws["s"]
    for draw in range(20):
        resampled = np.repeat(inliers, counts(n_in, 7, 0, draw)), np.repeat(outliers, counts(n_out, 7, 1, draw))
        assert dict(zip(METRICS, draws[:, draw], strict=True)) == pytest.approx(
            detection_metrics(*resampled), rel=1e-12, abs=1e-12
        )


def test_draws_do_not_depend_on_how_they_are_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    inliers, outliers = tied(0, 37, 23)
    at_once = evaluate_scores({"s": inliers}, {"s": outliers}, draws=19).draws["s"]
    monkeypatch.setattr("advvae.outlier.bootstrap.BLOCK", 3 * 37)
    assert (evaluate_scores({"s": inliers}, {"s": outliers}, draws=19).draws["s"] == at_once).all()


def test_draws_of_the_inliers_are_made_once_for_all_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    bootstrap._kept.cache_clear()
    drawn: list[tuple[int, ...]] = []
    generator = np.random.default_rng

    def counted(seed: list[int]) -> np.random.Generator:
        drawn.append(tuple(seed))
        return generator(seed)

    inliers, outliers = tied(0, 37, 23)
    monkeypatch.setattr(np.random, "default_rng", counted)
    first, second = (evaluate_scores({"s": inliers}, {"s": part}, draws=5) for part in (outliers, outliers[:9]))
    roc_band(inliers, outliers[:9], np.linspace(0, 1, 3), seed=0, draws=5)
    assert sorted(drawn) == [(0, 0, draw) for draw in range(5)] + [(0, 1, d) for d in range(5) for _ in range(2)]
    for kept in (first, second):
        bootstrap._kept.cache_clear()
        again = evaluate_scores({"s": inliers}, {"s": outliers[: kept.n_out]}, draws=5)
        assert (again.draws["s"] == kept.draws["s"]).all()


def test_few_draws_are_kept_of_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    bootstrap._kept.cache_clear()
    inliers, outliers = tied(0, 37, 23)
    expected = evaluate_scores({"s": inliers}, {"s": outliers}, draws=19).draws["s"]
    bootstrap._kept.cache_clear()
    monkeypatch.setattr(bootstrap, "KEPT", 3 * 37)
    for _ in range(2):
        assert (evaluate_scores({"s": inliers}, {"s": outliers}, draws=19).draws["s"] == expected).all()
    assert sum(counts.nbytes for counts in bootstrap._kept(37, (0, 0)).values()) == 3 * 37
    for seed in range(9):
        evaluate_scores({"s": inliers}, {"s": outliers}, seed=seed, draws=2)
    assert bootstrap._kept.cache_info().currsize == 4


def test_very_many_images_are_drawn_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [bootstrap.affordable(1000, n) for n in (20_000, 100_000, 200_000, 10**7)] == [1000, 1000, 500, 200]
    assert bootstrap.affordable(20, 10**7) == 20
    inliers, outliers = tied(0, 37, 23)
    all_draws = evaluate_scores({"s": inliers}, {"s": outliers}).draws["s"]
    monkeypatch.setattr(bootstrap, "COUNTS", 300 * 60)
    few = evaluate_scores({"s": inliers}, {"s": outliers})
    assert (few.draws["s"] == all_draws[:, :300]).all()
    assert few.metrics["s"]["auroc_low"] == np.percentile(all_draws[0, :300], 2.5)


def test_the_mean_over_sets_of_more_and_fewer_draws_is_paired() -> None:
    inliers, outliers = tied(6, 40, 30)
    many = evaluate_scores({"s": inliers}, {"s": outliers}, draws=50)
    few = evaluate_scores({"s": inliers}, {"s": outliers[:20]}, draws=30)
    mean = mean_evaluation([many, few])
    assert (mean.draws["s"] == (many.draws["s"][:, :30] + few.draws["s"]) / 2).all()


def test_draws_take_whole_groups() -> None:
    """Patients of one, two and three images."""
    inliers, outliers = tied(1, 6, 4)
    patients, others = np.array(["b", "a", "c", "a", "c", "c"]), np.array([30, 10, 10, 20])
    found = evaluate_scores({"s": inliers}, {"s": outliers}, in_groups=patients, out_groups=others, draws=50)
    assert (found.n_in, found.n_out, found.n_in_groups, found.n_out_groups) == (6, 4, 3, 3)
    for draw in range(50):
        in_counts = counts(3, 0, 0, draw)[[1, 0, 2, 0, 2, 2]]
        out_counts = counts(3, 0, 1, draw)[[2, 0, 0, 1]]
        expected = detection_metrics(np.repeat(inliers, in_counts), np.repeat(outliers, out_counts))
        assert dict(zip(METRICS, found.draws["s"][:, draw], strict=True)) == pytest.approx(expected)
    assert found.metrics["s"]["auroc"] == detection_metrics(inliers, outliers)["auroc"]


def test_images_of_one_patient_are_no_independent_evidence() -> None:
    """Ten copies of each image, known as such, give the interval of the images without copies."""
    inliers, outliers = tied(2, 40, 40)
    plain = evaluate_scores({"s": inliers}, {"s": outliers})
    patients = np.repeat(np.arange(40), 10)
    copied = {"s": np.repeat(inliers, 10)}, {"s": np.repeat(outliers, 10)}
    grouped = evaluate_scores(*copied, in_groups=patients, out_groups=patients)
    assert grouped.metrics["s"]["auroc_low"] == pytest.approx(plain.metrics["s"]["auroc_low"], abs=1e-12)
    assert width(evaluate_scores(*copied)) < width(grouped) / 2


def width(evaluation: Evaluation) -> float:
    values = evaluation.metrics["s"]
    return float(values["auroc_high"]) - float(values["auroc_low"])


def test_intervals_are_the_percentiles_of_the_draws() -> None:
    inliers, outliers = tied(3, 60, 50)
    found = evaluate_scores({"s": inliers}, {"s": outliers})
    assert found.auroc_draws["s"].shape == (1000,)
    for metric, sampled in zip(METRICS, found.draws["s"], strict=True):
        values = [found.metrics["s"][name] for name in (f"{metric}_low", metric, f"{metric}_high")]
        assert values == sorted(values, key=float)
        assert [values[0], values[2]] == pytest.approx(np.percentile(sampled, [2.5, 97.5]))


def test_the_interval_has_the_width_that_theory_gives() -> None:
    """Var(AUROC) of normal scores one apart, by Hanley & McNeil 1982: Q1 - A², Q2 - A² over n, and a binomial term."""
    random = np.random.default_rng(0)
    n = 400
    inliers, outliers = random.normal(size=n), random.normal(1, size=n)
    a = detection_metrics(inliers, outliers)["auroc"]
    q1, q2 = a / (2 - a), 2 * a**2 / (1 + a)
    deviation = np.sqrt((a * (1 - a) + (n - 1) * (q1 + q2 - 2 * a**2)) / n**2)
    assert width(evaluate_scores({"s": inliers}, {"s": outliers})) == pytest.approx(2 * 1.96 * deviation, rel=0.1)


def test_draws_are_paired_over_scores_and_over_outlier_sets() -> None:
    """The score and its negative, and the same scores in two sets of which one is out of reach."""
    inliers, outliers = tied(4, 30, 30)
    found = evaluate_scores({"s": inliers, "t": -inliers}, {"s": outliers, "t": -outliers})
    assert found.auroc_draws["s"] + found.auroc_draws["t"] == pytest.approx(1)
    one_out = np.array([1.5, 1.5])  # two equal outliers: the AUROC hangs on the drawn inliers alone
    sets = [evaluate_scores({"s": inliers}, {"s": np.repeat(one_out, size)}) for size in (1, 30)]
    assert sets[0].auroc_draws["s"] == pytest.approx(sets[1].auroc_draws["s"])
    other_seed = evaluate_scores({"s": inliers}, {"s": one_out}, seed=1)
    assert not np.allclose(sets[0].auroc_draws["s"], other_seed.auroc_draws["s"])


@pytest.mark.parametrize(("n_in", "n_out"), [(1, 5), (5, 1), (1, 1)])
def test_a_set_of_one_image_is_undefined(n_in: int, n_out: int) -> None:
    found = evaluate_scores({"s": np.arange(n_in)}, {"s": np.arange(n_out)})
    assert (found.n_in, found.n_out) == (n_in, n_out)
    assert set(found.metrics["s"].values()) == {UNDEFINED}
    assert len(found.metrics["s"]) == 3 * len(METRICS)
    assert below_chance(found) == []


def test_one_group_has_metrics_but_no_intervals() -> None:
    found = evaluate_scores({"s": np.array([0, 2])}, {"s": np.array([1, 3])}, in_groups=np.array([7, 7]))
    assert found.metrics["s"]["auroc"] == 0.75
    assert found.metrics["s"]["auroc_low"] == found.metrics["s"]["auroc_high"] == UNDEFINED


def test_constant_scores_are_chance_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = evaluate_scores({"s": np.zeros(10)}, {"s": np.zeros(5)})
    values = found.metrics["s"]
    assert values["auroc"] == values["auroc_low"] == values["auroc_high"] == 0.5
    assert values["sensitivity90"] == 0
    assert values["fpr95_out"] == 1


def test_ten_thousand_images_take_no_time() -> None:
    """0.4 s on one core; ten times that is allowed for a busy machine."""
    random = np.random.default_rng(0)
    inliers, outliers = random.normal(size=10_000), random.normal(1, size=10_000)
    start = time.process_time()
    evaluate_scores({"s": inliers}, {"s": outliers})
    assert time.process_time() - start < 4


def test_scores_below_chance_are_named_and_not_flipped() -> None:
    inliers, outliers = np.arange(20.0), np.arange(20.0) - 15
    mirrored = evaluate_scores({"good": -inliers, "bad": inliers}, {"good": -outliers, "bad": outliers})
    assert below_chance(mirrored) == ["bad"]
    assert float(mirrored.metrics["bad"]["auroc"]) < 0.05
    close = evaluate_scores({"s": inliers}, {"s": inliers - 2})
    assert close.auroc("s") == pytest.approx((18 * 17 / 2 + 18 / 2) / 400)  # pairs that are in order, or tie
    assert 0.5 < float(close.metrics["s"]["auroc_high"]) < 0.7
    assert below_chance(close) == []  # twenty images do not prove it


def test_comparisons_of_every_pair() -> None:
    inliers, outliers = tied(5, 50, 50)
    shifted = {"s": outliers, "t": outliers + 0.5, "s_too": outliers}
    found = evaluate_scores({"s": inliers, "t": inliers, "s_too": inliers}, shifted)
    pairs = compare(found)
    assert [(pair.first, pair.second) for pair in pairs] == [("s", "t"), ("s", "s_too"), ("t", "s_too")]
    assert pairs[0].difference == pytest.approx(found.auroc("s") - found.auroc("t"))
    draws = found.auroc_draws["s"] - found.auroc_draws["t"]
    assert (pairs[0].low, pairs[0].high) == pytest.approx(np.percentile(draws, [2.5, 97.5]))
    assert float(pairs[0].high) < 0  # while the intervals of the two overlap
    assert found.metrics["s"]["auroc_high"] > found.metrics["t"]["auroc_low"]  # type: ignore[operator]
    assert pairs[1] == Comparison("s", "s_too", 0, 0, 0)


def test_the_mean_over_sets_and_its_interval() -> None:
    inliers, outliers = tied(6, 40, 30)
    near = evaluate_scores({"s": inliers}, {"s": outliers})
    far = evaluate_scores({"s": inliers}, {"s": outliers[:20] + 1})
    mean = mean_evaluation([near, far])
    assert (mean.n_in, mean.n_out) == (40, 50)
    assert mean.auroc("s") == pytest.approx((near.auroc("s") + far.auroc("s")) / 2)
    expected = np.percentile((near.auroc_draws["s"] + far.auroc_draws["s"]) / 2, 97.5)
    assert mean.metrics["s"]["auroc_high"] == pytest.approx(expected)
    assert mean_evaluation([near, near]).metrics == near.metrics


def test_the_mean_of_several_sets_does_not_count_their_patients() -> None:
    """Which may be the same ones."""
    inliers, outliers = tied(6, 40, 30)
    patients = np.arange(30) // 3
    near = evaluate_scores({"s": inliers}, {"s": outliers}, in_groups=np.arange(40) // 4, out_groups=patients)
    assert (near.n_in_groups, near.n_out_groups) == (10, 10)
    for sets, n_out_groups in (([near], 10), ([near, near], None)):
        mean = mean_evaluation(sets)
        assert (mean.n_in_groups, mean.n_out_groups) == (10, n_out_groups)


def test_an_undefined_set_does_not_enter_the_mean() -> None:
    defined = evaluate_scores({"s": np.array([0, 2])}, {"s": np.array([1, 3])})
    undefined = evaluate_scores({"s": np.array([0, 2])}, {"s": np.array([1])})
    assert mean_evaluation([defined, undefined]).metrics == defined.metrics
    assert set(mean_evaluation([undefined]).metrics["s"].values()) == {UNDEFINED}


def test_the_roc_band_holds_the_curve_and_is_as_wide_as_that_of_a_share() -> None:
    """At a share flagged of 0.5, the curve of a set against itself is 0.5 ± 1.96 √(2 · 0.5² / n)."""
    scores = np.random.default_rng(0).normal(size=500)
    grid = np.linspace(0, 1, 11)
    low, high = roc_band(scores, scores, grid, seed=0, draws=1000)
    assert (low <= grid).all()
    assert (grid <= high).all()
    assert low[-1] == high[-1] == 1
    assert high[5] - low[5] == pytest.approx(2 * 1.96 * np.sqrt(2 * 0.25 / 500), rel=0.15)


def test_the_roc_band_of_ties_is_the_diagonal_between_them() -> None:
    low, high = roc_band(np.zeros(10), np.zeros(5), np.array([0, 0.25, 1]), seed=0)
    assert low.tolist() == high.tolist() == [0, 0.25, 1]


def test_the_roc_band_starts_with_what_is_caught_for_free() -> None:
    low, high = roc_band(np.arange(9.0), np.arange(9.0) + 100, np.array([0, 0.5]), seed=0)
    assert low.tolist() == high.tolist() == [1, 1]
    assert np.isnan(roc_band(np.arange(9.0), np.zeros(1), np.array([0.5]), seed=0)).all()


def three_scores(model: float, baseline: float, worse: float = 0) -> Evaluation:
    """Outliers that lie so far above their inliers."""
    base = np.random.default_rng(0).normal(size=300)
    shifts = {"loss": worse, "feature_knn": model, "contrast": worse, "pixel_knn": baseline}
    return evaluate_scores(dict.fromkeys(shifts, base), {name: base + shift for name, shift in shifts.items()})


def test_a_baseline_that_does_as_well_is_said_in_words() -> None:
    words = best_baseline_words(three_scores(1, 1), ["contrast", "pixel_knn"])
    auroc = detection_metrics(*(np.random.default_rng(0).normal(size=300) + shift for shift in (0, 1)))["auroc"]
    assert words == (
        "pixel_knn, a trivial baseline, does as well as the best score (feature_knn): "
        f"AUROC {auroc:.3f} against {auroc:.3f}, difference 0.000 [0.000, 0.000]"
    )
    better = best_baseline_words(three_scores(1, 2), ["pixel_knn"])
    assert better is not None
    assert "pixel_knn, a trivial baseline, does better than the best score (feature_knn)" in better
    assert "difference -0." in better


def test_a_model_that_is_ahead_by_luck_does_no_better_than_the_baseline() -> None:
    """Two noisy readings of one thing."""
    random = np.random.default_rng(1)
    inliers, outliers = ({name: shift + random.normal(size=50) for name in ("pixel_knn", "loss")} for shift in (0, 1))
    lucky = evaluate_scores(inliers, outliers)
    assert lucky.auroc("loss") > lucky.auroc("pixel_knn")
    assert "does as well as" in str(best_baseline_words(lucky, ["pixel_knn"]))


def test_no_words_where_the_model_is_better_or_nothing_can_be_compared() -> None:
    assert best_baseline_words(three_scores(2, 1), ["contrast", "pixel_knn"]) is None
    assert best_baseline_words(three_scores(1, 1), []) is None
    assert best_baseline_words(three_scores(1, 1), list(three_scores(1, 1).metrics)) is None
    one = evaluate_scores({"a": np.zeros(1), "b": np.zeros(1)}, {"a": np.zeros(5), "b": np.zeros(5)})
    assert best_baseline_words(one, ["b"]) is None
