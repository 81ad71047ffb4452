"""Which value counts: the command line's, the loaded run's, or the default.

In every mode but a fresh train, what describes the trained network and its data comes from the loaded run unless it is
typed; the rest never does. On resume everything comes from the run but what is typed.
"""

import logging
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advvae import runs
from advvae.checks import check, check_settled, check_typed_of_matrix
from advvae.comparing import differing
from advvae.config import DATASET_KEYS, PLACES, Config
from advvae.errors import UserError
from advvae.shapes import default_hidden_dims, stage_sizes

if TYPE_CHECKING:
    from advvae.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

NETWORK_KEYS = (
    *("size", "crop", "latent_dim", "hidden_dims", "train_discriminator"),
    *("gen_weight", "recon_weight", "kld_weight", "negatives"),
)
FIXED_KEYS = ("latent_dim", "hidden_dims", "size", "crop")  # a trained network has these for good
SCORING = ("outlier", "screen")  # modes that a discriminator alone is enough for
NOT_RESUMED = ("resume", "output_dir", "tracker", "no_wandb", "device")  # the command line's, whatever the run had


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
        settled = _settle_resume(config, typed) if config.resume else None
        return settled or Settled(_complete(config))
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
    config = _complete(_with_run_values(config, loaded, typed))
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
    return Settled(config, checkpoint, discriminator)


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
    values |= {"dataset": dict(config.dataset), **{group: _group(config, run, group, typed) for group in groups}}
    if values["dataset"].get("channels") is None:
        values["dataset"]["channels"] = run["dataset"]["channels"]
    settled = replace(config, **values)
    _check_fixed(settled, loaded, run)
    _check_window(settled, run, typed, ("percentiles",))
    return settled


def _check_fixed(config: Config, loaded: "Checkpoint", run: dict[str, Any], *more_keys: str) -> None:
    """Refuse a value that the trained network cannot have, naming both."""
    complete = _complete(config, checked=False)
    pairs = [(name, getattr(complete, name), run[name]) for name in (*FIXED_KEYS, *more_keys) if name in run]
    if "model" in run:
        pairs.append(("model", config.model["name"], run["model"]["name"]))
        own = [name for name in run["model"] if name in config.model and name not in ("name", "_target_")]
        pairs += [(f"model.{name}", config.model[name], run["model"][name]) for name in own]
    pairs.append((f"channels of {config.dataset['name']}", config.dataset["channels"], run["dataset"]["channels"]))
    for name, wanted, trained in pairs:
        if wanted != trained:
            raise UserError(f"{name} is {wanted} here, but {loaded.path} was trained with {trained}")
    if "final_size" in run:
        final_size = stage_sizes(complete.side, len(run["hidden_dims"]))[-1]
        if final_size != run["final_size"]:
            raise UserError(
                f"size={complete.size} ends in a map of {final_size} px, but {loaded.path} was trained with one of "
                f"{run['final_size']} px: set size="
            )


def _check_window(config: Config, run: dict[str, Any], typed: set[str], keys: tuple[str, ...]) -> None:
    """Refuse to read images otherwise than the networks learnt to, by keys that would not count or come half-way."""
    for key in keys:
        wanted, had = config.dataset.get(key), run["dataset"].get(key)
        if f"dataset.{key}" in typed and wanted != had:
            raise UserError(f"dataset.{key} is {wanted} here, but the run was trained with {had}: train a new one")


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


def _settle_resume(config: Config, typed: set[str]) -> Settled | None:
    """Settle a run that goes on; None = there is no such run, start one."""
    folder = resumed_folder(config)
    if folder is None:
        return None
    from advvae.checkpoint_folder import newest_whole

    checkpoint = newest_whole(folder)
    run = {f.name: checkpoint.config[f.name] for f in fields(Config) if f.name in checkpoint.config}
    values = {name: value for name, value in run.items() if name not in typed and name not in NOT_RESUMED}
    values |= {group: _group(config, run, group, typed) for group in ("dataset", "out_dataset", "model", "loss")}
    values["nodes"] = {**run.get("nodes", {}), **config.nodes}
    settled = replace(config, resume=str(folder), **values)
    if settled.dataset["name"] != run["dataset"]["name"]:
        raise UserError(
            f"dataset is {settled.dataset['name']} here, but {folder} was trained on {run['dataset']['name']}"
        )
    _check_fixed(settled, checkpoint, run, "train_discriminator")
    _check_window(settled, run, typed, ("percentiles", "window"))
    check(settled)
    settled = _complete(settled)
    for name in differing(settled, run, NOT_RESUMED):
        here, there = (runs.flat({name: value}) for value in (getattr(settled, name), run[name]))
        for key in here:
            if here[key] != there.get(key, here[key]):
                logger.info(f"{key} is {here[key]} from here on, and was {there[key]}")
    return Settled(settled, checkpoint)


