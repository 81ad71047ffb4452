"""Images/s of two processes of one thread each that train one model, against one such process.

Two that say nothing to each other show what the machine itself leaves of a second core.

The work of benchmarks.throughput, from MNIST (ADVVAE_DATA), in float32 on CPUs. `batch_size=…` takes another size.
"""

import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection

import torch
from tabulate import tabulate
from torch import distributed as processes

from advvae import distributed
from advvae.game import draw_noise, play_step
from advvae.memory import keep_freed_memory
from advvae.players import Players, make_players
from benchmarks.throughput import Work, hardware, mnist, typed

ROUNDS = 7
STEPS = 10  # in a turn


def main() -> None:
    work = typed([*sys.argv[1:], "device=cpu"])
    half = replace(work, batch_size=work.batch_size // 2)
    mnist("train")  # prepared before anything is timed
    with ExitStack() as stack:
        alone, together, *apart = (
            stack.enter_context(group(*of)) for of in ((work, 1), (work, 2), (half, 1), (half, 1))
        )
        contenders = {
            "one process": alone,
            "two, one model": together,
            "two, a model each, half of the batch": apart[0] + apart[1],
        }
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        averaging = []
        for turn in range(1 + ROUNDS):  # interleaved; the first warms up
            for name, pipes in contenders.items():
                for pipe in pipes:
                    pipe.send(STEPS)
                told = [pipe.recv() for pipe in pipes]
                if turn:
                    rates[name].append(STEPS * work.batch_size / max(seconds for seconds, _ in told))
                    averaging += [seconds for _, seconds in told if name == "two, one model"]
    n_parameters = sum(parameter.numel() for parameter in work.networks().parameters())
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    print(f"{hardware('cpu')}, one of them for each process; {versions}")
    print(f"batch_size={work.batch_size}; gradients of a step: {4 * n_parameters / 1e6:.1f} MB; ", end="")
    print(f"averaging them: {statistics.median(averaging) * 1e3:.1f} ms\n")
    print(tabulate(list(rows(rates)), headers="keys", tablefmt="github", disable_numparse=True))


def rows(rates: dict[str, list[float]]) -> Iterator[dict[str, str]]:
    first = next(iter(rates.values()))
    for name, own in rates.items():
        ratios = [a / b for a, b in zip(own, first, strict=True)]
        yield {"": name, "images/s": shown(own, ",.0f"), "against one": shown(ratios, ".2f")}


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
    """A rank: as many steps as it is told, then how long they took, and the averaging of a step's gradients alone."""
    torch.set_num_threads(1)
    keep_freed_memory()
    store = processes.TCPStore("127.0.0.1", port, n_ranks, is_master=False)
    processes.init_process_group("gloo", store=store, rank=rank, world_size=n_ranks)
    players = make_players(work.networks(), work.lr, torch.device("cpu"))
    distributed.begin_alike(players.networks)
    steps = train(work, players)
    while n_steps := pipe.recv():
        started = time.perf_counter()
        for _ in range(n_steps):
            next(steps)
        seconds = time.perf_counter() - started
        pipe.send((seconds, seconds_of_averaging(players)))


def seconds_of_averaging(players: Players) -> float:
    turns = [players.networks.vae_parameters(), players.networks.discriminator_parameters()]
    for parameter in [*turns[0], *turns[1]]:
        parameter.grad = torch.ones_like(parameter)
    for _ in range(2):  # the first warms up
        distributed.wait_for_all()
        started = time.perf_counter()
        for parameters in turns:
            distributed.begin_average(parameters, 64)()
        seconds = time.perf_counter() - started
    players.networks.zero_grad()
    return seconds


def train(work: Work, players: Players) -> Iterator[None]:
    split, generator = mnist("train"), torch.Generator().manual_seed(0)
    rank, n_ranks = distributed.rank(), distributed.n_ranks()
    while True:
        for images in split.batches(work.batch_size, shuffle=generator, rank=rank, n_ranks=n_ranks):
            epsilon, z = draw_noise(work.batch_size, work.latent_dim, generator, torch.device("cpu"))
            play_step(players, work.objective, images, (epsilon[: len(images)], z[: len(images)]), "32")
            yield


def shown(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
