"""The file of a detector: what scores have learnt, and what they give of normal validation images.

It loads with `torch.load(path, weights_only=True)` into nested dicts of tensors and plain values:

    format      version of this layout
    detectors   of each identity, the newest first:
        identity    what the scores were made from: checksums of the networks, dataset, seed,
                    and of a user's own set what its files are (images)
        scores      of each score: recipe, state, and its values of both halves of validation (selection, calibration)
        groups      the group of each calibration image as a number, or None; no name of a patient is in the file
"""

import hashlib
import io
import logging
import pickle
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advvae.data.locks import exclusive
from advvae.data.store import code_of
from advvae.errors import UserError
from advvae.files import replacing
from advvae.outlier.evidence import Score

logger = logging.getLogger(__name__)

FORMAT = 3
IDENTITIES = 4  # the newest that a file keeps, such as seeds
PICKLE = 4  # protocol by which facts are digested, whatever Python's default is
ABSENT = "absent"  # an identity's `images` where these are not at hand: scores made from any are taken
NO_PART = ("state", "_copied", "needs")  # attributes of a score that are no part of its recipe

# What a score of this package computes is told by numbers, so that files of older versions of it go on being used. Who
# changes a score's formula, in outlier/*_scores.py, baselines.py or fitting.py, gives it the next number here: what it
# learnt and gave is then made anew. Who changes what Evidence says of images raises that of all.
EVIDENCE = 1
FORMULAS: dict[str, int] = {}  # by the name of the function or class in its module; 1 where there is none


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
    """The scores, by name, that were made under one identity.

    groups: (m,) int64, 0 ... n_groups - 1, of the calibration images; None = each is one by itself.
    """

    identity: dict[str, str]
    scores: dict[str, SavedScore]
    groups: np.ndarray | None = None


def write_detector(path: Path, saved: SavedDetector) -> None:
    """Write a detector file. What it holds of other scores stays in it, and of the newest IDENTITIES identities.

    A file that holds all of it already is left as it is: it may be an exported model's, or in somebody's cache.
    Only one process at a time does so, and none takes out what another has just written.

    Raises:
        UserError: it cannot be written.
    """
    if _is_known(path, saved):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(path.with_name(f".{path.name}.lock"), f"writing {path}"):
            content = {"format": FORMAT, "detectors": [_plain(detector) for detector in _merged(path, saved)]}
            with replacing(path) as unfinished, unfinished.open("wb") as file:
                torch.save(content, file)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    except RuntimeError as error:  # how torch reports a full disk
        raise UserError(f"cannot write {path}: {' '.join(str(error).split())[:200]}") from None


def read_detector(path: Path, identity: Mapping[str, str]) -> SavedDetector:
    """What a detector file holds under an identity.

    No scores where there is no such file, where an older version wrote it, or, which is said, where it cannot be used.
    """
    nothing = SavedDetector(dict(identity), {})
    if not path.exists():
        return nothing
    try:
        return _of_identity(identity, _load(path))
    except Exception as error:  # torch raises many kinds, and a foreign file may hold anything
        reason = str(error) if isinstance(error, ValueError) else type(error).__name__
        logger.warning(f"{path} is damaged, or no detector file ({reason}): its scores are made again")
        return nothing


def _is_known(path: Path, saved: SavedDetector) -> bool:
    """Whether the newest that a file holds are these scores, as these recipes made them."""
    known: list[SavedDetector] = []
    with suppress(Exception):  # as in _merged
        known = _load(path)
    if not known or not is_of(known[0].identity, saved.identity):
        return False
    recipes = {name: score.recipe for name, score in known[0].scores.items()}
    return all(recipes.get(name) == score.recipe for name, score in saved.scores.items())


