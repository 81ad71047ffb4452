"""Training: `mode=train`, an epoch after the other, to be read top to bottom."""

import csv
import logging
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advvae import figures
from advvae.checkpoint import Checkpoint, Training, save_checkpoint
from advvae.config import Config
from advvae.data import Split
from advvae.errors import UserError
from advvae.evaluator import draw_reconstructions, validate
from advvae.files import replacing
from advvae.game import TERMS, Players, draw_noise, make_players, play_step, terms_played
from advvae.losses import Objective
from advvae.models import AdversarialVAE
from advvae.progress import Bar, training_bar
from advvae.sampler import draw_samples
from advvae.tracking import Tracker

logger = logging.getLogger(__name__)

READ_EVERY = 50  # steps between two looks at the losses: each look makes the host wait for the device
N_DRAWN = 64  # samples in a grid


def train(
    config: Config,
    networks: AdversarialVAE,
    objective: Objective,
    train_split: Split,
    select_split: Split,
    *,
    folder: Path,
    device: torch.device,
    tracker: Tracker,
    resumed: Checkpoint | None = None,
) -> dict[str, Any]:
    """Train to the last epoch, or to the end of `max_minutes`.

    Args:
        config: with the precision decided.
        select_split: the half of the validation split that chooses `best.pt`.
        resumed: a run's last checkpoint, to go on from.

    Returns:
        The best epoch's validation metrics, and what it took.

    Raises:
        UserError: a loss is NaN or infinite.
    """
    players = make_players(networks, config.lr, device)
    training = _restore(players, resumed, config.lr) if resumed else Training()
    table = MetricsTable(folder / "metrics.csv", keep_until=training.epoch)
    rates = []
    with training_bar(config.n_epochs, len(train_split), training.epoch) as bar:
        while training.epoch < config.n_epochs and not _out_of_time(config, training.seconds):
            row = _train_epoch(config, players, objective, train_split, training, device, bar, folder)
            row |= validate(
                networks,
                objective,
                select_split,
                batch_size=config.batch_size,
                device=device,
                num_workers=config.num_workers,
            )
            training.tracker_run_id = tracker.run_id
            is_last = training.epoch >= config.n_epochs or _out_of_time(config, training.seconds)
            is_best = row["val_loss"] < training.best_metrics.get("val_loss", float("inf"))
            if is_best:
                best = {name: value for name, value in row.items() if name.startswith(("val_", "accuracy_"))}
                training.best_metrics = {**best, "best_epoch": training.epoch}
            table.append(row)
            tracker.log(row, step=training.epoch)
            keep = is_last or training.epoch % config.sample_and_save_frequency == 0
            _save(config, players, training, folder, is_best, keep)
            if keep:
                _draw(config, networks, select_split, training.epoch, folder, device, tracker)
            rates.append(row["images_per_second"])
            logger.info(_epoch_line(config, row))
    return {
        **training.best_metrics,
        "epochs": training.epoch,
        "steps": training.step,
        "train_seconds": round(training.seconds, 3),
        **({"images_per_second": round(statistics.median(rates), 1)} if rates else {}),
    }


def _train_epoch(
    config: Config,
    players: Players,
    objective: Objective,
    split: Split,
    training: Training,
    device: torch.device,
    bar: Bar,
    folder: Path,
) -> dict[str, Any]:
    """One pass over the training split. Moves `training` on, and returns the epoch's mean losses per image."""
    started = time.perf_counter()
    generator = epoch_generator(config.seed, training.epoch)
    totals = torch.zeros(len(TERMS), dtype=torch.float64)
    unread: list[Tensor] = []
    weights: list[int] = []
    n_images = 0

    def read_losses() -> None:
        terms = torch.stack(unread).double().cpu()
        _refuse_nonfinite(terms, training.step - len(unread) + 1, folder)
        totals.add_((terms * torch.tensor(weights).unsqueeze(1)).sum(0))
        bar.describe(training.epoch + 1, _shown(totals / n_images, players))
        unread.clear()
        weights.clear()

    for images in split.batches(config.batch_size, device, shuffle=generator, num_workers=config.num_workers):
        noise = draw_noise(len(images), players.networks.latent_dim, generator, device)
        unread.append(play_step(players, objective, images, noise, config.precision))
        weights.append(len(images))
        n_images += len(images)
        training.step += 1
        bar.advance(len(images))
        if len(unread) == READ_EVERY:
            read_losses()
        if _out_of_time(config, training.seconds + time.perf_counter() - started):
            break
    if unread:
        read_losses()
    seconds = time.perf_counter() - started
    training.epoch += 1
    training.seconds += seconds
    row = {"epoch": training.epoch, "step": training.step, "seconds": round(training.seconds, 3)}
    row["images_per_second"] = round(n_images / seconds, 1)
    means = dict(zip(TERMS, (totals / n_images).tolist(), strict=True))
    return row | {name: value for name, value in means.items() if name in terms_played(players, objective)}


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """Draws an epoch's data order and noise: the same for a seed and an epoch, resumed or not."""
    return torch.Generator().manual_seed((seed << 24) + epoch + 1)


