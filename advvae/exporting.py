"""`mode=export`: a trained run as a folder `model` that other programs read, and that may be published as it is.

    model.safetensors       the weights, named <part>.<tensor>
    config.json             what they were trained by, what they take, and the thresholds of their scores
    onnx/, torch_export/    encoder, decoder, discriminator and scorer, each for any number of images
    detector-model.pt       what the scores learnt, for `advvae` itself
    README.md               a model card

Every graph is run and compared with PyTorch before it is kept. No place of this machine and no training image is in it.
"""

import json
import logging
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from advvae.config import Config
from advvae.data.images import FILTER, LUMA
from advvae.errors import UserError
from advvae.files import replacing
from advvae.graphs import OtherNumbers, graphs_of, scorer_graph, write_graph
from advvae.losses import Objective
from advvae.models import AdversarialVAE
from advvae.outlier.detector import Detector
from advvae.outlier.evidence import Score
from advvae.outlier.scorer import NO_GRAPH
from advvae.outlier.scores import FUSED, SCORES
from advvae.weights import CONFIG, FORMAT, WEIGHTS, save_weights

logger = logging.getLogger(__name__)

DETECTOR, CARD = "detector-model.pt", "README.md"
PACKAGES = ("safetensors", "onnx", "onnxscript", "onnxruntime")
NOT_A_GRAPH = "no graph of tensor operations"
OTHER_NUMBERS = "its numbers differ from PyTorch's, as where what it learnt hardly varies"
PIXELS = "pixel_knn"  # the score that keeps training images themselves


@dataclass(frozen=True)
class ScorerParts:
    """The scores of a detector, as far as the scorer has them.

    scores: those that it gives, in its order.
    left_out: why it does not give the others, by name.
    """

    scores: dict[str, Score]
    left_out: dict[str, str]

    def without(self, names: Collection[str], reason: str) -> "ScorerParts":
        """The same, less the scores of these names."""
        kept = {name: score for name, score in self.scores.items() if name not in names}
        return ScorerParts(kept, self.left_out | dict.fromkeys(names, reason))


