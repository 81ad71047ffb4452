"""Where in an image an anomaly is: error maps against masks, pixel by pixel.

A pixel is flagged where its error reaches a threshold. Of all thresholds, over the pixels of all images together:

- `auroc`: the chance that an anomalous pixel has a larger error than a normal one, a tie counting half.
- `aupro`: the share of an anomalous region that is flagged, averaged over regions, against the share of normal pixels
  that are, as an area up to a share of 0.3, divided by 0.3 (Bergmann et al. 2021, "The MVTec Anomaly Detection
  Dataset", IJCV 129). A region is all anomalous pixels of an image that touch, be it at corners. Chance is 0.15.
- `dice`: the largest Dice coefficient, 2 TP / (2 TP + FP + FN). Its threshold is chosen on the very images that it is
  measured on, so it is an upper bound of what a threshold that is chosen beforehand reaches.

Values are exact. Their intervals are those of a bootstrap of images, or of groups, as in `statistics`, in which the
curves have BINS points instead of one per anomalous pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from advvae.errors import UserError
from advvae.outlier.bootstrap import affordable, drawn_counts, group_numbers
from advvae.outlier.statistics import DRAWS, INLIERS, OUTLIERS, UNDEFINED, interval

METRICS = ("auroc", "aupro", "dice")
FALSE_POSITIVE_RATE = 0.3  # up to which AUPRO goes
BINS = 256
BLOCK = 64  # draws at a time: products of matrices, in which each curve is read once
TOUCHING = np.ones((3, 3))  # a pixel's neighbours, those at its corners too


@dataclass(frozen=True, eq=False)
class Marked:
    """Images of whose every pixel it is known whether it is anomalous.

    errors: (n, H, W) float32. masks: (n, H, W) bool, True = anomalous.
    groups: (n,), such as the patient of each image; None = each image is one by itself.

    Raises UserError for errors that are not finite.
    """

    errors: np.ndarray
    masks: np.ndarray
    groups: np.ndarray | None = None

    def __post_init__(self) -> None:
        if n := int((~np.isfinite(self.errors)).any((1, 2)).sum()):
            raise UserError(
                f"error maps: {n} of {len(self.errors)} are not finite: train again, or leave out the masks"
            )

    @cached_property
    def group_numbers(self) -> np.ndarray:
        """The group of each image as a number, (n,) 0 ... n_groups - 1."""
        return group_numbers(self.groups, len(self.errors))

    @cached_property
    def region_shares(self) -> list[np.ndarray]:
        """For each image, what share of its region each anomalous pixel is, in the order of `errors[i][masks[i]]`."""
        from scipy.ndimage import label

        shares = []
        for mask in self.masks:
            regions = label(mask, TOUCHING)[0][mask]
            shares.append(1 / np.bincount(regions)[regions])
        return shares

    @property
    def n_regions(self) -> int:
        return round(sum(shares.sum() for shares in self.region_shares))

    def curve(self, image: int, thresholds: np.ndarray) -> np.ndarray:
        """`_curve` of one image."""
        errors, mask = self.errors[image], self.masks[image]
        return _curve(errors[~mask], errors[mask], self.region_shares[image], thresholds)


@dataclass(frozen=True, eq=False)
class Localisation:
    """How well one kind of error map finds what is anomalous.

    metrics: each of METRICS with its `<metric>_low` and `<metric>_high`, "undefined" with fewer than two images, or
        groups, on a side, and with no normal pixel `auroc` and `aupro` too; `threshold`, the error that gives the best
        Dice.
    counts: `n_in` inliers, `n_images` outliers, `n_regions`; with groups `n_in_groups`, `n_groups` of the outliers.
    aurocs, dices: (n,) of each of the outliers by itself, the Dice at `threshold`; NaN without an anomalous pixel.
    """

    metrics: dict[str, float | str]
    counts: dict[str, int]
    aurocs: np.ndarray
    dices: np.ndarray


def localise(inliers: Marked, outliers: Marked, seed: int = 0) -> Localisation:
    """`METRICS` of the error maps of inliers and outliers, at least one pixel of which is anomalous."""
    sides = (inliers, outliers)
    normal, anomalous = (
        np.concatenate([side.errors[chosen(side.masks)] for side in sides]) for chosen in (np.invert, np.asarray)
    )
    shares = np.concatenate([image for side in sides for image in side.region_shares])
    thresholds = np.unique(anomalous)
    curve = _curve(normal, anomalous, shares, thresholds)
    threshold = float(thresholds[::-1][_dice(curve).argmax() // 2])
    draws = _draws(inliers, outliers, _spread(anomalous, shares), seed)
    metrics: dict[str, float | str] = {}
    for metric, value, drawn in zip(METRICS, pixel_metrics(curve).tolist(), draws, strict=True):
        low, high = interval(drawn)
        metrics |= {metric: UNDEFINED if np.isnan(value) else value, f"{metric}_low": low, f"{metric}_high": high}
    metrics["threshold"] = threshold
    return Localisation(metrics, _counts(inliers, outliers), *_by_image(outliers, threshold))


def pixel_metrics(curves: np.ndarray) -> np.ndarray:
    """`METRICS` (3, ...) of curves (..., 3, bins); NaN where no pixel is anomalous, or none normal."""
    with np.errstate(invalid="ignore"):
        normal, anomalous, regions = np.moveaxis(_reached(curves) / curves.sum(-1, keepdims=True), -2, 0)
        auroc = _area(normal, anomalous, 1)
        aupro = _area(normal, regions, FALSE_POSITIVE_RATE) / FALSE_POSITIVE_RATE
        return np.stack([auroc, aupro, _dice(curves).max(-1)])


def _curve(normal: np.ndarray, anomalous: np.ndarray, shares: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The normal pixels, the anomalous pixels and the regions in each bin: (3, bins), from the highest errors down.

    Bins are above the highest of the thresholds (k,), at it, between it and the next, at that ...: 2 k + 1. Between
    the bins stand the points of a curve. With a threshold at each error of an anomalous pixel it is exact, since
    between two of these only normal pixels are flagged.
    """
    parts = ((normal, None), (anomalous, None), (anomalous, shares))
    return np.stack([_binned(errors, weights, thresholds) for errors, weights in parts])[:, ::-1]


