"""What is drawn everywhere: grids of images, and plots that stay legible in grey and at half size.

Image grids are built pixel by pixel (torchvision and Pillow), so that they show exactly what a network gave. Plots use
matplotlib's objects directly: no window, no global state, safe in worker processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from advvae.measured import read_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from PIL import Image

TILE = 64  # pixels: images smaller than this are enlarged by a whole factor in grids
GAP = 4  # pixels between the images of a grid
LETTER = 0.09  # inches that a letter of an axis label needs
WORD = 9  # letters that fit above each other's columns in a heat map
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


# Images


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """Images in [-1, 1] as uint8 pixels on the CPU; values outside the range are clipped."""
    return ((images.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()


def save_image(pixels: torch.Tensor, path: Path) -> None:
    """Write one image (C, H, W) uint8, C = 1 or 3, as it is."""
    to_pillow(pixels).save(with_folder(path))


def image_grid(images: torch.Tensor, path: Path) -> None:
    """Draw images (B, C, H, W) in [-1, 1], row by row, as square as possible."""
    pixels = to_pixels(images)
    to_pillow(tiles(pixels, math.ceil(math.sqrt(len(pixels))))).save(with_folder(path))


def reconstruction_grid(images: torch.Tensor, reconstructions: torch.Tensor, path: Path) -> None:
    """Draw each original (B, C, H, W) in [-1, 1] above its reconstruction and their error, in labelled rows.

    The error is |x - x̂|, mean over channels: black where they are equal, white from half of the range on.
    """
    from PIL import Image, ImageDraw, ImageFont

    columns = min(8, len(images))
    errors = (images - reconstructions).abs().mean(1, keepdim=True).clamp(max=1) * 2 - 1
    parts = {"original": images, "reconstruction": reconstructions, "error": errors}
    pixels = {name: to_pixels(part) for name, part in parts.items()}
    groups = [
        [to_pillow(tiles(part[start : start + columns], columns)) for part in pixels.values()]
        for start in range(0, len(images), columns)
    ]
    width, height = groups[0][0].size
    font = ImageFont.load_default(size=13)
    margin = 16 + math.ceil(font.getlength("reconstruction"))
    pitch = len(parts) * (height - GAP) + 4 * GAP
    canvas = Image.new("RGB", (margin + width, len(groups) * pitch - 3 * GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for row, group in enumerate(groups):
        for place, (name, strip) in enumerate(zip(parts, group, strict=True)):
            top = row * pitch + place * (height - GAP)  # they share gaps, so that they read as a group
            canvas.paste(strip, (margin, top))
            draw.text((margin - 8, top + height // 2), name, fill="black", font=font, anchor="rm")
    canvas.save(with_folder(path))


def labelled_rows(
    rows: Sequence[torch.Tensor], names: Sequence[str], headings: Sequence[str], title: str, path: Path
) -> None:
    """Draw rows of images (B, C, H, W) in [-1, 1], each with its name to its left, and B headings above the columns."""
    from PIL import Image, ImageDraw, ImageFont

    font, title_font = ImageFont.load_default(size=13), ImageFont.load_default(size=16)
    strips = [to_pillow(tiles(to_pixels(row), len(headings))) for row in rows]
    width, height = strips[0].size
    margin, head = 16 + math.ceil(max(map(font.getlength, names))), 54
    canvas_width = max(margin + width, 16 + math.ceil(title_font.getlength(title)))
    canvas = Image.new("RGB", (canvas_width, head + len(rows) * (height - GAP) + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((8, 18), title, fill="black", font=title_font, anchor="lm")
    for column, heading in enumerate(headings):
        centre = margin + (column + 0.5) * (width - GAP) / len(headings) + GAP / 2
        draw.text((centre, head - 10), heading, fill="black", font=font, anchor="mm")
    for number, (name, strip) in enumerate(zip(names, strips, strict=True)):
        top = head + number * (height - GAP)  # neighbours share one gap
        canvas.paste(strip, (margin, top))
        draw.text((margin - 8, top + height // 2), name, fill="black", font=font, anchor="rm")
    canvas.save(with_folder(path))


def tiles(pixels: torch.Tensor, columns: int, smallest: int = TILE) -> torch.Tensor:
    """Arrange (B, C, H, W) uint8 as one image (3, height, width), each tile enlarged to `smallest` pixels or more."""
    from torchvision.utils import make_grid

    factor = max(1, math.ceil(smallest / max(pixels.shape[-2:])))
    enlarged = pixels.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)
    missing = -len(enlarged) % columns  # filled with white; make_grid alone would shrink a short row
    blank = enlarged.new_full((missing, *enlarged.shape[1:]), 255)
    return make_grid(torch.cat([enlarged, blank]), nrow=columns, padding=GAP, pad_value=255)


def to_pillow(pixels: torch.Tensor) -> Image.Image:
    """One image (C, H, W) uint8, C = 1 or 3."""
    from PIL import Image

    array = pixels.permute(1, 2, 0).numpy()
    return Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array)


# Plots


def curves(metrics_csv: Path, path: Path) -> None:
    """Draw a training run: losses, and the discriminator's loss and accuracies where there is one.

    `metrics_csv` has a row per epoch. Columns that are absent or empty, as in a plain VAE's run, are left out.
    """
    from matplotlib.ticker import MaxNLocator

    table = {name: np.array(values) for name, values in read_columns(metrics_csv).items()}
    drawn = [panel for panel in CURVES if any(column in table for column in panel[2])]
    figure, axes = new_figure(max(1, len(drawn)), 1)
    for axis, (title, quantity, labels) in zip(axes, drawn, strict=False):
        lines = [column for column in labels if column in table]
        for number, column in enumerate(lines):
            line(axis, table["epoch"], table[column], labels[column], number)
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
    save_figure(figure, path)


def heat_map(
    values: np.ndarray,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    row_name: str,
    column_name: str,
    title: str,
    path: Path,
    *,
    limits: tuple[float, float] | None = None,
    missing: str = "failed",
    marks: np.ndarray | None = None,
) -> None:
    """Draw a table of numbers (rows, columns) as coloured cells with the number in each.

    limits: the numbers of the darkest and of the lightest colour; None = the smallest and the largest that there are.
    missing: what a cell with NaN says.
    marks: (rows, columns) str that stand behind the numbers; None = none do.
    """
    values = np.asarray(values, dtype=np.float64)
    marks = np.full(values.shape, "") if marks is None else marks
    rows, columns = values.shape
    longest = max(len(label) for label in column_labels)
    turned = longest > WORD
    figure, (axis, *_) = new_figure(
        1,
        1,
        width=max(3.4, 1 + LETTER * max(len(label) for label in row_labels) + 0.9 * columns),
        height=1.5 + 0.55 * rows + turned * LETTER * longest,
    )
    shown = np.ma.masked_invalid(values)
    low, high = limits or (shown.min(), shown.max())
    axis.imshow(shown, cmap="cividis", aspect="auto", vmin=low, vmax=high)  # lightness rises with the value
    axis.patch.set(facecolor="white", edgecolor="0.7", hatch="xxx")  # what shows where a cell has no colour
    _write_cells(axis, values, marks, (low + high) / 2, missing, ".3f" if limits else ".4g")
    axis.set_xticks(range(columns), labels=column_labels, rotation=90 if turned else 0)
    axis.set_yticks(range(rows), labels=row_labels)
    axis.tick_params(length=0)
    axis.set(xlabel=column_name, ylabel=row_name, title=title)
    save_figure(figure, path)


def _write_cells(axis: Axes, values: np.ndarray, marks: np.ndarray, middle: float, missing: str, form: str) -> None:
    """Write each number with its mark, or what is missing; white up to `middle` (on a dark cell) and black above."""
    for (row, column), value in np.ndenumerate(values):
        if math.isfinite(value):
            colour = "white" if value <= middle else "black"
            text = f"{value:{form}} {marks[row, column]}".rstrip()
            axis.text(column, row, text, ha="center", va="center", color=colour)
        else:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 2}
            axis.text(column, row, missing, ha="center", va="center", style="italic", bbox=box)


def new_figure(columns: int, rows: int, width: float = 4.2, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels (sizes in inches), those without content hidden until drawn on."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure, its empty panels left out."""
    for axis in figure.axes:
        axis.set_axisbelow(True)
        if not axis.has_data():
            axis.set_visible(False)
    figure.savefig(with_folder(path), dpi=150)


def with_folder(path: Path) -> Path:
    """The path, its folder made where it is missing."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return path


def line(axis: Axes, x: np.ndarray, y: np.ndarray, label: str, number: int) -> None:
    """Add a curve whose style alone, without its colour, tells it from its neighbours; one point is a dot."""
    style = LINES[number % len(LINES)]
    marker = "o" if len(x) == 1 else None
    axis.plot(x, y, linestyle=style, color=COLOURS[number % len(COLOURS)], marker=marker, linewidth=1.8, label=label)


def _spread(axis: Axes, values: np.ndarray) -> None:
    """Use a logarithmic y axis for positive values that span more than a factor of 5."""
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > 5 * values.min():
        axis.set_yscale("log")
        plain_numbers(axis.yaxis, values.max() / values.min())


def plain_numbers(axis: Axis, span: float) -> None:
    """Ticks at 0.01, 0.02, 0.05, 0.1 ... on a logarithmic axis, written so; at powers of ten alone on a long one."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 200 else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
