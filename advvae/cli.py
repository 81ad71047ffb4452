"""What is answered before Hydra starts: help, the first words to a newcomer, and flags typed by habit."""

import argparse
import difflib
import re
import shlex
import signal
import sys
import textwrap
from pathlib import Path

from advvae.checks import NUMBERS, check_value
from advvae.config import CONF, FLAT_KEYS, GROUPS, Config
from advvae.errors import UserError
from advvae.torchrun import launched

ALSO = """\
--config-dir <folder> adds your own options; --cfg job prints the composed config.
eval "$(advvae -sc install=bash)" completes groups, options and keys on Tab."""

FLAG_MODES = {"train": "train", "test": "test", "sample": "sample", "outlier_detection": "outlier"}
FLAG_KEYS = (
    *("dataset", "out_dataset", "batch_size", "n_epochs", "lr", "latent_dim", "hidden_dims", "checkpoint"),
    *("discriminator_checkpoint", "num_samples", "gen_weight", "recon_weight", "kld_weight"),
    *("sample_and_save_frequency", "num_workers", "size"),
)
HYDRA_FLAGS = (
    *("-m", "--multirun", "-c", "--cfg", "--resolve", "-p", "--package", "-r", "--run", "-i", "--info"),
    *("-cd", "--config-dir", "-cp", "--config-path", "-cn", "--config-name", "-sc", "--shell-completion"),
    *("--hydra-help", "--experimental-rerun"),
)
WITH_VALUE = (  # those of them whose value may be the next argument
    *("-c", "--cfg", "-p", "--package", "-cd", "--config-dir", "-cp", "--config-path", "-cn", "--config-name"),
    "--experimental-rerun",
)


def main() -> None:
    """The `advvae` command, and `python -m advvae`. Hydra is loaded when there is something to run."""
    for name in ("SIGTERM", "SIGUSR1", "SIGUSR2"):  # a cluster's stop, and its warnings before it, are like Ctrl-C
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    try:
        if not launched():  # of torchrun's processes one answers, and the others wait for it
            read_arguments()
        from advvae.main import main as run

        run()
    except KeyboardInterrupt:  # before there is anything to say of it
        sys.exit("interrupted")
    except SystemExit as end:
        if not isinstance(end.code, str) or not sys.stderr.isatty():
            raise
        print_error(end.code)
        sys.exit(1)


def print_error(message: str) -> None:
    """A mistake, on a terminal: marked, and not broken into lines where a path would be."""
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, soft_wrap=True).print(Text.assemble(("error ", "bold red"), message))


def read_arguments() -> None:
    """Answer what was typed, or leave it as Hydra takes it."""
    sys.argv[1:] = prepare_arguments(sys.argv[1:])
    check_words(sys.argv[1:])
    from advvae.overrides import check_overrides  # Hydra's own parser, which takes a moment to load

    check_overrides(sys.argv[1:])


def prepare_arguments(arguments: list[str]) -> list[str]:
    """The arguments as Hydra takes them; or the answer to them, printed, and the end of the process."""
    if not arguments:
        from advvae.welcome import default_folders, welcome

        print(welcome(*default_folders()))
        raise SystemExit(0)
    if any(argument in ("--help", "-h") for argument in arguments):
        print(help_text())
        raise SystemExit(0)
    if "--version" in arguments:
        from importlib.metadata import version

        print(f"advvae {version('advvae')}")
        raise SystemExit(0)
    equivalent = overrides_for_flags(arguments)
    names = [argument.partition("=")[0] for argument in equivalent or arguments]
    unknown = [name for name in names if name[:1] in "-~" and name not in HYDRA_FLAGS]
    if unknown:
        raise SystemExit(f"there is no {unknown[0]}: advvae takes key=value; advvae --help lists the keys")
    if equivalent is not None:
        raise SystemExit(f"advvae takes overrides, not flags. Type:\n  advvae {shlex.join(equivalent)}")
    for group in GROUPS[:-1]:  # an experiment alone may be null
        if f"{group}=null" in arguments:
            raise SystemExit(f"{group}=null: choose one of {', '.join(group_options(group))}")
    # Hydra 1.3's parser refuses -m between overrides
    multirun = [argument for argument in arguments if argument in ("-m", "--multirun")]
    return [*multirun[:1], *(argument for argument in arguments if argument not in ("-m", "--multirun"))]


