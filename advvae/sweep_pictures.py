"""Heat maps of what the jobs of a sweep measured, over what was swept."""

import contextlib
import math
import tempfile
from pathlib import Path

from advvae.files import replacing
from advvae.sweep_rows import Row, means_over_seeds, measured, swept_keys

IN_A_ROW = 4  # heat maps of a sheet


def draw_summary(rows: list[Row], path: Path) -> None:
    """Draw a sweep over two keys as a grid for each metric, and one over a single key as scores by its values.

    Of jobs that also differ in the seed, the means over seeds are drawn. Nothing is drawn of sweeps over more keys.
    """
    swept, note = swept_keys(rows), ""
    if len(swept) == 3 and "seed" in swept:
        swept.remove("seed")
        rows, note = means_over_seeds(rows), ", mean over seeds"
    if len(swept) == 2:
        _draw_grid(rows, swept[0], swept[1], note, path)
    elif len(swept) == 1:
        _draw_scores(rows, swept[0], path)


def _draw_grid(rows: list[Row], down: str, across: str, note: str, path: Path) -> None:
    """A heat map per metric, four in a row, `note` in their titles; none while a cell of the grid has no job yet."""
    placed = {(row["overrides"].get(down), row["overrides"].get(across)): row for row in rows}
    labels = [_axis(rows, key) for key in (down, across)]
    names = dict.fromkeys(name for row in rows for name in row["metrics"] if name == "val_loss" or _is_auroc(name))
    metrics = [name for name in names if any(math.isfinite(measured(row, name)) for row in rows)]
    if not metrics or any((a, b) not in placed for a in labels[0] for b in labels[1]):
        return

    import numpy as np
    from PIL import Image

    from advvae.figures import heat_map

    panels: list[Image.Image] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in metrics:
            cells = [[measured(placed[a, b], name) for b in labels[1]] for a in labels[0]]
            panel = Path(scratch) / "panel.png"
            heat_map(np.array(cells), labels[0], labels[1], down, across, name + note, panel)
            panels.append(Image.open(panel).convert("RGB"))
    width, height = (max(getattr(panel, side) for panel in panels) for side in ("width", "height"))
    sheet = Image.new("RGB", (width * min(IN_A_ROW, len(panels)), height * -(-len(panels) // IN_A_ROW)), "white")
    for place, image in enumerate(panels):
        sheet.paste(image, (width * (place % IN_A_ROW), height * (place // IN_A_ROW)))
    with replacing(path) as temporary:
        sheet.save(temporary, format="png")


def _draw_scores(rows: list[Row], key: str, path: Path) -> None:
    """One heat map of AUROCs: the values of the key down, scores across; none where no job has scores."""
    names = dict.fromkeys(name for row in rows for name in row["metrics"] if _is_auroc(name))
    cells = [[measured(row, name) for name in names] for row in rows]
    if not any(math.isfinite(cell) for line in cells for cell in line):
        return

    import numpy as np

    from advvae.outlier.pictures import auroc_map

    jobs = [row["overrides"].get(key, row["job"]) for row in rows]
    scores = [name.split(".")[1] for name in names]
    auroc_map(np.array(cells), jobs, scores, path, row_name=key, column_name="score")


def _axis(rows: list[Row], key: str) -> list[str]:
    """The values of a swept key: by size if they are numbers, else in order of appearance."""
    values = list(dict.fromkeys(row["overrides"][key] for row in rows if key in row["overrides"]))
    with contextlib.suppress(ValueError):
        values.sort(key=float)
    return values


def _is_auroc(metric: str) -> bool:
    """Whether this is how well a score tells outliers from inliers, as in scores.loss.auroc."""
    return metric.startswith("scores.") and metric.endswith(".auroc")
