"""What a sweep found: its jobs in one table and one picture, rebuilt from their folders at any time.

    python -m advvae.sweep outputs/sweeps/<time>

A sweep's folder holds a run folder for each job. Importing this module is cheap: Hydra does so at every start.
"""

import contextlib
import math
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

from filelock import FileLock

from advvae import runs, sweep_resume
from advvae.errors import UserError
from advvae.files import csv_table, replacing
from advvae.report import leave_page
from advvae.sweep_rows import Row, gather, job_folders, measured, seed_rows, swept_keys, varied_keys


def write_summary(folder: Path) -> Path:
    """Write `folder`/summary.csv and return its path: a row per job, then mean and deviation over seeds.

    Also summary.md, `sweep_table`, if jobs have outlier scores, and summary.png. If two keys were swept and every pair
    of their values has a job, it holds heat maps of `val_loss` and of each score's AUROC, which are means over seeds
    where these were swept too. If one key was, and jobs have outlier scores, it is a heat map of values by scores.
    """
    from advvae.sweep_pictures import draw_summary

    path = Path(folder) / "summary.csv"
    if not job_folders(folder):
        gather(folder)  # says what is wrong, before a lock file is made
    with FileLock(Path(folder) / ".summary.lock"):  # jobs of a parallel launcher end at the same time
        rows = gather(folder)
        _write_table([*rows, *seed_rows(rows)], varied_keys(rows), path)
        table = sweep_table(rows)
        if table is not None:
            with replacing(path.with_suffix(".md")) as unfinished:
                unfinished.write_text(table, encoding="utf-8")
        draw_summary(rows, path.with_suffix(".png"))
        leave_page(path.parent, of_sweep=True)
    return path


def sweep_table(rows: list[Row]) -> str | None:
    """AUROC and AUPR-out of every score in every job, with their means, as Markdown; None where no job has scores."""
    from tabulate import tabulate

    swept = swept_keys(rows)
    parts: list[str] = []
    for metric, heading in (("auroc", "AUROC"), ("aupr_out", "AUPR-out")):
        table = _score_table(rows, swept, metric)
        if len(table) > 1:
            text = tabulate(table[1:], table[0], tablefmt="github", disable_numparse=True)
            parts.append(f"{heading} by {', '.join(swept) or 'job'}\n\n{text}\n")
    return "\n".join(parts) or None


class SweepCallback:
    """Hydra callback that keeps a sweep's folder for this process, and rebuilds its summary after each of its jobs.

    Hydra leaves out `on_multirun_end` when a job failed, so each job's end must do for the summary.
    """

    folder: Path | None = None  # of the sweep under way in this process
    _lock: FileLock | None = None

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        with contextlib.suppress(Exception):  # Hydra would warn of it, and meets the same when the sweep begins
            SweepCallback.folder = Path(config.hydra.sweep.dir)
        try:
            SweepCallback._lock = runs.hold(SweepCallback.folder) if SweepCallback.folder else None
        except UserError as error:
            SweepCallback.folder = None  # another's
            sys.exit(str(error))

    def on_job_end(self, config: Any, **_: Any) -> None:
        sweep = Path(config.hydra.runtime.output_dir).parent
        if config.hydra.mode.name == "MULTIRUN" or (sweep / "multirun.yaml").is_file():  # a job that was resumed alone
            write_summary(sweep)

    def on_multirun_end(self, config: Any, **_: Any) -> None:
        sweep_resume.mark_finished(Path(config.hydra.sweep.dir))

    @classmethod
    def leave(cls) -> None:
        """Let others work in the sweep's folder."""
        if cls._lock:
            runs.release(cls._lock)
        cls.folder = cls._lock = None

    def _ignore(self, **_: Any) -> None:
        pass

    on_run_start = on_run_end = on_job_start = _ignore


def _write_table(rows: list[Row], swept: list[str], path: Path) -> None:
    names = dict.fromkeys(name for row in rows for name in row["metrics"])  # in order of first appearance
    head = ["job", *swept, "overrides", "status", "error", "seconds"]
    with csv_table(path, [*head, *names]) as add:
        for row in rows:
            values = [row["overrides"].get(key) for key in swept]
            metrics = [row["metrics"].get(name) for name in names]
            known = [shlex.join(row["typed"]), row["status"], row["error"], row["seconds"]]
            add([[row["job"], *values, *known, *metrics]])


def _score_table(rows: list[Row], swept: list[str], metric: str) -> list[tuple[str, ...]]:
    """The head, a line per job, and the mean; a line per score instead, where there are more scores than jobs."""
    suffix = f".{metric}"
    found = dict.fromkeys(name for row in rows for name in row["metrics"])
    metrics = [name for name in found if name.startswith("scores.") and name.endswith(suffix)]
    if not metrics:
        return []
    labels = [", ".join(row["overrides"].get(key, "") for key in swept) or row["job"] for row in rows]
    lines = [("", *labels, "mean")]  # turned below
    for name in metrics:
        numbers = [measured(row, name) for row in rows]
        known = [number for number in numbers if math.isfinite(number)]
        cells = [_shown(row, number) for row, number in zip(rows, numbers, strict=True)]
        mean = f"{statistics.fmean(known):.3f}" if known else "undefined"
        of = f" of {len(known)}" if known and len(known) < len(rows) else ""
        lines.append((name.removeprefix("scores.").removesuffix(suffix), *cells, mean + of))
    return lines if len(metrics) > len(rows) else list(zip(*lines, strict=True))


def _shown(row: Row, number: float) -> str:
    """A number, or why there is none."""
    if math.isfinite(number):
        return f"{number:.3f}"
    return "undefined" if row["status"] == "finished" else row["status"]


def main() -> None:
    """Rebuild the summary of the sweep folder on the command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m advvae.sweep <folder of a sweep, such as outputs/sweeps/<time>>")
    try:
        print(write_summary(Path(sys.argv[1])))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
