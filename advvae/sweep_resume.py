"""`resume=` in a sweep: the folder that it goes on in, and its jobs that are finished.

The same command typed again gives the same jobs in the same order, so a job is known by its number. Hydra writes what
was typed into the sweep's `multirun.yaml`. Importing this module is cheap: Hydra does so at every start.
"""

import logging
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from advvae.errors import UserError
from advvae.resuming import NOT_RESUMED
from advvae.runs import claim, is_locked, read_metrics
from advvae.sweep_rows import TAKEN, overrides_of

logger = logging.getLogger(__name__)

FINISHED = ".finished"  # stands in the folder of a sweep whose jobs have all finished


def sweep_folder(output_dir: str, resume: str | None, typed: Iterable[str]) -> Path:
    """The folder of the sweep to go on with, or of a new one.

    Args:
        resume: auto = the newest sweep of the same overrides that is neither finished nor under way; a folder = the
            sweep in it; None = a new sweep.
        typed: the sweep's overrides, as typed.

    Raises:
        UserError: the folder holds no sweep, or one of other overrides.
    """
    sweeps = Path(output_dir, "sweeps")
    if resume == "auto":
        newest_first = sorted((path.parent for path in sweeps.glob("*/multirun.yaml")), reverse=True)
        found = next((f for f in newest_first if _is_of(f, typed) and claim(f, _is_unfinished)), None)
    else:
        found = _named_folder(resume, typed) if resume else None
    return found or sweeps / datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")


def finished_job(job: Path, typed: Iterable[str]) -> dict[str, Any] | None:
    """The metrics of a sweep's job that is finished; None = it is to be run.

    Raises:
        UserError: the job in this folder had other overrides.
    """
    had = overrides_of(job)
    if had:
        _check_same(own(typed, (*NOT_RESUMED, *TAKEN)), own(had, (*NOT_RESUMED, *TAKEN)), job)
    metrics = read_metrics(job)
    if metrics.get("status") != "finished":
        return None
    logger.info(f"job {job.name} is finished already: skipped")
    return metrics


def mark_finished(sweep: Path) -> None:
    """All jobs of the sweep have finished."""
    (sweep / FINISHED).touch()


def is_finished(sweep: Path) -> bool:
    """Whether all jobs of the sweep have finished."""
    return (sweep / FINISHED).exists()


def is_under_way(sweep: Path) -> bool:
    """Whether a living process does the sweep's jobs."""
    return is_locked(sweep) or any(map(is_locked, sweep.glob("*/")))


def own(overrides: Iterable[str], others: Iterable[str] = NOT_RESUMED) -> list[str]:
    """The overrides that make a sweep, or a job, what it is: without those of `others`, their sub-keys included."""
    return [text for text in overrides if text.lstrip("+~").partition("=")[0].split(".")[0] not in others]


def _named_folder(resume: str, typed: Iterable[str]) -> Path:
    folder = Path(resume)
    if not (folder / "multirun.yaml").is_file():
        raise UserError(f"resume={resume} holds no multirun.yaml: name the folder of a sweep, outputs/sweeps/<time>")
    _check_same(own(typed), own(_typed_before(folder)), folder)
    return folder


def _is_unfinished(sweep: Path) -> bool:
    """Whether a sweep has jobs left to do, and no living process does any of them."""
    return not is_finished(sweep) and not any(map(is_locked, sweep.glob("*/")))


def _is_of(sweep: Path, typed: Iterable[str]) -> bool:
    return own(_typed_before(sweep)) == own(typed)


def _typed_before(sweep: Path) -> list[str]:
    """What was typed when the sweep was last started; nothing if a kill left half of its file."""
    try:
        return list(yaml.safe_load((sweep / "multirun.yaml").read_text())["hydra"]["overrides"]["task"])
    except (OSError, yaml.YAMLError, LookupError, TypeError):
        return []


def _check_same(here: list[str], there: list[str], folder: Path) -> None:
    """Refuse overrides that are not those of the folder, in its order, which numbers the jobs; naming both."""
    if here != there:
        is_order = sorted(here) == sorted(there)
        typed = " ".join(text for text in here if is_order or text not in there) or "nothing"
        had = " ".join(text for text in there if is_order or text not in here) or "nothing"
        raise UserError(
            f"{folder} was started with {had}, here stands {typed}: type what was typed there, in the same order"
        )
