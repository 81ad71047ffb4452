"""What Hydra composes: the groups and resolvers registered before it starts, and the typed config it ends in."""

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from advvae import hydra_globals, runs
from advvae.checks import check
from advvae.class_loop import class_loop, normal_classes
from advvae.cli import config_dirs
from advvae.config import CONF, DATASET_KEYS, PLACES, Config
from advvae.errors import UserError
from advvae.files import disk_errors_told
from advvae.outlier.scores import FUSED, check_names
from advvae.overrides import explain, hydra_explained, quoted
from advvae.resuming import matrix_name, resumed_folder
from advvae.settle import Settled, settle
from advvae.shift_names import SHIFTS, shift_names
from advvae.sweep_resume import sweep_folder
from advvae.targets import check_targets
from advvae.torchrun import launched

logger = logging.getLogger(__name__)


class ConfigError(CompactHydraException):
    """A setting the user can fix: Hydra shows it without a traceback."""


def register(arguments: list[str]) -> None:
    """Register the schema, the options of `out_dataset`, and the resolver of the run folder.

    Every file of `dataset`, the user's own in --config-dir too, is an option of `out_dataset`.
    """
    store = ConfigStore.instance()
    store.store(name="advvae_schema", node=Config)
    for folder in (CONF, *config_dirs(arguments)):
        for path in sorted((folder / "dataset").glob("*.yaml")):
            store.store(group="out_dataset", name=path.stem, node={"defaults": [f"/dataset/{path.stem}@_here_"]})
    OmegaConf.register_new_resolver("class_loop", class_loop, replace=True)
    OmegaConf.register_new_resolver("normal_classes", normal_classes, replace=True)
    OmegaConf.register_new_resolver("advvae.run_dir", _run_dir, use_cache=False, replace=True)
    OmegaConf.register_new_resolver("advvae.sweep_dir", _sweep_dir, use_cache=True, replace=True)  # jobs copy it


def typed_config(composed: DictConfig) -> Config:
    """The composed config as a plain object.

    Raises:
        UserError: a key that there is not, or a value that cannot be told.
    """
    try:
        return _typed_config(composed, _hydra_of(composed))
    except InterpolationResolutionError as error:
        raise UserError(explain(error)) from None


def settled_config(composed: DictConfig, folder: Path, in_sweep: bool) -> Settled:
    """The typed config in which every value counts.

    Raises:
        UserError: a mistake in the values, or in what they name.
    """
    hydra_config = _hydra_of(composed)
    config = typed_config(composed)
    if config.resume and in_sweep:  # it names the sweep, or auto found it
        config = replace(config, resume=str(folder) if runs.can_go_on(folder) else None)
    check(config)
    _check_out_dataset(config, hydra_config)
    _check_scores(config)
    if config.resume == "auto":  # decided when the folder was
        found = runs.can_go_on(folder)
        if not found:
            logger.info("resume=auto: no unfinished run of this config has a checkpoint; a new one begins")
        config = replace(config, resume=str(folder) if found else None)
    settled = settle(config, _typed_keys(hydra_config))
    check_targets(settled, config, option_folders(hydra_config))
    return settled


@contextmanager
def composed(overrides: list[str], folders: Iterable[Path] = (), with_folder: bool = False) -> Iterator[DictConfig]:
    """What Hydra composes of overrides, without a job of its own; within the block, HydraConfig is that of this config.

    One thread at a time is in the block. Whatever the process does with Hydra beside it is as before afterwards.

    Args:
        folders: of the user's own options.
        with_folder: choose the folder of a run too; it is not made.

    Raises:
        UserError: a mistake in the overrides.
    """
    places = ",".join(quoted(f"file://{Path(folder).absolute()}") for folder in folders)
    typed = [*overrides, f"hydra.searchpath=[{places}]"] if places else list(overrides)
    with hydra_explained(), hydra_globals.one_at_a_time:
        register([f"--config-dir={folder}" for folder in folders])
        with (
            hydra_globals.uninitialized(),
            initialize_config_dir(config_dir=str(CONF), version_base="1.3", job_name="advvae"),
        ):
            config = compose("config", typed, return_hydra_config=True)
        if with_folder:
            config.hydra.runtime.output_dir = str(Path(config.hydra.run.dir).absolute())
        with hydra_globals.job_of(config):
            yield config


