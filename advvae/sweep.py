"""What a sweep found: its jobs in one table and one picture, rebuilt from their folders at any time.

    python -m advvae.sweep outputs/sweeps/<time>

A sweep's folder holds a run folder for each job. Importing this module is cheap: Hydra does so at every start.
"""

import contextlib
import csv
import math
import shlex
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, TypedDict

from advvae.errors import UserError
from advvae.files import replacing
from advvae.runs import flat, read_metrics

# A job may add these to its overrides, naming what it took by itself; they are an axis only if the user swept them.
TAKEN = ("checkpoint", "discriminator_checkpoint", "precision")
IN_A_ROW = 4  # heat maps of summary.png


class Row(TypedDict):
    """One job. `status`: finished, failed, interrupted, running, or unknown where it left no readable metrics.json."""

    job: str  # name of its folder
    typed: list[str]  # its overrides, as typed
    overrides: dict[str, str]  # the same, by key
    status: str
    error: str
    seconds: float | None
    metrics: dict[str, Any]  # by dotted name, e.g. scores.loss.auroc


def job_folders(folder: Path) -> list[Path]:
    """The folders of a sweep's jobs, in order; empty if `folder` is no sweep's."""
    jobs = [job for job in Path(folder).glob("*/") if (job / ".hydra").is_dir() or (job / "metrics.json").is_file()]
    return sorted(jobs, key=lambda job: (int(job.name) if job.name.isdecimal() else math.inf, job.name))


def gather(folder: Path) -> list[Row]:
    """Read what each job of a sweep left, by job number. Raises UserError if `folder` holds no jobs."""
    jobs = job_folders(folder)
    if not jobs:
        raise UserError(f"{folder} holds no jobs of a sweep; name a folder such as outputs/sweeps/<time>")
    return [_row(job) for job in jobs]


def write_summary(folder: Path) -> Path:
    """Write `folder`/summary.csv and return its path: a row per job, then mean and deviation over seeds.

    Also summary.md, `sweep_table`, if jobs have outlier scores, and summary.png, if exactly two keys were swept and
    every pair of their values has a job: heat maps of `val_loss` and of each score's AUROC. Of two keys and the seed,
    they show the means over seeds.
    """
    from filelock import FileLock

    path = Path(folder) / "summary.csv"
    if not job_folders(folder):
        gather(folder)  # says what is wrong, before a lock file is made
    with FileLock(Path(folder) / ".summary.lock"):  # jobs of a parallel launcher end at the same time
        rows = gather(folder)
        _write_table([*rows, *seed_rows(rows)], varied_keys(rows), path)
        table = sweep_table(folder)
        if table is not None:
            with replacing(path.with_suffix(".md")) as unfinished:
                unfinished.write_text(table, encoding="utf-8")
        swept, note = swept_keys(rows), ""
        if len(swept) == 3 and "seed" in swept:
            swept.remove("seed")
            rows, note = _means(rows), ", mean over seeds"
        if len(swept) == 2:
            _draw(rows, swept[0], swept[1], note, path.with_suffix(".png"))
    return path


def varied_keys(rows: list[Row]) -> list[str]:
    """The keys whose value differs between jobs, in the order they were typed."""
    values: dict[str, set[str]] = {}
    for row in rows:
        for key, value in row["overrides"].items():
            values.setdefault(key, set()).add(value)
    return [key for key in values if len(values[key]) > 1]


def swept_keys(rows: list[Row]) -> list[str]:
    """Those of them that somebody swept: not one of `TAKEN` without which jobs are told apart as well."""
    swept = varied_keys(rows)
    for key in reversed(TAKEN):
        others = [other for other in swept if other != key]
        if len(_grouped(rows, others)) == len(_grouped(rows, swept)):
            swept = others
    return swept


def seed_rows(rows: list[Row]) -> list[Row]:
    """Two rows per group of finished jobs that differ in the seed only: mean and standard deviation (n - 1)."""
    groups = [[job for job in jobs if job["status"] == "finished"] for jobs in _repeats(rows)]
    several = [jobs for jobs in groups if len({job["overrides"].get("seed") for job in jobs}) > 1]
    return [_summary(jobs, name) for jobs in several for name in ("mean", "sd")]


def sweep_table(folder: Path) -> str | None:
    """AUROC and AUPR-out of every score in every job, with their means, as Markdown; None where no job has scores."""
    from tabulate import tabulate

    rows = gather(folder)
    swept = swept_keys(rows)
    parts: list[str] = []
    for metric, heading in (("auroc", "AUROC"), ("aupr_out", "AUPR-out")):
        table = _score_table(rows, swept, metric)
        if len(table) > 1:
            text = tabulate(table[1:], table[0], tablefmt="github", disable_numparse=True)
            parts.append(f"{heading} by {', '.join(swept) or 'job'}\n\n{text}\n")
    return "\n".join(parts) or None


class SweepCallback:
    """Hydra callback that rebuilds a sweep's summary after each of its jobs, failed ones too.

    Hydra leaves out `on_multirun_end` when a job failed, so the last job's end must do.
    """

    folder: Path | None = None  # of the sweep under way in this process

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        SweepCallback.folder = Path(config.hydra.sweep.dir)

    def on_job_end(self, config: Any, **_: Any) -> None:
        sweep = Path(config.hydra.runtime.output_dir).parent
        if config.hydra.mode.name == "MULTIRUN" or (sweep / "multirun.yaml").is_file():  # a job that was resumed alone
            write_summary(sweep)

    def _ignore(self, **_: Any) -> None:
        pass

    on_run_start = on_run_end = on_multirun_end = on_job_start = _ignore


