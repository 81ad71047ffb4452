"""`mode=export`: a trained run as a folder that other programs read.

    model.safetensors       the weights, named <part>.<tensor>
    config.json             what they were trained by, what they take, and the thresholds of their scores
    detector-model.pt       what the scores learnt, for `advvae` itself
    README.md               a model card
    onnx/, torch_export/    encoder, decoder, discriminator and scorer, each for any number of images

Every graph is run and compared with PyTorch before it is kept.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advvae.config import PLACES, Config
from advvae.errors import UserError
from advvae.files import replacing
from advvae.losses import Objective
from advvae.models import AdversarialVAE
from advvae.outlier.detector import Detector
from advvae.outlier.evidence import Score
from advvae.outlier.scorer import NO_GRAPH, Scorer
from advvae.weights import CONFIG, FORMAT, WEIGHTS, save_weights

logger = logging.getLogger(__name__)

DETECTOR = "detector-model.pt"
TOLERANCE = 1e-4  # by which another runtime's numbers may differ, of the largest number of their kind
BATCHES = (1, 3, 5)  # numbers of images that graphs are tried with
PACKAGES = ("safetensors", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Graph:
    """A network to export. `inputs`: what it takes for n images. `outputs`: the names of what it gives."""

    name: str
    network: nn.Module
    shape: tuple[int, ...]
    input: str
    outputs: tuple[str, ...]

    def example(self, n: int) -> Tensor:
        """Inputs (n, …) within the range that the network takes, the same ones every time."""
        drawn = torch.randn(n, *self.shape, generator=torch.Generator().manual_seed(n))
        return drawn.clamp(-1, 1) if len(self.shape) == 3 else drawn


def check_packages() -> None:
    """Raises UserError where a package is missing that writes or reads one of the formats."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"mode=export needs {', '.join(missing)}: pip install 'advvae[export]'")


def export(
    folder: Path, config: Config, networks: AdversarialVAE, objective: Objective, detector: Detector | None, card: str
) -> dict[str, Any]:
    """Write a run's networks and scores into `folder`.

    Args:
        networks: on the CPU.
        detector: fitted scores; None = there were no images to fit them on, and none is exported.
        card: the text of README.md.

    Returns what `metrics.json` says: `scorer`, the scores in their order; `onnx.<graph>`, `torch_export.<graph>`, the
    largest difference from PyTorch, as a share of the largest number.

    Raises:
        UserError: a graph gives other numbers than PyTorch; a package is missing; a file cannot be written.
    """
    save_weights(folder / WEIGHTS, networks)
    scores = {} if detector is None or config.crop else graph_scores(detector.scores)
    write_config(folder / CONFIG, config, detector, list(scores))
    with replacing(folder / "README.md") as unfinished:
        unfinished.write_text(card, encoding="utf-8")
    graphs = graphs_of(config, networks, objective, scores)
    found: dict[str, Any] = {"scorer": list(scores), "onnx": {}, "torch_export": {}}
    for graph in graphs:
        program = exported(graph)
        found["torch_export"][graph.name] = write_program(folder / "torch_export" / f"{graph.name}.pt2", graph, program)
        found["onnx"][graph.name] = write_onnx(folder / "onnx" / f"{graph.name}.onnx", graph, program)
        logger.info(f"exported {graph.name}")
    return found


def write_config(path: Path, config: Config, detector: Detector | None, scores: list[str]) -> None:
    """Write what a reader needs beside the weights."""
    from importlib.metadata import version

    thresholds = {} if detector is None else {name: detector.threshold(name, config.alpha) for name in detector.names}
    content = {
        "format": FORMAT,
        "advvae": version("advvae"),
        "input": {
            "channels": config.dataset["channels"],
            "size": config.side,
            "range": [-1, 1],
            "window": config.dataset["window"],
            "resize": config.dataset["resize"],
        },
        "scorer": scores,
        "alpha": config.alpha,
        "thresholds": thresholds,
        "config": public(config),
    }
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def public(config: Config) -> dict[str, Any]:
    """A run's config without the places of this machine: of a user's own images, the name of the folder stays."""
    values = asdict(config) | {"data_dir": "data", "output_dir": "outputs", "input": None, "nodes": {}}
    values |= {"checkpoint": None, "discriminator_checkpoint": None, "mode": "train"}
    for group in ("dataset", "out_dataset"):
        named = {name: Path(place).name for name in PLACES if (place := values[group].get(name))}
        values[group] = values[group] | named
    return values


def graph_scores(scores: Mapping[str, Score]) -> dict[str, Score]:
    """Those of the scores that are graphs of tensor operations; which ones are not is said."""
    kept = {name: score for name, score in scores.items() if name not in NO_GRAPH}
    if left_out := [name for name in scores if name not in kept]:
        logger.info(f"scores that are no graph, and stay with advvae: {', '.join(left_out)}")
    return kept


