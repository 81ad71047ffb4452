"""`mode=outlier`: how well every score tells the inliers' test split from one or several outlier sets."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advvae.data import Split
from advvae.data.duplicates import duplicates, image_digests
from advvae.losses import Objective
from advvae.models import AdversarialVAE
from advvae.models.evaluation import Device
from advvae.outlier import report
from advvae.outlier.conformal import FalseAlarms, false_alarms
from advvae.outlier.detector import Detector, unfitted_first
from advvae.outlier.labels import LabelEvaluation, auroc_by_label
from advvae.outlier.maps import reconstructing
from advvae.outlier.pixel_report import report_maps, report_pixels
from advvae.outlier.report import Scored
from advvae.outlier.scores import BASELINES, FUSED
from advvae.outlier.statistics import Evaluation, evaluate_scores, mean_evaluation
from advvae.outlier.tables import write_tables

logger = logging.getLogger(__name__)

CONTROL_IMAGES = 2000  # that a control scores, at most
MEAN = "mean"  # of all outlier sets, in tables
ROUNDING = 1e-3  # standard deviations of a score, by which it may change when it is computed in another batch


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
    maps: bool = False,
) -> dict[str, Any]:
    """Score the inliers once and each outlier set once; write scores, tables and pictures into `folder`.

    Args:
        train: the split that the networks were trained on, for the control of what they memorised.
        groups: near, far and the like -> names of outlier sets that are also averaged by themselves.
        alpha: share of normal images that a threshold may flag. seed: draws the bootstrap.
        crop: side of the crops that the networks were trained on; None = whole images.
        maps: write the error maps of all images too.

    Returns what `metrics.json` says: see `_metrics`.

    Raises:
        UserError: a score gives something else than one finite number per image; a file cannot be written.
    """
    reading: dict[str, Any] = {"batch_size": batch_size, "device": device, "num_workers": num_workers}
    score = partial(
        detector.score, networks, objective, batch_size=batch_size, device=device, num_workers=num_workers, crop=crop
    )
    known, sets = Scored(inliers, score(inliers)), [Scored(split, score(split)) for split in outliers]
    found = _measure(known, sets, detector, groups, alpha, seed)
    report.write_scores(folder / "scores.csv", known, sets)
    report.draw_plots(known, sets, found.evaluations, found.alarms, folder, seed)
    seeing = reconstructing(networks, crop, asked=maps or any(split.masks is not None for split in outliers))
    report.draw_extremes(seeing, device, detector.headline, known, sets, folder)
    pixels = {} if seeing is None else report_pixels(seeing, inliers, outliers, folder, seed=seed, **reading)
    if maps and seeing is not None:
        report_maps(seeing, inliers, outliers, folder / "maps", **reading)
    labels = {scored.name: _by_label(known, scored, seed) for scored in sets if _has_labels(scored.split)}
    _write_tables(folder, found, labels, _controls(score, known, train, seed), pixels, detector.headline)
    report.tell(found.evaluations, found.shared)
    return _metrics(found, labels, pixels, detector.headline)


@dataclass(frozen=True, eq=False)
class Findings:
    """What was measured: outlier set, or group of such sets, -> its evaluation; and over all sets.

    shared: outlier set -> how many of its images are inliers too.
    alarms: score -> the inliers that its threshold flags.
    """

    evaluations: dict[str, Evaluation]
    averages: dict[str, Evaluation]
    mean: Evaluation
    shared: dict[str, int]
    alarms: dict[str, FalseAlarms]


def _measure(
    inliers: Scored,
    outliers: Sequence[Scored],
    detector: Detector,
    groups: Mapping[str, Sequence[str]],
    alpha: float,
    seed: int,
) -> Findings:
    evaluations = {scored.name: _evaluated(inliers, scored, seed) for scored in outliers}
    digests = set(image_digests(inliers.split))
    sides = {"groups": detector.groups, "in_groups": inliers.split.groups}
    return Findings(
        evaluations,
        averages={
            name: mean_evaluation([evaluations[part] for part in parts]) for name, parts in groups.items() if parts
        },
        mean=mean_evaluation(list(evaluations.values())),
        shared={scored.name: duplicates(digests, scored.split) for scored in outliers},
        alarms={
            name: false_alarms(detector.calibration[name], inliers.scores[name], alpha, **sides)
            for name in detector.names
        },
    )


def _write_tables(
    folder: Path,
    found: Findings,
    labels: Mapping[str, Mapping[str, LabelEvaluation]],
    controls: Mapping[str, Evaluation],
    pixels: Mapping[str, Any],
    headline: str,
) -> None:
    write_tables(
        folder,
        found.evaluations | found.averages | ({MEAN: found.mean} if len(found.evaluations) > 1 else {}),
        baselines=BASELINES,
        duplicates=found.shared,
        alarms=found.alarms,
        labels=labels,
        controls=controls,
        pixels=pixels,
        headline=headline,
    )


def _metrics(
    found: Findings,
    labels: Mapping[str, Mapping[str, LabelEvaluation]],
    pixels: Mapping[str, Any],
    headline: str,
) -> dict[str, Any]:
    """What `metrics.json` says of the scores, over all sets, over groups of them, and set by set.

    `n_in`, `n_out`, `ranked_by` (the score that pictures go by); `scores.<name>`, the mean over the sets of each metric
    with its interval, with `threshold` and `false_alarm_rate`; `<group>.<name>`, the same over its sets; and
    `sets.<set>.{n_in,n_out,duplicates,scores.<name>}`, with labels `sets.<set>.labels.<label>.{n,scores.<name>}`, with
    masks `sets.<set>.pixels.<map>`. Where images have groups, `n_in_groups`, `n_out_groups` and `n_groups` stand beside
    the numbers of images.
    """
    sets = {
        name: {**_counts(evaluation), "duplicates": found.shared[name], "scores": evaluation.metrics}
        for name, evaluation in found.evaluations.items()
    }
    for name, by_label in labels.items():
        sets[name]["labels"] = {label: _label_metrics(evaluation) for label, evaluation in by_label.items()}
    for name, by_map in pixels.items():
        sets[name]["pixels"] = by_map
    return {
        **_counts(found.mean),
        "ranked_by": headline,
        "scores": {name: values | _decision(found.alarms[name]) for name, values in found.mean.metrics.items()},
        **{name: average.metrics for name, average in found.averages.items()},
        "sets": sets,
    }


def _counts(evaluation: Evaluation) -> dict[str, int]:
    """Numbers of images, and of their groups where they have some."""
    names = ("n_in", "n_out", "n_in_groups", "n_out_groups")
    return {name: count for name in names if (count := getattr(evaluation, name)) is not None}


def _label_metrics(evaluation: LabelEvaluation) -> dict[str, Any]:
    n_groups = {} if evaluation.n_groups is None else {"n_groups": evaluation.n_groups}
    return {"n": evaluation.n, **n_groups, "scores": evaluation.metrics}


def _evaluated(inliers: Scored, outliers: Scored, seed: int) -> Evaluation:
    return evaluate_scores(
        inliers.scores,
        outliers.scores,
        in_groups=inliers.split.groups,
        out_groups=outliers.split.groups,
        paired=outliers.is_shift_of(inliers),
        seed=seed,
    )


def _has_labels(split: Split) -> bool:
    """Whether a set's labels say something of its images: a shift's are those of the inliers."""
    return split.transform is None and len(set(split.label_names())) > 1


def _by_label(inliers: Scored, outliers: Scored, seed: int) -> dict[str, LabelEvaluation]:
    return auroc_by_label(
        inliers.scores,
        outliers.scores,
        outliers.split.label_names(),
        in_groups=inliers.split.groups,
        out_groups=outliers.split.groups,
        seed=seed,
    )


def _controls(
    score: Callable[[Split], dict[str, np.ndarray]], inliers: Scored, train: Split, seed: int
) -> dict[str, Evaluation]:
    """Comparisons that should come out at 0.5.

    Training images as inliers against test images: above 0.5 tells that a score knows the training images by heart.
    Test images against themselves, scored again in another order: a score that changes is not of the image alone,
    which is also said in words.
    """
    chosen = train.subset(torch.from_numpy(unfitted_first(len(train), seed)[:CONTROL_IMAGES]))
    order = np.random.default_rng(seed).permutation(len(inliers.split))[:CONTROL_IMAGES]
    again = inliers.split.subset(torch.from_numpy(order))
    before = Scored(again, {name: values[order] for name, values in inliers.scores.items()})
    after = Scored(again, score(again))
    for name in before.scores:
        change = np.abs(after.scores[name] - before.scores[name]).max() / max(before.scores[name].std(), 1e-12)
        if change > ROUNDING and name != FUSED:  # whose p-values are steps
            logger.warning(
                f"score {name} of an image depends on those it is scored with: in another order it changed by up to "
                f"{change:.2g} of its standard deviation"
            )
    return {
        "train vs test inliers": _evaluated(Scored(chosen, score(chosen)), inliers, seed),
        "set against itself": _evaluated(before, after, seed),
    }


def _decision(alarm: FalseAlarms) -> dict[str, float | None]:
    """The threshold, and the share of inliers that it flags; None without one."""
    return {"threshold": alarm.threshold, "false_alarm_rate": alarm.rate}
