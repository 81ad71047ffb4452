"""`mode=outlier`: how well every score tells the inliers' test split from one or several outlier sets."""

import csv
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advvae.data import Split
from advvae.data.duplicates import duplicates
from advvae.figures import image_grid
from advvae.files import replacing
from advvae.losses import Objective
from advvae.models import AdversarialVAE
from advvae.models.evaluation import Device, evaluation
from advvae.outlier import pictures
from advvae.outlier.conformal import FalseAlarms, false_alarms
from advvae.outlier.detector import Detector, unfitted_first
from advvae.outlier.scores import BASELINES
from advvae.outlier.statistics import (
    UNDEFINED,
    Evaluation,
    auroc_by_label,
    below_chance,
    best_baseline_words,
    evaluate_scores,
    mean_evaluation,
    roc_band,
)
from advvae.outlier.tables import write_tables

logger = logging.getLogger(__name__)

COLUMNS = ("is_outlier", "source", "split", "index", "path", "label")  # of scores.csv, before one column per score
CONTROL_IMAGES = 2000  # that a control scores, at most
SHOWN = 16  # worst misses, and worst false alarms, that are drawn
MEAN = "mean"  # of all outlier sets, in tables

ScoresByName = Mapping[str, np.ndarray]


def find_outliers(
    detector: Detector,
    networks: AdversarialVAE,
    objective: Objective,
    inliers: Split,
    outliers: Sequence[Split],
    *,
    train: Split,
    groups: Mapping[str, Sequence[str]],
    alpha: float,
    seed: int,
    batch_size: int,
    device: Device,
    folder: Path,
    num_workers: int = 0,
    crop: int | None = None,
) -> dict[str, Any]:
    """Score the inliers once and each outlier set once; write scores, tables and pictures into `folder`.

    Args:
        train: the split that the networks were trained on, for the control of what they memorised.
        groups: near, far and the like -> names of outlier sets that are also averaged by themselves.
        alpha: share of normal images that a threshold may flag.
        seed: draws the bootstrap.
        crop: side of the crops that the networks were trained on; None = whole images.

    Returns:
        `n_in`, `n_out`, `ranked_by` (the score that pictures go by); `scores.<name>`, the mean over the sets of each
        metric with its interval, with `threshold` and `false_alarm_rate`; `<group>.<name>`, the same over its sets; and
        `sets.<set>.{n_out,duplicates,scores.<name>}`.

    Raises:
        UserError: a score gives something else than one finite number per image.
    """
    score = partial(
        detector.score, networks, objective, batch_size=batch_size, device=device, num_workers=num_workers, crop=crop
    )
    scored = score(inliers)
    sets = {split.name: score(split) for split in outliers}
    evaluations = {
        split.name: evaluate_scores(
            scored, sets[split.name], in_groups=inliers.groups, out_groups=split.groups, seed=seed
        )
        for split in outliers
    }
    averages = {name: mean_evaluation([evaluations[part] for part in parts]) for name, parts in groups.items() if parts}
    mean = mean_evaluation(list(evaluations.values()))
    shared = {split.name: duplicates(inliers, split) for split in outliers}
    alarms = {name: false_alarms(detector.calibration[name], scored[name], alpha) for name in detector.names}
    write_scores(folder / "scores.csv", [(inliers, scored), *((split, sets[split.name]) for split in outliers)])
    write_tables(
        folder,
        evaluations | averages | ({MEAN: mean} if len(evaluations) > 1 else {}),
        baselines=BASELINES,
        duplicates=shared,
        alarms=alarms,
        labels={
            split.name: auroc_by_label(scored, sets[split.name], split.label_names())
            for split in outliers
            if split.transform is None and len(set(split.label_names())) > 1
        },
        controls=_controls(score, inliers, scored, train, seed),
    )
    _draw_plots(scored, sets, evaluations, alarms, folder, seed)
    pair = partial(_draw_extremes, networks if networks.has_vae and crop is None else None, device, detector.headline)
    pair(inliers, scored, folder / "false_alarms.png", "Inliers that look most outlying", largest=True)
    for split in outliers:
        path = folder / ("misses.png" if len(outliers) == 1 else f"misses/{split.name}.png")
        pair(split, sets[split.name], path, f"Images of {split.name} that look most normal", largest=False)
    _tell(evaluations, shared)
    return {
        "n_in": len(inliers),
        "n_out": sum(map(len, outliers)),
        "ranked_by": detector.headline,
        "scores": {name: values | _decision(alarms[name]) for name, values in mean.metrics.items()},
        **{name: average.metrics for name, average in averages.items()},
        "sets": {
            split.name: {
                "n_in": len(inliers),
                "n_out": len(split),
                "duplicates": shared[split.name],
                "scores": evaluations[split.name].metrics,
            }
            for split in outliers
        },
    }