def graphs_of(
    config: Config, networks: AdversarialVAE, objective: Objective, scores: Mapping[str, Score]
) -> list[Graph]:
    """What is exported of these networks."""
    channels, side = config.dataset["channels"], config.side
    images = (channels, side, side)
    graphs = []
    if networks.encoder is not None:
        graphs.append(Graph("encoder", networks.encoder, images, "images", ("mean", "logvar")))
    if networks.decoder is not None:
        graphs.append(Graph("decoder", networks.decoder, (networks.latent_dim,), "latents", ("images",)))
    if networks.discriminator is not None:
        graphs.append(Graph("discriminator", networks.discriminator, images, "images", ("logit",)))
    if scores and networks.has_vae:
        scorer = Scorer(networks, objective, scores)
        graphs.append(Graph("scorer", scorer, images, "images", ("reconstruction", "scores")))
    return graphs


def exported(graph: Graph) -> torch.export.ExportedProgram:
    """The graph of a network for any number of inputs.

    Raises:
        UserError: PyTorch cannot follow it, as may be so of a network or score of the user's own.
    """
    network, example = graph.network.eval(), graph.example(BATCHES[1])
    with torch.no_grad():
        network(example)  # what is made at the first call is a constant of the graph
        try:
            batch = torch.export.Dim("batch", min=1, max=65536)
            program = torch.export.export(network, (example,), dynamic_shapes=({0: batch},), strict=False)
        except Exception as error:  # of many kinds
            raise UserError(f"mode=export cannot make a graph of {graph.name}: {_first_line(error)}") from None
    _tidy(program)
    return program


def _tidy(program: torch.export.ExportedProgram) -> None:
    """Drop what a reader elsewhere has no use for, or cannot run."""
    for part in program.graph_module.modules():  # what ran with autocast off is a graph of its own
        if not isinstance(part, torch.fx.GraphModule):
            continue
        for node in list(part.graph.nodes):
            node.meta.pop("stack_trace", None)  # lines of files of this machine
            if node.target is torch.ops.aten.squeeze.dim:
                maps, dimension = node.args
                if maps.meta["val"].shape[dimension] != 1:  # it does nothing (pytorch-msssim), and ONNX refuses it
                    node.replace_all_uses_with(maps)
                    part.graph.erase_node(node)
        part.recompile()


def write_program(path: Path, graph: Graph, program: torch.export.ExportedProgram) -> float:
    """Write a graph for `torch.export.load`; returns by how much it differs from PyTorch."""
    with replacing(path) as unfinished:
        with unfinished.open("wb") as file:  # by its name, it would want another ending
            torch.export.save(program, file)
        with unfinished.open("rb") as file:
            loaded = torch.export.load(file).module()
        return _difference(graph, "torch.export", loaded)


def write_onnx(path: Path, graph: Graph, program: torch.export.ExportedProgram) -> float:
    """Write a graph as ONNX; returns by how much it differs from PyTorch when ONNX Runtime runs it."""
    import onnxruntime

    written = torch.onnx.export(program, input_names=[graph.input], output_names=list(graph.outputs), verbose=False)
    assert written is not None
    with replacing(path) as unfinished:
        written.save(str(unfinished))
        session = onnxruntime.InferenceSession(str(unfinished), providers=["CPUExecutionProvider"])

        def run(inputs: Tensor) -> list[Tensor]:
            return [torch.from_numpy(output) for output in session.run(None, {graph.input: inputs.numpy()})]

        return _difference(graph, "ONNX", run)


def _difference(graph: Graph, runtime: str, run: Any) -> float:
    """The largest difference from PyTorch, of any output at any number of inputs, as a share of the largest number.

    Raises:
        UserError: it is more than TOLERANCE.
    """
    largest = 0.0
    for n in BATCHES:
        inputs = graph.example(n)
        with torch.no_grad():
            wanted = _listed(graph.network(inputs))
            found = _listed(run(inputs))
        for expected, got in zip(wanted, found, strict=True):
            columns = expected.flatten(1) if expected.ndim == 2 else expected.flatten()[:, None]  # scores one by one
            scale = columns.abs().amax(0).clamp(min=1)
            apart = (got.reshape(columns.shape) - columns).abs().amax(0) / scale
            largest = max(largest, apart.max().nan_to_num(nan=float("inf")).item())
    if largest > TOLERANCE:
        raise UserError(
            f"{graph.name} gives other numbers in {runtime} than in PyTorch, by {largest:.2g} of their size"
        )
    return largest


def _listed(outputs: Tensor | tuple[Tensor, ...] | list[Tensor]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:300]
