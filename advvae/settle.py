"""Which value counts: the command line's, the loaded run's, or the default.

In every mode but a fresh train, what describes the trained network and its data comes from the loaded run unless it is
typed; the rest never does. On resume everything comes from the run but what is typed.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from advvae import runs
from advvae.checks import check, check_typed_of_matrix
from advvae.completing import check_fixed, check_window, complete, group_node
from advvae.config import Config
from advvae.errors import UserError
from advvae.overrides import quoted
from advvae.resuming import resumed_folder, settle_resume

if TYPE_CHECKING:
    from advvae.checkpoint import Checkpoint

NETWORK_KEYS = (
    *("size", "crop", "latent_dim", "hidden_dims", "train_discriminator"),
    *("gen_weight", "recon_weight", "kld_weight", "kld_unit", "adversarial", "negatives"),
)
SCORING = ("outlier", "screen")  # modes that a discriminator alone is enough for


@dataclass(frozen=True)
class Settled:
    """A config in which every value counts, and the checkpoints that it stands on."""

    config: Config
    checkpoint: "Checkpoint | None" = None
    discriminator: "Checkpoint | None" = None
    typed: frozenset[str] = frozenset()  # the keys and groups named on the command line, or by its experiment

    def taken(self) -> list[str]:
        """Overrides that say explicitly what was taken."""
        overrides = []
        if self.config.mode != "train" and self.checkpoint:
            overrides.append(f"checkpoint={quoted(self.checkpoint.path)}")
        if self.config.mode != "train" and self.discriminator:
            overrides.append(f"discriminator_checkpoint={quoted(self.discriminator.path)}")
        return overrides


def settle(config: Config, typed: set[str]) -> Settled:
    """Find what is to be loaded, and let each value come from where it counts.

    Args:
        config: what Hydra composed.
        typed: the keys and groups named on the command line, or by the experiment named there.

    Raises:
        UserError: a value that no run can have, that the trained network cannot have, or a checkpoint that is missing.
    """
    check(config)
    if config.no_wandb:
        if "tracker" in typed and config.tracker["name"] != "none":
            raise UserError(f"no_wandb=true is tracker=none, got tracker={config.tracker['name']}: leave one out")
        config = replace(config, tracker={"name": "none"})
    if config.mode == "matrix":  # which trains, or finds, a network for each of its sets
        check_typed_of_matrix(typed)
        resumed_folder(config)  # a folder that is named may be another matrix's
        return Settled(config, typed=frozenset(typed))
    if config.mode == "train":
        folder = resumed_folder(config)
        settled, checkpoint = settle_resume(config, folder, typed) if folder else (complete(config), None)
        return Settled(settled, checkpoint, typed=frozenset(typed))
    return _settle_use(config, typed)


def _settle_use(config: Config, typed: set[str]) -> Settled:
    """Settle a mode that loads a trained network."""
    path = _checkpoint_path(config)
    from advvae.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(path) if path else None
    discriminator = None
    if config.discriminator_checkpoint:
        discriminator = read_checkpoint(
            runs.checkpoint_file("discriminator_checkpoint", config.discriminator_checkpoint)
        )
        if "discriminator" not in discriminator.parts:
            raise UserError(f"discriminator_checkpoint: {discriminator.path} holds no discriminator")
    loaded = checkpoint or discriminator
    assert loaded is not None
    config = complete(_with_run_values(config, loaded, typed))
    if discriminator:
        _check_same_images(config, discriminator)
    if checkpoint and not discriminator and "encoder" not in checkpoint.parts and config.mode not in SCORING:
        raise UserError(
            f"{checkpoint.path} holds a discriminator alone: mode={config.mode} needs an encoder and decoder"
        )
    config = replace(
        config,
        checkpoint=str(checkpoint.path) if checkpoint else None,
        discriminator_checkpoint=str(discriminator.path) if discriminator else None,
    )
    return Settled(config, checkpoint, discriminator, frozenset(typed))


def _checkpoint_path(config: Config) -> Path | None:
    """The file to load; None = a discriminator alone will be scored."""
    if config.checkpoint:
        return runs.checkpoint_file("checkpoint", config.checkpoint)
    dataset = config.dataset["name"]
    run = runs.newest_finished(config.output_dir, dataset)
    if run:
        return runs.checkpoint_file("checkpoint", str(run))
    if config.mode in SCORING and config.discriminator_checkpoint:
        return None
    raise UserError(
        f"no finished training run on {dataset} under {Path(config.output_dir, 'train', dataset)}: train one with "
        f"'advvae mode=train dataset={dataset}', or name one with checkpoint="
    )


def _with_run_values(config: Config, loaded: "Checkpoint", typed: set[str]) -> Config:
    """The config with the loaded run's values wherever nothing else was typed."""
    run = dict(loaded.config)
    if "dataset" not in run:  # a file of GenerativeZoo's: its tensors tell the shapes, the command line the rest
        run["dataset"] = {**config.dataset, "channels": run.get("channels")}
    values = {name: run[name] for name in NETWORK_KEYS if name in run and name not in typed}
    groups = [group for group in ("dataset", "model", "loss") if group in loaded.config]
    values |= {"dataset": dict(config.dataset), **{group: group_node(config, run, group, typed) for group in groups}}
    if values["dataset"].get("channels") is None:
        values["dataset"]["channels"] = run["dataset"]["channels"]
    settled = replace(config, **values)
    check_fixed(settled, loaded, run)
    check_window(settled, run, typed, ("percentiles",))
    return settled


def _check_same_images(config: Config, discriminator: "Checkpoint") -> None:
    """Refuse a discriminator that was made for other images than the rest."""
    run = discriminator.config
    channels = run["dataset"]["channels"] if "dataset" in run else run.get("channels")
    for name, here, there in (
        ("channels", config.dataset["channels"], channels),
        ("size", config.size, run.get("size", config.size)),
    ):
        if here != there:
            raise UserError(
                f"discriminator_checkpoint: {discriminator.path} is for {name}={there}, the rest for {here}"
            )