def write_scores(path: Path, scored: list[tuple[Split, ScoresByName]]) -> None:
    """Write a row per image: of the first set with is_outlier 0, of the others with 1.

    `index` is the image's row in the official split that it comes from (train, where `split` was cut from that);
    numbers keep their full precision.
    """
    names = list(scored[0][1])
    with replacing(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, *names])
        for number, (split, scores) in enumerate(scored):
            paths = [""] * len(split) if split.paths is None else split.paths
            columns = (split.rows.tolist(), paths, split.label_names(), *(scores[name].tolist() for name in names))
            writer.writerows([int(number > 0), split.name, split.split, *row] for row in zip(*columns, strict=True))


def _controls(
    score: Callable[[Split], dict[str, np.ndarray]], inliers: Split, scored: ScoresByName, train: Split, seed: int
) -> dict[str, Evaluation]:
    """Comparisons that should come out at 0.5.

    Training images as inliers against test images: above 0.5 tells that a score knows the training images by heart.
    Test images against themselves, scored again in another order: anything but 0.5 tells that a score is not of the
    image alone.
    """
    chosen = unfitted_first(len(train), seed)[:CONTROL_IMAGES]
    of_train = score(train.subset(torch.from_numpy(chosen)))
    again = np.random.default_rng(seed).permutation(len(inliers))[:CONTROL_IMAGES]
    rescored = score(inliers.subset(torch.from_numpy(again)))
    return {
        "train vs test inliers": evaluate_scores(of_train, scored, seed=seed),
        "set against itself": evaluate_scores({name: v[again] for name, v in scored.items()}, rescored, seed=seed),
    }


def _draw_plots(
    scored: ScoresByName,
    sets: Mapping[str, ScoresByName],
    evaluations: Mapping[str, Evaluation],
    alarms: Mapping[str, FalseAlarms],
    folder: Path,
    seed: int,
) -> None:
    """Draw `histograms.png`, `roc.png` and `auroc.png`; of several sets also `auroc_map.png`."""
    pictures.histograms(
        scored, sets, {name: alarm.threshold for name, alarm in alarms.items()}, folder / "histograms.png"
    )
    grid = np.linspace(0, 1, 101)
    drawn = list(sets)[: pictures.SETS]
    bands = {
        (name, score): (grid, *roc_band(scored[score], sets[name][score], grid, seed))
        for name in drawn
        for score in scored
        if evaluations[name].metrics[score]["auroc"] != UNDEFINED
    }
    pictures.roc(scored, sets, bands, folder / "roc.png")
    intervals = {
        name: {score: _interval(values) for score, values in e.metrics.items()} for name, e in evaluations.items()
    }
    pictures.auroc_bars(intervals, BASELINES, folder / "auroc.png")
    if len(sets) > 1:
        values = np.array([[intervals[name][score][0] for name in sets] for score in scored])
        pictures.auroc_map(values, list(scored), list(sets), folder / "auroc_map.png")


def _interval(values: Mapping[str, float | str]) -> pictures.Interval:
    """AUROC with its interval; NaN for what is undefined."""
    low, value, high = (values[name] for name in ("auroc_low", "auroc", "auroc_high"))
    return tuple(np.nan if isinstance(v, str) else v for v in (value, low, high))  # type: ignore[return-value]


def _draw_extremes(
    networks: AdversarialVAE | None,
    device: Device,
    by: str,
    split: Split,
    scores: ScoresByName,
    path: Path,
    title: str,
    *,
    largest: bool,
) -> None:
    """Draw the images of largest, or smallest, score with their error maps; without a VAE the images alone."""
    order = np.argsort(-scores[by] if largest else scores[by], kind="stable")[:SHOWN]
    chosen = split.subset(torch.from_numpy(order))
    images = torch.cat(list(chosen.batches(SHOWN, device)))
    if networks is None:
        image_grid(images, path)
        return
    with evaluation(networks, device):
        reconstructions = networks.reconstruct(images)
    values = [f"{value:.4g}" for value in scores[by][order]]
    captions = [
        f"{label}: {value}" if label else value for label, value in zip(chosen.label_names(), values, strict=True)
    ]
    pictures.error_maps(images, reconstructions, captions, path, f"{title}, by {by}")


def _decision(alarm: FalseAlarms) -> dict[str, float | None]:
    """The threshold, and the share of inliers that it flags; None without one."""
    rate = None if alarm.threshold is None else alarm.count / alarm.n
    return {"threshold": alarm.threshold, "false_alarm_rate": rate}


def _tell(evaluations: Mapping[str, Evaluation], shared: Mapping[str, int]) -> None:
    """Say in words what a reader should not overlook."""
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
        if worse := below_chance(measured):
            logger.warning(f"{name}: below chance, whole interval: {', '.join(worse)} (not flipped)")
        if words := best_baseline_words(measured, BASELINES):
            logger.warning(f"{name}: {words}")
