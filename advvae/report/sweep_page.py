"""The page of a sweep: its jobs in a table, as parallel coordinates, and as heat maps over any two keys."""

import math
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from advvae.outlier.rendering import Table
from advvae.report.blocks import Block, Explorer, Facts, Note, Shown, Sortable, section
from advvae.report.embedding import Budget
from advvae.report.page import write_page
from advvae.report.record import in_short
from advvae.runs import REPORT
from advvae.sweep_resume import is_finished, is_under_way
from advvae.sweep_rows import Row, gather, seed_rows, swept_keys
from advvae.tracking import without_folders

FIRST = ("val_loss", "val_mse", "val_kld", "loss", "mse", "psnr", "ssim", "fid")  # metrics that a table begins with
OF_SCORES = ("auroc", "aupr_out", "fpr95_out")  # what is shown of each score; summary.csv has all, with intervals
SHOWN = 12  # metrics in the table of jobs


def write_sweep_report(folder: Path) -> Path:
    """Write `report.html` into a sweep's folder, from what its jobs' folders hold; returns its path.

    Raises:
        UserError: the folder is no sweep's; the file cannot be written.
    """
    folder = Path(folder)
    rows = gather(folder)
    keys, metrics = swept_keys(rows), _metrics(rows)
    sections = [
        section("sweep", "What was swept", partial(_facts, folder, rows, keys)),
        section("jobs", "Jobs", partial(_jobs, folder, rows, keys, metrics)),
        section("explore", "Keys against metrics", partial(_explorer, rows, keys, metrics)),
        section("summary", "Summary", partial(_summary, folder)),
    ]
    return write_page(
        folder / REPORT,
        title=f"Sweep of {len(rows)} job{'s' * (len(rows) != 1)}",
        subtitle=folder.name,
        status=_status(folder, rows),
        sections=sections,
    )


def _status(folder: Path, rows: list[Row]) -> str:
    if is_finished(folder):
        return "finished"
    return f"under way, {len(rows)} jobs so far" if is_under_way(folder) else "not all finished"


def _facts(folder: Path, rows: list[Row], keys: list[str]) -> list[Block]:
    counts = Counter(row["status"] for row in rows)
    facts = [
        ("jobs", ", ".join(f"{n} {status}" for status, n in counts.items())),
        ("swept", ", ".join(keys) or "nothing: all jobs are the same"),
        ("all together", f"{sum(row['seconds'] or 0 for row in rows):,.0f} s"),
        ("folder", without_folders(str(folder.absolute()))),
    ]
    return [Facts(facts)]


def _jobs(folder: Path, rows: list[Row], keys: list[str], metrics: list[str]) -> list[Block]:
    shown = metrics[:SHOWN]

    def cells(row: Row, keys: list[str], *between: str) -> list[str]:
        own = [row["overrides"].get(key, "") for key in keys]
        return [row["job"], *own, *between, *(in_short(row["metrics"].get(name)) for name in shown)]

    pages = [f"{row['job']}/{REPORT}" for row in rows]
    links = [f"./{quote(page)}" if (folder / page).is_file() else "" for page in pages]
    losses = {row["job"]: number for row in rows if (number := _number(row["metrics"].get("val_loss"))) is not None}
    best = min(losses, key=lambda job: losses[job], default=None)
    caption = "A row per job"
    if len(losses) > 1:
        caption += "; that of the lowest val_loss is marked"
    if len(metrics) > SHOWN:
        caption += "; more metrics are in summary.csv"
    table = Table(
        caption,
        ["job", *keys, "status", "seconds", *shown],
        [cells(row, keys, row["status"], in_short(row["seconds"])) for row in rows],
    )
    marked = [len(losses) > 1 and row["job"] == best for row in rows]
    blocks: list[Block] = [Sortable(table, links=links, marked=marked)]
    blocks += [Note(f"Job {row['job']} {row['status']}: {row['error']}") for row in rows if row["error"]]
    if repeated := seed_rows(rows):
        others = [key for key in keys if key != "seed"]
        caption = "Jobs that differ in the seed alone: means and standard deviations"
        table = Table(caption, ["jobs", *others, *shown], [cells(row, others) for row in repeated])
        blocks.append(Sortable(table))
    return blocks


def _explorer(rows: list[Row], keys: list[str], metrics: list[str]) -> list[Block]:
    finished = [row for row in rows if row["status"] == "finished"]
    if not keys or not metrics or not finished:
        return []
    return [
        Explorer(
            {key: [row["overrides"].get(key, "default") for row in finished] for key in keys},
            {name: [_number(row["metrics"].get(name)) for row in finished] for name in metrics},
        )
    ]


def _summary(folder: Path) -> list[Block]:
    picture = Budget().embed(folder / "summary.png", "Heat maps over what was swept")
    return [Shown(picture)] if picture else []


def _metrics(rows: list[Row]) -> list[str]:
    """The metrics that are numbers; the usual ones first, then AUROCs."""
    names = dict.fromkeys(name for row in rows for name, value in row["metrics"].items() if _number(value) is not None)
    found = [
        name
        for name in names
        if not name.startswith(("scores.", "near.", "far.")) or name.rpartition(".")[2] in OF_SCORES
        if not name.startswith(("thresholds.", "flagged."))
    ]
    ranks = {name: rank for rank, name in enumerate(FIRST)}
    return sorted(found, key=lambda name: (ranks.get(name, len(FIRST)), not name.endswith(".auroc")))


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(f"{value:.6g}") if is_number else None
