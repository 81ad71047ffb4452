"""Scores made ready: fitted on training images, and with what normal validation images score.

Validation is read in two halves: `select` gives the p-values that the fused score combines, `calibrate` the thresholds
and the p-values of decisions. No outlier and no test image shapes any of it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advvae.data import Split
from advvae.distributed import by_first
from advvae.errors import UserError
from advvae.losses import Objective
from advvae.models import AdversarialVAE
from advvae.models.evaluation import Device, of_all_images
from advvae.outlier import conformal
from advvae.outlier.bootstrap import group_numbers
from advvae.outlier.checks import check_shape, check_statistics, finite
from advvae.outlier.detector_file import SavedDetector, SavedScore, read_detector, recipe, write_detector
from advvae.outlier.evidence import Evidence, FittedScore, Score
from advvae.outlier.scores import FUSED

logger = logging.getLogger(__name__)

FIT_IMAGES = 10_000  # training images that scores are fitted on, at most
CHUNK = 256  # images that are fitted on, or calibrated with, at a time: batch_size changes no detector

ArrayByName = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Detector:
    """Scores that are ready to use.

    scores: by name, in order, fitted.
    fuse: the scores that `fused` combines; () = there is no fused score.
    selection: what each score gives (n,) of the `select` half of validation.
    calibration: what each score, `fused` too, gives (m,) of the `calibrate` half.
    recipes: what each score was (`recipe`) before it learnt and scored anything; a missing one is asked for when saved.
    groups: (m,) the group of each image of the `calibrate` half, such as its patient, as a number; None = each is one
        by itself.
    """

    scores: dict[str, Score]
    fuse: tuple[str, ...]
    selection: dict[str, np.ndarray]
    calibration: dict[str, np.ndarray]
    recipes: dict[str, str] = field(default_factory=dict)
    groups: np.ndarray | None = None

    @property
    def n_calibrate_groups(self) -> int | None:
        """How many groups thresholds follow from; None = each image is one by itself."""
        return None if self.groups is None else len(np.unique(self.groups))

    @property
    def names(self) -> list[str]:
        """The scores, then `fused` where there is one."""
        return [*self.scores, FUSED] if self.fuse else list(self.scores)

    @property
    def headline(self) -> str:
        """The score that images are ranked by: `fused` where there is one, else the first."""
        return self.names[-1] if self.fuse else self.names[0]

    def threshold(self, name: str, alpha: float) -> float | None:
        """What a normal image exceeds with a chance of `alpha` at most; None = too few to calibrate with."""
        return conformal.threshold(self.calibration[name], alpha, self.groups)

    def p_values(self, name: str, scores: np.ndarray) -> np.ndarray:
        """Conformal p-values (B,) of what images score (B,): small = few normal images score so high."""
        return conformal.p_values(self.calibration[name], scores, self.groups)

    def score(
        self,
        networks: AdversarialVAE,
        objective: Objective,
        split: Split,
        *,
        batch_size: int,
        device: Device,
        num_workers: int = 0,
        crop: int | None = None,
    ) -> dict[str, np.ndarray]:
        """All scores of all images in one pass, `fused` too: name -> (n,) float64, in the order of `split`.

        Args:
            crop: side of the crops that the networks were trained on; None = whole images.
        """
        scored = score_split(
            networks,
            objective,
            split,
            scores=self.scores,
            batch_size=batch_size,
            device=device,
            num_workers=num_workers,
            crop=crop,
        )
        return scored | {FUSED: fused(self.fuse, self.selection, scored)} if self.fuse else scored


def make_detector(
    networks: AdversarialVAE,
    objective: Objective,
    scores: Mapping[str, Score],
    *,
    fuse: tuple[str, ...],
    train: Callable[[], Split],
    validation: Callable[[], Split],
    seed: int,
    device: Device,
    num_workers: int = 0,
    crop: int | None = None,
    known: Path | None,
    identity: Mapping[str, str],
) -> Detector:
    """Fit what is to be fitted, and score both halves of validation.

    Args:
        scores: those that the networks can give, by name, not yet fitted.
        fuse: names among them that `fused` combines; () = no fused score.
        train, validation: give the splits; called only where the file lacks a score, and `train` where it is to learn.
        seed: draws the training images, and what a fit draws.
        crop: side of the crops that the networks were trained on; None = whole images.
        known: a detector file to take scores from; None, or no such file = make all.
        identity: all that scores follow from beside their recipe: checksums of the networks, seed, dataset and
            classes, size, crop, and a user's own files. Only what was saved under an equal one is taken.

    Raises:
        UserError: `fuse` names a score that is not there; a score gives something else than finite numbers.
    """
    if absent := [name for name in fuse if name not in scores]:
        raise UserError(f"scores: '{FUSED}' combines {', '.join(fuse)}, but {', '.join(absent)} is not computed")
    recipes = {name: recipe(score) for name, score in scores.items()}
    saved, groups = by_first(lambda: _saved_scores(known, identity, recipes))  # ranks may see a file at odds
    for name, score in scores.items():
        if name in saved and isinstance(score, FittedScore):
            score.state = saved[name].state
    missing = {name: score for name, score in scores.items() if name not in saved}
    selection = {name: score.selection for name, score in saved.items()}
    calibration = {name: score.calibration for name, score in saved.items()}
    if missing:
        settings: dict[str, Any] = {"device": device, "num_workers": num_workers, "crop": crop}
        if to_fit := {name: score for name, score in missing.items() if isinstance(score, FittedScore)}:
            fit_scores(networks, objective, to_fit, train, seed=seed, **settings)
        select, calibrate = validation().halves()
        for half, scored in ((select, selection), (calibrate, calibration)):
            scored.update(score_split(networks, objective, half, scores=missing, batch_size=CHUNK, **settings))
        groups = None if calibrate.groups is None else group_numbers(calibrate.groups, len(calibrate))
    if fuse:
        calibration[FUSED] = fused(fuse, selection, calibration)
    return Detector(dict(scores), fuse, selection, calibration, recipes, groups)


def save_detector(path: Path, detector: Detector, identity: Mapping[str, str]) -> None:
    """Write a detector file. What else it holds stays in it (`write_detector`).

    Raises:
        UserError: it cannot be written.
    """
    saved = {
        name: SavedScore(
            detector.recipes.get(name) or recipe(score),
            score.state if isinstance(score, FittedScore) else {},
            detector.selection[name],
            detector.calibration[name],
        )
        for name, score in detector.scores.items()
    }
    write_detector(path, SavedDetector(dict(identity), saved, detector.groups))


def fused(names: Sequence[str], selection: ArrayByName, scored: ArrayByName) -> np.ndarray:
    """Fisher's combination (B,) of several scores: -2 Σ log p (Fisher 1932), p by what normal images score.

    Args:
        selection: what normal images score, by name, each (n,).
        scored: what the images at hand score, by name, each (B,).
    """
    # images of one group count one by one: this shapes a score, and what decides is its own calibration, by groups
    return conformal.fisher(np.stack([conformal.p_values(selection[name], scored[name]) for name in names]))


def fit_scores(
    networks: AdversarialVAE,
    objective: Objective,
    scores: Mapping[str, FittedScore],
    train: Split | Callable[[], Split],
    *,
    seed: int,
    device: Device,
    num_workers: int = 0,
    crop: int | None = None,
) -> None:
    """Fit all scores in one pass over at most FIT_IMAGES training images, drawn by the seed.

    Args:
        train: the training images, or what gives them; not called, nor read, where no score learns from images.
    """
    learning = {name: score for name, score in scores.items() if score.learns_from_images}
    for name in scores.keys() - learning.keys():
        scores[name].fit(torch.empty(0, 0), seed)
    if not learning:
        return
    train = train() if callable(train) else train
    drawn = _fit_order(len(train), seed)[:FIT_IMAGES]
    drawn.sort()  # in their order: they may lie on a disk

    def compute(images: Tensor, positions: Tensor) -> dict[str, Tensor]:
        evidence, found = Evidence(networks, objective, images, crop=crop), {}
        for name, score in learning.items():
            statistics = score.statistics(evidence)
            check_statistics(name, statistics, len(images))
            found[name] = statistics.detach().cpu()
        return found

    reading: dict[str, Any] = {"batch_size": CHUNK, "device": device, "num_workers": num_workers}
    what, images_to_fit = f"fitting on {train.name} {train.split}", train.subset(torch.from_numpy(drawn))
    for name, statistics in of_all_images(networks, images_to_fit, compute, what=what, **reading).items():
        learning[name].fit(statistics, seed)
    logger.info(f"fitted on {len(drawn):,} images of {train.name} {train.split}: {', '.join(learning)}")


def unfitted_first(n: int, seed: int) -> np.ndarray:
    """A random order (n,) of training images: those that no score was fitted on, then the others."""
    return np.roll(_fit_order(n, seed), -FIT_IMAGES)


def _fit_order(n: int, seed: int) -> np.ndarray:
    """The training images (n,) as the seed draws them; the first FIT_IMAGES are fitted on."""
    return np.random.default_rng(seed).permutation(n)


def score_split(
    networks: AdversarialVAE,
    objective: Objective,
    split: Split,
    *,
    scores: Mapping[str, Score],
    batch_size: int,
    device: Device,
    num_workers: int = 0,
    crop: int | None = None,
) -> dict[str, np.ndarray]:
    """Single scores of all images in one pass: name -> (n,) float64, in the order of `split`, which may be empty."""
    if not len(split):
        return {name: np.empty(0) for name in scores}

    def compute(images: Tensor, positions: Tensor) -> dict[str, Tensor]:
        evidence, found = Evidence(networks, objective, images, crop=crop), {}
        for name, score in scores.items():
            values = score(evidence)
            check_shape(name, values, len(images))
            found[name] = values.detach().cpu()
        return found

    reading: dict[str, Any] = {"batch_size": batch_size, "device": device, "num_workers": num_workers}
    of_all = of_all_images(networks, split, compute, what=f"scoring {split.name} {split.split}", **reading)
    return {name: finite(name, values.double().numpy(), split) for name, values in of_all.items()}


def _saved_scores(
    known: Path | None, identity: Mapping[str, str], recipes: Mapping[str, str]
) -> tuple[dict[str, SavedScore], np.ndarray | None]:
    """Those scores that the file holds as these recipes make them, by name, and its groups."""
    if known is None:
        return {}, None
    saved = read_detector(known, identity)
    return {name: own for name, own in saved.scores.items() if own.recipe == recipes.get(name)}, saved.groups
