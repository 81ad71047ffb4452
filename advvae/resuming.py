"""`resume=` of a run: the folder that it means, and the config that it goes on with."""

import logging
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from advvae import runs
from advvae.checks import check
from advvae.comparing import differing
from advvae.completing import check_fixed, check_window, complete, group_node
from advvae.config import Config
from advvae.errors import UserError

if TYPE_CHECKING:
    from advvae.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

NOT_RESUMED = ("resume", "output_dir", "tracker", "no_wandb", "device")  # the command line's, whatever the run had


def settle_resume(config: Config, folder: Path, typed: set[str]) -> tuple[Config, "Checkpoint"]:
    """The config of a run that goes on, and the checkpoint that it goes on from.

    Args:
        typed: the keys and groups named on the command line, or by the experiment named there.

    Raises:
        UserError: the run has no whole checkpoint, or something typed cannot be so from there on.
    """
    from advvae.checkpoint_folder import newest_whole

    checkpoint = newest_whole(folder)
    run = {f.name: checkpoint.config[f.name] for f in fields(Config) if f.name in checkpoint.config}
    parts = ("encoder", "decoder", *(["discriminator"] if run["train_discriminator"] else []))
    if absent := [part for part in parts if part not in checkpoint.parts]:
        raise UserError(f"resume={config.resume}: {checkpoint.path} holds no {absent[0]} to go on with")
    values = {name: value for name, value in run.items() if name not in typed and name not in NOT_RESUMED}
    values |= {group: group_node(config, run, group, typed) for group in ("dataset", "out_dataset", "model", "loss")}
    values["nodes"] = {**run.get("nodes", {}), **config.nodes}
    settled = replace(config, resume=str(folder), **values)
    if settled.dataset["name"] != run["dataset"]["name"]:
        raise UserError(
            f"dataset is {settled.dataset['name']} here, but {folder} was trained on {run['dataset']['name']}"
        )
    check_fixed(settled, checkpoint, run, "train_discriminator")
    check_window(settled, run, typed, ("percentiles", "window"))
    check(settled)
    assert checkpoint.training is not None
    if settled.n_epochs < checkpoint.training.epochs_begun:
        raise UserError(f"n_epochs is {settled.n_epochs} here, but {checkpoint.path} is {checkpoint.training.place}")
    return complete(settled), checkpoint


def tell_changes(config: Config, checkpoint: "Checkpoint") -> None:
    """Log what is not as the run had it, key by key."""
    run = checkpoint.config
    for name in differing(config, run, NOT_RESUMED):
        here, there = (runs.flat({name: value}) for value in (getattr(config, name), run[name]))
        for key in here:
            if here[key] != there.get(key, here[key]):
                logger.info(f"{key} is {here[key]} from here on, and was {there[key]}")


def resumed_folder(config: Config) -> Path | None:
    """The run folder that `resume` means in mode=train and mode=matrix; None = there is none, start one."""
    if not config.resume:
        return None
    if config.resume != "auto":
        return _named_matrix(config) if config.mode == "matrix" else _named_training(config)
    is_matrix = config.mode == "matrix"
    wanted = config if is_matrix else complete(config, checked=False)
    dataset = matrix_name(config.datasets) if is_matrix else config.dataset["name"]
    for folder in runs.runs_of(config.output_dir, config.mode, dataset):
        run = runs.read_config(folder)
        is_same = bool(run) and not differing(wanted, run, NOT_RESUMED)
        if is_same and runs.claim(folder, runs.is_unfinished):
            return folder
    return None


def matrix_name(datasets: list[str]) -> str:
    """What stands for the dataset in the folder of a matrix."""
    return "-".join(datasets)


def _named_training(config: Config) -> Path:
    folder = Path(str(config.resume)).expanduser()
    folder = folder.parent if folder.name == "last.pt" else folder
    folder = folder.parent if folder.name == "checkpoints" else folder
    if not runs.can_go_on(folder):
        raise UserError(f"resume={config.resume} holds no checkpoints/last.pt: name the folder of a training run")
    return folder


def _named_matrix(config: Config) -> Path:
    folder = Path(str(config.resume)).expanduser()
    run = runs.read_config(folder)
    if run.get("mode") != "matrix":
        raise UserError(f"resume={config.resume} holds no config.yaml of mode=matrix: name the folder of a matrix")
    if others := differing(config, run, NOT_RESUMED):
        name = others[0]
        raise UserError(
            f"{name} is {getattr(config, name)} here, but {run[name]} in {folder}: type what was typed there"
        )
    return folder
