"""How well scores tell two sets of images apart. Everything is rank-based: no score is squashed first.

Intervals are 95 % percentile intervals of a paired bootstrap (Efron & Tibshirani 1993): each draw resamples inliers and
outliers, the same ones for every score, and the same inliers for every outlier set. There are 1,000 draws, or fewer
where both sets together have more than 100,000 images: as many as make 10⁸ drawn counts, but 200 at least.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from advvae.outlier.bootstrap import Ranking, affordable, blocks, cumulated, drawn_counts, group_numbers

METRICS = (
    "auroc",
    "aupr_out",
    "aupr_in",
    "fpr95_out",
    "fpr95_in",
    "fpr80_out",
    "sensitivity90",
    "sensitivity95",
)
DRAWS = 1000  # bootstrap draws
BAND_DRAWS = 200  # of a curve: a picture shows no finer percentiles
INTERVAL = (2.5, 97.5)  # percentiles of the draws
UNDEFINED = "undefined"  # stands for every value of a set with fewer than two images
INLIERS, OUTLIERS = 0, 1  # each side draws from its own random numbers


@dataclass(frozen=True)
class Evaluation:
    """Scores on one set of inliers and one of outliers.

    Attributes:
        metrics: score -> each of `METRICS` with its `<metric>_low` and `<metric>_high`, or "undefined". An interval
            needs two images on each side, and two groups where images have groups.
        draws: score -> (metrics, draws), each of `METRICS` in each bootstrap draw; NaN where undefined.
        n_in_groups, n_out_groups: what was drawn instead of single images, such as patients.
    """

    n_in: int
    n_out: int
    metrics: dict[str, dict[str, float | str]]
    draws: dict[str, np.ndarray]
    n_in_groups: int | None = None
    n_out_groups: int | None = None

    @property
    def auroc_draws(self) -> dict[str, np.ndarray]:
        """AUROC of each draw, (draws,): paired across scores, and across outlier sets of the same inliers."""
        return {score: draws[METRICS.index("auroc")] for score, draws in self.draws.items()}

    def auroc(self, score: str) -> float:
        """AUROC of a score, NaN if it is undefined."""
        value = self.metrics[score]["auroc"]
        return math.nan if isinstance(value, str) else value


@dataclass(frozen=True)
class Comparison:
    """AUROC of `first` minus that of `second`, with its paired interval; "undefined" where an AUROC is."""

    first: str
    second: str
    difference: float | str
    low: float | str
    high: float | str


def detection_metrics(inlier_scores: np.ndarray, outlier_scores: np.ndarray) -> dict[str, float]:
    """`METRICS` for scores (n_in,) and (n_out,), larger = more outlying.

    Returns:
        `auroc`: the chance that an outlier scores higher than an inlier, a tie counting half.
        `aupr_out`, `aupr_in`: average precision with the outliers, or the inliers, as positives.
        `fpr95_out`, `fpr80_out`: share of inliers flagged when 95 % (80 %) of outliers are caught (OpenOOD's
            convention).
        `fpr95_in`: share of outliers accepted when 95 % of inliers are.
        `sensitivity90`, `sensitivity95`: share of outliers caught when at least 90 % (95 %) of inliers are accepted,
            so that at most 10 % (5 %) are flagged; `sensitivity95` is 1 - `fpr95_in`, in the words of medicine.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    inliers, outliers = np.float64(inlier_scores), np.float64(outlier_scores)
    scores = np.concatenate([inliers, outliers])
    is_outlier = np.repeat([False, True], [len(inliers), len(outliers)])
    return {
        "auroc": float(roc_auc_score(is_outlier, scores)),
        "aupr_out": float(average_precision_score(is_outlier, scores)),
        "aupr_in": float(average_precision_score(~is_outlier, -scores)),
        "fpr95_out": false_positive_rate(outliers, inliers),
        "fpr95_in": false_positive_rate(-inliers, -outliers),
        "fpr80_out": false_positive_rate(outliers, inliers, 80),
        "sensitivity90": 1 - false_positive_rate(-inliers, -outliers, 90),
        "sensitivity95": 1 - false_positive_rate(-inliers, -outliers, 95),
    }