def check_words(arguments: list[str]) -> None:
    """End the process for a misspelt key or option or a number out of range, which Hydra would find in a second.

    What is more than a plain word or number is left to Hydra, and everything where there is a flag or a key of Hydra's
    own, such as hydra.searchpath: they may name more options.
    """
    others = [argument for argument in arguments if argument not in ("-m", "--multirun")]
    if any(argument.lstrip("+~").startswith(("-", "hydra.", "hydra/")) for argument in others):
        return
    typed = dict(argument.split("=", 1) for argument in arguments if "=" in argument)  # of a key, the last counts
    for key, value in typed.items():
        name = key.lstrip("+")
        if not name.replace("-", "_").isidentifier():
            continue
        if name not in FLAT_KEYS and name not in GROUPS:
            raise SystemExit(unknown_key(name))
        is_option = re.fullmatch(r"[\w./-]+", value) and value.lower() != "null"
        if name in GROUPS and is_option and value not in group_options(name):
            raise SystemExit(f"there is no {name}={value}: choose one of {', '.join(group_options(name))}")
        number = int if Config.__annotations__.get(name) in (int, int | None) else float
        if name in NUMBERS and re.fullmatch(r"-?\d{1,99}" if number is int else r"-?\d+(\.\d+)?", value):
            try:
                check_value(name, number(value))
            except UserError as error:
                raise SystemExit(str(error)) from None


def unknown_key(name: str) -> str:
    near = difflib.get_close_matches(name, [*FLAT_KEYS, *GROUPS], n=1)
    return f"there is no key '{name}'; " + (f"did you mean {near[0]}?" if near else "advvae --help lists them")


def overrides_for_flags(arguments: list[str]) -> list[str] | None:
    """The overrides that say what GenerativeZoo's flags said; None = there are no such flags."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for flag in (*FLAG_MODES, "no_wandb"):
        parser.add_argument(f"--{flag}", action="store_true")
    for flag in (*FLAG_KEYS, "loss_type"):
        parser.add_argument(f"--{flag}", nargs="*")
    flags, others = parser.parse_known_args(arguments)
    overrides = [_override_for_flag(flag, value) for flag, value in vars(flags).items()]
    return [*overrides, *others] if overrides else None


def _override_for_flag(flag: str, value: bool | list[str]) -> str:
    if flag in FLAG_MODES:
        return f"mode={FLAG_MODES[flag]}"
    if isinstance(value, bool):
        return f"{flag}=true"
    if flag == "hidden_dims":
        return f"hidden_dims=[{','.join(value)}]"
    return f"{'loss' if flag == 'loss_type' else flag}={value[0] if value else '<value>'}"


def help_text() -> str:
    """Every group with its options, every flat key with its default, meaning and choices, and the keys of groups."""
    from advvae.conf_text import default_options, flat_defaults, group_keys

    chosen, defaults = default_options(), flat_defaults()
    lines = [
        "Usage: advvae [-m] [key=value ...]      -m runs every combination of comma-separated values",
        "",
        "Groups (group=option):",
    ]
    for group in GROUPS:
        options = group_options(group)
        lines.append(f"  {group}={'null' if chosen[group] is None else chosen[group]}")
        lines += _wrapped(", ".join(options), indent=6)
    lines += ["", "Keys (key=value):"]
    for name, metadata in FLAT_KEYS.items():
        lines.append(f"  {name}={defaults[name]}")
        choices = f" [{', '.join(metadata['choices'])}]" if metadata["choices"] else ""
        lines += _wrapped(metadata["meaning"] + choices, indent=6)
    lines += ["", "Keys of groups (group.key=value):"]
    for name, default, meaning, having in group_keys():
        lines.append(f"  {name}={default}")
        lines += _wrapped(meaning + (f" [of {', '.join(having)}]" if having else ""), indent=6)
    return "\n".join([*lines, "", ALSO])


def group_options(group: str) -> list[str]:
    """The names that a group takes."""
    folder = CONF / ("dataset" if group == "out_dataset" else group)
    return sorted(path.stem for path in folder.glob("*.yaml"))


def overrides_among(arguments: list[str]) -> list[str]:
    """What is typed as key=value; flags, and the values that follow them, are left out."""
    flags = {position for position, argument in enumerate(arguments) if argument.startswith("-")}
    values = {at + 1 for at in flags if arguments[at] in WITH_VALUE}
    return [argument for position, argument in enumerate(arguments) if position not in flags | values]


def config_dirs(arguments: list[str]) -> list[Path]:
    """The folders given by --config-dir (-cd)."""
    folders = []
    for position, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name in ("--config-dir", "-cd"):
            folders += [Path(value or arguments[position + 1])] if value or position + 1 < len(arguments) else []
    return folders


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(text, width=110, initial_indent=" " * indent, subsequent_indent=" " * indent)
