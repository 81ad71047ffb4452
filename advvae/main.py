"""The command: what was typed becomes a settled config, the config's modes run, and mistakes become one line."""

import errno
import os
import sys
from contextlib import ExitStack
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from advvae import composing, jobs, runs
from advvae.cli import prepare_arguments
from advvae.config import CONF, ConfigError
from advvae.errors import UserError

MODES = {"train": jobs.train, "test": jobs.test, "sample": jobs.sample, "outlier": jobs.outlier}
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def run(composed: DictConfig) -> float | None:
    """One run, or one job of a sweep: returns what a sweeper minimises."""
    try:
        return run_job(composed)
    except UserError as error:
        raise ConfigError(str(error)) from None
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise ConfigError(f"cannot write {error.filename or 'to the disk'}: {error.strerror}") from None


def run_job(composed: DictConfig) -> float | None:
    """Settle the config, run its modes one after the other in one folder, and gather their metrics."""
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    in_sweep = hydra_config.mode == hydra.types.RunMode.MULTIRUN
    output_dir = Path(composed.output_dir).resolve()
    overrides = list(hydra_config.overrides.task)
    with runs.open_run(folder, output_dir, overrides, keep_failed=in_sweep) as run_folder, ExitStack() as resources:
        job = jobs.open_job(composing.settled_config(composed, folder, in_sweep), run_folder, resources)
        for mode in job.config.modes:
            measured = MODES[mode](job)
            run_folder.metrics |= measured
            jobs.track(job, mode, measured)
        result = jobs.objective(job.config, run_folder.metrics)
        run_folder.finish()
        jobs.report(job)
        return result


def main() -> None:
    """The `advvae` command, and `python -m advvae`."""
    sys.argv[1:] = prepare_arguments(sys.argv[1:])
    sys.path.insert(0, "")  # the user's own modules in the current folder, as `python -m` finds them
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands on what went wrong, to be told here
    composing.register(sys.argv[1:])
    try:
        run()
    except (CompactHydraException, OmegaConfBaseException) as error:
        sys.exit(composing.explain(error))
    except OSError as error:  # Hydra makes the run folder before the job begins
        if error.errno not in UNWRITABLE:
            raise
        sys.exit(f"cannot make the run folder {error.filename} (output_dir): {error.strerror}")
    except KeyboardInterrupt:
        sys.exit("interrupted; resume=auto goes on with an interrupted training")
    finally:
        composing.remove_empty_sweep()


if __name__ == "__main__":
    main()
