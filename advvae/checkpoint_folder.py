"""The checkpoints of a training run: `last`, the `previous` one of these, `best`, and some `epoch-0005` to keep."""

import logging
from pathlib import Path
from typing import Any

from advvae.checkpoint import Checkpoint, Training, read_checkpoint
from advvae.errors import UserError

logger = logging.getLogger(__name__)


def newest_whole(folder: Path) -> Checkpoint:
    """The newest checkpoint of a run that is whole and can be trained on. Damaged ones are named and passed over.

    Args:
        folder: of the run.

    Raises:
        UserError: there is none.
    """
    checkpoints, damaged = folder / "checkpoints", []
    names = (*("last.pt", "previous.pt"), *(path.name for path in reversed(_kept(checkpoints))), "best.pt")
    for path in (checkpoints / name for name in names):
        if not path.is_file():
            continue
        try:
            checkpoint = read_checkpoint(path)
        except UserError as error:
            logger.warning(f"{error}; the one before it is looked for")
            damaged.append(path.name)
            continue
        if checkpoint.training is not None:
            return checkpoint
    found = f"{', '.join(damaged)} damaged" if damaged else "there is none"
    raise UserError(f"{checkpoints} holds no checkpoint that training can go on from ({found})")


def best_of(folder: Path, training: Training) -> dict[str, Any]:
    """The best metrics so far of a run that goes on from `training`: those of its best.pt.

    That may be newer than where the run goes on, which a kill or a damaged file has moved back.
    """
    best = folder / "checkpoints" / "best.pt"
    if not training.best_metrics and not best.is_file():
        return {}
    try:
        kept = read_checkpoint(best).training
    except UserError as error:
        logger.warning(f"{error}; the next epoch counts as the best")
        return {}
    return kept.best_metrics if kept else {}


def prune(folder: Path, n_kept: int | None) -> None:
    """Remove the oldest of the checkpoints that are kept now and then; None = keep all."""
    if n_kept is not None:
        kept = _kept(folder / "checkpoints")
        for old in kept[: max(0, len(kept) - n_kept)]:
            old.unlink()


def _kept(checkpoints: Path) -> list[Path]:
    """Oldest first."""
    return sorted(checkpoints.glob("epoch-*.pt"), key=lambda path: int(path.stem[6:]))
