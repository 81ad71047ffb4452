"""`mode=screen`: say of a user's own images which do not belong to the training distribution."""

import heapq
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advvae.data import Split
from advvae.data.source import Form
from advvae.errors import UserError
from advvae.figures import image_grid
from advvae.files import csv_table, write_csv
from advvae.losses import Objective
from advvae.models import AdversarialVAE
from advvae.models.evaluation import Device, evaluation
from advvae.outlier.detector import Detector
from advvae.outlier.maps import map_files, reconstructing
from advvae.outlier.pictures import error_maps, screen_histogram
from advvae.outlier.screen_input import Place, ScreenInput
from advvae.progress import watched

logger = logging.getLogger(__name__)

SHOWN = 32  # most outlying images that are drawn
TOLD = 5  # unreadable images that the log names


def screen(
    detector: Detector,
    networks: AdversarialVAE,
    objective: Objective,
    *,
    source_path: Path,
    form: Form,
    alpha: float,
    batch_size: int,
    device: Device,
    folder: Path,
    crop: int | None = None,
    slices: str | list[Any] | None = None,
    maps: bool = False,
) -> dict[str, Any]:
    """Score all images of a folder or an array; write `screen.csv`, `most_outlying.png` and `histogram.png`.

    Images that cannot be read are listed in `unreadable.csv`; the others are scored. Pictures rank them by the
    detector's headline score.

    Args:
        source_path: a folder of images (any tree), an image, or an .npy or .npz file (all of its splits).
        form: what images are brought to, as the training images were.
        slices: which ones of NIfTI volumes, as `dataset.slices`.
        alpha: share of normal images that may be flagged.
        crop: side of the crops that the networks were trained on; None = whole images.
        maps: write the error maps of all images too, into `maps/`: arrays in the order of screen.csv, and pictures that
            are named by its `index`, in a folder for each split of an array that has several.

    Returns what `metrics.json` says: see `_metrics`.

    Raises:
        UserError: there is no such input, or no image in it that can be read; a file cannot be written.
    """
    images = ScreenInput(source_path, form, slices)
    thresholds = {name: detector.threshold(name, alpha) for name in detector.names}
    tell_uncalibrated(detector, alpha)
    score = partial(detector.score, networks, objective, batch_size=batch_size, device=device, crop=crop)
    seeing = reconstructing(networks, crop, asked=maps)
    with ExitStack() as stack:
        add_maps = None
        if maps and seeing is not None:
            files = map_files(seeing, folder / "maps", form.size, batch_size=batch_size, device=device)
            add_maps = stack.enter_context(files)
        screened = _screen_all(images, detector, score, thresholds, folder / "screen.csv", add_maps)
    tell_window(images)
    if images.unreadable:
        write_csv(folder / "unreadable.csv", ["path", "index", "reason"], unreadable_rows(images))
        tell_unreadable(images, str(folder / "unreadable.csv"))
    _draw(screened, seeing, device, detector, thresholds, folder)
    return _metrics(screened, images, detector, thresholds, alpha)


@dataclass(frozen=True, eq=False)
class Judged:
    """What one score says of images, each (B,).

    flags: whether an image lies above the threshold; None = there is no threshold.
    """

    scores: np.ndarray
    p_values: np.ndarray
    flags: np.ndarray | None

    def columns(self) -> list[Sequence[Any]]:
        """As in screen.csv, where a flag is 1, 0 or empty."""
        flags = [""] * len(self.scores) if self.flags is None else self.flags.astype(int).tolist()
        return [self.scores.tolist(), self.p_values.tolist(), flags]


@dataclass(frozen=True, eq=False)
class Outlying:
    """An image (C, H, W) in [-1, 1] that may be drawn, its score, and what is written beside it."""

    score: float
    image: Tensor
    caption: str


@dataclass(frozen=True, eq=False)
class Screened:
    """What is kept of all images.

    flagged: by score, how many lie above its threshold; None = there is no threshold.
    ranking: what the images of each chunk score, by the headline score.
    most_outlying: the SHOWN first by this score, in order.
    """

    flagged: dict[str, int | None]
    ranking: list[np.ndarray]
    most_outlying: list[Outlying]


def _screen_all(
    images: ScreenInput,
    detector: Detector,
    score: Callable[[Split], dict[str, np.ndarray]],
    thresholds: Mapping[str, float | None],
    path: Path,
    add_maps: Callable[[Split, Sequence[str]], None] | None,
) -> Screened:
    """Score and judge chunk by chunk, and write each image's row of screen.csv to `path`.

    add_maps: takes each chunk, and the names of its pictures; None = no maps are wanted.
    """
    flagged: Counter[str] = Counter()
    ranking: list[np.ndarray] = []
    most_outlying: list[Outlying] = []
    named = [name + end for name in thresholds for end in ("", "_p", "_flag")]
    with csv_table(path, ["path", "index", *named]) as add_rows:
        for places, chunk in watched(images.chunks(), f"screening {images.path.name}", images.n_chunks):
            scores = score(chunk)
            judged = {name: _judge(detector, name, scores[name], thresholds[name]) for name in thresholds}
            columns = [column for verdict in judged.values() for column in verdict.columns()]
            add_rows([p.path, p.index, *numbers] for p, *numbers in zip(places, *columns, strict=True))
            flagged.update({name: int(j.flags.sum()) for name, j in judged.items() if j.flags is not None})
            if add_maps:
                add_maps(chunk, [place.picture for place in places])
            ranking.append(scores[detector.headline])
            most_outlying += _most_outlying(places, chunk, judged[detector.headline])
            most_outlying = heapq.nlargest(SHOWN, most_outlying, key=lambda image: image.score)
        if not ranking:
            raise none_readable(images)
    counts = {name: None if value is None else flagged[name] for name, value in thresholds.items()}
    return Screened(counts, ranking, most_outlying)