def check_packages() -> None:
    """Raises UserError where a package is missing that writes or reads one of the formats."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"mode=export needs {', '.join(missing)}: pip install 'advvae[export]'")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write to, which takes its name at the end of the block; an error leaves neither.

    Raises:
        UserError: it cannot be written.
    """
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        for lock in unfinished.glob(".*.lock"):  # of the detector file, which nobody else has written to
            lock.unlink()
        unfinished.replace(folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def without_images(config: Config) -> Config:
    """The config without the score that keeps training images, which no export is to hold; that it goes is said."""

    def keeps_images(item: Any) -> bool:
        return item == PIXELS or (isinstance(item, dict) and item.get("_target_") == SCORES[PIXELS])

    if any(map(keeps_images, [*config.scores, *(config.fuse if FUSED in config.scores else ())])):
        logger.info(f"score {PIXELS} is left out: it keeps training images, and an exported model holds none")
    scores, fuse = ([item for item in items if not keeps_images(item)] for items in (config.scores, config.fuse))
    return replace(config, scores=scores, fuse=fuse, baselines=False)


def export(
    folder: Path,
    config: Config,
    networks: AdversarialVAE,
    objective: Objective,
    detector: Detector | None,
    images: Tensor,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write a run's weights, config and graphs into `folder`.

    Args:
        networks: on the CPU.
        detector: fitted scores; None = there were no images to fit them on, and there is no scorer.
        images: (n, C, side, side) in [-1, 1] that graphs are compared on beside random numbers; n may be 0.

    Returns:
        What stands in config.json; and what `metrics.json` says: `scorer`, the scores in their order, `onnx.<graph>`,
        `torch_export.<graph>`, the largest difference from PyTorch (`graphs.difference`).

    Raises:
        UserError: a network is no graph, or it gives other numbers than PyTorch; a file cannot be written. A score that
            does is left out.
    """
    parts = scorer_parts(config, networks, objective, {} if detector is None else detector.scores, images)
    apart = {graph.name: write_graph(folder, graph) for graph in graphs_of(networks, images)}
    while parts.scores and "scorer" not in apart:
        try:
            apart["scorer"] = write_graph(folder, scorer_graph(networks, objective, parts.scores, images))
        except OtherNumbers as error:
            (folder / "torch_export" / "scorer.pt2").unlink(missing_ok=True)  # of scores that are not all kept
            if not error.columns:
                raise
            parts = parts.without([list(parts.scores)[column] for column in error.columns], OTHER_NUMBERS)
    for reason in dict.fromkeys(parts.left_out.values()):
        names = ", ".join(name for name, why in parts.left_out.items() if why == reason)
        logger.info(f"scores that stay with advvae: {names}: {reason}")
    logger.info(f"exported {', '.join(apart)}")
    save_weights(folder / WEIGHTS, networks)
    content = described(config, detector, parts, len(images))
    with replacing(folder / CONFIG) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    kinds = {kind: {name: of_kind[kind] for name, of_kind in apart.items()} for kind in ("onnx", "torch_export")}
    return content, {"scorer": list(parts.scores), **kinds}


def scorer_parts(
    config: Config, networks: AdversarialVAE, objective: Objective, scores: Mapping[str, Score], images: Tensor
) -> ScorerParts:
    """Which scores are part of the scorer: those that are graphs. Each of a user's own is tried by itself."""
    if config.crop:
        reason = f"a scorer takes whole images of {config.size} px, and the networks crops of {config.crop} px"
        return ScorerParts({}, dict.fromkeys(scores, reason))
    if not networks.has_vae:
        return ScorerParts({}, dict.fromkeys(scores, "a scorer reconstructs, and there is no encoder and decoder"))
    left_out = {name: NOT_A_GRAPH for name in scores if name in NO_GRAPH}
    for name in (name for name in scores if name not in SCORES):
        with TemporaryDirectory() as trial:
            try:
                write_graph(Path(trial), scorer_graph(networks, objective, {name: scores[name]}, images))
            except OtherNumbers:
                left_out[name] = OTHER_NUMBERS
            except UserError as error:  # in words that may name files of this machine
                logger.info(f"score {name}: {error}")
                left_out[name] = NOT_A_GRAPH
    return ScorerParts({name: score for name, score in scores.items() if name not in left_out}, left_out)


def described(config: Config, detector: Detector | None, parts: ScorerParts, n_images: int) -> dict[str, Any]:
    """What stands in config.json: all that a reader needs beside the weights.

    Args:
        n_images: how many images graphs were compared on.
    """
    from importlib.metadata import version

    thresholds = {} if detector is None else {name: detector.threshold(name, config.alpha) for name in detector.names}
    window = config.dataset["window"]
    by_window = "clip((value - low) / (high - low), 0, 1) * 2 - 1, with window = [low, high] in the unit of the files"
    by_bits = "8 bits: value / 127.5 - 1; 16 bits: value / 32767.5 - 1"
    return {
        "format": FORMAT,
        "advvae": version("advvae"),
        "input": {
            "channels": config.dataset["channels"],
            "size": config.side,
            "range": [-1, 1],
            "window": window,
            "resize": config.dataset["resize"],
            "image_size": config.size,
            "scaling": by_window if window else by_bits,
            "filter": FILTER,
            "luma": LUMA,
        },
        "scorer": list(parts.scores),
        "not_in_scorer": parts.left_out | ({FUSED: "it combines p-values of others"} if FUSED in thresholds else {}),
        "alpha": config.alpha,
        "thresholds": {name: value for name, value in thresholds.items() if name in parts.scores},
        "other_thresholds": {name: value for name, value in thresholds.items() if name not in parts.scores},
        "compared_on_images": n_images,
        "config": public(config),
    }


def public(config: Config) -> dict[str, Any]:
    """A run's config without what it says of this machine and its user: of a place, its last name stays."""
    values = asdict(config) | {
        "data_dir": "data",
        "output_dir": "outputs",
        "mode": "train",
        "tracker": {"name": "none"},
    }
    values |= dict.fromkeys(("input", "resume", "checkpoint", "discriminator_checkpoint")) | {"nodes": {}}
    return without_places(values)


def without_places(value: Any) -> Any:
    """A value in which of each absolute path, or one in somebody's home, only the last name is left."""
    if isinstance(value, Mapping):
        return {key: without_places(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [without_places(item) for item in value]
    is_place = isinstance(value, str) and (value.startswith("~/") or Path(value.removeprefix("file://")).is_absolute())
    return Path(value).name if is_place else value
