"""metrics.csv: a row per epoch, on disk as soon as it is known."""

import csv
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from advvae.files import write_csv
from advvae.game import TERMS

logger = logging.getLogger(__name__)


class MetricsTable:
    """The table of a training run."""

    COLUMNS: Sequence[str] = (
        *("epoch", "step", "seconds", "images_per_second"),
        *TERMS,
        *("val_loss", "val_mse", "val_kld", "accuracy_real", "accuracy_reconstruction", "accuracy_sample"),
    )

    def __init__(self, path: Path, rows: Iterable[dict[str, Any]] = ()) -> None:
        """Begin the table with the epochs so far, whatever the file holds."""
        self._path = path
        write_csv(path, self.COLUMNS, ([row.get(name) for name in self.COLUMNS] for row in rows))

    def append(self, row: dict[str, Any]) -> None:
        """Add an epoch. A column that does not apply stays empty."""
        with self._path.open("a", newline="") as file:
            csv.DictWriter(file, self.COLUMNS, restval="").writerow(row)
            file.flush()
            os.fsync(file.fileno())


def rows_before(path: Path, n_epochs: int) -> list[dict[str, Any]]:
    """The first epochs of a table, for a run whose checkpoint does not hold them: one of an earlier version."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))[:n_epochs]
    except (OSError, ValueError, csv.Error):
        rows = []
    if [row["epoch"] for row in rows] == [str(epoch + 1) for epoch in range(n_epochs)]:
        return rows
    logger.warning(f"{path} does not hold the epochs 1 to {n_epochs}: it begins anew at the next")
    return []