@contextmanager
def mistakes_told() -> Iterator[None]:
    """Let every mistake end the process with one line and status 1."""
    try:
        with disk_errors_told("the run folder (output_dir)"):  # Hydra makes it before the job begins
            yield
    except (CompactHydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        sys.exit(explain(error))
    except UserError as error:
        sys.exit(str(error))
    except SystemExit as end:
        sys.exit(1 if end.code == 2 else end.code)  # 2 is how argparse says that a flag is wrong
    except KeyboardInterrupt as interrupt:  # which says how to go on, if there is a way
        sys.exit(str(interrupt) or "interrupted")
    except ValueError as error:  # Hydra's logging, which opens advvae.log before the job begins
        if not isinstance(error.__cause__, OSError):
            raise
        sys.exit(f"cannot write {error.__cause__.filename}: {error.__cause__.strerror}")
    finally:
        _tell_of_sweep()
        runs.leave_claimed()


def _tell_of_sweep() -> None:
    """Say where a sweep's summary is; remove the folder of a sweep that was refused before its first job.

    Hydra has written multirun.yaml into it by then.
    """
    from advvae.report import leave_page
    from advvae.sweep import SweepCallback

    folder = SweepCallback.folder
    SweepCallback.leave()
    if folder and (folder / "summary.csv").is_file():
        leave_page(folder, of_sweep=True)  # which jobs have said is under way
        if (folder / "summary.md").is_file():
            print((folder / "summary.md").read_text(encoding="utf-8"))
        print(f"summary of the sweep: {folder / 'summary.csv'}")
    elif folder and folder.is_dir() and {entry.name for entry in folder.iterdir()} <= {"multirun.yaml"}:
        runs.remove_folder(folder, folder.parent.parent)


def _typed_config(composed: DictConfig, hydra_config: Any) -> Config:
    """The composed config as a plain object; each group's `name` is the option that was chosen.

    Paths become absolute, so that a run can be used and resumed from another folder.
    """
    known = [f.name for f in fields(Config)]
    unknown = [str(key) for key in composed if key not in (*known, "hydra")]
    if composed.nodes:  # which are made below
        unknown.append("nodes")
    if unknown:
        raise UserError(f"there is no key '{unknown[0]}': advvae --help lists them")
    values = {name: composed[name] for name in known}
    plain: dict[str, Any] = {}
    for k, v in values.items():
        plain[k] = OmegaConf.to_container(v, resolve=True) if OmegaConf.is_config(v) else v
    for group in ("dataset", "out_dataset", "model", "loss", "tracker"):
        plain[group]["name"] = hydra_config.runtime.choices[group]
    for group in ("dataset", "out_dataset"):
        plain[group] = {**DATASET_KEYS, **plain[group]}
    if plain["dataset"]["window"] and plain["dataset"]["percentiles"]:
        raise UserError("dataset.window and dataset.percentiles say the same: give one of them")
    names = [*plain["out_datasets"], *plain["near"], *plain["far"], *plain["datasets"]]
    plain["nodes"] = {
        name: _dataset_node(name, plain, composed, hydra_config) for name in names if not shift_names(name)
    }
    for node in (plain["dataset"], plain["out_dataset"], *plain["nodes"].values()):
        _make_absolute(node, PLACES)
    _make_absolute(plain, ("data_dir", "output_dir", "input"))
    return Config(**plain)


def _dataset_node(name: str, plain: dict[str, Any], composed: DictConfig, hydra_config: Any) -> dict[str, Any]:
    """The node of a dataset that a list names: as it was chosen with its sub-keys, else as its file says.

    Raises:
        UserError: there is no such dataset.
    """
    chosen = ("dataset",) if name in plain["datasets"] else ("out_dataset", "dataset")
    for group in chosen:
        if plain[group]["name"] == name:
            own = plain[group] if group == "out_dataset" else {"keep_classes": None, "drop_classes": None}
            return {**plain[group], **own}
    folders = [folder / "dataset" for folder in option_folders(hydra_config)]
    path = next((folder / f"{name}.yaml" for folder in folders if (folder / f"{name}.yaml").is_file()), None)
    if path is None:
        options = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
        raise UserError(
            f"out_datasets, near, far and datasets name sets, and there is no '{name}': take {', '.join(options)}; "
            f"of shifts {', '.join(SHIFTS)}, shifts for all, and noise_1 to noise_5 and so on for the severities"
        )
    content = OmegaConf.load(path)
    content._set_parent(composed)  # so that its interpolations find the keys beside it
    node = OmegaConf.to_container(content, resolve=True)
    assert isinstance(node, dict)
    return {**DATASET_KEYS, **node, "name": name}


def _hydra_of(composed: DictConfig) -> Any:
    """Hydra's own node of a config; a job of Hydra's gets its config without it."""
    return composed.hydra if "hydra" in composed else HydraConfig.get()


def option_folders(hydra_config: Any) -> list[Path]:
    """Where the options of groups are: ours, and the user's own."""
    return [Path(source.path) for source in hydra_config.runtime.config_sources if source.path]


def _make_absolute(values: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if isinstance(values.get(name), str) and values[name]:
            values[name] = str(Path(values[name]).expanduser().absolute())


def _check_out_dataset(config: Config, hydra_config: Any) -> None:
    """Refuse keys of an outlier set that is not scored: they would not count."""
    name = config.out_dataset["name"]
    if "outlier" not in config.modes or name in config.outlier_sets:
        return
    overrides = OverridesParser.create().parse_overrides(list(hydra_config.overrides.task))
    for key in (override.key_or_group for override in overrides):
        if key.startswith("out_dataset."):
            scored = ", ".join(config.outlier_sets)
            raise UserError(
                f"{key} is of out_dataset={name}, but scored are {scored}: type the out_dataset that is meant"
            )


def _check_scores(config: Config) -> None:
    """Refuse scores that there are not, before anything heavy is loaded."""
    check_names([item for item in config.scores if isinstance(item, str)])
    check_names(config.fuse, "fuse")
    if FUSED in config.fuse:
        raise UserError("fuse lists what `fused` is made of, so not itself")
    for item in config.scores:
        if not isinstance(item, str) and not (isinstance(item, dict) and "_target_" in item):
            raise UserError(f"scores takes names and {{_target_: …}} items, got {item}")


def _typed_keys(hydra_config: Any) -> set[str]:
    """The keys and groups named on the command line, and those that the experiments named there set."""
    overrides = OverridesParser.create().parse_overrides(list(hydra_config.overrides.task))
    typed = {override.key_or_group.replace("/", ".") for override in overrides}
    named: list[Any] = [override.value() for override in overrides if override.key_or_group == "experiment"]
    experiments = [name for value in named if value for name in (value if isinstance(value, list) else [value])]
    folders = [folder / "experiment" for folder in option_folders(hydra_config)]
    return typed.union(*(_keys_of_experiment(experiment, folders) for experiment in experiments))


def _keys_of_experiment(name: str, folders: list[Path]) -> set[str]:
    """The keys and groups that an experiment's file sets, with those of the experiments that it builds on."""
    path = next((folder / f"{name}.yaml" for folder in folders if (folder / f"{name}.yaml").is_file()), None)
    content = (yaml.safe_load(path.read_text()) if path else None) or {}
    keys: set[str] = set()
    for item in content.pop("defaults", []):
        if isinstance(item, dict):
            keys |= {group.removeprefix("override ").strip("/") for group in item}
        elif item != "_self_":
            keys |= _keys_of_experiment(item, folders)
    for key, value in content.items():
        keys |= {f"{key}.{part}" for part in value} if isinstance(value, dict) else {key}
    return keys


def _run_dir(*, _root_: DictConfig) -> str:
    """The folder to resume, or a new one. Mistakes are left to the job, which says them."""
    dataset = Path(_root_.hydra.runtime.choices.dataset).name
    try:
        config = _typed_config(_root_, _root_.hydra)
        if config.mode in ("train", "matrix") and (resumed := resumed_folder(config)):
            return str(resumed)
        if config.mode == "matrix":
            dataset = matrix_name(config.datasets)
        elif config.mode != "train":
            dataset = settle(config, _typed_keys(_root_.hydra)).config.dataset["name"]
    except UserError:
        pass
    return str(runs.new_folder(_root_.output_dir, _root_.mode, dataset))


def _sweep_dir(output_dir: str, resume: str | None, overrides: DictConfig) -> str:
    """The folder of the sweep to resume, or a new one; absolute, since a launcher's processes may begin elsewhere."""
    if launched():  # its other processes wait for one job
        raise UserError("torchrun runs one job, not a sweep: leave it out, and type n_devices=")
    sweeper = [text for text in overrides.hydra if text.startswith("hydra.sweeper.")]
    return str(sweep_folder(output_dir, resume, [*overrides.task, *sweeper]).absolute())
