"""The page of a run: what it was, what it measured, and what it drew."""

import math
import shlex
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from advvae.figures import CURVES
from advvae.outlier.rendering import Table
from advvae.report import outlier_sections
from advvae.report.blocks import Block, Choice, Code, Drawn, Facts, Note, Section, Series, Shown, Sorted
from advvae.report.charts import Chart, heat_chart, line_chart, number, read_columns
from advvae.report.embedding import Budget
from advvae.report.page import write_page
from advvae.report.record import Record, in_short, in_words, read_record
from advvae.runs import REPORT, flat

SERIES_SHARE = 0.5  # of the room for pictures that a series of epochs may take
LARGE = ("scores", "near", "far", "sets", "thresholds", "flagged", "auroc")  # metrics that have tables of their own
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
    sections = [
        _what_was_run(record),
        Section("results", "Results", _results(record)),
        Section("curves", "Training", _curves(record, budget)),
        *outlier_sections.sections(record, budget),
        Section("pictures", "Pictures", _pictures(record, budget)),
        Section("matrix", "Every set against every other", _matrix(record)),
        Section("config", "Configuration", _configuration(record)),
    ]
    if budget.n_left_out:
        words = f"{budget.n_left_out} pictures are left out to keep this page small; they are in the run's folder."
        sections.append(Section("left-out", "Left out", [Note(words)]))
    modes = " + ".join([record.mode, *record.config.get("then", [])])
    return write_page(
        folder / REPORT,
        title=f"{modes} on {record.dataset}" if record.dataset else modes,
        subtitle=folder.name,
        status=record.status,
        sections=sections,
    )


def _what_was_run(record: Record) -> Section:
    started = record.provenance["started"]
    last: dict[str, Any] = started[-1] if started else {}
    rows = [
        ("status", record.status),
        ("error", record.error),
        ("time", "" if record.seconds is None else str(timedelta(seconds=round(record.seconds)))),
        ("begun", " and ".join(start["time"] for start in started)),
        ("seed", in_words(record.config.get("seed"))),
        ("advvae", " at commit ".join(last[name] for name in ("advvae", "commit") if name in last)),
        *((name, last.get(name, "")) for name in ("python", "torch", "torchvision", "numpy", "scikit-learn")),
        ("machine", _machine(last)),
        *((name, record.config.get(name, "")) for name in ("checkpoint_sha256", "discriminator_checkpoint_sha256")),
        ("folder", str(record.folder)),
    ]
    blocks: list[Block] = [
        Code(shlex.join(["advvae", *record.typed])),
        Facts([(name, value) for name, value in rows if value]),
    ]
    if data := record.provenance["data"]:
        cells = [[row["set"], row["split"], f"{row['n']:,}", row["sha256"] or "not known"] for row in data]
        words = "Images that were read, with the SHA-256 of their prepared files' checksums"
        blocks.append(Sorted(Table(words, ["set", "split", "n", "sha256"], cells)))
    return Section("run", "What was run", blocks)


def _machine(start: dict[str, Any]) -> str:
    if "processor" not in start:
        return ""
    gpus = "".join(f", {gpu}" for gpu in start.get("gpus", []))
    return f"{start['cores']} cores of {start['processor']}{gpus}; {start['system']}"


def _results(record: Record) -> list[Block]:
    """Single numbers, each beside its floor where it has one."""
    shown = flat({name: value for name, value in record.measured.items() if name not in LARGE})
    floors = {name: shown.pop(f"{name}_floor") for name in list(shown) if f"{name}_floor" in shown}
    if not shown:
        return []
    headings = ["metric", "value", "floor: real images against real ones"] if floors else ["metric", "value"]
    rows = [[name, in_short(value), *([in_short(floors.get(name))] if floors else [])] for name, value in shown.items()]
    return [Sorted(Table("What was measured", headings, rows))]


def _curves(record: Record, budget: Budget) -> list[Block]:
    """Curves of all losses, and grids of samples and reconstructions by epoch."""
    columns = read_columns(record.folder / "metrics.csv")
    blocks: list[Block] = [Drawn(chart) for chart in _training_charts(columns)]
    for name, label in (("samples", "Samples by epoch"), ("reconstructions", "Reconstructions by epoch")):
        if paths := record.pictures(f"{name}/epoch-*.png"):
            captions = [f"{label.partition(' ')[0]} after epoch {int(path.stem.partition('-')[2])}" for path in paths]
            if pictures := budget.embed_series(paths, captions, SERIES_SHARE):
                blocks.append(Series(label, pictures))
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
    """AUROC of every pair of sets, a heat map for each score."""
    rows = record.table("matrix.csv")
    if not rows:
        return []
    sets = list(dict.fromkeys(row["dataset"] for row in rows))
    charts: dict[str, list[Chart]] = {}
    for score in dict.fromkeys(row["score"] for row in rows):
        values = np.full((len(sets), len(sets)), np.nan)
        for row in (row for row in rows if row["score"] == score and row["out_dataset"] in sets):
            values[sets.index(row["dataset"]), sets.index(row["out_dataset"])] = number(row["auroc"])
        charts[score] = [heat_chart(f"AUROC of {score}", values, sets, sets, ("inliers", "outliers"))]
    blocks: list[Block] = [Choice("score", charts, record.measured.get("ranked_by", next(iter(charts))))]
    if audit := record.table("audit.csv"):
        cells = [list(row.values()) for row in audit]
        blocks.append(Sorted(Table("What the sets have in common", list(audit[0]), cells), folded=True))
    return blocks


def _configuration(record: Record) -> list[Block]:
    differing = [setting for setting in record.settings if setting.differs]
    headings = ["key", "value", "default"]
    rows = [[setting.key, setting.value, setting.default] for setting in record.settings]
    blocks: list[Block] = []
    if differing:
        table = Table("What differs from the defaults", headings, [[s.key, s.value, s.default] for s in differing])
        blocks.append(Sorted(table, marked=[True] * len(differing)))
    marks = [setting.differs for setting in record.settings]
    blocks.append(Sorted(Table("All values", headings, rows), marked=marks, folded=True))
    return blocks
