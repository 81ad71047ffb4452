"""The weights of networks as plain tensors: those of a checkpoint, and the files of an exported model.

An exported model is a folder `model`: `model.safetensors`, whose tensors are called <part>.<name>, and `config.json`.
It says what a user's own images were called, and not where they are: what is called so here may be anybody's.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from advvae.checks import PLACES
from advvae.errors import UserError
from advvae.files import replacing
from advvae.models import AdversarialVAE

FORMAT = 1  # of an exported model's folder
PARTS = ("encoder", "decoder", "discriminator")
FOLDER, WEIGHTS, CONFIG = "model", "model.safetensors", "config.json"

Parts = dict[str, dict[str, Tensor]]


def parts_of(networks: AdversarialVAE) -> Parts:
    """State dicts of those of encoder, decoder and discriminator that there are."""
    return {part: getattr(networks, part).state_dict() for part in PARTS if getattr(networks, part) is not None}


def save_weights(path: Path, networks: AdversarialVAE) -> None:
    """Write the weights of all parts.

    Raises:
        UserError: the file cannot be written.
    """
    from safetensors.torch import save_file

    tensors = {
        f"{part}.{name}": tensor.detach().cpu().contiguous().clone()  # no two may share memory
        for part, state in parts_of(networks).items()
        for name, tensor in state.items()
    }
    with replacing(path) as unfinished:
        save_file(tensors, unfinished, metadata={"format": "pt"})


def read_weights(path: Path) -> tuple[dict[str, Any], Parts]:
    """The config and the state dicts of an exported model, from its file of weights and the config.json beside it.

    Where a user's own images are is None in the config, until somebody types it.

    Raises:
        UserError: one of them is missing or damaged, or a package to read it is.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(f"{path} needs safetensors: pip install 'advvae[export]'") from None
    try:
        tensors = load_file(path)
        content = json.loads((path.parent / CONFIG).read_text(encoding="utf-8"))
        config = content["config"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path.parent} is damaged, or no exported model ({type(error).__name__}: {reason})") from None
    if content.get("format") != FORMAT:
        raise UserError(f"{path.parent} has format {content.get('format')}; this version of advvae reads {FORMAT}")
    parts: Parts = {}
    for name, tensor in tensors.items():
        part, _, own = name.partition(".")
        parts.setdefault(part, {})[own] = tensor
    if not parts or not parts.keys() <= set(PARTS) or not isinstance(config, Mapping):
        raise UserError(f"{path} holds no weights of advvae's")
    return {name: _placeless(value) if isinstance(value, dict) else value for name, value in config.items()}, parts


def _placeless(node: dict[str, Any]) -> dict[str, Any]:
    """A group's node without the places of a user's own images."""
    return node | dict.fromkeys(PLACES.get(node.get("_target_", ""), ()))
