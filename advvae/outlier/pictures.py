"""Pictures of outlier detection: how scores are spread, how well they do, and where images and reconstructions differ.

All stay legible in grey and at half size: sets and scores are told apart by line style, hatching or marker, not by
colour alone.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from advvae.figures import (
    COLOURS,
    LINES,
    heat_map,
    line,
    new_figure,
    plain_numbers,
    save_figure,
    to_pixels,
    with_folder,
)
from advvae.outlier.maps import MAPS, coloured, pixel_errors
from advvae.outlier.sheet import sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SETS = 6  # outlier sets that one plot can tell apart; it names the others
MARKERS = ("o", "s", "^", "D", "v", "P")
INLIERS: dict[str, Any] = {"facecolor": "#dce8f4", "edgecolor": "#85a3c4", "hatch": "////"}  # light, below dark lines

Interval = tuple[float, float, float]  # value, lower end, upper end
Band = tuple[np.ndarray, np.ndarray, np.ndarray]  # share of inliers flagged, least and most share of outliers caught


def histograms(
    inliers: Mapping[str, np.ndarray],
    outliers: Mapping[str, Mapping[str, np.ndarray]],
    thresholds: Mapping[str, float | None],
    path: Path,
    *,
    in_groups: int | None = None,
    out_groups: Mapping[str, int | None] | None = None,
) -> None:
    """Draw the scores of each set as shares of its own size, a panel per score, with the score's threshold.

    inliers: score -> (n,). outliers: set -> score -> (n,). thresholds: score -> number; None or absent = not drawn.
    in_groups, out_groups: how many groups the images of a set come from; None or absent = they have none.
    """
    figure, axes = _panels(len(inliers))
    for axis, (name, values) in zip(axes, inliers.items(), strict=False):
        shown = {other: outliers[other][name] for other in list(outliers)[:SETS]}
        lines = {_counted(other, own, (out_groups or {}).get(other)): own for other, own in shown.items()}
        _histogram(axis, (_counted("inliers", values, in_groups), values), lines, thresholds.get(name))
        axis.set_title(name, pad=20)
    _legend(figure, axes, list(outliers)[SETS:])
    save_figure(figure, path)


def screen_histogram(
    calibration: np.ndarray,
    screened: np.ndarray,
    threshold: float | None,
    name: str,
    path: Path,
    n_groups: int | None = None,
) -> None:
    """Draw what normal validation images (n,) and what the screened images (m,) score by `name`, and the threshold.

    n_groups: how many groups the validation images come from; None = they have none.
    """
    figure, axes = new_figure(1, 1, width=5.6, height=4.2)
    area = (_counted("normal validation images", calibration, n_groups), calibration)
    _histogram(axes[0], area, {_counted("screened", screened, None): screened}, threshold)
    axes[0].set_title(name, pad=20)
    _legend(figure, axes, [])
    save_figure(figure, path)


def roc(
    inliers: Mapping[str, np.ndarray],
    outliers: Mapping[str, Mapping[str, np.ndarray]],
    bands: Mapping[tuple[str, str], Band] | None,
    path: Path,
) -> None:
    """Draw ROC curves (outlier = positive) with their AUROC: a panel per score, a curve per outlier set.

    inliers, outliers: as in `histograms`. bands: (set, score) -> what is shaded around its curve.
    """
    from sklearn.metrics import auc, roc_curve

    figure, axes = _panels(len(inliers), height=4.6)
    for axis, (name, normal) in zip(axes, inliers.items(), strict=False):
        for number, other in enumerate(list(outliers)[:SETS]):
            scores = np.concatenate([normal, outliers[other][name]]).astype(np.float64)
            flagged, caught, _ = roc_curve(np.arange(len(scores)) >= len(normal), scores)
            line(axis, flagged, caught, f"{other}: {auc(flagged, caught):.4f}", number)
            if bands and (other, name) in bands:
                axis.fill_between(*bands[other, name], color=COLOURS[number], alpha=0.2, linewidth=0)
        axis.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, zorder=0)
        axis.set(xlabel="share of inliers flagged", ylabel="share of outliers caught", xlim=(-0.02, 1.02))
        axis.set(ylim=(-0.02, 1.02), aspect="equal", title=name)
        axis.legend(loc="lower right", title="AUROC")
    if left_out := list(outliers)[SETS:]:
        figure.supxlabel(_not_drawn(left_out, 40 * len(axes)), fontsize="medium")
    save_figure(figure, path)


def auroc_bars(evaluations: Mapping[str, Mapping[str, Interval]], baselines: Collection[str], path: Path) -> None:
    """Draw the AUROC of each score with its interval, best first: bars for one outlier set, markers for several.

    evaluations: set -> score -> (AUROC, low, high), NaN = undefined. baselines: scores to be marked as such.
    """
    sets = list(evaluations)[:SETS]
    scores = list(evaluations[sets[0]])
    table = np.array([[evaluations[name][score] for score in scores] for name in sets], dtype=np.float64)
    means = np.ma.masked_invalid(table[:, :, 0]).mean(axis=0).filled(-1)  # an undefined one comes last
    order = np.argsort(-means, kind="stable")
    figure, axes = new_figure(1, 1, width=6.4, height=1.5 + len(scores) * (0.22 + 0.1 * len(sets)))
    axis = axes[0]
    is_baseline = np.array([scores[i] in baselines for i in order])
    if len(sets) == 1:
        _bars(axis, table[0, order], is_baseline)
        axis.set_xlabel(f"AUROC against {sets[0]}, with its 95 % interval")
    else:
        _markers(axis, table[:, order], sets)
        axis.set_xlabel("AUROC, with its 95 % interval")
        _legend(figure, axes, list(evaluations)[SETS:])
    labels = [f"{scores[i]} (baseline)" if scores[i] in baselines else scores[i] for i in order]
    axis.set_yticks(range(len(order)), labels=labels)
    axis.set(ylim=(len(order) - 0.4, -0.6), xlim=(min(0.5, np.nanmin(table, initial=0.5)) - 0.03, 1.02))
    axis.axvline(0.5, color="black", linewidth=1, linestyle=":")
    save_figure(figure, path)


def auroc_map(
    values: np.ndarray,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    path: Path,
    *,
    row_name: str = "score",
    column_name: str = "outliers",
    title: str = "AUROC",
) -> None:
    """Draw AUROCs (rows, columns), NaN as "–", in colours from 0 to 1, so that maps can be compared."""
    heat_map(values, row_labels, column_labels, row_name, column_name, title, path, limits=(0, 1), missing="–")


def error_maps(
    images: torch.Tensor, reconstructions: torch.Tensor, captions: Sequence[str], path: Path, title: str
) -> None:
    """Draw below each image (B, C, H, W) in [-1, 1] its reconstruction and their `pixel_errors`, plain and smoothed.

    Each kind of map has one scale for all images, which is stated.
    captions: what stands above each image; it may have several lines.
    """
    maps = pixel_errors(images, reconstructions)
    parts = [to_pixels(part).expand(-1, 3, -1, -1) for part in (images, reconstructions)]
    parts += [coloured(maps[name], maps[name].max()) for name in MAPS]
    titles = {"difference": "|difference|", "smoothed": "smoothed"}
    names = ["input", "reconstruction", *(f"{titles[name]}\n0 to {maps[name].max():.3f}" for name in MAPS)]
    sheet(parts, names, captions, title).save(with_folder(path))


def _panels(count: int, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    columns = min(count, 3 if count <= 9 else 4)
    return new_figure(columns, math.ceil(count / columns), width=4.4, height=height)


def _histogram(
    axis: Axes, filled: tuple[str, np.ndarray], lines: Mapping[str, np.ndarray], threshold: float | None
) -> None:
    """Add one set as an area, the others as outlines, and a threshold whose number stands above the panel.

    filled: what the legend says of it, and its scores. lines: the same of the others.
    """
    label, area = filled
    edges, logarithmic = bins([area, *lines.values()], threshold)

    def shares(values: np.ndarray) -> np.ndarray:
        return np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / len(values)

    axis.stairs(shares(area), edges, fill=True, label=label, **INLIERS)
    for number, (name, values) in enumerate(lines.items()):
        style: dict[str, Any] = {"color": COLOURS[number], "linestyle": LINES[number], "linewidth": 1.8}
        axis.stairs(shares(values), edges, label=name, **style)
    axis.set(xlabel="score (larger = more outlying)", ylabel="share of the set")
    if logarithmic:
        axis.set_xscale("log")
        plain_numbers(axis.xaxis, edges[-1] / edges[0])
    if threshold is not None:
        axis.axvline(threshold, color="black", linewidth=2.4, label="threshold")
        across = np.searchsorted(edges, threshold) / len(edges)
        align = "left" if across < 0.25 else "right" if across > 0.75 else "center"
        axis.text(threshold, 1.02, f"threshold {threshold:.4g}", transform=axis.get_xaxis_transform(), ha=align)


def _counted(name: str, scores: np.ndarray, n_groups: int | None) -> str:
    groups = "" if n_groups is None else f", {n_groups:,} groups"
    return f"{name} (n = {len(scores):,}{groups})"


def bins(sets: Sequence[np.ndarray], threshold: float | None, count: int = 40) -> tuple[np.ndarray, bool]:
    """Edges for the histograms of several sets, and whether they are logarithmic.

    They span all but the outermost 0.1 % of each set on each side (the outer bins hold the rest), so that one far
    value does not squeeze all others into one bin, and the threshold. Positive scores over more than a factor of 20
    go by logarithms.
    """
    parts = [*sets, np.array([threshold])] if threshold is not None else sets
    low = min(np.quantile(part.astype(np.float64), 0.001) for part in parts)
    high = max(np.quantile(part.astype(np.float64), 0.999) for part in parts)
    if min(part.min() for part in parts) > 0 and high > 20 * low:
        return np.geomspace(low, high, count + 1), True
    room = max(1e-9 * max(abs(low), abs(high)), 1e-12)  # a constant score still gets bins of some width
    if high - low < room:
        low, high = low - room, high + room
    return np.linspace(low, high, count + 1), False


def _legend(figure: Figure, axes: Sequence[Axes], left_out: Sequence[str]) -> None:
    """One legend for all panels, above them; it names the sets that are not drawn."""
    found = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    letters = int(14 * figure.get_figwidth())  # that fit its width
    columns = max(1, letters // (8 + max(map(len, found))))
    title = _not_drawn(left_out, letters) if left_out else None
    figure.legend(list(found.values()), list(found), loc="outside upper center", ncols=columns, title=title)


def _not_drawn(sets: Sequence[str], letters: int) -> str:
    return textwrap.fill(f"not drawn: {', '.join(sets)}", letters)


def _bars(axis: Axes, intervals: np.ndarray, is_baseline: np.ndarray) -> None:
    """A bar from chance per row of (AUROC, low, high), baselines light and hatched."""
    for place, (value, low, high) in enumerate(intervals):
        if np.isnan(value):
            axis.text(0.51, place, "undefined", va="center", style="italic")
            continue
        look: dict[str, Any] = INLIERS if is_baseline[place] else {"facecolor": COLOURS[0], "edgecolor": COLOURS[0]}
        axis.barh(place, value - 0.5, left=0.5, height=0.7, **look)
        axis.plot([low, high], [place, place], color="black", linewidth=4)
        axis.plot([low, high], [place, place], color="white", linewidth=1.6)
        axis.text(1.02, place, f"{value:.4f}", va="center", transform=axis.get_yaxis_transform())


def _markers(axis: Axes, table: np.ndarray, sets: Sequence[str]) -> None:
    """A marker with whiskers per set and score, table (sets, scores, 3); each set a little below the one before it."""
    for number, (name, intervals) in enumerate(zip(sets, table, strict=True)):
        value, low, high = intervals.T
        places = np.arange(len(value)) + 0.7 * ((number + 0.5) / len(sets) - 0.5)
        axis.hlines(places, low, high, color=COLOURS[number], linewidth=1.4)
        axis.plot(value, places, MARKERS[number], color=COLOURS[number], markersize=6, label=name)
    for border in range(1, table.shape[1]):
        axis.axhline(border - 0.5, color="0.85", linewidth=0.8)
