"""What a run's page shows of outlier scores: tables with intervals, ROC curves, histograms, thresholds, extremes."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from advvae.measured import number
from advvae.outlier.pictures import SETS
from advvae.outlier.rendering import Table, read_tables
from advvae.outlier.report import COLUMNS, SHOWN
from advvae.outlier.tables import ALARMS
from advvae.report.blocks import Block, Choice, Note, Section, Shown, Sortable, section
from advvae.report.charts import MOST_ROWS, Chart, histogram_chart, roc_chart
from advvae.report.embedding import Budget
from advvae.report.record import Record, in_short

SUMMARIES = (  # file, and what it shows
    ("auroc.png", "AUROC of each score with its 95 % bootstrap interval; baselines hatched"),
    ("auroc_map.png", "AUROC of each score and set"),
    ("roc.png", "ROC curves with 95 % bootstrap bands"),
)
EXTREMES = (  # file, or pattern of files, and what it shows
    ("false_alarms.png", "False alarms: the inliers that look most outlying, with error maps"),
    ("misses.png", "Misses: the outliers that look most normal, with error maps"),
    ("misses/*.png", "Misses of {stem}: the outliers that look most normal, with error maps"),
    ("overlays.png", "Error maps over the images, with the outlines of what is anomalous"),
)


def sections(record: Record, budget: Budget) -> list[Section]:
    """Those of a run that scored outliers, or screened images; without blocks where it did neither."""
    return [
        section("outliers", "Outlier scores", partial(_tables, record)),
        section("curves-of-scores", "ROC curves and histograms", partial(_curves, record, budget)),
        section("decisions", "Thresholds", partial(_thresholds, record)),
        section("extremes", "Worst misses and false alarms", partial(_extremes, record, budget)),
        section("screened", "Screened images", partial(_screened, record)),
    ]


def _tables(record: Record) -> list[Block]:
    """Those of results.md, which say all that a reader must know; then what else was compared."""
    best = record.measured.get("ranked_by")
    blocks: list[Block] = []
    for table in read_tables(record.folder / "results.md"):
        if not table.caption.startswith(ALARMS):
            marked = [row[0].partition(" ")[0] == best for row in table.rows]
            blocks.append(Sortable(table, marked=marked, folded=bool(blocks)))
    for file, caption in (
        ("controls.csv", "Controls, where an AUROC of 0.5 is expected"),
        ("comparisons.csv", "Differences between scores, paired by image"),
        ("pixels.csv", "Anomalous pixels found by error maps, image by image"),
    ):
        if rows := record.table(file):
            cells = [[in_short(cell) for cell in row.values()] for row in rows[:MOST_ROWS]]
            caption += f": the first {MOST_ROWS} of {len(rows):,}, all in {file}" if len(rows) > MOST_ROWS else ""
            blocks.append(Sortable(Table(caption, list(rows[0]), cells), folded=True))
    return blocks


def _curves(record: Record, budget: Budget) -> list[Block]:
    """ROC curves and histograms of one score at a time, and pictures of all scores."""
    table = record.scores
    if table is None:
        return []
    is_outlier = (table["is_outlier"] == "1").to_numpy()
    sets = [str(name) for name in table["source"][is_outlier].unique()]
    rows = {name: is_outlier & (table["source"] == name).to_numpy() for name in sets[:SETS]}
    thresholds = {row["score"]: number(row["threshold"]) for row in record.table("alarms.csv")}
    charts: dict[str, Sequence[Chart]] = {}
    for score in [name for name in table.columns if name not in (*COLUMNS, "group")]:
        values, threshold = table[score].to_numpy(), thresholds.get(score, np.nan)
        inliers, outliers = values[~is_outlier], {name: values[of_set] for name, of_set in rows.items()}
        spread = histogram_chart(score, {"inliers": inliers, **outliers}, threshold if np.isfinite(threshold) else None)
        charts[score] = [roc_chart(score, inliers, outliers), spread]
    blocks: list[Block] = [Choice("score", charts, record.measured.get("ranked_by", next(iter(charts))))]
    if left_out := sets[SETS:]:
        blocks.append(Note(f"Not drawn, but in the tables: {', '.join(left_out)}."))
    found = (budget.embed(record.folder / name, caption) for name, caption in SUMMARIES)
    return [*blocks, *(Shown(picture) for picture in found if picture is not None)]


def _thresholds(record: Record) -> list[Block]:
    """What flags an image, and how many inliers it flagged."""
    if alarms := [table for table in read_tables(record.folder / "results.md") if table.caption.startswith(ALARMS)]:
        return [Sortable(table) for table in alarms]
    if thresholds := record.measured.get("thresholds"):
        flagged = record.measured["flagged"]
        cells = [
            [name, "none: too few images", ""] if value is None else [name, f"{value:.5g}", str(flagged[name] or 0)]
            for name, value in thresholds.items()
        ]
        caption = f"At alpha = {record.measured['alpha']:g}, from {record.measured['n_calibrate']:,} validation images"
        return [Sortable(Table(caption, ["score", "threshold", "images flagged"], cells))]
    return []


def _extremes(record: Record, budget: Budget) -> list[Block]:
    """Pictures, each above the names of what it shows."""
    blocks: list[Block] = []
    for pattern, caption in EXTREMES:
        for path in record.pictures(pattern):
            if picture := budget.embed(path, caption.format(stem=path.stem)):
                blocks.append(Shown(picture))
                blocks += _named(record, path.stem)
    return blocks


def _named(record: Record, shown: str) -> Iterator[Block]:
    """Which images a picture of extremes shows, in its order: `shown` is false_alarms, misses, or a set's name."""
    table, by = record.scores, str(record.measured.get("ranked_by"))
    if table is None or by not in table or shown == "overlays":
        return
    if shown == "false_alarms":
        images = table[table["is_outlier"] == "0"].sort_values(by, ascending=False, kind="stable")
    else:
        of_set = table["is_outlier"] == "1" if shown == "misses" else table["source"] == shown
        images = table[of_set & (table["is_outlier"] == "1")].sort_values(by, kind="stable")
    names = [name for name in (*COLUMNS[1:], "group", by) if name in table and (images[name].astype(str) != "").any()]
    cells = [[*row[:-1], in_short(row[-1])] for row in images[names].head(SHOWN).itertuples(index=False)]
    yield Sortable(Table("The images above, in their order", names, cells), folded=True)


