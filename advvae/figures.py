"""Everything that is drawn: grids of images, and plots that stay legible in grey and at half size.

Image grids are built pixel by pixel (torchvision and Pillow), so that they show exactly what a network gave. Plots use
matplotlib's objects directly: no window, no global state, safe in worker processes.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from PIL import Image

TILE = 64  # pixels: images smaller than this are enlarged by a whole factor in grids
GAP = 4  # pixels between the images of a grid
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)))
COLOURS = ("#17375e", "#b5442a", "#2c7a49", "#7a4fa0", "#7a5c1e", "#4d4d4d")
CURVES = (  # panels of a training run: title, y axis, and the columns of metrics.csv with their legends
    (
        "VAE",
        "loss",
        {"vae_loss": "training, all terms", "recon": "training, recon", "val_loss": "validation, recon + KL"},
    ),
    ("Discriminator", "loss", {"discriminator_loss": "training"}),
    (
        "Discriminator",
        "accuracy",
        {
            "accuracy_real": "validation images",
            "accuracy_reconstruction": "their reconstructions",
            "accuracy_sample": "samples",
        },
    ),
)

ScorePairs = Mapping[str, tuple[np.ndarray, np.ndarray]]  # score name -> (inlier scores, outlier scores), each (n,)


# Images


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """Images in [-1, 1] as uint8 pixels on the CPU; values outside the range are clipped."""
    return ((images.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()


def save_image(pixels: torch.Tensor, path: Path) -> None:
    """Write one image (C, H, W) uint8, C = 1 or 3, as it is."""
    _pillow(pixels).save(_made(path))


def image_grid(images: torch.Tensor, path: Path) -> None:
    """Draw images (B, C, H, W) in [-1, 1], row by row, as square as possible."""
    pixels = to_pixels(images)
    _pillow(_tiles(pixels, math.ceil(math.sqrt(len(pixels))))).save(_made(path))


def reconstruction_grid(images: torch.Tensor, reconstructions: torch.Tensor, path: Path) -> None:
    """Draw each original (B, C, H, W) in [-1, 1] above its reconstruction, in labelled pairs of rows."""
    from PIL import Image, ImageDraw, ImageFont

    columns = min(8, len(images))
    originals, reconstructions = to_pixels(images), to_pixels(reconstructions)
    pairs = [
        [_pillow(_tiles(part[start : start + columns], columns)) for part in (originals, reconstructions)]
        for start in range(0, len(originals), columns)
    ]
    width, height = pairs[0][0].size
    font = ImageFont.load_default(size=13)
    margin = 16 + math.ceil(font.getlength("reconstruction"))
    pitch = 2 * height + 3 * GAP
    canvas = Image.new("RGB", (margin + width, len(pairs) * pitch - 3 * GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for row, pair in enumerate(pairs):
        for line, (name, strip) in enumerate(zip(("original", "reconstruction"), pair, strict=True)):
            top = row * pitch + line * (height - GAP)  # the pair shares one gap, so that it reads as a pair
            canvas.paste(strip, (margin, top))
            draw.text((margin - 8, top + height // 2), name, fill="black", font=font, anchor="rm")
    canvas.save(_made(path))


def _tiles(pixels: torch.Tensor, columns: int) -> torch.Tensor:
    """Arrange (B, C, H, W) uint8 as one image (3, height, width), each tile enlarged to TILE pixels or more."""
    from torchvision.utils import make_grid

    factor = max(1, math.ceil(TILE / max(pixels.shape[-2:])))
    enlarged = pixels.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)
    missing = -len(enlarged) % columns  # filled with white; make_grid alone would shrink a short row
    blank = enlarged.new_full((missing, *enlarged.shape[1:]), 255)
    return make_grid(torch.cat([enlarged, blank]), nrow=columns, padding=GAP, pad_value=255)


def _pillow(pixels: torch.Tensor) -> Image.Image:
    from PIL import Image

    array = pixels.permute(1, 2, 0).numpy()
    return Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array)


# Plots


def curves(metrics_csv: Path, path: Path) -> None:
    """Draw a training run: losses, and the discriminator's loss and accuracies where there is one.

    `metrics_csv` has a row per epoch. Columns that are absent or empty, as in a plain VAE's run, are left out.
    """
    from matplotlib.ticker import MaxNLocator

    table = _columns(metrics_csv)
    drawn = [panel for panel in CURVES if any(column in table for column in panel[2])]
    figure, axes = _figure(max(1, len(drawn)), 1)
    for axis, (title, quantity, labels) in zip(axes, drawn, strict=False):
        lines = [column for column in labels if column in table]
        for number, column in enumerate(lines):
            _line(axis, table["epoch"], table[column], labels[column], number)
        axis.set(title=title, xlabel="epoch", ylabel=quantity)
        if len(table["epoch"]) == 1:
            axis.set_xlim(table["epoch"][0] - 1, table["epoch"][0] + 1)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if quantity == "accuracy":
            axis.axhline(0.5, color="0.6", linewidth=0.8, zorder=0)
            axis.set_ylim(-0.03, 1.03)
        else:
            _spread(axis, np.concatenate([table[column] for column in lines]))
        axis.legend()
    _save(figure, path)


def histograms(scores: ScorePairs, path: Path) -> None:
    """Draw the inliers' and the outliers' scores, a panel per score, each set as shares of its own size."""
    columns = min(3, len(scores))
    figure, axes = _figure(columns, math.ceil(len(scores) / columns))
    for axis, (name, pair) in zip(axes, scores.items(), strict=False):
        edges, logarithmic = _bins(*pair)
        inliers, outliers = (np.histogram(np.clip(part, edges[0], edges[-1]), edges)[0] / len(part) for part in pair)
        labels = [f"{kind} (n = {len(part):,})" for kind, part in zip(("inliers", "outliers"), pair, strict=True)]
        # A light hatched area and a dark line: told apart in grey, and where they overlap.
        axis.stairs(inliers, edges, fill=True, facecolor="#dce8f4", edgecolor="#85a3c4", hatch="////", label=labels[0])
        axis.stairs(outliers, edges, color="#7a1f1f", linewidth=1.8, label=labels[1])
        axis.set(title=name, xlabel="score (larger = more outlying)", ylabel="share of the set")
        if logarithmic:
            axis.set_xscale("log")
            _plain_numbers(axis.xaxis, edges[-1] / edges[0])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    _save(figure, path)


def roc(scores: ScorePairs, path: Path) -> None:
    """Draw each score's ROC curve (outlier = positive) with its AUROC, and the diagonal of chance."""
    from sklearn.metrics import auc, roc_curve

    figure, (axis, *_) = _figure(1, 1, width=4.6, height=4.6)
    for number, (name, (inliers, outliers)) in enumerate(scores.items()):
        is_outlier = np.repeat([0, 1], [len(inliers), len(outliers)])
        flagged, caught, _ = roc_curve(is_outlier, np.concatenate([inliers, outliers]).astype(np.float64))
        _line(axis, flagged, caught, f"{name}: AUROC {auc(flagged, caught):.4f}", number)
    axis.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, zorder=0, label="chance: 0.5")
    axis.set(xlabel="share of inliers flagged", ylabel="share of outliers caught", xlim=(-0.02, 1.02))
    axis.set(ylim=(-0.02, 1.02), aspect="equal", title="ROC")
    axis.legend(loc="lower right")
    _save(figure, path)


