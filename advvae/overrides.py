"""What an override shows by itself, told before anything is composed; and what Hydra says of overrides, in one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import CompactHydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from advvae.checks import check_value
from advvae.cli import unknown_key
from advvae.config import FLAT_KEYS, GROUPS, Config
from advvae.errors import UserError

TAKES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a name",
    list[int]: "a list of whole numbers, as in [32,64]",
    list[float]: "a list of numbers, as in [0.5,0.9]",
    list[str]: "a list, as in [a,b]",
    list[Any]: "a list, as in [a,b]",
    Any: "a name or {_target_: …}",
}
TRUTHS = ("true", "false", "yes", "no", "on", "off", "1", "0")


def check_overrides(arguments: list[str]) -> None:
    """End the process for a flat key or a group that cannot have its value, whatever the others are.

    Sweeps and interpolations are left to Hydra.
    """
    for argument in arguments:
        name = argument.lstrip("+").partition("=")[0]
        if name not in FLAT_KEYS and name not in GROUPS:
            continue
        try:
            (override,) = OverridesParser.create().parse_overrides([argument])
            if not override.is_sweep_override() and "${" not in argument:
                check = _check_option if name in GROUPS else _check_key
                check(name, override.value(), override.get_value_string())
        except OverrideParseException as error:
            raise SystemExit(_one_line(explain(error))) from None
        except ValueError as error:  # a whole number of thousands of digits
            raise SystemExit(f"{name}: {error}") from None
        except UserError as error:
            raise SystemExit(_one_line(str(error))) from None


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _check_option(group: str, value: Any, text: str) -> None:
    """Refuse what names no option; of experiments there may be several, or none."""
    options = value if group == "experiment" and isinstance(value, list) else [value]
    if group == "experiment" and value is None:
        return
    if not all(isinstance(option, str) and option for option in options):
        raise UserError(f"{group} takes the name of an option, got {text or 'nothing'}: advvae --help lists them")


def _check_key(name: str, value: Any, text: str) -> None:
    """Refuse a value that is not of the key's type, or not in its range."""
    annotation = get_type_hints(Config)[name]
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    takes = f"{TAKES[kinds[0]]}{' or null' if NoneType in kinds else ''}"
    if kinds[0] is str and isinstance(value, bool | float):  # which Hydra would spell in its own way
        raise UserError(f"{name} takes {takes}, got {text}: quote what is meant as a name, as in \"{name}='{text}'\"")
    config = OmegaConf.structured(Config)
    try:
        config[name] = value
    except OmegaConfBaseException:
        is_valid = False
    else:
        is_valid = bool not in kinds or str(value).lower() in TRUTHS  # it takes any number for true
    if not is_valid:
        raise UserError(f"{name} takes {takes}, got {text or 'nothing'}")
    check_value(name, OmegaConf.to_container(config)[name])  # type: ignore[index, call-overload]


@contextmanager
def hydra_explained() -> Iterator[None]:
    """Turn what Hydra says of a mistake into a UserError."""
    try:
        yield
    except (CompactHydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError(explain(error)) from None


def explain(error: Exception) -> str:
    """One line of what Hydra says in several, without its internal names, and with what was probably meant."""
    text = str(error).split("Config search path:")[0].removeprefix("UserError raised while resolving interpolation: ")
    if unknown := re.match(r"Could not override '([^']*)'", text):
        name = unknown[1]
        if "." in name:
            return f"there is no key '{name}'; --cfg job shows those that there are"
        return unknown_key(name)
    if isinstance(error, OverrideParseException):
        return f"cannot read '{error.override}': advvae takes key=value; quote odd characters, as in \"key='a=b, c'\""
    if isinstance(error, yaml.YAMLError):
        return _one_line(text)
    options = re.findall(r"^\t(.*)$", text, re.MULTILINE)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("\t", " "))]
    if isinstance(error.__cause__, OmegaConfBaseException):
        lines.append(str(error.__cause__).splitlines()[0].replace("'Config'", "what advvae takes"))
    line = " ".join([*lines, ", ".join(options)]).strip().removeprefix("In 'config': ")
    line = line.replace("str is not a ListConfig, list or tuple.", "it takes a list, as in key=[a,b]")
    key = re.search(r"full_key: (?!hydra\.)(\S+)", text)
    return f"{key[1]}: {line}" if key and key[1] not in line else line


def as_overrides(keys: dict[str, Any]) -> list[str]:
    """Keys with Python values as they are typed on the command line."""
    return [f"{key}={typed(value)}" for key, value in keys.items()]


def typed(value: Any) -> str:
    """A value as Hydra's grammar of overrides reads it back."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(typed, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{typed(part)}" for name, part in value.items()) + "}"
    return quoted(value) if isinstance(value, str | Path) else str(value)


def quoted(path: Path | str) -> str:
    """A path, or another text, as Hydra's override grammar reads it back: as text, whatever it looks like."""
    text = str(path)
    is_plain = re.fullmatch(r"[A-Za-z0-9/._-]+", text) and text.lower() not in ("null", "true", "false")
    return text if is_plain and not _is_number(text) else QuotedString(text, Quote.single).with_quotes()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
