"""Networks and scores as graphs that other programs run, `torch.export` and ONNX, each compared with PyTorch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advvae.errors import UserError
from advvae.files import replacing
from advvae.losses import Objective
from advvae.models import AdversarialVAE
from advvae.outlier.evidence import Score
from advvae.outlier.scorer import Scorer
from advvae.progress import silenced

TOLERANCE = 1e-4  # by which another runtime's numbers may differ; of the largest of their kind where that is above 1
WRITERS = ("onnxscript", "onnx_ir", "torch.onnx", "torch.export")  # which tell much of their own steps
BATCHES = (1, 3, 5)  # numbers of random inputs that graphs are compared on


class OtherNumbers(UserError):
    """A graph that does not give PyTorch's numbers.

    columns: of its output `scores`, those that differ; empty where another output does.
    """

    def __init__(self, message: str, columns: list[int]) -> None:
        super().__init__(message)
        self.columns = columns


Runtime = Callable[[Tensor], Tensor | tuple[Tensor, ...] | list[Tensor]]


@dataclass(frozen=True, eq=False)
class Graph:
    """A network to export.

    input, outputs: what it takes and gives is called so.
    batches: inputs (n, …) that its graphs are compared with PyTorch on, of several n; it is traced with the second.
    """

    name: str
    network: nn.Module
    input: str
    outputs: tuple[str, ...]
    batches: list[Tensor]


def graphs_of(networks: AdversarialVAE, images: Tensor) -> list[Graph]:
    """Encoder, decoder and discriminator, as far as they are there.

    Args:
        images: (n, C, side, side) in [-1, 1] of the kind that the networks were trained on, which graphs are compared
            on beside random numbers; none, (0, C, side, side), where none are at hand.
    """
    latents, seen = random_batches(networks.latent_dim), _batches(images)
    graphs = []
    if networks.encoder is not None:
        graphs.append(Graph("encoder", networks.encoder, "images", ("mean", "logvar"), seen))
        with torch.no_grad():
            latents += [networks.encoder.eval()(images)[0]] if len(images) else []
    if networks.decoder is not None:
        graphs.append(Graph("decoder", networks.decoder, "latents", ("images",), latents))
    if networks.discriminator is not None:
        graphs.append(Graph("discriminator", networks.discriminator, "images", ("logit",), seen))
    return graphs


def scorer_graph(networks: AdversarialVAE, objective: Objective, scores: Mapping[str, Score], images: Tensor) -> Graph:
    """Reconstruction and scores in one. `images`: as for `graphs_of`."""
    scorer = Scorer(networks, objective, scores)
    return Graph("scorer", scorer, "images", ("reconstruction", "scores"), _batches(images))


def _batches(images: Tensor) -> list[Tensor]:
    """Random images in [-1, 1] of the same shape, then these where there are any."""
    drawn = [batch.clamp(-1, 1) for batch in random_batches(*images.shape[1:])]
    return [*drawn, images] if len(images) else drawn


def random_batches(*shape: int) -> list[Tensor]:
    """Normal random numbers (n, *shape) for each n of BATCHES, the same ones every time."""
    return [torch.randn(n, *shape, generator=torch.Generator().manual_seed(n)) for n in BATCHES]


def write_graph(folder: Path, graph: Graph) -> dict[str, float]:
    """Write torch_export/<name>.pt2 and onnx/<name>.onnx; returns by how much each differs from PyTorch.

    Raises:
        UserError: PyTorch cannot follow the network, as may be so of one of the user's own; another runtime cannot run
            the graph, or, OtherNumbers, gives other numbers; a file cannot be written.
    """
    try:
        with silenced(*WRITERS):
            program = exported(graph)
            return {
                "torch_export": write_program(folder / "torch_export" / f"{graph.name}.pt2", graph, program),
                "onnx": write_onnx(folder / "onnx" / f"{graph.name}.onnx", graph, program),
            }
    except UserError:
        raise
    except Exception as error:  # of many kinds
        raise UserError(f"mode=export cannot make a graph of {graph.name}: {_first_line(error)}") from None


def exported(graph: Graph) -> torch.export.ExportedProgram:
    """The graph of a network for any number of inputs."""
    network, example = graph.network.eval(), graph.batches[1]
    with torch.no_grad():
        network(example)  # what is made at the first call is a constant of the graph
        batch = torch.export.Dim("batch", min=1, max=65536)
        program = torch.export.export(network, (example,), dynamic_shapes=({0: batch},), strict=False)
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
        return compared(graph, "torch.export", loaded)


def write_onnx(path: Path, graph: Graph, program: torch.export.ExportedProgram) -> float:
    """Write a graph as ONNX; returns by how much it differs from PyTorch when ONNX Runtime runs it."""
    import onnxruntime
    from onnx_ir.traversal import RecursiveGraphIterator

    written = torch.onnx.export(program, input_names=[graph.input], output_names=list(graph.outputs), verbose=False)
    assert written is not None
    parts: list[Any] = [written.model.graph, *written.model.functions.values()]
    for part in parts:
        for node in RecursiveGraphIterator(part):
            node.metadata_props.clear()  # where its source is, on this machine
    with replacing(path) as unfinished:
        written.save(str(unfinished))
        session = onnxruntime.InferenceSession(str(unfinished), providers=["CPUExecutionProvider"])

        def run(inputs: Tensor) -> list[Tensor]:
            return [torch.from_numpy(output) for output in session.run(None, {graph.input: inputs.numpy()})]

        return compared(graph, "ONNX", run)


def compared(graph: Graph, runtime: str, run: Runtime) -> float:
    """The largest `difference` between what `run` gives of the graph's batches and what its network does.

    Raises:
        OtherNumbers: it is more than TOLERANCE.
    """
    found: dict[str, Tensor] = {}  # by output, the largest of all batches
    for batch in graph.batches:
        batch = batch.contiguous()  # NumPy's, and so ONNX Runtime's, order
        with torch.no_grad():
            outputs = zip(graph.outputs, _listed(graph.network(batch)), _listed(run(batch)), strict=True)
        for name, wanted, given in outputs:
            apart = difference(wanted, given)
            found[name] = torch.maximum(found.get(name, apart), apart)
    largest = {name: apart.max().item() for name, apart in found.items()}
    differing = [name for name, apart in largest.items() if apart > TOLERANCE]
    if differing:
        columns = (found["scores"] > TOLERANCE).nonzero().flatten().tolist() if differing == ["scores"] else []
        by = f"by {max(largest.values()):.2g} of their size"
        raise OtherNumbers(f"{graph.name} gives other numbers in {runtime} than in PyTorch, {by}", columns)
    return max(largest.values())


def difference(wanted: Tensor, found: Tensor) -> Tensor:
    """The largest difference of two outputs (n, …), as a share of the largest number of its kind where that is above 1.

    Returns:
        Of each column of a table (n, k), such as several scores, (k,); else of all numbers, ().
    """
    wanted, found = wanted.double(), found.reshape(wanted.shape).double()
    kinds: int | tuple[int, ...] = 0 if wanted.ndim == 2 else tuple(range(wanted.ndim))
    shares = (found - wanted).abs().amax(kinds) / wanted.abs().amax(kinds).clamp(min=1)
    return shares.nan_to_num(nan=float("inf"))


def _listed(outputs: Tensor | tuple[Tensor, ...] | list[Tensor]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:300]
