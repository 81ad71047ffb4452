"""Checkpoint files: one object holds all that a run needs to go on, or to be used.

A file loads with `torch.load(path, weights_only=True)` into nested dicts of tensors and plain values:

    format            version of this layout
    config            the run's resolved configuration
    encoder, decoder, discriminator      state dicts; a part that the run does not have is absent
    training          what a resumed run needs; see `Training`

A file of torch.save's is a zip archive. Its comment, which other readers pass over, is the SHA-256 of all before it:
torch itself does not notice a flipped bit.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, BinaryIO, get_args, get_origin, get_type_hints

import torch

from advvae.config import Config
from advvae.errors import UserError
from advvae.files import replacing
from advvae.models import AdversarialVAE
from advvae.models.reference import convert_reference
from advvae.weights import PARTS, parts_of, read_weights

FORMAT = 2  # files of format 1 have no checksum, and were written at the end of an epoch alone
GROUPS = ("dataset", "model", "loss")  # of its config
SEAL = b"sha256:"


class NewerFormat(UserError):
    """A file of a later version of advvae, which is whole."""


@dataclass
class UnderWay:
    """Where an epoch that is not over stands.

    Attributes:
        seed, n_images: what the order of the data follows from.
        steps, images: how many of them are done, over all ranks.
        totals: sums over the images of the terms of the loss, (n_terms,) float64.
        generator: state of what draws the noise.
        own_generators: states of what draws for each rank's own images.
        seconds: that the part which is done has taken.
        rewinds: those of the run when it was done.
    """

    seed: int
    n_images: int
    steps: int
    images: int
    totals: torch.Tensor
    generator: torch.Tensor
    own_generators: list[torch.Tensor]
    seconds: float
    rewinds: int


@dataclass
class Training:
    """Where a run stands. At the start of an epoch, data order and noise follow from the seed and the epoch.

    Attributes:
        epoch, step: epochs that are over, and the steps of these.
        rows: of these epochs, as in metrics.csv.
        rewinds: how often the run has gone back because of a loss, gradient or weight that was not finite.
        under_way: the fields of `UnderWay`; None = no epoch is.
        random_state: of the generators that a user's own network or loss may draw from.
        weights: state dicts of the networks that are trained, where the checkpoint's own are their moving average.
        average_steps: that this average has followed.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    rewinds: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    best_metrics: dict[str, Any] = field(default_factory=dict)
    vae_optimizer: dict[str, Any] = field(default_factory=dict)
    discriminator_optimizer: dict[str, Any] = field(default_factory=dict)
    tracker_run_id: str | None = None
    under_way: dict[str, Any] | None = None
    random_state: dict[str, Any] | None = None
    weights: dict[str, Any] | None = None
    average_steps: int = 0

    @property
    def steps_done(self) -> int:
        """Of the whole run, those of the epoch under way included."""
        return self.step + (self.under_way["steps"] if self.under_way else 0)

    @property
    def epochs_begun(self) -> int:
        return self.epoch + (self.under_way is not None)

    @property
    def place(self) -> str:
        """Where this is, in words."""
        return f"after epoch {self.epoch}" + (
            f" and {self.under_way['steps']} steps of the next" if self.under_way else ""
        )


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


def save_checkpoint(
    path: Path,
    networks: AdversarialVAE,
    config: dict[str, Any],
    training: Training,
    previous: Path | None = None,
) -> None:
    """Write a checkpoint. The file that it replaces stays until the new one is whole and on the disk.

    Args:
        previous: where to put the file that it replaces; None = nowhere.

    Raises:
        UserError: it cannot be written.
    """
    parts = parts_of(networks)
    try:
        with replacing(path, previous) as unfinished, unfinished.open("w+b") as file:
            torch.save({"format": FORMAT, "config": config, **parts, "training": vars(training)}, file)
            _seal(file)
    except RuntimeError as error:  # how torch hands on what the system said
        cause = error.__context__
        told = cause.strerror if isinstance(cause, OSError) else " ".join(str(error).split())[:200]
        raise UserError(f"cannot write {path}: {told}") from None


