"""Checkpoint files: one object holds all that a run needs to go on, or to be used.

A file loads with `torch.load(path, weights_only=True)` into nested dicts of tensors and plain values:

    format            version of this layout
    config            the run's resolved configuration
    encoder, decoder, discriminator      state dicts; a part that the run does not have is absent
    training          what a resumed run needs: epoch, step, best metrics, optimisers, tracker's run id
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from advvae.errors import UserError
from advvae.files import replacing
from advvae.models import AdversarialVAE
from advvae.models.reference import convert_reference

FORMAT = 1
PARTS = ("encoder", "decoder", "discriminator")


@dataclass
class Training:
    """Where a run stands. Data order and noise follow from the seed and the epoch, so they need no state."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    best_metrics: dict[str, Any] = field(default_factory=dict)
    vae_optimizer: dict[str, Any] = field(default_factory=dict)
    discriminator_optimizer: dict[str, Any] = field(default_factory=dict)
    tracker_run_id: str | None = None


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        config: the run's resolved configuration; of a file saved by GenerativeZoo, what its tensors tell: `channels`,
            `latent_dim`, `hidden_dims` and `final_size`, the side of the last map.
        parts: state dicts of those of encoder, decoder and discriminator that the file has.
        training: None in a file that cannot be trained on.
    """

    path: Path
    config: dict[str, Any]
    parts: dict[str, dict[str, torch.Tensor]]
    training: Training | None

    def restore(self, networks: AdversarialVAE, parts: tuple[str, ...] = PARTS) -> None:
        """Copy this file's weights into those of the networks' parts that it has.

        Raises:
            UserError: a part's tensors do not fit the network.
        """
        for part in parts:
            network = getattr(networks, part)
            if network is None or part not in self.parts:
                continue
            try:
                network.load_state_dict(self.parts[part])
            except RuntimeError as error:
                detail = " ".join(str(error).split())[:300]
                raise UserError(f"{self.path} does not fit the {part} that the config describes: {detail}") from None


def save_checkpoint(path: Path, networks: AdversarialVAE, config: dict[str, Any], training: Training) -> None:
    """Write a checkpoint. The file that it replaces stays until the new one is whole and on the disk.

    Raises:
        UserError: it cannot be written.
    """
    parts = {part: getattr(networks, part).state_dict() for part in PARTS if getattr(networks, part) is not None}
    try:
        with replacing(path) as unfinished, unfinished.open("wb") as file:
            torch.save({"format": FORMAT, "config": config, **parts, "training": asdict(training)}, file)
            file.flush()
            os.fsync(file.fileno())
    except RuntimeError as error:  # how torch reports a full disk
        raise UserError(f"cannot write {path}: {' '.join(str(error).split())[:200]}") from None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of ours, or a state dict saved by caetas/GenerativeZoo.

    Raises:
        UserError: the file is missing, damaged, or no checkpoint.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except Exception as error:  # torch raises many kinds: RuntimeError, EOFError, UnpicklingError, OSError …
        raise UserError(f"{path} is damaged, or not a checkpoint ({type(error).__name__})") from None
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path} is not a checkpoint: it holds no weights")
    if "format" not in content:
        shapes, parts = convert_reference(dict(content), path)
        return Checkpoint(path, shapes, parts, training=None)
    if content["format"] != FORMAT:
        raise UserError(f"{path} has format {content['format']}; this version reads format {FORMAT}")
    try:
        training = Training(**content["training"]) if content.get("training") else None
        config = dict(content["config"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is damaged, or not a checkpoint: its config or training state is not whole") from None
    return Checkpoint(path, config, {part: content[part] for part in PARTS if part in content}, training)


def sha256(path: Path) -> str:
    """Checksum of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"
