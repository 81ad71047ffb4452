"""The command: what was typed becomes a settled config, the config's modes run, and mistakes become one line."""

import logging
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from advvae import composing, jobs, matrix, modes, runs
from advvae.config import CONF
from advvae.errors import UserError
from advvae.files import disk_errors_told
from advvae.sweep_resume import finished_job

MODES = {
    "train": modes.train,
    "test": modes.test,
    "sample": modes.sample,
    "outlier": modes.outlier,
    "screen": modes.screen,
    "matrix": matrix.matrix,
}
logger = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def run(composed: DictConfig) -> float | None:
    """One run, or one job of a sweep: returns what a sweeper minimises."""
    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        with disk_errors_told(f"below output_dir={composed.output_dir}"):
            return run_job(composed, in_sweep)
    except UserError as error:
        if not in_sweep:  # Hydra would put a line of its own before any other error
            sys.exit(str(error))
        logger.error(f"job failed: {error}")
        raise composing.ConfigError(str(error)) from None  # unlike SystemExit, it ends this job alone


def run_job(composed: DictConfig, in_sweep: bool) -> float | None:
    """Settle the config, run its modes one after the other in one folder, and gather their metrics."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    output_dir = Path(composed.output_dir).absolute()
    overrides = list(HydraConfig.get().overrides.task)
    goes_on = bool(composed.resume)
    if in_sweep and goes_on and (metrics := finished_job(folder, overrides)):
        return jobs.objective(composed.objective, metrics)
    resumed = goes_on and runs.can_go_on(folder)
    opened = runs.open_run(folder, output_dir, overrides, resumed, in_sweep, again=in_sweep and goes_on)
    with opened as run_folder, ExitStack() as resources:
        job = jobs.open_job(composing.settled_config(composed, folder, in_sweep), run_folder, resources)
        for mode in job.config.modes:
            measured = MODES[mode](job)
            run_folder.metrics |= measured
            jobs.track(job, mode, measured)
        run_folder.finish()
    jobs.report(job)
    return jobs.objective(job.config.objective, run_folder.metrics)


def main() -> None:
    """Run what `cli.main` has not answered already."""
    sys.path.insert(0, "")  # the user's own modules in the current folder, as `python -m` finds them
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands on what went wrong, to be told here
    composing.register(sys.argv[1:])
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cluster's stop is one like Ctrl-C
    with composing.mistakes_told():
        run()


if __name__ == "__main__":
    main()
