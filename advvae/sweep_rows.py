"""The jobs of a sweep as rows, read from their folders, and what was swept. Importing this module is cheap."""

import math
import statistics
from pathlib import Path
from typing import Any, TypedDict

import yaml

from advvae.errors import UserError
from advvae.runs import flat, read_metrics

# A job may add these to its overrides, naming what it took by itself; they are an axis only if the user swept them.
TAKEN = ("checkpoint", "discriminator_checkpoint", "precision")


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


def overrides_of(job: Path) -> list[str]:
    """What was typed for a job, and what it took; empty if it has not begun."""
    path = job / ".hydra" / "overrides.yaml"
    return yaml.safe_load(path.read_text()) or [] if path.exists() else []


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


def means_over_seeds(rows: list[Row]) -> list[Row]:
    """A job for those that differ in the seed only: its metrics are the means of the finished ones'."""
    groups = [[job for job in jobs if job["status"] == "finished"] or jobs for jobs in _repeats(rows)]
    return [{**_summary(jobs, "mean"), "status": jobs[0]["status"]} for jobs in groups]


def measured(row: Row, metric: str) -> float:
    """NaN, drawn as failed, unless the job finished with a number as that metric."""
    value = row["metrics"].get(metric) if row["status"] == "finished" else None
    return value if isinstance(value, int | float) else math.nan


def _row(job: Path) -> Row:
    metrics = read_metrics(job)  # empty if it was killed before it could write them
    typed = overrides_of(job)
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
    numbers = {metric: [measured(job, metric) for job in jobs] for metric in jobs[0]["metrics"]}
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