def _merged(path: Path, saved: SavedDetector) -> list[SavedDetector]:
    """What is saved, then what else the file holds."""
    before: list[SavedDetector] = []
    with suppress(Exception):  # what cannot be used is replaced; whoever wanted to read it has been told
        before = _load(path)
    known = next((detector.scores for detector in before if detector.identity == saved.identity), {})
    grown = replace(saved, scores=known | saved.scores)
    return [grown, *(detector for detector in before if detector.identity != saved.identity)][:IDENTITIES]


def is_of(identity: Mapping[str, str], asked: Mapping[str, str]) -> bool:
    """Whether what was saved under an identity is what is asked for; any images will do where none are at hand."""
    anything = {"images": ABSENT} if asked.get("images") == ABSENT else {}
    return {**identity, **anything} == {**asked}


def _of_identity(identity: Mapping[str, str], detectors: list[SavedDetector]) -> SavedDetector:
    """The newest one of an identity; one with no scores where there is none."""
    found = (one for one in detectors if is_of(one.identity, identity))
    return next(found, SavedDetector(dict(identity), {}))


def _plain(detector: SavedDetector) -> dict[str, Any]:
    scores = {
        name: {
            "recipe": score.recipe,
            "state": score.state,
            "selection": torch.from_numpy(score.selection),
            "calibration": torch.from_numpy(score.calibration),
        }
        for name, score in detector.scores.items()
    }
    groups = None if detector.groups is None else torch.from_numpy(detector.groups)
    return {"identity": detector.identity, "scores": scores, "groups": groups}


def _load(path: Path) -> list[SavedDetector]:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if content["format"] < FORMAT:
        return []
    if content["format"] != FORMAT:
        raise ValueError(f"its format is {content['format']}, not {FORMAT}")
    return [_saved(detector) for detector in content["detectors"]]


def _saved(plain: dict[str, Any]) -> SavedDetector:
    scores = {
        name: SavedScore(s["recipe"], dict(s["state"]), s["selection"].numpy(), s["calibration"].numpy())
        for name, s in plain["scores"].items()
    }
    groups = None if plain["groups"] is None else plain["groups"].numpy()
    return SavedDetector(dict(plain["identity"]), scores, groups)


def recipe(score: Score) -> str:
    """What a score is beside what it learnt: its name in its module, and a digest of all else that shapes it.

    That is: arguments and attributes, private ones too, but for NO_PART; a user's own code; the number of its formula.
    """
    plain: Any = score.func if isinstance(score, partial) else score
    arguments = (score.args, score.keywords) if isinstance(score, partial) else None
    kind = plain if hasattr(plain, "__qualname__") else type(plain)
    name = f"{kind.__module__}.{kind.__qualname__}"
    facts = (EVIDENCE, FORMULAS.get(name, 1), code_of(kind), arguments, _attributes(plain))
    return f"{name} {_digest(facts)}"


def _attributes(plain: Any) -> object:
    """What an object or a function holds: for a function, beside what it declares, what it has taken from outside."""
    if isinstance(plain, MethodType):
        return plain.__self__, _attributes(plain.__func__)
    held = getattr(plain, "__dict__", None)
    if held is None:
        return plain
    attributes = {name: held[name] for name in sorted(held) if name not in NO_PART}
    if not isinstance(plain, FunctionType):
        return attributes
    closure = [cell.cell_contents for cell in plain.__closure__ or ()]
    return attributes, closure, plain.__defaults__, plain.__kwdefaults__


def _digest(facts: object) -> str:
    """Equal for equal facts; never the same for what cannot be pickled, of which nothing tells whether it is equal."""
    content = io.BytesIO()
    try:
        pickler = _ByValue(content, protocol=PICKLE)
        pickler.fast = True  # else one object twice and two equal ones differ
        pickler.dump(facts)
    except Exception:  # objects raise what they like
        return uuid.uuid4().hex
    return hashlib.sha256(content.getvalue()).hexdigest()


class _ByValue(pickle.Pickler):
    """Takes a tensor by its values: torch's own pickle of it holds its address."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return list, ((str(value.dtype), tuple(value.shape), content),)
