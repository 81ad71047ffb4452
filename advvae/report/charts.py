"""Charts as plotly.js reads them: plain dicts of data and layout. Colours follow the page's theme, in its script.

Lines differ in dash and markers too, so that they can be told apart in grey.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from advvae.outlier.rendering import Table

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
BINS = 60
POINTS = 400  # of a ROC curve
EPOCHS = 4000  # of a training curve
MOST_ROWS = 500  # of a table: the first, and the file has the rest


@dataclass(frozen=True)
class Chart:
    """A chart, what it shows in words, and the numbers that it draws as a table."""

    title: str
    description: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    table: Table | None = None


def line_chart(
    title: str,
    x_name: str,
    y_name: str,
    x: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    *,
    unit: bool = False,
) -> Chart:
    """Curves over a common x. NaN is a gap.

    unit: the values are shares, from 0 to 1; else the y axis is logarithmic where they span more than a factor of 5.
    """
    kept = thinned(len(x), EPOCHS)
    x, lines = [x[i] for i in kept], {name: [values[i] for i in kept] for name, values in lines.items()}
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers" if len(x) <= 40 else "lines",
            "name": name,
            "x": list(x),
            "y": [_number(value) for value in values],
            "line": {"dash": DASHES[i % len(DASHES)], "width": 2},
            "marker": {"size": 5},
        }
        for i, (name, values) in enumerate(lines.items())
    ]
    known = [value for values in lines.values() for value in values if math.isfinite(value)]
    is_wide = bool(known) and min(known) > 0 and max(known) > 5 * min(known)
    y_axis: dict[str, Any] = {"title": {"text": y_name}}
    if unit:
        y_axis |= {"range": [-0.03, 1.03]}
    elif is_wide:
        y_axis |= {"type": "log", "dtick": "D2" if max(known) < 300 * min(known) else 1}
    rows = [[f"{x[i]:g}", *(f"{values[i]:.5g}" for values in lines.values())] for i in thinned(len(x), MOST_ROWS)]
    layout = {"xaxis": {"title": {"text": x_name}}, "yaxis": y_axis, "hovermode": "x unified"}
    description = f"{title}: {', '.join(lines)} over {len(x)} values of {x_name}"
    caption = f"{title}: {len(rows)} of {len(x):,} rows" if len(rows) < len(x) else title
    return Chart(title, description, data, layout, Table(caption, [x_name, *lines], rows))


def histogram_chart(title: str, sets: Mapping[str, np.ndarray], threshold: float | None) -> Chart:
    """How the scores (n,) of each set are spread, as shares of the set; the first is the inliers'."""
    everything = np.concatenate([values[np.isfinite(values)] for values in sets.values()])
    low, high = np.quantile(everything, (0.001, 0.999)) if len(everything) else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    data: list[dict[str, Any]] = []
    for i, (name, values) in enumerate(sets.items()):
        counts, _ = np.histogram(values.clip(edges[0], edges[-1]), edges)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"{name} (n = {len(values):,})",
                "x": [_number(value) for value in centres],
                "y": [_number(value) for value in counts / max(1, len(values))],
                "line": {"shape": "hvh", "dash": DASHES[i % len(DASHES)], "width": 2},
                **({"fill": "tozeroy"} if i == 0 else {}),
            }
        )
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": f"{title} (larger = more outlying)"}},
        "yaxis": {"title": {"text": "share of the set"}, "rangemode": "tozero"},
    }
    if threshold is not None:
        layout["shapes"] = [{"type": "line", "x0": threshold, "x1": threshold, "yref": "paper", "y0": 0, "y1": 1}]
        layout["annotations"] = [
            {"x": threshold, "yref": "paper", "y": 1, "yanchor": "bottom", "text": "threshold", "showarrow": False}
        ]
    rows = [
        [name, f"{len(values):,}", *(f"{quantile:.5g}" for quantile in np.quantile(values, (0.05, 0.5, 0.95)))]
        for name, values in sets.items()
        if len(values)
    ]
    table = Table(title, ["set", "n", "5 %", "median", "95 %"], rows)
    description = f"Histogram of the score {title} of {', '.join(sets)}"
    return Chart(f"{title}: shares of each set; the ends hold what lies beyond", description, data, layout, table)


def roc_chart(title: str, inliers: np.ndarray, outliers: Mapping[str, np.ndarray]) -> Chart:
    """ROC curves of a score, outlier = positive: a line per outlier set with its AUROC."""
    from sklearn.metrics import auc, roc_curve

    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "chance",
            "x": [0, 1],
            "y": [0, 1],
            "line": {"width": 1, "color": "#888888"},
            "hoverinfo": "skip",
            "showlegend": False,
        }
    ]
    rows = []
    for i, (name, values) in enumerate(outliers.items()):
        scores = np.concatenate([inliers, values]).astype(np.float64)
        flagged, caught, _ = roc_curve(np.arange(len(scores)) >= len(inliers), scores)
        area = auc(flagged, caught)
        kept = thinned(len(flagged), POINTS)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"{name}: AUROC {area:.4f}",
                "x": [_number(value) for value in flagged[kept]],
                "y": [_number(value) for value in caught[kept]],
                "line": {"dash": DASHES[i % len(DASHES)], "width": 2},
            }
        )
        rows.append([name, f"{len(values):,}", f"{area:.4f}"])
    layout = {
        "xaxis": {"title": {"text": "share of inliers flagged"}, "range": [-0.02, 1.02]},
        "yaxis": {"title": {"text": "share of outliers caught"}, "range": [-0.02, 1.02]},
    }
    table = Table(title, ["outliers", "n", "AUROC"], rows)
    description = f"ROC curves of the score {title} against {', '.join(outliers)}"
    return Chart(f"{title}: ROC curves", description, data, layout, table)


def heat_chart(
    title: str, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], names: tuple[str, str]
) -> Chart:
    """Numbers (rows, columns) as coloured cells that show them; names: of the rows and of the columns."""
    shown = [[_number(value) for value in row] for row in values]
    text = [["" if value is None else f"{value:.3f}" for value in row] for row in shown]
    data = [
        {
            "type": "heatmap",
            "z": shown,
            "x": list(columns),
            "y": list(rows),
            "text": text,
            "texttemplate": "%{text}",
            "colorscale": "Cividis",  # whose lightness rises with the value
            "hovertemplate": f"{names[0]}: %{{y}}<br>{names[1]}: %{{x}}<br>%{{z}}<extra></extra>",
        }
    ]
    layout = {
        "xaxis": {"title": {"text": names[1]}, "type": "category"},
        "yaxis": {"title": {"text": names[0]}, "type": "category", "autorange": "reversed"},
    }
    table = Table(title, [names[0], *columns], [[row, *cells] for row, cells in zip(rows, text, strict=True)])
    return Chart(title, f"{title}: {names[0]} down, {names[1]} across", data, layout, table)


def thinned(n: int, most: int) -> np.ndarray:
    """Positions in a sequence of n, evenly chosen where these are more than `most`; the first and last among them."""
    return np.unique(np.linspace(0, n - 1, min(most, n)).round().astype(int))


def _number(value: float) -> float | None:
    """Five digits, which is more than can be seen; None, which JSON has, for NaN and infinity, which it has not."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
