"""What the files in conf/ say of each choice: defaults, options, and the comment beside each key. Imports no torch."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

from advvae.config import CONF, DATASET_KEYS, FLAT_KEYS

WITH_KEYS = ("dataset", "out_dataset", "model", "loss", "tracker")  # groups whose options have keys of their own
NOT_TYPED = {"name", *DATASET_KEYS} - {"channels"}  # keys of an option's file that say what it is, or stand in all
KEY = re.compile(r"^( *)(\w+): (.*?) *# (.*)$", re.MULTILINE)
FULL_STOP = re.compile(r"\.(?=\s|$)")


class GroupKey(NamedTuple):
    """A key of a group, typed as group.key=value. `options`: those of the group that have it; () = all."""

    name: str
    default: str
    meaning: str
    options: tuple[str, ...]


@cache
def config_text() -> str:
    return (CONF / "config.yaml").read_text(encoding="utf-8")


def default_options() -> dict[str, str | None]:
    """Group -> the option that is chosen where none is typed."""
    items = yaml.safe_load(config_text())["defaults"]
    return {group: option for item in items if isinstance(item, dict) for group, option in item.items()}


def flat_defaults() -> dict[str, str]:
    """Flat key -> its default as it is typed."""
    keys = KEY.findall(config_text())
    return {name: _typed(value) for indent, name, value, _ in keys if name in FLAT_KEYS and not indent}


def option_files(group: str) -> list[Path]:
    """The files of a group's options, in the order of their names."""
    return sorted((CONF / ("dataset" if group == "out_dataset" else group)).glob("*.yaml"))


def first_comment(text: str) -> str:
    """The first sentence of the comment that an option's file begins with; "" where it begins with none."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            lines.append(line.lstrip("# "))
    return FULL_STOP.split(" ".join(lines), maxsplit=1)[0]


def group_keys() -> list[GroupKey]:
    """The keys of groups that have a meaning beside them."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for group in WITH_KEYS:
        for name, value, meaning in _keys_of_all(group):
            found[f"{group}.{name}", _typed(value), meaning] = []
        for file in option_files(group) if group != "out_dataset" else []:
            for indent, name, value, meaning in KEY.findall(file.read_text(encoding="utf-8")):
                if not indent and name not in NOT_TYPED and not value.startswith("{"):
                    found.setdefault((f"{group}.{name}", _typed(value), meaning), []).append(file.stem)
    return [GroupKey(*key, tuple(options)) for key, options in found.items()]


def _keys_of_all(group: str) -> Iterator[tuple[str, str, str]]:
    """Name, default and meaning of the keys that all options of a group have, from its block in config.yaml."""
    block = re.search(rf"^{group}:.*\n((?:  .*\n)+)", config_text(), re.MULTILINE)
    for _, name, value, meaning in KEY.findall(block[1]) if block else []:
        yield name, value, meaning


def _typed(value: str) -> str:
    """A default as it is typed; of one that an environment variable may set, what it is without."""
    return re.sub(r"\$\{oc\.env:\w+,(.*?)\}", r"\1", value)