def copy_checkpoint(source: Path, path: Path, previous: Path | None = None) -> None:
    """As `save_checkpoint`, from a file of the same moment. No link: what harms one file must not harm the other.

    Raises:
        UserError: it cannot be written.
    """
    with replacing(path, previous) as unfinished:
        shutil.copyfile(source, unfinished)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of ours, or a state dict saved by caetas/GenerativeZoo.

    Raises:
        UserError: the file is missing, damaged, or no checkpoint; NewerFormat: it is one of a later version's.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    if path.suffix == ".safetensors":
        config, parts = read_weights(path)
        if not _is_whole(Config, config) or not all("name" in config.get(group, ()) for group in GROUPS):
            raise UserError(f"{path.parent} is damaged, or no exported model: its config is not whole")
        return Checkpoint(path, config, parts, training=None)
    try:
        _check_seal(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except UserError:
        raise
    except Exception as error:  # torch raises many kinds: RuntimeError, EOFError, UnpicklingError, OSError …
        raise UserError(f"{path} is damaged, or not a checkpoint ({type(error).__name__})") from None
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path} is not a checkpoint: it holds no weights")
    if "format" not in content:
        shapes, parts = convert_reference(dict(content), path)
        return Checkpoint(path, shapes, parts, training=None)
    if content["format"] not in range(1, FORMAT + 1):
        raise NewerFormat(f"{path} has format {content['format']}; this version of advvae reads 1 to {FORMAT}")
    try:
        config, parts = dict(content["config"]), {part: content[part] for part in PARTS if part in content}
        training = Training(**content["training"]) if content.get("training") else None
        under_way = UnderWay(**training.under_way) if training and training.under_way else None
        whole = _is_whole(Config, config) and all(isinstance(part, Mapping) for part in parts.values())
        whole = whole and all("name" in config[group] for group in GROUPS)
        whole = whole and all(_is_whole(type(state), vars(state)) for state in (training, under_way) if state)
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise UserError(f"{path} is damaged, or not a checkpoint: its config or training state is not whole")
    return Checkpoint(path, config, parts, training)


def _is_whole(kind: type, values: Mapping[str, Any]) -> bool:
    """Whether each value is of the type that the dataclass declares for it, as far as its outermost level tells."""
    for name, hint in get_type_hints(kind).items():
        options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        types = tuple(object if option is Any else get_origin(option) or option for option in options)
        if name in values and not isinstance(values[name], (*types, int) if float in types else types):
            return False
    return True


def sha256(path: Path) -> str:
    """Checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return _sha256(file, path.stat().st_size)


def _sha256(file: BinaryIO, n_bytes: int) -> str:
    """Of the first n bytes."""
    digest = hashlib.sha256()
    file.seek(0)
    while n_bytes > 0 and (block := file.read(min(n_bytes, 1 << 20))):
        digest.update(block)
        n_bytes -= len(block)
    return digest.hexdigest()


def _seal(file: BinaryIO) -> None:
    """Add the checksum as the comment of a zip archive, which ends in the comment's length: two bytes."""
    file.seek(-2, os.SEEK_END)
    assert file.read() == b"\0\0", "torch.save writes no comment"
    file.seek(-2, os.SEEK_END)
    file.write((len(SEAL) + 64).to_bytes(2, "little"))
    checksum = _sha256(file, file.seek(0, os.SEEK_END))
    file.seek(0, os.SEEK_END)
    file.write(SEAL + checksum.encode())


def _check_seal(path: Path) -> None:
    """Compare a file with the checksum that it ends in; one that a user has saved anew has none.

    Raises:
        UserError: it is another one.
    """
    with path.open("rb") as file:
        sealed = max(0, file.seek(0, os.SEEK_END) - len(SEAL) - 64)
        file.seek(sealed)
        seal = file.read()
        if seal.startswith(SEAL) and seal != SEAL + _sha256(file, sealed).encode():
            raise UserError(f"{path} is damaged: its checksum is wrong")


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"