def false_positive_rate(positives: np.ndarray, negatives: np.ndarray, percent: int = 95) -> float:
    """Share of negatives that score at least as high as the threshold that `percent` % of the positives reach.

    The threshold is the highest such one; positives and negatives that tie with it both pass.
    """
    needed = -(-percent * len(positives) // 100)  # rounded up, in integers: 19 of 20
    threshold = np.sort(positives)[len(positives) - needed]
    return float(np.mean(negatives >= threshold))


def evaluate_scores(
    inliers: Mapping[str, np.ndarray],
    outliers: Mapping[str, np.ndarray],
    *,
    in_groups: np.ndarray | None = None,
    out_groups: np.ndarray | None = None,
    paired: bool = False,
    seed: int = 0,
    draws: int = DRAWS,
) -> Evaluation:
    """`METRICS` of every score, with their intervals.

    Args:
        inliers, outliers: score -> (n_in,) and (n_out,), larger = more outlying.
        in_groups, out_groups: (n_in,) and (n_out,), such as the patient of each image: draws then take whole groups,
            since the images of one patient are no independent evidence.
        paired: the outliers are the inliers themselves, row by row, after a shift: a draw takes both or neither.
        draws: at most; fewer of very many images (`bootstrap.affordable`).
    """
    n_in, n_out = (len(next(iter(scores.values()))) for scores in (inliers, outliers))
    in_rows, out_rows = group_numbers(in_groups, n_in), group_numbers(out_groups, n_out)
    draws = affordable(draws, n_in + n_out)
    sampled = {score: np.full((len(METRICS), draws), math.nan) for score in inliers}
    if min(in_rows.max(), out_rows.max()) >= 1:
        rankings = {score: Ranking(np.float64(inliers[score]), np.float64(outliers[score])) for score in inliers}
        for block in blocks(draws, max(n_in, n_out)):
            in_counts = drawn_counts(in_rows, (seed, INLIERS), block)
            out_counts = in_counts if paired else drawn_counts(out_rows, (seed, OUTLIERS), block)
            for score, ranking in rankings.items():
                sampled[score][:, block.start : block.stop] = ranking.metrics(in_counts, out_counts)
    metrics = {}
    for score, own_draws in sampled.items():
        values = detection_metrics(inliers[score], outliers[score]) if min(n_in, n_out) >= 2 else {}
        metrics[score] = _with_intervals(values, own_draws)
    n_in_groups = None if in_groups is None else int(in_rows.max()) + 1
    n_out_groups = None if out_groups is None else int(out_rows.max()) + 1
    return Evaluation(n_in, n_out, metrics, sampled, n_in_groups, n_out_groups)


def mean_evaluation(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Mean over outlier sets of the same scores, with intervals from the means of each draw.

    A set whose metrics are undefined is left out of the mean. `n_in` is that of the first, `n_out` counts the images of
    all sets; of several sets there is no `n_out_groups`, as one patient may be in more than one of them. Of sets with
    more draws than others, the first draws are used, which are paired.
    """
    metrics, draws = {}, {}
    for score in evaluations[0].metrics:
        defined = [e for e in evaluations if not math.isnan(e.auroc(score))]
        values = {m: float(np.mean([float(e.metrics[score][m]) for e in defined])) for m in METRICS} if defined else {}
        sampled = [e.draws[score] for e in defined or evaluations]
        fewest = min(each.shape[1] for each in sampled)
        draws[score] = np.mean([each[:, :fewest] for each in sampled], axis=0)
        metrics[score] = _with_intervals(values, draws[score])
    n_out = sum(e.n_out for e in evaluations)
    n_out_groups = evaluations[0].n_out_groups if len(evaluations) == 1 else None
    return Evaluation(evaluations[0].n_in, n_out, metrics, draws, evaluations[0].n_in_groups, n_out_groups)


def below_chance(evaluation: Evaluation) -> list[str]:
    """The scores whose whole AUROC interval is below 0.5: they rank outliers as normal. Never flipped."""
    highs = {score: values["auroc_high"] for score, values in evaluation.metrics.items()}
    return [score for score, high in highs.items() if not isinstance(high, str) and high < 0.5]


def compare(evaluation: Evaluation) -> list[Comparison]:
    """Every pair of scores, in their order."""
    return [_comparison(evaluation, first, second) for first, second in combinations(evaluation.metrics, 2)]


def roc_band(
    inlier_scores: np.ndarray,
    outlier_scores: np.ndarray,
    grid: np.ndarray,
    seed: int,
    *,
    in_groups: np.ndarray | None = None,
    out_groups: np.ndarray | None = None,
    paired: bool = False,
    draws: int = BAND_DRAWS,
) -> tuple[np.ndarray, np.ndarray]:
    """Pointwise 95 % band of the share of outliers caught where a share `grid` (k,) of inliers is flagged: low, high.

    The draws are the first of those of `evaluate_scores`. NaN where an interval is undefined.
    """
    sides = [np.float64(inlier_scores), np.float64(outlier_scores)]
    rows = [group_numbers(in_groups, len(inlier_scores)), group_numbers(out_groups, len(outlier_scores))]
    if min(rows[INLIERS].max(), rows[OUTLIERS].max()) < 1:
        return np.full(len(grid), math.nan), np.full(len(grid), math.nan)
    thresholds = np.append(np.unique(np.concatenate(sides)), math.inf)[::-1]
    orders = [np.argsort(scores) for scores in sides]
    below = [np.searchsorted(np.sort(scores), thresholds) for scores in sides]
    curves: list[np.ndarray] = []
    for block in blocks(draws, len(thresholds)):
        shares = []  # of inliers flagged, then of outliers caught, at each threshold
        for side in (INLIERS, OUTLIERS):
            drawn = INLIERS if paired else side
            sums = cumulated(drawn_counts(rows[drawn], (seed, drawn), block).take(orders[side], axis=1))
            shares.append(1 - sums.take(below[side], axis=1) / sums[:, -1:])
        curves += [np.interp(grid, flagged, caught) for flagged, caught in zip(*shares, strict=True)]
    low, high = np.percentile(curves, INTERVAL, axis=0)
    return low, high


def best_baseline_words(evaluation: Evaluation, baselines: Collection[str]) -> str | None:
    """A sentence where a trivial baseline does as well as the best other score; None where none does."""
    scores = {score: evaluation.auroc(score) for score in evaluation.metrics}
    trivial = {score: auroc for score, auroc in scores.items() if score in baselines and not math.isnan(auroc)}
    others = {score: auroc for score, auroc in scores.items() if score not in baselines and not math.isnan(auroc)}
    if not trivial or not others:
        return None
    best, baseline = max(others, key=others.__getitem__), max(trivial, key=trivial.__getitem__)
    found = _comparison(evaluation, best, baseline)
    if isinstance(found.low, str) or isinstance(found.high, str) or found.low > 0:
        return None
    verb = "does as well as" if found.high >= 0 else "does better than"
    difference, low, high = (
        f"{round(float(value), 3) + 0.0:.3f}" for value in (found.difference, found.low, found.high)
    )
    return (
        f"{baseline}, a trivial baseline, {verb} the best score ({best}): "
        f"AUROC {trivial[baseline]:.3f} against {others[best]:.3f}, difference {difference} [{low}, {high}]"
    )


def _with_intervals(values: Mapping[str, float], draws: np.ndarray) -> dict[str, float | str]:
    """Each metric of `values` (none = undefined) with the interval of its draws (metrics, draws)."""
    named: dict[str, float | str] = {}
    for metric, sampled in zip(METRICS, draws, strict=True):
        low, high = interval(sampled)
        named |= {metric: values.get(metric, UNDEFINED), f"{metric}_low": low, f"{metric}_high": high}
    return named


def interval(draws: np.ndarray) -> tuple[float | str, float | str]:
    """The ends of the 95 % interval of draws (draws,); "undefined" where one of them is."""
    if np.isnan(draws).any():
        return UNDEFINED, UNDEFINED
    low, high = np.percentile(draws, INTERVAL)
    return float(low), float(high)


def _comparison(evaluation: Evaluation, first: str, second: str) -> Comparison:
    difference = evaluation.auroc(first) - evaluation.auroc(second)
    low, high = interval(evaluation.auroc_draws[first] - evaluation.auroc_draws[second])
    return Comparison(first, second, UNDEFINED if math.isnan(difference) else difference, low, high)
