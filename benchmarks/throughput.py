"""How fast advvae trains and scores, against the machine's own limits and a textbook loop.

    python -m benchmarks.throughput [key=value ...]

MNIST at 32 px with the default networks, batch, losses and weights; keys are those of `Work` below, such as
`device=cuda`, and a plain VAE is `train_discriminator=false gen_weight=0 recon_weight=0`. Every contender runs in a
process of its own and all of them in turns, so that what else the machine does hits all alike. Reads MNIST from
ADVVAE_DATA, or else downloads it to `data`.
"""

import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import yaml
from tabulate import tabulate
from torch.utils.flop_counter import FlopCounterMode

from advvae.building import build_source
from advvae.config import CONF
from advvae.data import Split, load_split
from advvae.epoch_losses import EpochLosses
from advvae.game import draw_noise, play_step
from advvae.losses import Objective, mean_squared_error, ssim_loss
from advvae.memory import keep_freed_memory
from advvae.models import AdversarialVAE, conv_networks
from advvae.models.evaluation import evaluation
from advvae.outlier.detector import score_split
from advvae.outlier.scores import named_scores
from advvae.players import make_players
from advvae.recording import make_step
from benchmarks import textbook

ROUNDS = 7
TRAIN_IMAGES = 1280  # in each turn of a contender
SCORE_IMAGES = 10_000
DATA_DIR = os.environ.get("ADVVAE_DATA", "data")


@dataclass(frozen=True)
class Work:
    """What is trained; the values of advvae's defaults."""

    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    batch_size: int = 128
    latent_dim: int = 128
    lr: float = 2e-4
    kld_weight: float = 1e-4
    recon_weight: float = 0.002
    gen_weight: float = 0.002
    train_discriminator: bool = True
    num_workers: int = 0

    @property
    def objective(self) -> Objective:
        return Objective(mean_squared_error, self.kld_weight, self.recon_weight, self.gen_weight)

    def networks(self) -> AdversarialVAE:
        networks = conv_networks(1, 32, self.latent_dim, textbook.WIDTHS)
        if not self.train_discriminator:
            networks.discriminator = None
        return networks.to(self.device).to(memory_format=torch.channels_last)


def main() -> None:
    work = typed(sys.argv[1:])
    mnist("train"), mnist("test")  # prepared before anything is timed
    rates = measured(work)
    peaks, copied = machine(work.device)
    flops = {"train": step_flops(work), "score": forward_flops(work)}
    print(f"{hardware(work.device)}; torch {torch.__version__}, Python {platform.python_version()}\n")
    print(
        f"Largest product of matrices: {peaks['32']:,.0f} GFLOP/s in float32, {peaks['bf16']:,.0f} in bfloat16; ",
        end="",
    )
    print(f"copying memory: {copied:.1f} GB/s. One image takes {flops['train'] / 1e9:.3f} GFLOP in training ", end="")
    print(f"and {flops['score'] / 1e9:.4f} to be scored.\n")
    print(tabulate(list(rows(rates, peaks, flops)), headers="keys", tablefmt="github"))


def typed(arguments: list[str]) -> Work:
    """The work with the values that were typed, as key=value."""
    values = {key: yaml.safe_load(value) for key, _, value in (argument.partition("=") for argument in arguments)}
    keys = [field.name for field in fields(Work)]
    if unknown := [key for key in values if key not in keys]:
        sys.exit(f"{unknown[0]} is not one of {', '.join(keys)}: type key=value")
    return replace(Work(), **values)


CONTENDERS: dict[str, Callable[[Work], Iterator[int]]] = {}  # name -> images of each step, without end


def contender(name: str) -> Callable[[Callable[[Work], Iterator[int]]], Callable[[Work], Iterator[int]]]:
    def register(steps: Callable[[Work], Iterator[int]]) -> Callable[[Work], Iterator[int]]:
        CONTENDERS[name] = steps
        return steps

    return register


@contender("train: textbook loop")
def train_textbook(work: Work) -> Iterator[int]:
    return (step.n_images for step in textbook.train(DATA_DIR, **asdict(work)))


@contender("train: advvae, float32")
def train_float32(work: Work) -> Iterator[int]:
    return train(work, "32")


@contender("train: advvae, bf16")
def train_bf16(work: Work) -> Iterator[int]:
    return train(work, "bf16")


@contender("score: three networks, forward")
def forward(work: Work) -> Iterator[int]:
    """The floor of scoring: nothing but the passes, over images that are on the device already."""
    keep_freed_memory()
    networks, batches = work.networks(), list(mnist("test").batches(work.batch_size, work.device))
    while True:
        with evaluation(networks, work.device):
            for images in batches:
                networks.reconstruct(images)
                if networks.discriminator is not None:
                    networks.discriminate(images)
        yield SCORE_IMAGES


@contender("score: loss and discriminator")
def score_mse(work: Work) -> Iterator[int]:
    return score(work, work.objective)


@contender("score: the same with loss=ssim")
def score_ssim(work: Work) -> Iterator[int]:
    return score(work, replace(work.objective, reconstruction_loss=ssim_loss))


def train(work: Work, precision: str) -> Iterator[int]:
    """The loop of advvae's trainer."""
    keep_freed_memory()
    device, generator = torch.device(work.device), torch.Generator().manual_seed(0)
    split = mnist("train")
    step = make_step(make_players(work.networks(), work.lr, device), work.objective, precision, device, "auto")
    losses = EpochLosses(0)
    while True:
        for images in split.batches(work.batch_size, device, shuffle=generator, num_workers=work.num_workers):
            noise = draw_noise(len(images), work.latent_dim, generator, device)
            losses.add(step(images, *noise), len(images))
            yield len(images)


