"""How well scores tell the outliers of each label, such as each finding, from the inliers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from advvae.outlier.bootstrap import affordable, blocks, cumulated, drawn_counts, group_numbers
from advvae.outlier.statistics import DRAWS, INLIERS, OUTLIERS, UNDEFINED, interval


@dataclass(frozen=True)
class LabelEvaluation:
    """Scores on the outliers of one label, against all inliers.

    Attributes:
        n, n_groups: its outliers, and their groups; None = each is one by itself.
        metrics: score -> `auroc`, `auroc_low`, `auroc_high`; "undefined" as in `Evaluation`.
    """

    n: int
    n_groups: int | None
    metrics: dict[str, dict[str, float | str]]


def auroc_by_label(
    inliers: Mapping[str, np.ndarray],
    outliers: Mapping[str, np.ndarray],
    labels: Sequence[str],
    *,
    in_groups: np.ndarray | None = None,
    out_groups: np.ndarray | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> dict[str, LabelEvaluation]:
    """AUROC of the outliers of each label, with the interval that `evaluate_scores` gives for them alone.

    Args:
        inliers, outliers: score -> (n_in,) and (n_out,), larger = more outlying.
        labels: of each outlier; several are joined by ";" and each counts, "" is none.
        in_groups, out_groups: (n_in,) and (n_out,), such as the patient of each image: draws then take whole groups.
        draws: at most; fewer of very many images (`bootstrap.affordable`).

    Raises ValueError for a score that is NaN, as `evaluate_scores` does.
    """
    n_in, rows = len(next(iter(inliers.values()))), _rows_by_label(labels)
    in_numbers = group_numbers(in_groups, n_in)
    numbers = {
        label: group_numbers(None if out_groups is None else out_groups[own], len(own)) for label, own in rows.items()
    }
    standings = {score: _Standing(np.float64(inliers[score]), np.float64(outliers[score])) for score in inliers}
    sampled: dict[tuple[str, str], list[np.ndarray]] = {(label, score): [] for label in rows for score in standings}
    for block in blocks(affordable(draws, n_in + len(labels)), max(n_in, len(labels))):
        in_counts = drawn_counts(in_numbers, (seed, INLIERS), block)
        out_counts = {label: drawn_counts(own, (seed, OUTLIERS), block) for label, own in numbers.items()}
        for score, standing in standings.items():
            outdone = standing.outdone(in_counts)
            for label, counts in out_counts.items():
                sampled[label, score].append(np.average(outdone[:, rows[label]], axis=1, weights=counts))
    undrawn = {score: standing.outdone(np.ones((1, n_in), np.float32))[0] for score, standing in standings.items()}
    table = {}
    for label, own in rows.items():
        n_groups = int(numbers[label].max()) + 1
        fewest = min(n_in, len(own)), min(int(in_numbers.max()) + 1, n_groups)
        metrics = {
            score: _with_interval(outdone[own], np.concatenate(sampled[label, score]), *fewest)
            for score, outdone in undrawn.items()
        }
        table[label] = LabelEvaluation(len(own), None if out_groups is None else n_groups, metrics)
    return table


def _with_interval(outdone: np.ndarray, drawn: np.ndarray, n: int, n_groups: int) -> dict[str, float | str]:
    """AUROC, the mean of (n,), with the interval of draws (draws,); n, n_groups: of the smaller side."""
    auroc = float(outdone.mean()) if n >= 2 else UNDEFINED
    low, high = interval(drawn) if n_groups >= 2 else (UNDEFINED, UNDEFINED)
    return {"auroc": auroc, "auroc_low": low, "auroc_high": high}


def _rows_by_label(labels: Sequence[str]) -> dict[str, list[int]]:
    """The outliers of each label, sorted by its name."""
    rows: dict[str, list[int]] = {}
    for row, joined in enumerate(labels):
        for label in filter(None, dict.fromkeys(joined.split(";"))):
            rows.setdefault(label, []).append(row)
    return dict(sorted(rows.items()))


class _Standing:
    """Where each outlier (n_out,) stands among the inliers (n_in,) by one score."""

    def __init__(self, inliers: np.ndarray, outliers: np.ndarray) -> None:
        if np.isnan(inliers).any() or np.isnan(outliers).any():
            raise ValueError("scores hold NaN")  # which NumPy sorts as the largest of all
        self.order = np.argsort(inliers)
        self.below, self.up_to = (np.searchsorted(inliers[self.order], outliers, side) for side in ("left", "right"))

    def outdone(self, in_counts: np.ndarray) -> np.ndarray:
        """Share of the inliers of each draw that each outlier beats, a tie half: (draws, n_in) -> (draws, n_out)."""
        sums = cumulated(in_counts.take(self.order, 1))
        return np.divide(sums.take(self.below, 1) + sums.take(self.up_to, 1), 2 * sums[:, -1:], dtype=np.float64)
