"""Losses in the third epoch: advvae in both precisions and the textbook loop, three seeds of each.

Reads MNIST (ADVVAE_DATA). `n_images=…` takes another number of its training images.
"""

import platform
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice

import torch
from tabulate import tabulate

from advvae.data import Split
from advvae.epoch import epoch_generator
from advvae.epoch_losses import EpochLosses
from advvae.game import draw_noise
from advvae.memory import keep_freed_memory
from advvae.players import make_players
from advvae.recording import make_step
from benchmarks import textbook
from benchmarks.throughput import DATA_DIR, Work, hardware, mnist

EPOCHS = 3
SEEDS = (0, 1, 2)
TERMS = ("vae_loss", "discriminator_loss")


def main() -> None:
    name, _, typed = (sys.argv[1:] or ["n_images=6400"])[0].partition("=")
    if name != "n_images" or not typed.isdigit() or len(sys.argv) > 2:
        sys.exit("type n_images=<number>, or nothing")
    work, split = Work(), mnist("train")
    split = split.subset(torch.arange(min(int(typed), len(split))))
    keep_freed_memory()
    print(f"{hardware(work.device)}; torch {torch.__version__}, Python {platform.python_version()}")
    print(f"{len(split):,} training images, epoch {EPOCHS}; mean over {len(SEEDS)} seeds (lowest to highest)\n")
    table = []
    for loop, run in LOOPS.items():
        losses = []
        for seed in SEEDS:
            torch.manual_seed(seed)
            losses.append(run(work, split, seed))
        table.append({"": loop, **{term: spread([of[term] for of in losses]) for term in TERMS}})
    print(tabulate(table, headers="keys", tablefmt="github"))


def run_textbook(work: Work, split: Split, seed: int) -> dict[str, float]:
    steps: Iterator[textbook.Step] = textbook.train(DATA_DIR, rows=split.rows.tolist(), **asdict(work))
    for _ in range(EPOCHS):
        epoch = list(islice(steps, -(-len(split) // work.batch_size)))
    return {term: sum(getattr(step, term) * step.n_images for step in epoch) / len(split) for term in TERMS}


def run_advvae(work: Work, split: Split, seed: int, precision: str) -> dict[str, float]:
    device = torch.device(work.device)
    step = make_step(make_players(work.networks(), work.lr, device), work.objective, precision, device, "auto")
    for epoch in range(EPOCHS):
        generator, losses = epoch_generator(seed, epoch), EpochLosses(0)
        for images in split.batches(work.batch_size, device, shuffle=generator):
            losses.add(step(images, *draw_noise(len(images), work.latent_dim, generator, device)), len(images))
    return losses.means()


LOOPS: dict[str, Callable[[Work, Split, int], dict[str, float]]] = {
    "textbook loop": run_textbook,
    "advvae, float32": lambda work, split, seed: run_advvae(work, split, seed, "32"),
    "advvae, bf16": lambda work, split, seed: run_advvae(work, split, seed, "bf16"),
}


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"


if __name__ == "__main__":
    main()