def _row(job: Path) -> Row:
    metrics = read_metrics(job)  # empty if it was killed before it could write them
    typed = _overrides(job)
    pairs = (text.lstrip("+~").partition("=") for text in typed)
    return Row(
        job=job.name,
        typed=typed,
        overrides={key: value for key, _, value in pairs},
        status=metrics.pop("status", "unknown"),
        error=metrics.pop("error", None) or "",
        seconds=metrics.pop("seconds", None),
        metrics=flat({name: value for name, value in metrics.items() if name != "sets"}),  # see each job's results.csv
    )


def _overrides(job: Path) -> list[str]:
    import yaml

    path = job / ".hydra" / "overrides.yaml"
    return yaml.safe_load(path.read_text()) or [] if path.exists() else []


def _grouped(rows: list[Row], keys: list[str]) -> list[list[Row]]:
    """The jobs that have the same values of these keys."""
    groups: dict[tuple[str | None, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row["overrides"].get(key) for key in keys), []).append(row)
    return list(groups.values())


def _repeats(rows: list[Row]) -> list[list[Row]]:
    """The jobs that differ in the seed, and in what they took by themselves, only."""
    return _grouped(rows, [key for key in swept_keys(rows) if key != "seed"])


def _summary(jobs: list[Row], name: str) -> Row:
    """The mean or the deviation of the metrics that all these jobs have, and the overrides that they share."""
    varied = {"seed", *varied_keys(jobs)}
    numbers = {metric: [_number(job, metric) for job in jobs] for metric in jobs[0]["metrics"]}
    known = {metric: values for metric, values in numbers.items() if all(map(math.isfinite, values))}
    return Row(
        job=f"{name} of {','.join(job['job'] for job in jobs)}",
        typed=[text for text in jobs[0]["typed"] if text.lstrip("+~").partition("=")[0] not in varied],
        overrides={key: value for key, value in jobs[0]["overrides"].items() if key not in varied},
        status="",
        error="",
        seconds=None,
        metrics={m: statistics.fmean(v) if name == "mean" else statistics.stdev(v) for m, v in known.items()},
    )


def _means(rows: list[Row]) -> list[Row]:
    """A job for those that differ in the seed only: its metrics are the means of the finished ones'."""
    groups = [[job for job in jobs if job["status"] == "finished"] or jobs for jobs in _repeats(rows)]
    return [{**_summary(jobs, "mean"), "status": jobs[0]["status"]} for jobs in groups]


def _write_table(rows: list[Row], swept: list[str], path: Path) -> None:
    names = dict.fromkeys(name for row in rows for name in row["metrics"])  # in order of first appearance
    head = ["job", *swept, "overrides", "status", "error", "seconds"]
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow([*head, *names])
        for row in rows:
            values = [row["overrides"].get(key) for key in swept]
            metrics = [row["metrics"].get(name) for name in names]
            known = [shlex.join(row["typed"]), row["status"], row["error"], row["seconds"]]
            table.writerow([row["job"], *values, *known, *metrics])


def _draw(rows: list[Row], down: str, across: str, note: str, path: Path) -> None:
    """A heat map per metric, four in a row, `note` in their titles; none while a cell of the grid has no job yet."""
    placed = {(row["overrides"].get(down), row["overrides"].get(across)): row for row in rows}
    labels = [_axis(rows, key) for key in (down, across)]
    names = dict.fromkeys(name for row in rows for name in row["metrics"] if _is_drawn(name))
    metrics = [name for name in names if any(math.isfinite(_number(row, name)) for row in rows)]
    if not metrics or any((a, b) not in placed for a in labels[0] for b in labels[1]):
        return

    import numpy as np
    from PIL import Image

    from advvae.figures import heat_map

    panels: list[Image.Image] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in metrics:
            cells = [[_number(placed[a, b], name) for b in labels[1]] for a in labels[0]]
            panel = Path(scratch) / "panel.png"
            heat_map(np.array(cells), labels[0], labels[1], down, across, name + note, panel)
            panels.append(Image.open(panel).convert("RGB"))
    width, height = (max(getattr(panel, side) for panel in panels) for side in ("width", "height"))
    sheet = Image.new("RGB", (width * min(IN_A_ROW, len(panels)), height * -(-len(panels) // IN_A_ROW)), "white")
    for number, image in enumerate(panels):
        sheet.paste(image, (width * (number % IN_A_ROW), height * (number // IN_A_ROW)))
    with replacing(path) as temporary:
        sheet.save(temporary, format="png")


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
        numbers = [_number(row, name) for row in rows]
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


def _axis(rows: list[Row], key: str) -> list[str]:
    """The values of a swept key: by size if they are numbers, else in order of appearance."""
    values = list(dict.fromkeys(row["overrides"][key] for row in rows if key in row["overrides"]))
    with contextlib.suppress(ValueError):
        values.sort(key=float)
    return values


def _is_drawn(metric: str) -> bool:
    return metric == "val_loss" or (metric.startswith("scores.") and metric.endswith(".auroc"))


def _number(row: Row, metric: str) -> float:
    """NaN, drawn as failed, unless the job finished with a number as that metric."""
    value = row["metrics"].get(metric) if row["status"] == "finished" else None
    return value if isinstance(value, int | float) else math.nan


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