def score(work: Work, objective: Objective) -> Iterator[int]:
    keep_freed_memory()
    networks, split = work.networks(), mnist("test")
    scores = named_scores(["loss", "discriminator"] if work.train_discriminator else ["loss"])
    while True:
        score_split(networks, objective, split, scores=scores, batch_size=work.batch_size, device=work.device)
        yield SCORE_IMAGES


def mnist(split: str) -> Split:
    node = yaml.safe_load((CONF / "dataset" / "mnist.yaml").read_text())
    source = build_source("dataset", {key: value for key, value in node.items() if key not in ("size", "channels")})
    return load_split(source, split, name="mnist", size=32, channels=1, data_dir=DATA_DIR)


@dataclass(frozen=True)
class Measured:
    images_per_second: list[float]
    peak_bytes: int


def measured(work: Work) -> dict[str, Measured]:
    """Of each contender its rates, a turn after the other, and the most memory that it took."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name in CONTENDERS:
        pipes[name], theirs = context.Pipe()
        context.Process(target=serve, args=(name, work, theirs), daemon=True).start()
    rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for turn in range(1 + ROUNDS):  # the first warms up
        for name, pipe in pipes.items():
            pipe.send("run")
            rate = pipe.recv()
            if turn:
                rates[name].append(rate)
    for pipe in pipes.values():
        pipe.send("stop")
    return {name: Measured(rates[name], pipe.recv()) for name, pipe in pipes.items()}


def serve(name: str, work: Work, pipe: Connection) -> None:
    """A contender's process: a turn for each "run", its peak memory at the end."""
    steps = CONTENDERS[name](work)
    while pipe.recv() == "run":
        wait(work.device)
        started, images = time.perf_counter(), 0
        while images < TRAIN_IMAGES:
            images += next(steps)
        wait(work.device)
        pipe.send(images / (time.perf_counter() - started))
    on_device = torch.cuda.max_memory_allocated() if work.device.startswith("cuda") else 0
    pipe.send(on_device or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def machine(device: str) -> tuple[dict[str, float], float]:
    """GFLOP/s of the best square product of matrices in each precision, and GB/s of a copy (read and written)."""
    peaks = {}
    for precision, dtype in (("32", torch.float32), ("bf16", torch.bfloat16)):
        peaks[precision] = 0.0
        for side in (1024, 2048, 4096):
            a, b = torch.randn(2, side, side, device=device).to(dtype)
            peaks[precision] = max(peaks[precision], 2 * side**3 / fastest(lambda a=a, b=b: a @ b, device) / 1e9)
    large, copy = torch.ones(2, 2**26, device=device)
    return peaks, 2 * large.nbytes / fastest(lambda: copy.copy_(large), device) / 1e9


def fastest(call: Callable[[], object], device: str) -> float:
    """Seconds of the fastest of several calls: what the machine can do when nothing disturbs it."""
    seconds = []
    for _ in range(8):
        wait(device)
        started = time.perf_counter()
        call()
        wait(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def step_flops(work: Work) -> float:
    """FLOPs of a training step, per image: multiplications and additions of all convolutions and products."""
    device, generator = torch.device(work.device), torch.Generator().manual_seed(0)
    images = torch.zeros(work.batch_size, 1, 32, 32, device=device).to(memory_format=torch.channels_last)
    players = make_players(work.networks(), work.lr, device)
    noise = draw_noise(work.batch_size, work.latent_dim, generator, device)
    with FlopCounterMode(display=False) as counter:
        play_step(players, work.objective, images, noise, "32")
    return counter.get_total_flops() / work.batch_size


def forward_flops(work: Work) -> float:
    networks, images = work.networks(), torch.zeros(2, 1, 32, 32, device=work.device)
    with evaluation(networks, work.device), FlopCounterMode(display=False) as counter:
        networks.reconstruct(images)
        if networks.discriminator is not None:
            networks.discriminate(images)
    return counter.get_total_flops() / 2


def rows(rates: dict[str, Measured], peaks: dict[str, float], flops: dict[str, float]) -> Iterator[dict[str, Any]]:
    """A row per contender: its rate, compared with the floor and, turn by turn, with the first of its kind."""
    for name, own in rates.items():
        kind = name.split(":")[0]
        first = next(other for other in rates if other.startswith(kind))
        ratios = [a / b for a, b in zip(own.images_per_second, rates[first].images_per_second, strict=True)]
        floor = peaks["bf16" if name.endswith("bf16") else "32"] * 1e9 / flops[kind]
        median = statistics.median(own.images_per_second)
        yield {
            "": name,
            "images/s": f"{median:,.0f} ({min(own.images_per_second):,.0f} to {max(own.images_per_second):,.0f})",
            "of the floor": f"{median / floor:.0%}",
            "against the first": f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            "peak memory": f"{own.peak_bytes / 1e9:.2f} GB",
        }


def hardware(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    name = next(
        (line.split(":")[1].strip() for line in cpu_lines() if line.startswith("model name")), platform.machine()
    )
    return f"{name}, {torch.get_num_threads()} threads"


def cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


if __name__ == "__main__":
    main()
