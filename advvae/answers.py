"""The modes that answer and make no run folder: `mode=list` and `mode=report`."""

from pathlib import Path

from advvae import catalogue, composing, runs
from advvae.checks import check
from advvae.cli import config_dirs, overrides_among
from advvae.config import WITHOUT_RUN, Config
from advvae.errors import UserError
from advvae.sweep_rows import job_folders

OF_HYDRA = ("--cfg", "-c", "--info", "-i", "--hydra-help", "--shell-completion", "-sc")  # flags that Hydra answers


def is_question(arguments: list[str]) -> bool:
    """Whether what was typed asks for one of these modes, and not for Hydra's own answer, such as --cfg job."""
    if any(argument.partition("=")[0] in OF_HYDRA for argument in arguments):
        return False
    typed = [argument.partition("=")[2] for argument in arguments if argument.startswith("mode=")]
    return bool(typed) and not set(typed[-1].split(",")).isdisjoint(WITHOUT_RUN)


def answer(arguments: list[str]) -> None:
    """Print what was asked for.

    Raises:
        UserError: a mistake in what was typed.
    """
    if any(argument in ("-m", "--multirun") for argument in arguments):
        raise UserError("mode=list and mode=report answer once: leave -m out, and type one value for each key")
    with composing.composed(overrides_among(arguments), config_dirs(arguments)) as composed:
        config, folders = composing.typed_config(composed), composing.option_folders(composed.hydra)
    check(config)
    if config.mode == "list":
        catalogue.show(config, folders)
    else:
        print(report(config))


def report(config: Config) -> Path:
    """Build the page of the run or sweep that `checkpoint` names anew; of a sweep its jobs' and its summary too.

    Raises:
        UserError: there is no such run.
    """
    from advvae.progress import watched
    from advvae.report.run_page import write_report
    from advvae.sweep import write_summary

    folder = _reported_folder(config)
    jobs = [] if runs.read_config(folder) else job_folders(folder)  # a matrix has folders within, and is a run
    if not jobs:
        return write_report(folder)
    for job in watched(jobs, "pages", len(jobs)):
        if runs.read_config(job):  # others have not begun
            write_report(job)
    return write_summary(folder).with_name(runs.REPORT)


def _reported_folder(config: Config) -> Path:
    """The folder of a run or a sweep; that of the newest finished training run on `dataset` if none is named."""
    if config.checkpoint is None:
        if newest := runs.newest_finished(config.output_dir, config.dataset["name"]):
            return newest
        raise UserError(
            f"no finished training run on {config.dataset['name']} below {config.output_dir}: name the folder of a run "
            "or of a sweep with checkpoint="
        )
    path = Path(config.checkpoint).expanduser()
    if not path.exists():
        raise UserError(
            f"checkpoint={config.checkpoint}: there is nothing there; name the folder of a run or of a sweep"
        )
    folder = path.parent if path.is_file() else path
    return folder.parent if folder.name == "checkpoints" else folder