def _screened(record: Record) -> list[Block]:
    """The images by their headline score, the most outlying first."""
    import pandas

    path = record.folder / "screen.csv"
    if not path.is_file():
        return []
    names = pandas.read_csv(path, nrows=0).columns
    scores = [name for name in names if name not in ("path", "index") and not name.endswith(("_p", "_flag"))]
    by = "fused" if "fused" in scores else scores[0]  # as Detector.headline
    shown = ["path", "index", by, f"{by}_p", f"{by}_flag"]
    table = pandas.read_csv(path, usecols=shown, dtype={"path": str, f"{by}_flag": str}, keep_default_na=False)[shown]
    first = table.assign(**{by: pandas.to_numeric(table[by], errors="coerce")}).nlargest(MOST_ROWS, by)
    flagged = table[f"{by}_flag"] == "1"
    caption = f"{len(table):,} images by {by}, the most outlying first; {flagged.sum():,} are flagged"
    if len(table) > MOST_ROWS:
        caption += f"; the first {MOST_ROWS}, and all in screen.csv"
    said = first.replace({f"{by}_flag": {"1": "yes", "0": "no"}})  # empty where there is no threshold
    cells = [
        [path, str(index), in_short(score), in_short(p_value), flag]
        for path, index, score, p_value, flag in said.itertuples(index=False)
    ]
    headings = ["path", "index", by, "p-value", "flagged"]
    return [Sortable(Table(caption, headings, cells), marked=flagged[first.index].to_list())]
