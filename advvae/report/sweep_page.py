"""The page of a sweep: its jobs in a table, as parallel coordinates, and as heat maps over any two keys."""

import math
from pathlib import Path
from typing import Any

from advvae.outlier.rendering import Table
from advvae.report.blocks import Block, Explorer, Facts, Note, Section, Shown, Sorted
from advvae.report.embedding import Budget
from advvae.report.page import write_page
from advvae.report.record import in_short
from advvae.runs import REPORT
from advvae.sweep_rows import Row, gather, seed_rows, swept_keys, varied_keys

FIRST = ("val_loss", "val_mse", "val_kld", "loss", "mse", "psnr", "ssim", "fid")  # metrics that a table begins with
SHOWN = 12  # metrics in the table of jobs; summary.csv has all


def write_sweep_report(folder: Path) -> Path:
    """Write `report.html` into a sweep's folder, from what its jobs' folders hold; returns its path.

    Raises:
        UserError: the folder is no sweep's; the file cannot be written.
    """
    folder = Path(folder)
    rows = gather(folder)
    keys, metrics = varied_keys(rows), _numeric_metrics(rows)
    counts = {
        status: sum(row["status"] == status for row in rows) for status in dict.fromkeys(r["status"] for r in rows)
    }
    seconds = sum(row["seconds"] or 0 for row in rows)
    facts = [
        ("jobs", ", ".join(f"{n} {status}" for status, n in counts.items())),
        ("swept", ", ".join(swept_keys(rows)) or "nothing: all jobs are the same"),
        ("all together", f"{seconds:,.0f} s"),
        ("folder", str(folder)),
    ]
    summary = Budget().embed(folder / "summary.png", "Heat maps over what was swept")
    sections = [
        Section("sweep", "What was swept", [Facts(facts)]),
        Section("jobs", "Jobs", _jobs(folder, rows, keys, metrics)),
        Section("explore", "Keys against metrics", _explorer(rows, keys, metrics)),
        Section("summary", "Summary", [Shown(summary)] if summary else []),
    ]
    return write_page(
        folder / REPORT,
        title=f"Sweep of {len(rows)} jobs",
        subtitle=folder.name,
        status="finished" if set(counts) == {"finished"} else "not all finished",
        sections=sections,
    )


def _jobs(folder: Path, rows: list[Row], keys: list[str], metrics: list[str]) -> list[Block]:
    shown = metrics[:SHOWN]
    headings = ["job", *keys, "status", "seconds", *shown]
    blocks: list[Block] = []
    cells, links = [], []
    for row in rows:
        values = [in_short(row["metrics"].get(name)) for name in shown]
        own = [row["overrides"].get(key, "") for key in keys]
        cells.append([row["job"], *own, row["status"], in_short(row["seconds"]), *values])
        links.append(f"{row['job']}/{REPORT}" if (folder / row["job"] / REPORT).is_file() else "")
    more = f"; {len(metrics) - SHOWN} more metrics are in summary.csv" if len(metrics) > SHOWN else ""
    blocks.append(Sorted(Table(f"A row per job{more}", headings, cells), links=links))
    blocks += [Note(f"Job {row['job']} {row['status']}: {row['error']}") for row in rows if row["error"]]
    if repeated := seed_rows(rows):
        cells = [
            [
                row["job"],
                *(row["overrides"].get(key, "") for key in keys),
                *(in_short(row["metrics"].get(m)) for m in shown),
            ]
            for row in repeated
        ]
        caption = "Jobs that differ in the seed alone: means and standard deviations"
        blocks.append(Sorted(Table(caption, ["jobs", *keys, *shown], cells)))
    return blocks


def _explorer(rows: list[Row], keys: list[str], metrics: list[str]) -> list[Block]:
    finished = [row for row in rows if row["status"] == "finished"]
    if not keys or not metrics or not finished:
        return []
    jobs: list[dict[str, Any]] = [
        {
            "job": row["job"],
            "keys": {key: row["overrides"].get(key, "default") for key in keys},
            "metrics": {name: _number(row["metrics"].get(name)) for name in metrics},
        }
        for row in finished
    ]
    return [Explorer(jobs, keys, metrics)]


def _numeric_metrics(rows: list[Row]) -> list[str]:
    """The metrics that are numbers and differ between jobs; the usual ones first, then AUROCs."""
    names = dict.fromkeys(name for row in rows for name in row["metrics"])
    values = {name: {_number(row["metrics"].get(name)) for row in rows} - {None} for name in names}
    found = [name for name in names if len(values[name]) > 1]
    return sorted(found, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), ".auroc" not in name))


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(f"{value:.6g}") if is_number else None
