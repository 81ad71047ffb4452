"""A sweep as a pandas frame."""

from pathlib import Path
from typing import TYPE_CHECKING

from advvae.sweep_rows import gather, swept_keys

if TYPE_CHECKING:
    import pandas

TRUTHS = {"true": True, "false": False}


def sweep_frame(folder: Path) -> "pandas.DataFrame":
    """The jobs of a sweep, a row each: `job`, the keys that were swept, `status`, `error`, `seconds`, and metrics.

    Raises:
        UserError: the folder holds no jobs.
    """
    import pandas

    rows = gather(folder)
    keys = swept_keys(rows)
    frame = pandas.DataFrame(
        [
            {
                "job": row["job"],
                **{key: row["overrides"].get(key) for key in keys},
                **{name: row[name] for name in ("status", "error", "seconds")},
                **row["metrics"],
            }
            for row in rows
        ]
    )
    for key in ("job", *keys):
        frame[key] = _plain(frame[key])
    return frame


def _plain(texts: "pandas.Series") -> "pandas.Series":
    """Numbers where all are, true and false where all are; else as they were typed."""
    import pandas

    lowered = texts.str.lower()
    if lowered.isin(list(TRUTHS)).all():
        return lowered.map(TRUTHS).astype(bool)
    numbers = pandas.to_numeric(texts, errors="coerce")
    return numbers if numbers.notna().all() else texts
