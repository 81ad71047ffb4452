"""State dicts saved by caetas/GenerativeZoo's AdvVAE, renamed to the parts of `model=conv`.

GenerativeZoo saves its VAE and its discriminator as two bare state dicts. Both name their stages `encoder.<i>.{0,1}.*`;
the discriminator goes on with a Linear to one output under the same prefix (then a sigmoid, which has no weights: its
input is our logit) and holds a second Linear, `fc`, that it never uses.
"""

import math
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from advvae.errors import UserError

StateDict = dict[str, Tensor]


def convert_reference(state: dict[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, StateDict]]:
    """What the tensors tell of the networks' shapes, and the renamed state dicts of the parts found.

    Returns:
        Shapes: `channels`, `hidden_dims`, `final_size` (side of the last map) and, of a VAE, `latent_dim`.
        Parts: {"encoder": …, "decoder": …} of a VAE's file, {"discriminator": …} of a discriminator's.

    Raises:
        UserError: these are not the names of such a file.
    """
    first = state.get("encoder.0.0.weight")
    if not all(isinstance(value, Tensor) for value in state.values()) or first is None or first.dim() != 4:
        raise UserError(f"{path} is not a checkpoint: it names no encoder, decoder or discriminator")
    stages = {int(m[1]) for name in state if (m := re.fullmatch(r"encoder\.(\d+)\.0\.weight", name))}
    hidden_dims = [state[f"encoder.{i}.0.weight"].shape[0] for i in sorted(stages)]
    shapes: dict[str, Any] = {"channels": first.shape[1], "hidden_dims": hidden_dims}
    try:
        if "fc_mu.weight" in state:
            shapes["latent_dim"] = state["fc_mu.weight"].shape[0]
            shapes["final_size"] = math.isqrt(state["fc_mu.weight"].shape[1] // hidden_dims[-1])
            return shapes, _vae_parts(state, len(hidden_dims))
        linear = f"encoder.{len(hidden_dims) + 1}"  # a Flatten stands between the stages and the Linear
        shapes["final_size"] = math.isqrt(state[f"{linear}.weight"].shape[1] // hidden_dims[-1])
        return shapes, {"discriminator": _rename(state, {r"encoder\.(\d+\.[01])\.": r"stages.\1.", linear: "logit"})}
    except KeyError as missing:
        raise UserError(f"{path} is not a GenerativeZoo state dict: {missing} is missing") from None


def _vae_parts(state: StateDict, n_stages: int) -> dict[str, StateDict]:
    encoder = {r"encoder\.(\d+\.[01])\.": r"stages.\1.", "fc_mu": "mean", "fc_logvar": "logvar"}
    decoder = {
        "decoder_input": "input",
        r"decoder\.(\d+\.[01])\.": r"stages.\1.",
        r"final_layer\.([01])\.": rf"stages.{n_stages - 1}.\1.",
        r"final_layer\.3\.": "output.0.",
    }
    return {"encoder": _rename(state, encoder), "decoder": _rename(state, decoder)}


def _rename(state: StateDict, patterns: dict[str, str]) -> StateDict:
    """The entries whose name starts with one of the patterns, under their new names."""
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in patterns.items():
            if re.match(pattern, name):
                renamed[re.sub(f"^{pattern}", replacement, name)] = tensor
    return renamed
