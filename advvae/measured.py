"""What a run measured, read from its files: the columns of its tables, and the single numbers among its metrics."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from advvae.runs import flat

DETAILED = ("auroc", "scores", "near", "far", "sets", "thresholds")  # which have tables or files of their own


def single_numbers(metrics: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """By dotted name: metrics that are not detailed elsewhere; and the floors of those that have one."""
    numbers = flat({name: value for name, value in metrics.items() if name not in DETAILED})
    floors = {name: numbers.pop(f"{name}_floor") for name in list(numbers) if f"{name}_floor" in numbers}
    return numbers, floors


def read_columns(path: Path) -> dict[str, list[float]]:
    """The columns of a CSV file of numbers that hold anything; an empty cell is NaN; {} where there is no file."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = rows[0].keys() if rows else []
    return {name: [number(row[name]) for row in rows] for name in names if any(row[name] for row in rows)}


def number(text: str | None) -> float:
    """A cell of a table; NaN where it is empty or says why there is none."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
