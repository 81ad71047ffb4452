"""The command: what was typed becomes a settled config, the config's modes run, and mistakes become one line."""

import errno
import os
import sys
from contextlib import ExitStack
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from advvae import composing, jobs, runs
from advvae.cli import prepare_arguments
from advvae.config import CONF
from advvae.errors import UserError

MODES = {"train": jobs.train, "test": jobs.test, "sample": jobs.sample, "outlier": jobs.outlier}
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


class ConfigError(CompactHydraException):
    """A setting the user can fix: Hydra shows it without a traceback."""


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def run(composed: DictConfig) -> float | None:
    """One run, or one job of a sweep: returns what a sweeper minimises."""
    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        return run_job(composed, in_sweep)
    except UserError as error:
        message = str(error)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        message = f"cannot write {error.filename or 'below output_dir=' + composed.output_dir}: {error.strerror}"
    # SystemExit would end a sweep with this job; Hydra would put a line of its own before any other error
    raise ConfigError(message) if in_sweep else SystemExit(message)


def run_job(composed: DictConfig, in_sweep: bool) -> float | None:
    """Settle the config, run its modes one after the other in one folder, and gather their metrics."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    output_dir = Path(composed.output_dir).absolute()
    overrides = list(HydraConfig.get().overrides.task)
    with runs.open_run(folder, output_dir, overrides, keep_failed=in_sweep) as run_folder, ExitStack() as resources:
        job = jobs.open_job(composing.settled_config(composed, folder, in_sweep), run_folder, resources)
        for mode in job.config.modes:
            measured = MODES[mode](job)
            run_folder.metrics |= measured
            jobs.track(job, mode, measured)
        run_folder.finish()
    jobs.report(job)
    return jobs.objective(job.config, run_folder.metrics)


def main() -> None:
    """The `advvae` command, and `python -m advvae`."""
    sys.argv[1:] = prepare_arguments(sys.argv[1:])
    sys.path.insert(0, "")  # the user's own modules in the current folder, as `python -m` finds them
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands on what went wrong, to be told here
    composing.register(sys.argv[1:])
    try:
        run()
    except (CompactHydraException, OmegaConfBaseException, YAMLError) as error:
        sys.exit(composing.explain(error))
    except OSError as error:  # Hydra makes the run folder before the job begins
        if error.errno not in UNWRITABLE:
            raise
        sys.exit(f"cannot make the run folder {error.filename} (output_dir): {error.strerror}")
    except SystemExit as end:
        sys.exit(1 if end.code == 2 else end.code)  # 2 is how argparse says that a flag is wrong
    except KeyboardInterrupt:
        sys.exit("interrupted; resume=auto goes on with an interrupted training")
    finally:
        composing.remove_empty_sweep()


if __name__ == "__main__":
    main()
