"""What a run's page shows of outlier scores: tables with intervals, ROC curves, histograms, thresholds, extremes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from advvae.outlier.pictures import SETS
from advvae.outlier.rendering import Table
from advvae.outlier.report import COLUMNS
from advvae.outlier.tables import HEADINGS
from advvae.report.blocks import Block, Choice, Note, Section, Shown, Sorted
from advvae.report.charts import Chart, histogram_chart, number, roc_chart
from advvae.report.embedding import Budget
from advvae.report.record import Record, in_short

MOST_ROWS = 500  # of a table: the first, and the file has the rest
EXTREMES = (  # file, or pattern of files, and what it shows
    ("false_alarms.png", "False alarms: the inliers that look most outlying, with error maps"),
    ("misses.png", "Misses: the outliers that look most normal, with error maps"),
    ("misses/*.png", "Misses of {stem}: the outliers that look most normal, with error maps"),
    ("overlays.png", "Error maps over the images, with the outlines of what is anomalous"),
)

Scores = Mapping[str, np.ndarray]


def sections(record: Record, budget: Budget) -> list[Section]:
    """Those of a run that scored outliers, or screened images; without blocks where it did neither."""
    return [
        Section("outliers", "Outlier scores", _tables(record)),
        Section("curves-of-scores", "ROC curves and histograms", _curves(record)),
        Section("decisions", "Thresholds", _thresholds(record)),
        Section("extremes", "Worst misses and false alarms", _extremes(record, budget)),
        Section("screened", "Screened images", _screened(record)),
    ]


def _tables(record: Record) -> list[Block]:
    """Each set's metrics of each score, and what else was compared."""
    blocks: list[Block] = []
    by_set: dict[str, list[dict[str, str]]] = {}
    for row in record.table("results.csv"):
        by_set.setdefault(row["set"], []).append(row)
    for place, (name, rows) in enumerate(by_set.items()):
        n = f"{int(rows[0]['n_in']):,} inliers, {int(rows[0]['n_out']):,} outliers" if rows[0]["n_out"] else ""
        cells = [[_named(row), *(_interval(row, metric) for metric in HEADINGS)] for row in rows]
        caption = f"{name}: {n}. Values with 95 % bootstrap intervals; outliers are the positives"
        headings = ["score", *HEADINGS.values()]
        marked = [row["score"] == record.measured.get("ranked_by") for row in rows]
        blocks.append(Sorted(Table(caption, headings, cells), marked=marked, folded=place > 0))
    for file, caption in (
        ("labels.csv", "Outliers of each label against all inliers"),
        ("controls.csv", "Controls, where an AUROC of 0.5 is expected"),
        ("comparisons.csv", "Differences between scores, paired by image"),
        ("pixels.csv", "Anomalous pixels found by error maps"),
    ):
        if rows := record.table(file):
            cells = [[in_short(cell) for cell in row.values()] for row in rows[:MOST_ROWS]]
            caption += f": the first {MOST_ROWS} of {len(rows):,}, all in {file}" if len(rows) > MOST_ROWS else ""
            blocks.append(Sorted(Table(caption, list(rows[0]), cells), folded=True))
    return blocks


def _named(row: Mapping[str, str]) -> str:
    marks = [
        mark for mark, column in (("baseline", "baseline"), ("below chance", "below_chance")) if row[column] == "1"
    ]
    return f"{row['score']} ({', '.join(marks)})" if marks else row["score"]


def _interval(row: Mapping[str, str], metric: str) -> str:
    """A value with its interval; what stands there where it is undefined."""
    cells = [row[metric], row[f"{metric}_low"], row[f"{metric}_high"]]
    value, low, high = (f"{number(cell):.3f}" if np.isfinite(number(cell)) else cell for cell in cells)
    return value if not np.isfinite(number(cells[1])) else f"{value} [{low}, {high}]"


