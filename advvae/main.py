"""The command: what was typed becomes a settled config, the config's modes run, and mistakes become one line."""

import logging
import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from advvae import answers, composing, matrix, modes, ranks
from advvae.cli import read_arguments
from advvae.config import CONF
from advvae.errors import UserError
from advvae.files import disk_errors_told
from advvae.running import run_job
from advvae.torchrun import is_follower, launched

MODES = {
    "train": modes.train,
    "test": modes.test,
    "sample": modes.sample,
    "outlier": modes.outlier,
    "screen": modes.screen,
    "matrix": matrix.matrix,
    "export": modes.export,
}
logger = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def run(composed: DictConfig) -> float | None:
    """One run, or one job of a sweep: returns what a sweeper minimises."""
    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    os.chdir(HydraConfig.get().runtime.cwd)  # where a Ray cluster's processes begin is where it was started
    try:
        with disk_errors_told(f"below output_dir={composed.output_dir}"):
            return run_job(composed, in_sweep, MODES)
    except UserError as error:
        if not in_sweep:  # Hydra would put a line of its own before any other error
            sys.exit(str(error))
        logger.error(f"job failed: {error}")
        raise composing.ConfigError(str(error)) from None  # unlike SystemExit, it ends this job alone


def main() -> None:
    """The `advvae` command, and `python -m advvae`."""
    sys.path.insert(0, "")  # the user's own modules in the current folder, as `python -m` finds them
    if not launched():
        _command()
    elif is_follower():
        ranks.follow_torchrun(MODES)
    else:
        with ranks.led():
            read_arguments()
            _command()


def _command() -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands on what went wrong, to be told here
    composing.register(sys.argv[1:])
    with composing.mistakes_told():
        if answers.is_question(sys.argv[1:]):
            answers.answer(sys.argv[1:])
        else:
            run()


if __name__ == "__main__":
    main()
