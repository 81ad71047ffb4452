"""From a composed config to metrics: the modes of a job run one after the other, and what they measured is told."""

import logging
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from advvae import composing, ranks, runs
from advvae.cli import config_dirs
from advvae.errors import UserError
from advvae.jobs import Job, open_job
from advvae.measured import single_numbers
from advvae.memory import shortage_told
from advvae.overrides import quoted
from advvae.report import leave_page
from advvae.runs import REPORT, flat
from advvae.sweep_resume import finished_job

if TYPE_CHECKING:
    from rich.table import Table

logger = logging.getLogger(__name__)

Modes = Mapping[str, Callable[[Job], dict[str, Any]]]


def run_job(composed: DictConfig, in_sweep: bool, modes: Modes) -> float | None:
    """Settle the config, run its modes in one folder, and gather their metrics; returns what a sweeper minimises."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    output_dir = Path(composed.output_dir).absolute()
    overrides = list(HydraConfig.get().overrides.task)
    goes_on = bool(composed.resume)
    if in_sweep and goes_on and (metrics := finished_job(folder, overrides)):
        return objective(composed.objective, metrics)
    resumed = goes_on and runs.can_go_on(folder)
    again = goes_on and (in_sweep or composed.resume == "auto")  # whose folders are known to be a run's of ours
    opened = runs.open_run(folder, output_dir, overrides, resumed, in_sweep, again)
    run_folder = None
    try:
        with opened as run_folder, ExitStack() as resources, way_on_told(composed.mode, folder, in_sweep):
            settled = composing.settled_config(composed, folder, in_sweep)
            resources.enter_context(ranks.followed(settled, folder, modes))
            job = open_job(settled, run_folder, resources)
            with shortage_told():
                run_modes(job, modes)
            run_folder.finish()
    finally:
        if run_folder is not None and run_folder.begun and folder.is_dir():  # which an error may have removed
            leave_page(folder)
    report(job)
    return objective(job.config.objective, run_folder.metrics)


@contextmanager
def way_on_told(mode: str, folder: Path, in_sweep: bool) -> Iterator[None]:
    """Let what was asked to stop name the command that goes on with it, if it has left anything to go on from."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        stopped = f"stopped by {interrupt}" if str(interrupt) else "interrupted"
        goes_on = in_sweep or (mode in ("train", "matrix") and runs.can_go_on(folder))
        way_on = f"; this goes on: {_command(mode, folder, in_sweep)}" if goes_on else ""
        raise type(interrupt)(stopped + way_on) from None


def _command(mode: str, folder: Path, in_sweep: bool) -> str:
    """That goes on with a run, or with the sweep that it is of."""
    words = list(HydraConfig.get().overrides.task)
    if in_sweep:
        words, folder = sys.argv[1:], folder.parent
    is_named = any(word.startswith("resume=") and word != "resume=auto" for word in words)
    if in_sweep or mode == "matrix" or is_named:  # jobs and sets follow from what is typed, which may change a run too
        kept = [word for word in words if not word.startswith("resume=")]
    else:
        kept = [word for word in words if word.startswith(("device=", "tracker", "no_wandb="))]
    if not in_sweep:
        kept = [*(f"--config-dir={place.absolute()}" for place in config_dirs(sys.argv[1:])), *kept]
    return shlex.join(["advvae", *kept, f"resume={quoted(folder)}"])


def run_modes(job: Job, modes: Modes) -> None:
    """What every rank does."""
    for mode in job.config.modes:
        measured = modes[mode](job)
        job.run.metrics |= measured
        track(job, mode, measured)


def objective(name: str | None, metrics: dict[str, Any]) -> float | None:
    """What a job returns to a sweeper: the metric of this name; None = `val_loss`, if there is one.

    Raises:
        UserError: the job measured no such metric.
    """
    if name is None:
        return metrics.get("val_loss")
    value: Any = metrics
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if not isinstance(value, int | float):
        raise UserError(f"objective={name} was not measured; there is {', '.join(flat(metrics))}")
    return float(value)


PICTURES = {
    "test": ("reconstructions",),
    "sample": ("samples", "interpolations", "traversals", "neighbours"),
    "outlier": ("histograms", "roc", "auroc"),
    "screen": ("most_outlying", "histogram"),
    "matrix": ("matrix",),
}


def track(job: Job, mode: str, metrics: dict[str, Any]) -> None:
    """Report what a mode measured and drew; training has done so epoch by epoch."""
    if mode == "train":
        return
    epoch = job.checkpoint.training.epoch if job.checkpoint and job.checkpoint.training else 0
    headline = {name: value for name, value in metrics.items() if name != "sets"}  # those of each set fill files
    job.tracker.log({name: value for name, value in flat(headline).items() if isinstance(value, int | float)}, epoch)
    for name in PICTURES.get(mode, ()):
        if (picture := job.folder / f"{name}.png").is_file():
            job.tracker.image(name, picture, epoch)


def report(job: Job) -> None:
    """The short tables that every run ends with, and where its files are."""
    from rich.console import Console
    from rich.table import Table

    metrics = job.run.metrics
    shown, floors = single_numbers(metrics)
    headings = ("metric", "value", "floor") if floors else ("metric", "value")
    table = Table(*headings, title=" + ".join(job.config.modes), title_justify="left")
    for name, value in shown.items():
        cells = (value, floors[name]) if name in floors else (value,)
        table.add_row(name, *(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells))
    console = Console()
    console.print(table)
    if "scores" in metrics:
        console.print(_score_table(metrics))
    logger.info(f"run folder: {job.folder}")
    if (page := job.folder / REPORT).is_file():
        logger.info(f"report: {page}")


def _score_table(metrics: dict[str, Any]) -> "Table":
    """How well each score tells the sets apart; the rest stands in results.md."""
    from rich.table import Table

    from advvae.outlier.tables import cell

    sets = list(metrics["sets"])
    against = sets[0] if len(sets) == 1 else f"the mean over {len(sets)} sets"
    title = f"inliers against {against} (AUPR, FPR95: outliers as positives; alarms: inliers flagged)"
    table = Table(title=title, title_justify="left")
    averaged = [name for name in ("near", "far") if name in metrics]
    for heading in ("score", "AUROC [95 %]", *averaged, "AUPR", "FPR95", "alarms"):
        table.add_column(heading, no_wrap=True)
    for name, values in metrics["scores"].items():
        rate = values["false_alarm_rate"]
        cells = [cell(values, "auroc"), *(cell(metrics[group][name], "auroc").split()[0] for group in averaged)]
        cells += [cell(values, metric).split()[0] for metric in ("aupr_out", "fpr95_out")]
        table.add_row(name, *cells, "none set" if rate is None else f"{rate:.3f}")
    return table