def _refuse_nonfinite(terms: Tensor, first_step: int, folder: Path) -> None:
    """Stop at the first step with a NaN or infinite term. terms: (steps, 6)."""
    bad = (~terms.isfinite()).any(1).nonzero()
    if len(bad) == 0:
        return
    row = int(bad[0])
    values = ", ".join(f"{name}={value:.4g}" for name, value in zip(TERMS, terms[row].tolist(), strict=True))
    last = folder / "checkpoints" / "last.pt"
    good = f"the last good checkpoint is {last}" if last.is_file() else "there is no checkpoint yet"
    raise UserError(f"the loss is not finite at step {first_step + row} ({values}); {good}. Try a smaller lr")


def _out_of_time(config: Config, seconds: float) -> bool:
    return config.max_minutes is not None and seconds >= 60 * config.max_minutes


def _restore(players: Players, resumed: Checkpoint, lr: float) -> Training:
    """Put a run's networks and optimisers back to where its checkpoint left them."""
    assert resumed.training is not None
    resumed.restore(players.networks)
    training = Training(**asdict(resumed.training))
    for optimizer, state in (
        (players.vae_optimizer, training.vae_optimizer),
        (players.discriminator_optimizer, training.discriminator_optimizer),
    ):
        if optimizer is not None and state:
            optimizer.load_state_dict(state)
            for group in optimizer.param_groups:
                group["lr"] = lr  # a resumed run may change it
    return training


def _save(config: Config, players: Players, training: Training, folder: Path, is_best: bool, keep: bool) -> None:
    """Write last.pt, best.pt when this epoch is it, and the kept checkpoints, of which the oldest go."""
    training.vae_optimizer = players.vae_optimizer.state_dict()
    if players.discriminator_optimizer is not None:
        training.discriminator_optimizer = players.discriminator_optimizer.state_dict()
    checkpoints = folder / "checkpoints"
    names = ["last.pt"] + ["best.pt"] * is_best + [f"epoch-{training.epoch:04d}.pt"] * keep
    for name in names:
        save_checkpoint(checkpoints / name, players.networks, asdict(config), training)
    kept = sorted(checkpoints.glob("epoch-*.pt"))
    if config.keep_checkpoints is not None:
        for old in kept[: max(0, len(kept) - config.keep_checkpoints)]:
            old.unlink()


def _draw(
    config: Config,
    networks: AdversarialVAE,
    select_split: Split,
    epoch: int,
    folder: Path,
    device: torch.device,
    tracker: Tracker,
) -> None:
    """Sample grid, reconstruction grid and curves of this epoch."""
    samples = folder / "samples" / f"epoch-{epoch:04d}.png"
    reconstructions = folder / "reconstructions" / f"epoch-{epoch:04d}.png"
    draw_samples(networks, samples, seed=config.seed, device=device, count=N_DRAWN)
    draw_reconstructions(networks, select_split, reconstructions, device=device)
    figures.curves(folder / "metrics.csv", folder / "curves.png")
    for name, path in (("samples", samples), ("reconstructions", reconstructions)):
        tracker.image(name, path, step=epoch)


def _shown(means: Tensor, players: Players) -> str:
    named = dict(zip(TERMS, means.tolist(), strict=True))
    discriminator = f"  D {named['discriminator_loss']:.3f}" if players.discriminator_optimizer is not None else ""
    return f"recon {named['recon']:.4f}  kld {named['kld']:.1f}{discriminator}"


def _epoch_line(config: Config, row: dict[str, Any]) -> str:
    discriminator = f"  D {row['discriminator_loss']:.3f}" if "discriminator_loss" in row else ""
    return (
        f"epoch {row['epoch']}/{config.n_epochs}  recon {row['recon']:.4f}  kld {row['kld']:.1f}{discriminator}  "
        f"val_loss {row['val_loss']:.4f}  {row['images_per_second']:,.0f} images/s  {row['seconds']:.0f} s"
    )


class MetricsTable:
    """metrics.csv: a row per epoch, on disk as soon as it is known."""

    COLUMNS: Sequence[str] = (
        *("epoch", "step", "seconds", "images_per_second"),
        *TERMS,
        *("val_loss", "val_mse", "val_kld", "accuracy_real", "accuracy_reconstruction", "accuracy_sample"),
    )

    def __init__(self, path: Path, keep_until: int) -> None:
        """Start the table, or cut that of a resumed run back to the epoch of its checkpoint."""
        self._path = path
        rows: list[dict[str, str]] = []
        if keep_until > 0 and path.is_file():
            with path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= keep_until]
        with replacing(path) as unfinished, unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    def append(self, row: dict[str, Any]) -> None:
        """Add an epoch. A column that does not apply stays empty."""
        with self._path.open("a", newline="") as file:
            csv.DictWriter(file, self.COLUMNS, restval="").writerow(row)
            file.flush()
            os.fsync(file.fileno())
