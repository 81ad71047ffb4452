"""What follows from the rest of a config, and what a trained network has for good."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from advvae.checks import check_settled
from advvae.config import DATASET_KEYS, PLACES, Config
from advvae.errors import UserError
from advvae.shapes import default_hidden_dims, stage_sizes

if TYPE_CHECKING:
    from advvae.checkpoint import Checkpoint

FIXED_KEYS = ("latent_dim", "hidden_dims", "size", "crop")  # a trained network has these for good


def complete(config: Config, checked: bool = True) -> Config:
    """The config with the sizes that follow from others filled in.

    Raises:
        UserError: there is no size; or, if `checked`, the values do not fit each other.
    """
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


def group_node(config: Config, run: dict[str, Any], group: str, typed: set[str]) -> dict[str, Any]:
    """A group's node: the run's, unless another option was typed; a sub-key that was typed counts in any case."""
    node = getattr(config, group)
    if group in typed and node["name"] != run[group].get("name", node["name"]):
        return dict(node)
    known = DATASET_KEYS if group in ("dataset", "out_dataset") else {}  # a run of an older version has fewer
    return {**known, **run[group], **{name: value for name, value in node.items() if f"{group}.{name}" in typed}}


def check_fixed(config: Config, loaded: "Checkpoint", run: dict[str, Any], *more_keys: str) -> None:
    """Refuse a value that the trained network cannot have, naming both."""
    completed = complete(config, checked=False)
    pairs = [(name, getattr(completed, name), run[name]) for name in (*FIXED_KEYS, *more_keys) if name in run]
    if "model" in run:
        pairs.append(("model", config.model["name"], run["model"]["name"]))
        own = [name for name in run["model"] if name in config.model and name not in ("name", "_target_")]
        pairs += [(f"model.{name}", config.model[name], run["model"][name]) for name in own]
    pairs.append((f"channels of {config.dataset['name']}", config.dataset["channels"], run["dataset"]["channels"]))
    for name, wanted, trained in pairs:
        if wanted != trained:
            raise UserError(f"{name} is {wanted} here, but {loaded.path} was trained with {trained}")
    if "final_size" in run:
        final_size = stage_sizes(completed.side, len(run["hidden_dims"]))[-1]
        if final_size != run["final_size"]:
            raise UserError(
                f"size={completed.size} ends in a map of {final_size} px, but {loaded.path} was trained with one of "
                f"{run['final_size']} px: set size="
            )


def check_window(config: Config, run: dict[str, Any], typed: set[str], keys: tuple[str, ...]) -> None:
    """Refuse to read images otherwise than the networks learnt to, by keys that would not count or come half-way."""
    for key in keys:
        wanted, had = config.dataset.get(key), run["dataset"].get(key)
        if f"dataset.{key}" in typed and wanted != had:
            raise UserError(f"dataset.{key} is {wanted} here, but the run was trained with {had}: train a new one")
