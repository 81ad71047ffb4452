"""The page of a run: what it was, what it measured, and what it drew."""

import math
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from advvae.figures import CURVES
from advvae.measured import number, read_columns, single_numbers
from advvae.outlier.rendering import Table, read_tables
from advvae.report import outlier_sections
from advvae.report.blocks import Block, Choice, Code, Drawn, Facts, Note, Section, Series, Shown, Sortable, section
from advvae.report.charts import Chart, heat_chart, line_chart
from advvae.report.embedding import Budget
from advvae.report.page import write_page
from advvae.report.record import Record, in_short, in_words, read_record
from advvae.runs import REPORT
from advvae.tracking import without_folders

SERIES_SHARE = 0.5  # of the room for pictures that a series of epochs may take
PICTURES = (  # of each mode but those of an outlier run: file, and what it shows
    ("reconstructions.png", "Test images, each above its reconstruction and where the two differ"),
    ("samples.png", "Samples"),
    ("interpolations.png", "On the way from one validation image to another"),
    ("traversals.png", "What single dimensions of the latent do"),
    ("neighbours.png", "Samples beside the training images nearest to them"),
    ("most_outlying.png", "The most outlying of the screened images, with error maps"),
    ("histogram.png", "Scores of normal validation images and of the screened ones"),
)


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run's folder, from what the folder holds; returns its path.

    Raises:
        UserError: the folder is no run's; the file cannot be written.
    """
    record, budget = read_record(folder), Budget()
    pictures = section("pictures", "Pictures", partial(_pictures, record, budget))  # which come before those of epochs
    outliers = outlier_sections.sections(record, budget)
    sections = [
        section("run", "What was run", partial(_what_was_run, record)),
        section("results", "Results", partial(_results, record)),
        section("curves", "Training", partial(_curves, record, budget)),
        *outliers,
        pictures,
        section("matrix", "Every set against every other", partial(_matrix, record)),
        section("config", "Configuration", partial(_configuration, record)),
    ]
    if budget.left_out:
        words = f"To keep this page small, these are in the run's folder alone: {'; '.join(budget.left_out)}."
        sections.append(Section("left-out", "Left out", [Note(words)]))
    modes = " + ".join([record.mode, *record.config.get("then", [])])
    return write_page(
        folder / REPORT,
        title=f"{modes} on {record.dataset}" if record.dataset else modes,
        subtitle=folder.name,
        status=record.status,
        sections=sections,
    )


def _what_was_run(record: Record) -> list[Block]:
    """The command and its circumstances; of a run that was resumed, those of every start."""
    started = record.provenance["started"]
    last: dict[str, Any] = started[-1] if started else {}
    versions = ("python", "torch", "torchvision", "numpy", "scikit-learn", "hydra-core")
    rows = [
        ("status", record.status),
        ("error", record.error),
        ("time", "" if record.seconds is None else str(timedelta(seconds=round(record.seconds)))),
        ("begun", " and ".join(start["time"] for start in started)),
        ("seed", in_words(record.config.get("seed"))),
        ("advvae", _advvae(last)),
        *((name, last.get(name, "")) for name in versions),
        ("machine", _machine(last)),
        *((name, record.config.get(name, "")) for name in ("checkpoint_sha256", "discriminator_checkpoint_sha256")),
        ("folder", without_folders(str(record.folder.absolute()))),
    ]
    blocks: list[Block] = [
        Code(record.command),
        Facts([(name, value) for name, value in rows if value]),
    ]
    if data := record.provenance["data"]:
        cells = [[row["set"], row["split"], f"{row['n']:,}", row["sha256"] or "not known"] for row in data]
        words = "Images that were read, with the SHA-256 of their prepared files' checksums"
        blocks.append(Sortable(Table(words, ["set", "split", "n", "sha256"], cells)))
    if len(started) > 1:
        cells = [
            [start["time"], _advvae(start), *(start.get(name, "") for name in versions), _machine(start)]
            for start in started
        ]
        headings = ["begun", "advvae", *versions, "machine"]
        blocks.append(Sortable(Table(f"This run was begun {len(started)} times", headings, cells), folded=True))
    return blocks


def _advvae(start: dict[str, Any]) -> str:
    return " at commit ".join(start[name] for name in ("advvae", "commit") if name in start)


def _machine(start: dict[str, Any]) -> str:
    if "processor" not in start:
        return ""
    gpus = "".join(f", {gpu}" for gpu in start.get("gpus", []))
    return f"{start['cores']} cores of {start['processor']}{gpus}; {start['system']}"


def _results(record: Record) -> list[Block]:
    """Single numbers, each beside its floor where it has one."""
    shown, floors = single_numbers({name: value for name, value in record.measured.items() if name != "flagged"})
    if not shown:
        return []
    headings = ["metric", "value", "floor: real images against real ones"] if floors else ["metric", "value"]
    rows = [[name, in_short(value), *([in_short(floors.get(name))] if floors else [])] for name, value in shown.items()]
    return [Sortable(Table("What was measured", headings, rows))]


def _curves(record: Record, budget: Budget) -> list[Block]:
    """Curves of all losses, and grids of samples and reconstructions by epoch."""
    columns = read_columns(record.folder / "metrics.csv")
    blocks: list[Block] = [Drawn(chart) for chart in _training_charts(columns)]
    for name, label in (("samples", "Samples by epoch"), ("reconstructions", "Reconstructions by epoch")):
        if paths := record.pictures(f"{name}/epoch-*.png"):
            captions = [f"{label.partition(' ')[0]} after epoch {int(path.stem.partition('-')[2])}" for path in paths]
            if pictures := budget.embed_series(paths, captions, SERIES_SHARE):
                some = f" ({len(pictures)} of {len(paths)} grids)" if len(pictures) < len(paths) else ""
                blocks.append(Series(label + some, pictures))
    return blocks


def _training_charts(columns: dict[str, list[float]]) -> Iterator[Chart]:
    """The panels of curves.png, then every other column that metrics.csv has."""
    if not columns:
        return
    epochs, drawn = columns["epoch"], {"epoch", "step", "seconds"}
    for title, quantity, labels in CURVES:
        lines = {label: columns[name] for name, label in labels.items() if name in columns}
        drawn |= set(labels)
        if lines:
            name = f"{title}: {quantity}"
            yield line_chart(name, "epoch", quantity, epochs, lines, unit=quantity == "accuracy")
    for name in columns:
        if name not in drawn and any(map(math.isfinite, columns[name])):
            yield line_chart(name, "epoch", name, epochs, {name: columns[name]})


def _pictures(record: Record, budget: Budget) -> list[Block]:
    found = (budget.embed(record.folder / name, caption) for name, caption in PICTURES)
    return [Shown(picture) for picture in found if picture is not None]


def _matrix(record: Record) -> list[Block]:
    """AUROC of every pair of sets, with what the sets have in common; then a heat map for each score."""
    rows = record.table("matrix.csv")
    if not rows:
        return []
    blocks: list[Block] = []
    for table in read_tables(record.folder / "matrix.md"):
        pages = [f"{row[0]}/{REPORT}" for row in table.rows]
        links = [f"./{quote(page)}" if (record.folder / page).is_file() else "" for page in pages]
        blocks.append(Sortable(table, links=links))
    sets = list(dict.fromkeys(row["dataset"] for row in rows))
    charts: dict[str, list[Chart]] = {}
    for score in dict.fromkeys(row["score"] for row in rows):
        values = np.full((len(sets), len(sets)), np.nan)
        for row in (row for row in rows if row["score"] == score and row["out_dataset"] in sets):
            values[sets.index(row["dataset"]), sets.index(row["out_dataset"])] = number(row["auroc"])
        charts[score] = [heat_chart(f"AUROC of {score}", values, sets, sets, ("inliers", "outliers"))]
    blocks.append(Choice("score", charts, record.measured.get("ranked_by", next(iter(charts)))))
    if audit := record.table("audit.csv"):
        cells = [list(row.values()) for row in audit]
        blocks.append(Sortable(Table("What the sets have in common", list(audit[0]), cells), folded=True))
    return blocks


def _configuration(record: Record) -> list[Block]:
    if not record.config:  # of a job that failed before it began
        return []
    differing = [setting for setting in record.settings if setting.differs]
    headings = ["key", "value", "default"]
    rows = [[setting.key, setting.value, setting.default] for setting in record.settings]
    blocks: list[Block] = []
    if differing:
        table = Table("What differs from the defaults", headings, [[s.key, s.value, s.default] for s in differing])
        blocks.append(Sortable(table, marked=[True] * len(differing)))
    marks = [setting.differs for setting in record.settings]
    blocks.append(Sortable(Table("All values", headings, rows), marked=marks, folded=True))
    return blocks
