"""The checkpoints of a training run: `last`, the `previous` one of these, `best`, and some `epoch-0005` to keep."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from advvae.checkpoint import Checkpoint, NewerFormat, Training, copy_checkpoint, read_checkpoint, save_checkpoint
from advvae.config import Config
from advvae.errors import UserError
from advvae.models import AdversarialVAE

logger = logging.getLogger(__name__)


def newest_whole(folder: Path) -> Checkpoint:
    """The newest checkpoint of a run that is whole and can be trained on. Damaged ones are named and passed over.

    Args:
        folder: of the run.

    Raises:
        UserError: there is none, or it was written by a later version.
    """
    checkpoints, damaged = folder / "checkpoints", []
    names = (*("last.pt", "previous.pt"), *(path.name for path in reversed(_kept(checkpoints))), "best.pt")
    there = [checkpoints / name for name in names if (checkpoints / name).is_file()]
    for path in there:
        try:
            checkpoint = read_checkpoint(path)
        except NewerFormat:
            raise
        except UserError as error:
            logger.warning(f"{error}" + ("; the one before it is looked for" if path != there[-1] else ""))
            damaged.append(path.name)
            continue
        if checkpoint.training is not None:
            return checkpoint
    found = f"{', '.join(damaged)} damaged" if damaged else "there is none"
    raise UserError(f"{checkpoints} holds no checkpoint that training can go on from ({found})")


def write_checkpoints(
    folder: Path, names: Sequence[str], networks: AdversarialVAE, config: dict[str, Any], training: Training
) -> None:
    """Write a checkpoint of this moment under each of these names; the `last` one before becomes the `previous`.

    Raises:
        UserError: it cannot be written.
    """
    checkpoints, written = folder / "checkpoints", None
    for name in names:
        path, previous = checkpoints / f"{name}.pt", checkpoints / "previous.pt" if name == "last" else None
        if written is None:
            save_checkpoint(path, networks, config, training, previous)
        else:
            copy_checkpoint(written, path, previous)
        written = path


def put_damaged_aside(folder: Path, taken: Checkpoint) -> None:
    """Rename a last.pt that was passed over: the next one would make it the `previous`, which is whole."""
    last = folder / "checkpoints" / "last.pt"
    if taken.path.name != last.name and last.is_file():
        last.replace(last.with_name("damaged.pt"))


def best_of(folder: Path, checkpoint: Checkpoint, config: Config) -> dict[str, Any]:
    """The best metrics so far of a run that goes on from a checkpoint: those of its best.pt.

    That may be newer than where the run goes on, which a kill or a damaged file has moved back. Values of another loss,
    or on other images, are not compared.
    """
    best, training = folder / "checkpoints" / "best.pt", checkpoint.training
    if not (training and training.best_metrics) and not best.is_file():
        return {}
    if _val_loss_of(asdict(config)) != _val_loss_of(checkpoint.config):
        logger.warning("val_loss is another one from here on; the next epoch counts as the best")
        return {}
    try:
        kept = read_checkpoint(best).training
    except UserError as error:
        logger.warning(f"{error}; the next epoch counts as the best")
        return {}
    return kept.best_metrics if kept else {}


def _val_loss_of(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """What its value depends on, and from which epoch on it counts."""
    images = (config["dataset"].get(key) for key in ("keep_classes", "drop_classes"))
    since = {"kld_unit": "mean", "ema": None, "adversarial_start": 0}  # keys that older runs do not have
    return config["loss"], config["kld_weight"], *(config.get(key, value) for key, value in since.items()), *images


def prune(folder: Path, n_kept: int | None) -> None:
    """Remove the oldest of the checkpoints that are kept now and then; None = keep all."""
    if n_kept is not None:
        kept = _kept(folder / "checkpoints")
        for old in kept[: max(0, len(kept) - n_kept)]:
            old.unlink()


def _kept(checkpoints: Path) -> list[Path]:
    """Oldest first."""
    return sorted(checkpoints.glob("epoch-*.pt"), key=lambda path: int(path.stem[6:]))
