"""What a run's folder tells of it."""

import csv
import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from advvae.conf_text import config_text, default_options
from advvae.config import CONF, DATASET_KEYS, FLAT_KEYS
from advvae.errors import UserError
from advvae.outlier.report import COLUMNS
from advvae.provenance import read_provenance
from advvae.runs import read_config, read_metrics
from advvae.shapes import default_hidden_dims
from advvae.sweep_rows import overrides_of
from advvae.tracking import without_folders

if TYPE_CHECKING:
    import pandas

GROUPS = ("dataset", "out_dataset", "model", "loss", "tracker")
PATH = re.compile(r"(?<![\w.~])/[^,\[\]{}'\"]+")  # an absolute one in an override, be it quoted or in a list
PLACES = ("data_dir", "output_dir")  # where things are, which differs everywhere and says nothing


class Setting(NamedTuple):
    """A key of a run's config, its value and default in words, and whether they differ."""

    key: str
    value: str
    default: str
    differs: bool


@dataclass(frozen=True)
class Record:
    """A run, as its folder has it.

    typed: its overrides, as typed and taken.
    measured: `metrics.json` without what is said of the run itself.
    """

    folder: Path
    config: dict[str, Any]
    typed: list[str]
    status: str
    error: str
    seconds: float | None
    measured: dict[str, Any]
    provenance: dict[str, list[dict[str, Any]]]

    @property
    def mode(self) -> str:
        return self.config.get("mode", "run")

    @property
    def dataset(self) -> str:
        return self.config.get("dataset", {}).get("name", "")

    @property
    def command(self) -> str:
        """What was typed, and taken. Of a place outside the current folder, the last part stands alone."""
        words = (PATH.sub(lambda path: without_folders(path[0]), text) for text in self.typed)
        return shlex.join(["advvae", *words])

    @cached_property
    def settings(self) -> list[Setting]:
        """Every key of the config."""
        return settings(self.config)

    @cached_property
    def scores(self) -> "pandas.DataFrame | None":
        """scores.csv, a row per image; None where there is none."""
        import pandas

        path = self.folder / "scores.csv"
        if not path.is_file():
            return None
        words = (*COLUMNS, "group")
        table = pandas.read_csv(path, dtype=dict.fromkeys(words, str), keep_default_na=False)
        scores = [name for name in table.columns if name not in words]
        return table.assign(**{name: pandas.to_numeric(table[name], errors="coerce") for name in scores})

    def table(self, name: str) -> list[dict[str, str]]:
        """The rows of a CSV file; none where there is no such file."""
        path = self.folder / name
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def pictures(self, pattern: str) -> list[Path]:
        """Image files below the folder, in the order of their names."""
        return sorted(path for path in self.folder.glob(pattern) if path.is_file())


def read_record(folder: Path) -> Record:
    """Read a run's folder.

    Raises:
        UserError: it is none.
    """
    config, metrics = read_config(folder), read_metrics(folder)
    if not config and not metrics:
        raise UserError(f"{folder} is no run folder: it holds neither config.yaml nor metrics.json")
    status, error, seconds = (metrics.pop(name, None) for name in ("status", "error", "seconds"))
    provenance = read_provenance(folder)
    return Record(folder, config, overrides_of(folder), status or "unknown", error or "", seconds, metrics, provenance)


def settings(config: dict[str, Any]) -> list[Setting]:
    """The keys of a resolved config beside their defaults: groups with their sub-keys first, then the flat keys."""
    defaults, chosen = yaml.safe_load(config_text()), default_options()
    rows = []
    for group in GROUPS:
        node = config.get(group) or {}
        rows.append(_setting(group, node.get("name"), chosen[group]))
        own = _option_defaults(group, str(node.get("name")), defaults)
        for name, value in node.items():
            if name not in ("name", "_target_") and (name in own or value is not None):
                rows.append(_setting(f"{group}.{name}", value, own.get(name, value)))
    for key in FLAT_KEYS:
        if key in config:
            default = _derived_default(key, config, defaults.get(key))
            row = _setting(key, config[key], default)
            rows.append(row._replace(default="", differs=False) if key in PLACES else row)
    return rows


def _derived_default(key: str, config: dict[str, Any], default: Any) -> Any:
    """What stands for a default that follows from other keys, or from the machine."""
    if key == "size":
        return config["dataset"].get("size")
    if key == "hidden_dims" and config.get("size"):
        return default_hidden_dims(config.get("crop") or config["size"])
    return config[key] if (key, default) == ("precision", "auto") else default


def _option_defaults(group: str, name: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """What the file of an option says, beside what all options of its group have; of a user's own, the latter alone."""
    file = CONF / ("dataset" if group == "out_dataset" else group) / f"{name}.yaml"
    own = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    shared = {**DATASET_KEYS, **defaults[group]} if group in ("dataset", "out_dataset") else {}
    return {**shared, **{key: value for key, value in (own or {}).items() if key != "defaults"}}


def _setting(key: str, value: Any, default: Any) -> Setting:
    differs = _plain(value) != _plain(default)
    return Setting(key, in_words(without_folders(value)), in_words(default), differs)


def _plain(value: Any) -> Any:
    """A value as it compares: YAML reads 2e-4 as a string, and 0 is 0.0."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def in_words(value: Any) -> str:
    """A value as it is typed."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(in_words, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{in_words(part)}" for name, part in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def in_short(value: Any) -> str:
    """A measured value, or a cell of a table that may hold one: five digits of a number with a fraction."""
    if value is None:
        return ""
    if isinstance(value, str) and "." in value:
        try:
            value = float(value)
        except ValueError:
            return value
    return f"{value:.5g}" if isinstance(value, float) else value if isinstance(value, str) else in_words(value)