def _curves(record: Record) -> list[Block]:
    """ROC curves and histograms of one score at a time."""
    inliers, outliers = _scores_by_set(record.folder / "scores.csv")
    if not inliers or not outliers:
        return []
    shown = dict(list(outliers.items())[:SETS])
    thresholds = {row["score"]: number(row["threshold"]) for row in record.table("alarms.csv")}
    charts: dict[str, Sequence[Chart]] = {}
    for score, normal in inliers.items():
        threshold = thresholds.get(score, np.nan)
        of_sets = {name: scores[score] for name, scores in shown.items()}
        spread = histogram_chart(score, {"inliers": normal, **of_sets}, threshold if np.isfinite(threshold) else None)
        charts[score] = [roc_chart(score, normal, of_sets), spread]
    blocks: list[Block] = [Choice("score", charts, record.measured.get("ranked_by", next(iter(charts))))]
    if left_out := list(outliers)[SETS:]:
        blocks.append(Note(f"Not drawn, but in the tables: {', '.join(left_out)}."))
    return blocks


def _scores_by_set(path: Path) -> tuple[Scores, dict[str, Scores]]:
    """What scores.csv says: of inliers score -> (n,), and of each outlier set."""
    if not path.is_file():
        return {}, {}
    import pandas

    table = pandas.read_csv(path, dtype=dict.fromkeys((*COLUMNS, "group"), str), keep_default_na=False)
    names = [name for name in table.columns if name not in (*COLUMNS, "group")]
    numbers = {name: pandas.to_numeric(table[name], errors="coerce").to_numpy() for name in names}

    def of(rows: np.ndarray) -> Scores:
        return {name: values[rows] for name, values in numbers.items()}

    is_outlier, source = (table["is_outlier"] == "1").to_numpy(), table["source"].to_numpy()
    sets = dict.fromkeys(source[is_outlier])
    return of(~is_outlier), {str(name): of(is_outlier & (source == name)) for name in sets}


def _thresholds(record: Record) -> list[Block]:
    """What flags an image, and how many inliers it flagged."""
    if rows := record.table("alarms.csv"):
        first = rows[0]
        caption = (
            f"At alpha = {first['alpha']}, from {int(first['n_calibrate']):,} validation images: how many of "
            f"{int(first['n']):,} inliers are flagged, and the central 95 % of that count if they are exchangeable"
        )
        cells = [
            [row["score"], in_short(row["threshold"]) or "none: too few images", row["count"], in_short(row["rate"]),
             f"{row['low']} to {row['high']}" if row["low"] else ""]
            for row in rows
        ]  # fmt: skip
        return [Sorted(Table(caption, ["score", "threshold", "false alarms", "rate", "expected"], cells))]
    if thresholds := record.measured.get("thresholds"):
        flagged = record.measured["flagged"]
        cells = [
            [name, "none: too few images" if value is None else f"{value:.5g}", str(flagged[name] or 0)]
            for name, value in thresholds.items()
        ]
        caption = f"At alpha = {record.measured['alpha']:g}, from {record.measured['n_calibrate']:,} validation images"
        return [Sorted(Table(caption, ["score", "threshold", "images flagged"], cells))]
    return []


def _extremes(record: Record, budget: Budget) -> list[Block]:
    blocks: list[Block] = []
    for pattern, caption in EXTREMES:
        for path in record.pictures(pattern):
            if picture := budget.embed(path, caption.format(stem=path.stem)):
                blocks.append(Shown(picture))
    return blocks


def _screened(record: Record) -> list[Block]:
    """The images by their headline score, the most outlying first."""
    rows = record.table("screen.csv")
    if not rows:
        return []
    scores = [name for name in rows[0] if name not in ("path", "index") and not name.endswith(("_p", "_flag"))]
    by = "fused" if "fused" in scores else scores[0]  # as Detector.headline
    rows.sort(key=lambda row: -number(row[by]))
    flagged = sum(row[f"{by}_flag"] == "1" for row in rows)
    cells = [
        [row["path"], row["index"], in_short(row[by]), in_short(row[f"{by}_p"]), row[f"{by}_flag"] or "no threshold"]
        for row in rows[:MOST_ROWS]
    ]
    caption = f"{len(rows):,} images by {by}, the most outlying first; {flagged:,} are flagged"
    if len(rows) > MOST_ROWS:
        caption += f"; the first {MOST_ROWS}, and all in screen.csv"
    marked = [row[f"{by}_flag"] == "1" for row in rows[:MOST_ROWS]]
    return [Sorted(Table(caption, ["path", "index", by, "p-value", "flagged"], cells), marked=marked)]