def _binned(errors: np.ndarray, weights: np.ndarray | None, thresholds: np.ndarray) -> np.ndarray:
    """How many errors (m,), or what of their weights, are in each bin of `_curve`, from the lowest up."""
    ordered = np.sort(errors)
    ends = np.stack([np.searchsorted(ordered, thresholds, side) for side in ("left", "right")], axis=1).ravel()
    sums = np.concatenate([[0], ends, [len(errors)]])
    if weights is not None:
        sums = np.concatenate([[0.0], np.cumsum(weights[np.argsort(errors)])])[sums]
    return np.diff(sums).astype(np.float64)


def _reached(curves: np.ndarray) -> np.ndarray:
    """Sums over the bins down to each, nothing first: (..., bins) -> (..., bins + 1)."""
    sums = np.zeros((*curves.shape[:-1], curves.shape[-1] + 1))
    np.cumsum(curves, axis=-1, out=sums[..., 1:])
    return sums


def _dice(curves: np.ndarray) -> np.ndarray:
    """Dice of flagging all down to each bin, (..., bins): 2 TP / (pixels that are flagged + pixels that should be)."""
    normal, anomalous, _ = np.moveaxis(_reached(curves)[..., 1:], -2, 0)
    return 2 * anomalous / (normal + anomalous + anomalous[..., -1:])


def _area(x: np.ndarray, y: np.ndarray, limit: float) -> np.ndarray:
    """Area under the straight lines between points (..., k) of rising x, up to x = limit: (...)."""
    width = np.diff(x)
    within = np.diff(np.minimum(x, limit))
    share = np.divide(within, width, out=np.zeros_like(width), where=width > 0)
    return (within * (y[..., :-1] + share * np.diff(y) / 2)).sum(-1)


def _spread(anomalous: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """At most BINS of the errors of anomalous pixels, between which lie as many pixels, and regions, as anywhere."""
    order = np.argsort(anomalous)
    passed = np.cumsum(1 / len(shares) + shares[order] / shares.sum()) / 2
    return np.unique(anomalous[order][np.searchsorted(passed, np.linspace(0, passed[-1], BINS))])


def _draws(inliers: Marked, outliers: Marked, thresholds: np.ndarray, seed: int) -> np.ndarray:
    """`METRICS` in each bootstrap draw, (3, draws); NaN with fewer than two images or groups on a side."""
    in_groups, out_groups = inliers.group_numbers, outliers.group_numbers
    draws = affordable(DRAWS, len(in_groups) + len(out_groups))
    if min(in_groups.max(), out_groups.max()) < 1:
        return np.full((len(METRICS), draws), np.nan)
    in_curves, out_curves = _curves(inliers, thresholds), _curves(outliers, thresholds)
    found = []
    for start in range(0, draws, BLOCK):
        block = range(start, min(start + BLOCK, draws))
        in_counts = drawn_counts(in_groups, (seed, INLIERS), block)
        out_counts = drawn_counts(out_groups, (seed, OUTLIERS), block)
        drawn = in_counts @ in_curves + out_counts @ out_curves
        found.append(pixel_metrics(drawn.reshape(len(block), 3, -1)))
    return np.concatenate(found, axis=1)


def _curves(side: Marked, thresholds: np.ndarray) -> np.ndarray:
    """`_curve` of each image as a row, (n, 3 * bins) float32."""
    curves = [side.curve(image, thresholds).astype(np.float32) for image in range(len(side.errors))]
    return np.stack(curves).reshape(len(curves), -1)


def _counts(inliers: Marked, outliers: Marked) -> dict[str, int]:
    counts = {"n_in": len(inliers.errors), "n_images": len(outliers.errors)}
    for name, side in (("n_in_groups", inliers), ("n_groups", outliers)):
        if side.groups is not None:
            counts[name] = int(side.group_numbers.max()) + 1
    return counts | {"n_regions": inliers.n_regions + outliers.n_regions}


def _by_image(side: Marked, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """AUROC, and Dice at the threshold, of each image by itself."""
    aurocs, dices = np.full((2, len(side.errors)), np.nan)
    for image, (errors, mask) in enumerate(zip(side.errors, side.masks, strict=True)):
        if mask.any():
            flagged = errors >= threshold
            aurocs[image] = pixel_metrics(side.curve(image, np.unique(errors[mask])))[0]
            dices[image] = 2 * np.sum(flagged & mask) / (np.sum(flagged) + np.sum(mask))
    return aurocs, dices
