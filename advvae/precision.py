"""`precision=auto`: measured before step 0, once for a machine and a shape of work."""

import hashlib
import json
import logging
import platform
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advvae.errors import UserError
from advvae.files import replacing
from advvae.game import draw_noise
from advvae.losses import Objective
from advvae.models import AdversarialVAE
from advvae.players import make_players
from advvae.recording import WARM_UP, make_step

logger = logging.getLogger(__name__)

AUTO_GAIN = 1.1  # how much faster bfloat16 must be to be chosen
TRIALS = 3  # steps that are timed in each precision, or fewer, once a gain
UNCLEAR = (0.8, 1.4)  # is not between these
SIDE = 256  # of the matrices whose product tells whether there is bfloat16 in hardware


def choose_precision(
    networks: AdversarialVAE, objective: Objective, images: Tensor, cache: Path, compile: str = "auto"
) -> str:
    """bf16 if a step runs at least 10 % faster in it than in float32, else 32. Says what it chose, and why.

    Args:
        images: a batch, on the device that is trained on.
        cache: the folder that keeps the gain found for the next run of the same shape on the same machine.
    """
    device = images.device
    if device.type == "mps" or (device.type == "cuda" and not torch.cuda.is_bf16_supported()):
        return "32"
    path = cache / f"precision-{_shape_of_work(networks, objective, images, compile)}.json"
    found = _kept_gain(path)
    gain = found or measured_gain(networks, objective, images, compile)
    if not found:
        try:
            with replacing(path) as unfinished:
                unfinished.write_text(json.dumps({"gain": gain}))
        except UserError as error:  # the next run measures again
            logger.info(str(error))
    chosen = "bf16" if gain >= AUTO_GAIN else "32"
    when = "an earlier trial" if found else "a trial"
    logger.info(f"precision {chosen}: in {when}, bf16 was {gain:.2f} times as fast as 32")
    return chosen


def measured_gain(networks: AdversarialVAE, objective: Objective, images: Tensor, compile: str) -> float:
    """How many times as fast a step is in bfloat16, on copies of the networks.

    Where the processor has no bfloat16, a step in it can take minutes. There it is the gain of a product of matrices.
    """
    device, generator = images.device, torch.Generator().manual_seed(0)
    if (gain := _gain_of_a_product(device)) < UNCLEAR[0] / 2:
        return gain
    noise = draw_noise(len(images), networks.latent_dim, generator, device)
    seconds: dict[str, list[float]] = {"32": [], "bf16": []}
    players = {precision: make_players(deepcopy(networks), 0.0, device) for precision in seconds}
    steps = {name: make_step(players[name], objective, name, device, compile) for name in seconds}
    n_warm_up = WARM_UP + 1 if device.type == "cuda" else 1
    for trial in range(-n_warm_up, TRIALS):  # interleaved
        for precision in seconds:
            started = time.perf_counter()
            steps[precision](images, *noise).tolist()  # waits for the device
            if trial >= 0:
                seconds[precision].append(time.perf_counter() - started)
        if trial >= 0:
            gain = min(seconds["32"]) / min(seconds["bf16"])  # the fastest is what other programs disturbed least
            if not UNCLEAR[0] < gain < UNCLEAR[1]:
                break
    return gain


def _gain_of_a_product(device: torch.device) -> float:
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(SIDE, SIDE, device=device, dtype=dtype)
        seconds[dtype] = min(_seconds_of_a_product(matrix) for _ in range(TRIALS))
    return seconds[torch.float32] / seconds[torch.bfloat16]


def _seconds_of_a_product(matrix: Tensor) -> float:
    started = time.perf_counter()
    (matrix @ matrix)[0, 0].item()  # waits for the device
    return time.perf_counter() - started


def _shape_of_work(networks: AdversarialVAE, objective: Objective, images: Tensor, compile: str) -> str:
    """A digest of what a step's time depends on: the machine, the batch, the networks, the terms that are played."""
    device = torch.cuda.get_device_name(images.device) if images.device.type == "cuda" else images.device.type
    facts = {
        "machine": [platform.node(), platform.machine(), device, torch.get_num_threads(), torch.__version__],
        "images": list(images.shape),
        "compile": compile,
        "networks": [[name, str(module)] for name, module in networks.named_children()],
        "terms": [
            _name(objective.reconstruction_loss),
            *(getattr(objective, name) > 0 for name in ("recon_weight", "gen_weight", "feature_weight")),
            objective.gradient_penalty > 0,
            objective.adversarial.is_relative,
            objective.adaptive_weight,
            *objective.augment,
        ],
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _name(loss: Any) -> str:
    function = getattr(loss, "func", loss)  # of a functools.partial
    return getattr(function, "__qualname__", type(function).__qualname__)


def _kept_gain(path: Path) -> float | None:
    try:
        gain = json.loads(path.read_text())["gain"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return gain if isinstance(gain, float) and gain > 0 else None