def heat_map(
    values: np.ndarray,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    row_name: str,
    column_name: str,
    title: str,
    path: Path,
) -> None:
    """Draw a table of numbers (rows, columns) as coloured cells with the number in each; NaN is shown as failed."""
    values = np.asarray(values, dtype=np.float64)
    rows, columns = values.shape
    figure, (axis, *_) = _figure(1, 1, width=max(3.4, 1.6 + 0.9 * columns), height=1.5 + 0.55 * rows)
    shown = np.ma.masked_invalid(values)
    axis.imshow(shown, cmap="cividis", aspect="auto")  # a map whose lightness rises with the value
    middle = (shown.min() + shown.max()) / 2
    for row, column in np.ndindex(rows, columns):
        value = values[row, column]
        if math.isfinite(value):
            colour = "white" if value <= middle else "black"  # against a dark and a light cell
            axis.text(column, row, f"{value:.4g}", ha="center", va="center", color=colour)
        else:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 2}
            axis.text(column, row, "failed", ha="center", va="center", style="italic", bbox=box)
    axis.patch.set(facecolor="white", edgecolor="0.7", hatch="xxx")  # what shows where a cell has no colour
    axis.set_xticks(range(columns), labels=column_labels)
    axis.set_yticks(range(rows), labels=row_labels)
    axis.tick_params(length=0)
    axis.set(xlabel=column_name, ylabel=row_name, title=title)
    _save(figure, path)


def _figure(columns: int, rows: int, width: float = 4.2, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels (sizes in inches), those without content hidden until drawn on."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _save(figure: Figure, path: Path) -> None:
    for axis in figure.axes:
        axis.set_axisbelow(True)
        if not axis.has_data():
            axis.set_visible(False)
    figure.savefig(_made(path), dpi=150)


def _made(path: Path) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return path


def _line(axis: Axes, x: np.ndarray, y: np.ndarray, label: str, number: int) -> None:
    """Add a curve whose style alone, without its colour, tells it from its neighbours; one point is a dot."""
    style = LINES[number % len(LINES)]
    marker = "o" if len(x) == 1 else None
    axis.plot(x, y, linestyle=style, color=COLOURS[number % len(COLOURS)], marker=marker, linewidth=1.8, label=label)


def _spread(axis: Axes, values: np.ndarray) -> None:
    """Use a logarithmic y axis for positive values that span more than a factor of 5."""
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > 5 * values.min():
        axis.set_yscale("log")
        _plain_numbers(axis.yaxis, values.max() / values.min())


def _plain_numbers(axis: Axis, span: float) -> None:
    """Ticks at 0.01, 0.02, 0.05, 0.1 ... on a logarithmic axis, written so; at powers of ten alone on a long one."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 200 else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _columns(metrics_csv: Path) -> dict[str, np.ndarray]:
    """The columns of a CSV file of numbers that hold anything; an empty cell is NaN."""
    with open(metrics_csv, newline="") as file:
        rows = list(csv.DictReader(file))
    names = rows[0].keys() if rows else []
    return {
        name: np.array([float(row[name] or "nan") for row in rows]) for name in names if any(row[name] for row in rows)
    }


def _bins(inliers: np.ndarray, outliers: np.ndarray, count: int = 40) -> tuple[np.ndarray, bool]:
    """Edges for the histograms of two sets, and whether they are logarithmic.

    They span all but the outermost 0.1 % of either set on each side (the outer bins hold the rest), so that one far
    value does not squeeze all others into one bin. Positive scores over more than a factor of 20 go by logarithms.
    """
    quantiles = np.quantile(np.float64(inliers), [0.001, 0.999]), np.quantile(np.float64(outliers), [0.001, 0.999])
    low, high = np.min(quantiles), np.max(quantiles)
    if min(inliers.min(), outliers.min()) > 0 and high > 20 * low:
        return np.geomspace(low, high, count + 1), True
    room = max(1e-9 * max(abs(low), abs(high)), 1e-12)  # a constant score still gets bins of some width
    if high - low < room:
        low, high = low - room, high + room
    return np.linspace(low, high, count + 1), False
