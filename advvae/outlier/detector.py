"""`mode=outlier`: score two sets of images in one pass over each, and say how well the scores tell them apart."""

import csv
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advvae.data import Split
from advvae.errors import UserError
from advvae.figures import histograms, roc
from advvae.files import replacing
from advvae.losses import Objective
from advvae.models import AdversarialVAE
from advvae.models.evaluation import Device, evaluation
from advvae.outlier.scores import Evidence, Score
from advvae.outlier.statistics import detection_metrics
from advvae.progress import watched

logger = logging.getLogger(__name__)

COLUMNS = ("is_outlier", "source", "split", "index", "path", "label")  # of scores.csv, before one column per score


def find_outliers(
    networks: AdversarialVAE,
    objective: Objective,
    inliers: Split,
    outliers: Split,
    *,
    scores: Mapping[str, Score],
    batch_size: int,
    device: Device,
    folder: Path,
    num_workers: int = 0,
) -> dict[str, Any]:
    """Score both sets; write `scores.csv`, `histograms.png` and `roc.png`.

    Args:
        scores: those that the networks can give (`usable_scores`), by name.

    Returns:
        `n_in`, `n_out`, and `scores.<name>.{auroc,aupr_out,aupr_in,fpr95_out,fpr95_in}`.

    Raises:
        UserError: a score gives something else than one finite number per image.
    """
    if _same_images(inliers, outliers):
        logger.warning("The inlier and the outlier set hold the same images: every score is at chance by construction.")
    inlier_scores, outlier_scores = (
        score_split(
            networks, objective, split, scores=scores, batch_size=batch_size, device=device, num_workers=num_workers
        )
        for split in (inliers, outliers)
    )
    write_scores(folder / "scores.csv", [(inliers, inlier_scores), (outliers, outlier_scores)])
    pairs = {name: (inlier_scores[name], outlier_scores[name]) for name in scores}
    histograms(pairs, folder / "histograms.png")
    roc(pairs, folder / "roc.png")
    return {
        "n_in": len(inliers),
        "n_out": len(outliers),
        "scores": {name: detection_metrics(*pair) for name, pair in pairs.items()},
    }


def score_split(
    networks: AdversarialVAE,
    objective: Objective,
    split: Split,
    *,
    scores: Mapping[str, Score],
    batch_size: int,
    device: Device,
    num_workers: int = 0,
) -> dict[str, np.ndarray]:
    """All scores of all images in one pass: name -> (n,) float64, in the order of `split`."""
    parts: dict[str, list[Tensor]] = {name: [] for name in scores}
    with evaluation(networks, device):
        batches = split.batches(batch_size, device, num_workers=num_workers)
        for images in watched(batches, f"scoring {split.name} {split.split}", math.ceil(len(split) / batch_size)):
            evidence = Evidence(networks, objective, images)
            for name, score in scores.items():
                values = score(evidence)
                _check_shape(name, values, len(images))
                parts[name].append(values)
    return {name: _finite(name, torch.cat(values).cpu().double().numpy(), split) for name, values in parts.items()}


def write_scores(path: Path, scored: list[tuple[Split, Mapping[str, np.ndarray]]]) -> None:
    """Write a row per image: of the first set with is_outlier 0, of the second with 1.

    `index` is the image's row in the official split that it comes from (train, where `split` was cut from that);
    numbers keep their full precision.
    """
    names = list(scored[0][1])
    with replacing(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, *names])
        for is_outlier, (split, scores) in enumerate(scored):
            paths = [""] * len(split) if split.paths is None else split.paths
            columns = (split.rows.tolist(), paths, split.label_names(), *(scores[name].tolist() for name in names))
            writer.writerows([is_outlier, split.name, split.split, *row] for row in zip(*columns, strict=True))


def _same_images(first: Split, second: Split) -> bool:
    """Whether two sets hold the same images in the same order; stops at the first batch that differs."""
    batches = zip(first.batches(64), second.batches(64), strict=False)
    return len(first) == len(second) and all(torch.equal(one, other) for one, other in batches)


def _check_shape(name: str, values: object, n_images: int) -> None:
    if not isinstance(values, Tensor) or values.shape != (n_images,):
        got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise UserError(
            f"scores: '{name}' gave {got} for {n_images} images: return a tensor ({n_images},), one number per image"
        )


def _finite(name: str, values: np.ndarray, split: Split) -> np.ndarray:
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise UserError(
            f"scores: '{name}' is {values[bad[0]]} for image {split.rows[bad[0]]} of {split.name} {split.split} "
            f"({len(bad)} of {len(values)} images are not finite): train again or leave the score out"
        )
    return values
