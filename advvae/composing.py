"""What Hydra composes: the groups and resolvers registered before it starts, and the typed config it ends in."""

import difflib
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from advvae import runs
from advvae.cli import config_dirs
from advvae.config import CONF, FLAT_KEYS, GROUPS, Config, check
from advvae.errors import UserError
from advvae.settle import Settled, resumed_folder, settle


def register(arguments: list[str]) -> None:
    """Register the schema, the options of `out_dataset`, and the resolver of the run folder.

    Every file of `dataset`, the user's own in --config-dir too, is an option of `out_dataset`.
    """
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for folder in (CONF, *config_dirs(arguments)):
        for path in sorted((folder / "dataset").glob("*.yaml")):
            store.store(group="out_dataset", name=path.stem, node={"defaults": [f"/dataset/{path.stem}@_here_"]})
    OmegaConf.register_new_resolver("run_dir", _run_dir, use_cache=False, replace=True)


def settled_config(composed: DictConfig, folder: Path, in_sweep: bool) -> Settled:
    """The typed config in which every value counts.

    Raises:
        UserError: a mistake in the values, or in what they name.
    """
    hydra_config = HydraConfig.get()
    config = _typed_config(composed, hydra_config)
    check(config)
    if config.resume and in_sweep and config.resume != "auto":
        raise UserError(f"resume={config.resume} names one run; a sweep starts new ones")
    if config.resume == "auto":  # decided when the folder was
        config = replace(config, resume=str(folder) if (folder / "checkpoints" / "last.pt").is_file() else None)
    return settle(config, _typed_keys(hydra_config))


def remove_empty_sweep() -> None:
    """Remove the folder of a sweep that was refused before its first job: Hydra has written multirun.yaml into it."""
    from advvae.sweep import SweepCallback

    folder = SweepCallback.folder
    if folder and folder.is_dir() and [entry.name for entry in folder.iterdir()] == ["multirun.yaml"]:
        runs.remove_folder(folder, folder.parent.parent)


def explain(error: Exception) -> str:
    """One line of what Hydra says in several, without its internal names, and with the key that was probably meant."""
    text = str(error).split("Config search path:")[0]
    if unknown := re.match(r"Could not override '([^']*)'", text):
        name = unknown[1]
        near = difflib.get_close_matches(name, [*FLAT_KEYS, *GROUPS], n=1)
        return f"there is no key '{name}'; " + (f"did you mean {near[0]}?" if near else "advvae --help lists them")
    options = re.findall(r"^\t(.*)$", text, re.MULTILINE)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("\t")]
    if isinstance(error.__cause__, OmegaConfBaseException):
        lines += str(error.__cause__).splitlines()[:1]
    return " ".join([*lines, ", ".join(options)]).strip()


def _typed_config(composed: DictConfig, hydra_config: Any) -> Config:
    """The composed config as a plain object; each group's `name` is the option that was chosen."""
    values = {f.name: composed[f.name] for f in fields(Config)}
    plain: dict[str, Any] = {
        k: OmegaConf.to_container(v, resolve=True) if OmegaConf.is_config(v) else v for k, v in values.items()
    }
    config = Config(**plain)
    for group in ("dataset", "out_dataset", "model", "loss", "tracker"):
        getattr(config, group)["name"] = hydra_config.runtime.choices[group]
    return config


def _typed_keys(hydra_config: Any) -> set[str]:
    """The keys and groups named on the command line, and those that the experiment named there sets."""
    overrides = OverridesParser.create().parse_overrides(list(hydra_config.overrides.task))
    typed = {override.key_or_group.replace("/", ".") for override in overrides}
    experiment = hydra_config.runtime.choices.get("experiment")
    if experiment:
        for source in hydra_config.runtime.config_sources:
            path = Path(source.path, "experiment", f"{experiment}.yaml")
            if source.schema == "file" and path.is_file():
                typed |= _keys_of_experiment(yaml.safe_load(path.read_text()) or {})
    return typed


def _keys_of_experiment(content: dict[str, Any]) -> set[str]:
    keys = set()
    for item in content.pop("defaults", []):
        keys |= {name.removeprefix("override ").strip("/") for name in item} if isinstance(item, dict) else set()
    for name, value in content.items():
        keys |= {f"{name}.{part}" for part in value} if isinstance(value, dict) else {name}
    return keys


def _run_dir(*, _root_: DictConfig) -> str:
    """The folder to resume, or a new one. Mistakes are left to the job, which says them."""
    config = _typed_config(_root_, _root_.hydra)
    try:
        if config.mode == "train":
            resumed = resumed_folder(config)
            if resumed:
                return str(resumed)
        else:
            config = settle(config, _typed_keys(_root_.hydra)).config
    except UserError:
        pass
    return str(runs.new_folder(config.output_dir, config.mode, config.dataset["name"]))