def _draw(
    screened: Screened,
    networks: AdversarialVAE | None,
    device: Device,
    detector: Detector,
    thresholds: Mapping[str, float | None],
    folder: Path,
) -> None:
    by = detector.headline
    _draw_most_outlying(screened.most_outlying, networks, device, by, folder / "most_outlying.png")
    if len(detector.calibration[by]):
        scores, path = np.concatenate(screened.ranking), folder / "histogram.png"
        screen_histogram(detector.calibration[by], scores, thresholds[by], by, path, detector.n_calibrate_groups)


def _metrics(
    screened: Screened, images: ScreenInput, detector: Detector, thresholds: Mapping[str, float | None], alpha: float
) -> dict[str, Any]:
    """`n` scored, `n_unreadable`, `n_calibrate` normal images that the thresholds follow from (`n_calibrate_groups`
    where they have groups), `alpha`, and `thresholds.<score>`, `flagged.<score>` (images above it), both None where
    these are too few.
    """
    n_groups = detector.n_calibrate_groups
    return {
        "n": sum(map(len, screened.ranking)),
        "n_unreadable": len(images.unreadable),
        "n_calibrate": len(detector.calibration[detector.headline]),
        **({} if n_groups is None else {"n_calibrate_groups": n_groups}),
        "alpha": alpha,
        "thresholds": dict(thresholds),
        "flagged": screened.flagged,
    }


def _judge(detector: Detector, name: str, scores: np.ndarray, threshold: float | None) -> Judged:
    return Judged(scores, detector.p_values(name, scores), None if threshold is None else scores > threshold)


def _most_outlying(places: Sequence[Place], images: Split, judged: Judged) -> list[Outlying]:
    """The SHOWN most outlying of a chunk, the first come first where they tie."""
    first = np.argsort(-judged.scores, kind="stable")[:SHOWN]
    pixels = torch.cat(list(images.subset(torch.from_numpy(first)).batches(SHOWN)))
    return [
        Outlying(judged.scores[i], image.clone(), f"{places[i]}\n{judged.scores[i]:.4g}, p = {judged.p_values[i]:.2g}")
        for i, image in zip(first, pixels, strict=True)
    ]


def _draw_most_outlying(
    shown: Sequence[Outlying], networks: AdversarialVAE | None, device: Device, by: str, path: Path
) -> None:
    """Draw error maps, or the images alone where there are no `networks` that reconstruct them."""
    images = torch.stack([image.image for image in shown])
    if networks is None:
        image_grid(images, path)
        return
    with evaluation(networks, device):
        reconstructions = networks.reconstruct(images.to(device)).cpu()
    title = f"Most outlying by {by}"
    error_maps(images, reconstructions, [image.caption for image in shown], path, title)


def tell_uncalibrated(detector: Detector, alpha: float) -> None:
    """Where there is no threshold, say how many images, or groups of them, there would have to be."""
    if detector.threshold(detector.headline, alpha) is not None:
        return
    n, unit = len(detector.calibration[detector.headline]), "images"
    if detector.n_calibrate_groups is not None:
        n, unit = detector.n_calibrate_groups, "groups"
    told = "no image is flagged: alpha=%s needs %d %s to calibrate with, and there are %d"
    logger.warning(told, alpha, math.ceil(1 / alpha) - 1, unit, n)


def tell_window(images: ScreenInput) -> None:
    """Say where most values lie outside the window."""
    if images.form.window is not None and images.n_ends > images.n_values / 2:
        low, high = images.form.window
        told = "%.0f %% of the values of input=%s are black or white by the window [%g,%g]: are they in its unit?"
        logger.warning(told, 100 * images.n_ends / images.n_values, images.path, low, high)


def tell_unreadable(images: ScreenInput, listed_in: str) -> None:
    """Say which images cannot be read, and where all of these are listed."""
    for image in images.unreadable[:TOLD]:
        logger.warning(f"{image.place.path} [{image.place.index}] cannot be read: {image.reason}")
    n = len(images.unreadable)
    logger.warning(f"images that cannot be read: {n}, listed in {listed_in}; the others are scored")


def unreadable_rows(images: ScreenInput) -> list[tuple[str, int, str]]:
    """Of each image that cannot be read: path, index, reason."""
    return [(image.place.path, image.place.index, image.reason) for image in images.unreadable]


def none_readable(images: ScreenInput) -> UserError:
    """What is to be raised where that is all of them."""
    first = images.unreadable[0]
    return UserError(f"input={images.path}: none of its images can be read; {first.place}: {first.reason}")