def resumed_folder(config: Config) -> Path | None:
    """The run folder that `resume` means in mode=train and mode=matrix; None = there is none, start one."""
    if not config.resume:
        return None
    if config.resume != "auto":
        return _named_matrix(config) if config.mode == "matrix" else _named_training(config)
    is_matrix = config.mode == "matrix"
    wanted = config if is_matrix else _complete(config, checked=False)
    dataset = matrix_name(config.datasets) if is_matrix else config.dataset["name"]
    for folder in runs.runs_of(config.output_dir, config.mode, dataset):
        is_same = not differing(wanted, runs.read_config(folder), NOT_RESUMED)
        if is_same and runs.is_unfinished(folder):
            return folder
    return None


def matrix_name(datasets: list[str]) -> str:
    """What stands for the dataset in the folder of a matrix."""
    return "-".join(datasets)


def _named_training(config: Config) -> Path:
    folder = Path(str(config.resume))
    folder = folder.parent if folder.name == "checkpoints" else folder
    if not (folder / "checkpoints").is_dir():
        raise UserError(f"resume={config.resume} holds no checkpoints/last.pt: name the folder of a training run")
    return folder


def _named_matrix(config: Config) -> Path:
    folder = Path(str(config.resume))
    run = runs.read_config(folder)
    if run.get("mode") != "matrix":
        raise UserError(f"resume={config.resume} holds no config.yaml of mode=matrix: name the folder of a matrix")
    if others := differing(config, run, NOT_RESUMED):
        name = others[0]
        raise UserError(
            f"{name} is {getattr(config, name)} here, but {run[name]} in {folder}: type what was typed there"
        )
    return folder


def _complete(config: Config, checked: bool = True) -> Config:
    """The config with the sizes that follow from others filled in."""
    size = config.size or config.dataset.get("size")
    if size is None:
        raise UserError(f"size must be given: dataset={config.dataset['name']} has no default one")
    hidden_dims = config.hidden_dims or default_hidden_dims(config.crop or size)
    out_dataset = _placed(config, config.out_dataset)
    nodes = {name: _placed(config, node) for name, node in config.nodes.items()}
    config = replace(config, size=size, hidden_dims=hidden_dims, out_dataset=out_dataset, nodes=nodes)
    if config.deterministic:
        config = replace(config, precision="32")
    if checked:
        check_settled(config)
    return config


def _placed(config: Config, node: dict[str, Any]) -> dict[str, Any]:
    """An outlier set's node. Where it is the dataset itself, in other classes, it is said only once where that is."""
    own = config.dataset
    if node["name"] != own["name"] or any(node.get(place) for place in PLACES):
        return node
    its_own = ("keep_classes", "drop_classes", "percentiles")
    return {key: own.get(key) if value is None and key not in its_own else value for key, value in node.items()}


def _group(config: Config, run: dict[str, Any], group: str, typed: set[str]) -> dict[str, Any]:
    """A group's node: the run's, unless another option was typed; a sub-key that was typed counts in any case."""
    node = getattr(config, group)
    if group in typed and node["name"] != run[group].get("name", node["name"]):
        return dict(node)
    known = DATASET_KEYS if group in ("dataset", "out_dataset") else {}  # a run of an older version has fewer
    return {**known, **run[group], **{name: value for name, value in node.items() if f"{group}.{name}" in typed}}


def quoted(path: Path) -> str:
    """A path as Hydra's override grammar reads it back."""
    text = str(path)
    plain = all(character.isalnum() or character in "/._-" for character in text)
    return text if plain else "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
