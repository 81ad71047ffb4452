"""metrics.csv: a row per epoch, on disk as soon as it is known."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advvae.files import write_csv
from advvae.game import TERMS


class MetricsTable:
    """The table of a training run."""

    COLUMNS: Sequence[str] = (
        *("epoch", "step", "seconds", "images_per_second"),
        *TERMS,
        *("val_loss", "val_mse", "val_kld", "accuracy_real", "accuracy_reconstruction", "accuracy_sample"),
    )

    def __init__(self, path: Path, keep_until: int) -> None:
        """Start the table, or cut that of a resumed run back to the epoch of its checkpoint."""
        self._path = path
        rows: list[dict[str, str]] = []
        if keep_until > 0 and path.is_file():
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file))[:keep_until]
        write_csv(path, self.COLUMNS, ([row.get(name) for name in self.COLUMNS] for row in rows))

    def append(self, row: dict[str, Any]) -> None:
        """Add an epoch. A column that does not apply stays empty."""
        with self._path.open("a", newline="") as file:
            csv.DictWriter(file, self.COLUMNS, restval="").writerow(row)
            file.flush()
            os.fsync(file.fileno())
