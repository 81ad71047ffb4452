"""Images/s of two processes of one thread each that train one model, against one such process.

The work of benchmarks.throughput, from MNIST (ADVVAE_DATA), in float32 on CPUs. `batch_size=…` takes another size.
"""

import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import torch
from tabulate import tabulate
from torch import distributed as processes

from advvae import distributed, game
from advvae.game import draw_noise, make_players, play_step
from advvae.memory import keep_freed_memory
from benchmarks.throughput import Work, hardware, mnist, typed

ROUNDS = 7
STEPS = 10  # in a turn


def main() -> None:
    work = typed([*sys.argv[1:], "device=cpu"])
    mnist("train")  # prepared before anything is timed
    with group(work, 1) as alone, group(work, 2) as together:
        rates: dict[int, list[float]] = {1: [], 2: []}
        for turn in range(1 + ROUNDS):  # interleaved; the first warms up
            for n_ranks, pipes in ((1, alone), (2, together)):
                for pipe in pipes:
                    pipe.send(STEPS)
                seconds, summing = max(pipe.recv() for pipe in pipes)
                if turn:
                    rates[n_ranks].append(STEPS * work.batch_size / seconds)
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    n_parameters = sum(parameter.numel() for parameter in work.networks().parameters())
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    print(f"{hardware('cpu')}, one of them for each process; {versions}")
    print(f"batch_size={work.batch_size}; gradients of a step: {4 * n_parameters / 1e6:.1f} MB; ", end="")
    print(f"averaging them: {summing / STEPS * 1e3:.1f} ms a step, waiting for the other rank included\n")
    rows = [
        {"processes": 1, "images/s": shown(rates[1], ",.0f"), "against one": "1"},
        {"processes": 2, "images/s": shown(rates[2], ",.0f"), "against one": shown(ratios, ".2f")},
    ]
    print(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))


@contextmanager
def group(work: Work, n_ranks: int) -> Iterator[list[Connection]]:
    store = processes.TCPStore("127.0.0.1", 0, n_ranks, is_master=True, wait_for_workers=False)
    context, pipes = multiprocessing.get_context("spawn"), []
    for rank in range(n_ranks):
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(work, rank, n_ranks, store.port, theirs), daemon=True).start()
        pipes.append(ours)
    yield pipes
    for pipe in pipes:
        pipe.send(0)


def serve(work: Work, rank: int, n_ranks: int, port: int, pipe: Connection) -> None:
    """A rank: as many steps as it is told, then how long they took, and of that the averaging of gradients."""
    torch.set_num_threads(1)
    keep_freed_memory()
    store = processes.TCPStore("127.0.0.1", port, n_ranks, is_master=False)
    processes.init_process_group("gloo", store=store, rank=rank, world_size=n_ranks)
    summing = Stopwatch()
    game.average_gradients = summing.timed(game.average_gradients)
    steps = train(work)
    while n_steps := pipe.recv():
        summing.seconds, started = 0.0, time.perf_counter()
        for _ in range(n_steps):
            next(steps)
        pipe.send((time.perf_counter() - started, summing.seconds))


def train(work: Work) -> Iterator[None]:
    split, generator = mnist("train"), torch.Generator().manual_seed(0)
    players = make_players(work.networks(), work.lr, torch.device("cpu"))
    distributed.begin_alike(players.networks)
    rank, n_ranks = distributed.rank(), distributed.n_ranks()
    while True:
        for images in split.batches(work.batch_size, shuffle=generator, rank=rank, n_ranks=n_ranks):
            noise = draw_noise(work.batch_size, work.latent_dim, generator, torch.device("cpu"))
            play_step(players, work.objective, images, (noise[0][: len(images)], noise[1][: len(images)]), "32")
            yield


class Stopwatch:
    """Adds up the seconds that calls of a function take."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function):  # type: ignore[no-untyped-def]
        def call(*arguments):  # type: ignore[no-untyped-def]
            started = time.perf_counter()
            function(*arguments)
            self.seconds += time.perf_counter() - started

        return call


def shown(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
