"""What a config may have called: what the user's own config and options name. A loaded file adds nothing to it."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advvae.config import Config
from advvae.errors import UserError

if TYPE_CHECKING:
    from advvae.settle import Settled


def check_targets(settled: "Settled", own: Config, folders: Iterable[Path]) -> None:
    """Refuse a loaded run that would have something called that is not the user's: the file may be anybody's.

    Args:
        own: the config before anything was loaded.
        folders: where the user's options are.

    Raises:
        UserError: the loaded run's config names a `_target_` that neither `own` nor an option of its group does.
    """
    named = set(_targets(settled.config))
    if settled.discriminator:  # its network may be built in another way than the rest
        named |= set(_targets_of("model", settled.discriminator.config.get("model")))
    loaded = settled.checkpoint or settled.discriminator
    for group, target in sorted(named - set(_targets(own))):
        if loaded and target not in _options(group, folders):
            raise UserError(
                f"{loaded.path} names {target} for {group}, and no option of yours does: type {group}=, with "
                "--config-dir=<its folder> where it is your own"
            )


def calls(value: Any) -> bool:
    """Whether anything inside would be called by Hydra: a `_target_`, or a resolver in `${…}`.

    What the user typed is resolved by then, so that only a loaded file can hold the second.
    """
    if isinstance(value, dict):
        return "_target_" in value or any(map(calls, value.values()))
    return any(map(calls, value)) if isinstance(value, list | tuple) else isinstance(value, str) and "${" in value


def _targets(config: Config) -> Iterator[tuple[str, str]]:
    for node in (config.dataset, config.out_dataset, *config.nodes.values()):
        yield from _targets_of("dataset", node)
    yield from _targets_of("model", config.model)
    yield from _targets_of("loss", config.loss)
    for item in config.scores:
        yield from _targets_of("scores", item)
    yield from _targets_of("features", config.features)


def _targets_of(group: str, node: Any) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict) and "_target_" in node:
        yield group, str(node["_target_"])


def _options(group: str, folders: Iterable[Path]) -> set[str]:
    """What the options of a group name."""
    texts = (file.read_text(encoding="utf-8") for folder in folders for file in (folder / group).rglob("*.yaml"))
    return {target for text in texts for target in re.findall(r"^_target_: *[\"']?([\w.]+)", text, re.MULTILINE)}
