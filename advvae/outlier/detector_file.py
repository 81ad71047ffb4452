"""The file of a detector: what scores have learnt, and what they give of normal validation images.

It loads with `torch.load(path, weights_only=True)` into nested dicts of tensors and plain values:

    format      version of this layout
    identity    what the scores were made from: checksums of the networks, dataset, seed
    scores      of each score: recipe, state, and its values of both halves of validation (selection, calibration)
"""

import hashlib
import logging
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advvae.data.store import code_of
from advvae.errors import UserError
from advvae.files import replacing
from advvae.outlier.evidence import Score

logger = logging.getLogger(__name__)

FORMAT = 1


@dataclass(frozen=True, eq=False)
class SavedScore:
    """What is kept of one score.

    recipe: what it is beside what it learnt (`recipe`): under another one it is another score.
    state: tensors that it learnt; empty where it learns nothing.
    selection, calibration: its values (n,), (m,) of the halves of validation.
    """

    recipe: str
    state: dict[str, Tensor]
    selection: np.ndarray
    calibration: np.ndarray


@dataclass(frozen=True, eq=False)
class SavedDetector:
    """The scores, by name, that were made under one identity."""

    identity: dict[str, str]
    scores: dict[str, SavedScore]


def write_detector(path: Path, saved: SavedDetector) -> None:
    """Write a detector file. Other scores that it holds under the same identity stay in it.

    Raises:
        UserError: it cannot be written.
    """
    scores = saved.scores
    with suppress(Exception):  # what cannot be used is replaced; whoever wanted to read it has been told
        before = _load(path)
        scores = before.scores | scores if before.identity == saved.identity else scores
    content = {
        name: {
            "recipe": score.recipe,
            "state": score.state,
            "selection": torch.from_numpy(score.selection),
            "calibration": torch.from_numpy(score.calibration),
        }
        for name, score in scores.items()
    }
    try:
        with replacing(path) as unfinished, unfinished.open("wb") as file:
            torch.save({"format": FORMAT, "identity": saved.identity, "scores": content}, file)
    except RuntimeError as error:  # how torch reports a full disk
        raise UserError(f"cannot write {path}: {' '.join(str(error).split())[:200]}") from None


def read_detector(path: Path) -> SavedDetector | None:
    """What a detector file holds; None where there is no such file, or, which is said, none that can be used."""
    if not path.exists():
        return None
    try:
        return _load(path)
    except Exception as error:  # torch raises many kinds, and a foreign file may hold anything
        reason = str(error) if isinstance(error, ValueError) else type(error).__name__
        logger.warning(f"{path} is damaged, or no detector file ({reason}): its scores are made again")
        return None


def _load(path: Path) -> SavedDetector:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if content["format"] != FORMAT:
        raise ValueError(f"its format is {content['format']}, not {FORMAT}")
    scores = {
        name: SavedScore(s["recipe"], dict(s["state"]), s["selection"].numpy(), s["calibration"].numpy())
        for name, s in content["scores"].items()
    }
    return SavedDetector(dict(content["identity"]), scores)


def recipe(score: Score) -> str:
    """What a score is beside what it learnt: its name in its module, its arguments, a digest of a user's own code."""
    plain: Any = score.func if isinstance(score, partial) else score
    arguments = (score.args, score.keywords) if isinstance(score, partial) else _arguments(plain)
    kind = plain if hasattr(plain, "__qualname__") else type(plain)
    code = hashlib.sha256(code_of(kind).encode()).hexdigest()[:16]
    return f"{kind.__module__}.{kind.__qualname__} {arguments} {code}"


def _arguments(score: Any) -> dict[str, Any]:
    """An object's public attributes but its state; a function's are what it declares."""
    return {name: value for name, value in vars(score).items() if name != "state" and not name.startswith("_")}
