"""What a run of `mode=outlier` leaves behind: a row per image, plots, error maps, and words."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from advvae.data import Split
from advvae.figures import image_grid
from advvae.files import csv_table
from advvae.models import AdversarialVAE
from advvae.models.evaluation import Device, evaluation
from advvae.outlier import pictures
from advvae.outlier.conformal import FalseAlarms
from advvae.outlier.scores import BASELINES
from advvae.outlier.statistics import (
    UNDEFINED,
    Evaluation,
    below_chance,
    best_baseline_words,
    mean_evaluation,
    roc_band,
)

logger = logging.getLogger(__name__)

COLUMNS = (
    "is_outlier",
    "source",
    "split",
    "index",
    "path",
    "label",
)  # of scores.csv; then `group` where there are some, and a column per score
SHOWN = 16  # worst misses, and worst false alarms, that are drawn


@dataclass(frozen=True, eq=False)
class Scored:
    """A set of images, and what each score gives them, each (n,) float64."""

    split: Split
    scores: Mapping[str, np.ndarray]

    @property
    def name(self) -> str:
        return self.split.name

    def is_shift_of(self, inliers: "Scored") -> bool:
        """Whether these are the inliers themselves, row by row, after a transform or unchanged."""
        own, theirs = self.split, inliers.split
        return own.images is theirs.images and torch.equal(own.rows, theirs.rows)


def write_scores(path: Path, inliers: Scored, outliers: Sequence[Scored]) -> None:
    """Write a row per image: of the inliers with is_outlier 0, of the outlier sets with 1.

    `index` is the image's row in the official split that it comes from (train, where `split` was cut from that);
    `group` is a column where the images of some set have groups; numbers keep their full precision.
    """
    with_groups = any(scored.split.groups is not None for scored in (inliers, *outliers))
    with csv_table(path, [*COLUMNS, *(["group"] if with_groups else []), *inliers.scores]) as add:
        for is_outlier, scored in [(0, inliers), *((1, scored) for scored in outliers)]:
            split = scored.split
            unknown = [""] * len(split)
            known = [split.rows.tolist(), split.paths or unknown, split.label_names()]
            if with_groups:
                known.append(unknown if split.groups is None else split.groups.tolist())
            numbers = (scored.scores[name].tolist() for name in inliers.scores)
            rows = zip(*known, *numbers, strict=True)
            add([is_outlier, split.name, split.split, *row] for row in rows)


def draw_plots(
    inliers: Scored,
    outliers: Sequence[Scored],
    evaluations: Mapping[str, Evaluation],
    alarms: Mapping[str, FalseAlarms],
    folder: Path,
    seed: int,
) -> None:
    """Draw `histograms.png`, `roc.png` and `auroc.png`; of several sets also `auroc_map.png`."""
    sets = {scored.name: scored.scores for scored in outliers}
    thresholds = {name: alarm.threshold for name, alarm in alarms.items()}
    groups = {scored.name: scored.split.n_groups for scored in outliers}
    histograms = folder / "histograms.png"
    pictures.histograms(
        inliers.scores, sets, thresholds, histograms, in_groups=inliers.split.n_groups, out_groups=groups
    )
    bands = {
        (scored.name, score): _band(inliers, scored, score, seed)
        for scored in outliers[: pictures.SETS]
        for score in inliers.scores
        if evaluations[scored.name].metrics[score]["auroc"] != UNDEFINED
    }
    pictures.roc(inliers.scores, sets, bands, folder / "roc.png")
    intervals = {
        name: {score: _interval(values) for score, values in e.metrics.items()} for name, e in evaluations.items()
    }
    pictures.auroc_bars(intervals, BASELINES, folder / "auroc.png")
    if len(sets) > 1:
        values = np.array([[intervals[name][score][0] for name in sets] for score in inliers.scores])
        pictures.auroc_map(values, list(inliers.scores), list(sets), folder / "auroc_map.png")


def draw_extremes(
    networks: AdversarialVAE | None, device: Device, by: str, inliers: Scored, outliers: Sequence[Scored], folder: Path
) -> None:
    """Draw the inliers of largest and the outliers of smallest score with their error maps.

    Without `networks`, that reconstruct, the images alone.
    """
    title = f"Inliers that look most outlying, by {by}"
    highest = np.argsort(-inliers.scores[by], kind="stable")[:SHOWN]
    _draw_images(networks, device, by, inliers, highest, title, folder / "false_alarms.png")
    for scored in outliers:
        path = folder / ("misses.png" if len(outliers) == 1 else f"misses/{scored.name}.png")
        title = f"Images of {scored.name} that look most normal, by {by}"
        lowest = np.argsort(scored.scores[by], kind="stable")[:SHOWN]
        _draw_images(networks, device, by, scored, lowest, title, path)


def tell(evaluations: Mapping[str, Evaluation], shared: Mapping[str, int]) -> None:
    """Say in words what a reader should not overlook; `shared`: how many images of a set are inliers too."""
    judged = evaluations if len(evaluations) <= pictures.SETS else {"mean": mean_evaluation([*evaluations.values()])}
    for name, measured in judged.items():  # of many sets, results.md says it for each
        if worse := below_chance(measured):
            logger.warning(f"{name}: below chance, whole interval: {', '.join(worse)} (not flipped)")
        if words := best_baseline_words(measured, BASELINES):
            logger.warning(f"{name}: {words}")
    for name, measured in evaluations.items():
        if shared[name]:
            logger.warning(
                f"{name}: {shared[name]:,} of its {measured.n_out:,} images ({shared[name] / measured.n_out:.1%}) "
                "equal an inlier, pixel by pixel"
            )
        if shared[name] == measured.n_out:
            logger.warning(f"{name}: holds nothing but inliers: every score is at chance by construction")
        if min(measured.n_in, measured.n_out) < 2:
            logger.warning(f"{name}: a set of one image has no metrics: they are undefined")


def _draw_images(
    networks: AdversarialVAE | None,
    device: Device,
    by: str,
    scored: Scored,
    positions: np.ndarray,
    title: str,
    path: Path,
) -> None:
    chosen = scored.split.subset(torch.from_numpy(positions))
    images = torch.cat(list(chosen.batches(SHOWN, device)))
    if networks is None:
        image_grid(images, path)
        return
    with evaluation(networks, device):
        reconstructions = networks.reconstruct(images)
    pairs = zip(chosen.label_names(), scored.scores[by][positions], strict=True)
    captions = [f"{label}: {value:.4g}" if label else f"{value:.4g}" for label, value in pairs]
    pictures.error_maps(images, reconstructions, captions, path, title)


def _band(inliers: Scored, outliers: Scored, score: str, seed: int) -> pictures.Band:
    grid = np.linspace(0, 1, 101)
    return grid, *roc_band(
        inliers.scores[score],
        outliers.scores[score],
        grid,
        seed,
        in_groups=inliers.split.groups,
        out_groups=outliers.split.groups,
        paired=outliers.is_shift_of(inliers),
    )


def _interval(values: Mapping[str, float | str]) -> pictures.Interval:
    """AUROC with its interval; NaN for what is undefined."""
    value, low, high = (
        np.nan if isinstance(v := values[name], str) else v for name in ("auroc", "auroc_low", "auroc_high")
    )
    return value, low, high
