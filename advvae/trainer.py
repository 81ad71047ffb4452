"""Training: `mode=train`, an epoch after the other, to be read top to bottom."""

import csv
import logging
import math
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from advvae import distributed, figures
from advvae.checkpoint import Checkpoint, Training, save_checkpoint
from advvae.config import Config
from advvae.data import Split
from advvae.epoch_losses import READ_EVERY, EpochLosses, not_finite
from advvae.evaluator import draw_reconstructions, validate
from advvae.files import write_csv
from advvae.game import TERMS, draw_noise, make_players, terms_played
from advvae.losses import Objective
from advvae.models import AdversarialVAE
from advvae.negatives import make_negatives
from advvae.progress import Bar, training_bar
from advvae.recording import make_step
from advvae.sampler import draw_samples
from advvae.tracking import Tracker

logger = logging.getLogger(__name__)

N_DRAWN = 64  # samples in a grid


class Trainer:
    """A training under way.

    Args:
        config: with the precision decided.
        select_split: the half of the validation split that chooses `best.pt`.
        resumed: a run's last checkpoint, to go on from.
    """

    def __init__(
        self,
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
    ) -> None:
        self.config = config
        self.objective = objective
        self.train_split = train_split
        self.select_split = select_split
        self.folder = folder
        self.device = device
        self.tracker = tracker
        distributed.with_shared_batch_statistics(networks, device)
        self.players = make_players(networks, config.lr, device)
        self.step = make_step(self.players, objective, config.precision, device, config.compile)
        self.training = self._restored(resumed) if resumed else Training()
        distributed.begin_alike(networks)
        self._started = time.perf_counter()

    def train(self) -> dict[str, Any]:
        """Train to the last epoch, or to the end of `max_minutes`.

        Returns:
            The best epoch's validation metrics, and what it took.

        Raises:
            UserError: a loss is NaN or infinite.
        """
        training = self.training
        self._started = time.perf_counter() - training.seconds
        table = MetricsTable(self.folder / "metrics.csv", keep_until=training.epoch)
        rates = []
        with training_bar(self.config.n_epochs, len(self.train_split), training.epoch) as bar:
            while not self._is_over():
                row = self._train_epoch(bar)
                row |= self._validate()
                table.append(row)
                self.tracker.log(row, step=training.epoch)
                self._save_and_draw(is_best=self._note_best(row))
                rates.append(row["images_per_second"])
                logger.info(_epoch_line(self.config, row))
        result = {**training.best_metrics, "epochs": training.epoch, "steps": training.step}
        result["train_seconds"] = round(self._seconds(), 3)
        return result | ({"images_per_second": round(statistics.median(rates), 1)} if rates else {})

    def _train_epoch(self, bar: Bar) -> dict[str, Any]:
        """One pass over the training split; returns the first columns of its row of metrics.csv."""
        config, training, latent_dim = self.config, self.training, self.players.networks.latent_dim
        started = time.perf_counter()
        generator = epoch_generator(config.seed, training.epoch)
        rank, n_ranks = distributed.rank(), distributed.n_ranks()
        own = distributed.own_generator(generator) if config.negatives else generator
        epoch = EpochLosses(training.step, self.folder)
        sizes = self.train_split.batch_sizes(config.batch_size, n_ranks)
        batches = self.train_split.batches(
            *(config.batch_size, self.device),
            shuffle=generator,
            num_workers=config.num_workers,
            rank=rank,
            n_ranks=n_ranks,
        )
        for n_images, images in zip(sizes, batches, strict=True):
            noise = draw_noise(n_images, latent_dim, generator, self.device)
            negatives = [make_negatives(images, config.negatives, own)] if config.negatives else []
            epoch.add(self.step(images, *noise, *negatives), len(images))
            bar.advance(n_images)
            if epoch.steps % READ_EVERY == 0:
                bar.describe(training.epoch + 1, _shown(epoch.means()))
            if self._is_out_of_time():
                break
        means = epoch.means()
        seconds = time.perf_counter() - started
        training.epoch += 1
        training.step += epoch.steps
        return {
            "epoch": training.epoch,
            "step": training.step,
            "seconds": round(self._seconds(), 3),
            "images_per_second": round(epoch.images / seconds, 1),
            **{name: means[name] for name in terms_played(self.players, self.objective)},
        }

    def _validate(self) -> dict[str, float]:
        """The epoch's validation metrics, on the half of the validation split that selects."""
        config = self.config
        distributed.average_statistics(self.players.networks)
        metrics = validate(
            self.players.networks,
            self.objective,
            self.select_split,
            batch_size=config.batch_size,
            device=self.device,
            num_workers=config.num_workers,
        )
        if not math.isfinite(metrics["val_loss"]):
            raise not_finite(f"val_loss after step {self.training.step}", metrics, self.folder)
        return metrics

    def _note_best(self, row: dict[str, Any]) -> bool:
        """Whether this is the best epoch so far; it is kept in mind if so."""
        best = self.training.best_metrics
        if row["val_loss"] >= best.get("val_loss", math.inf):
            return False
        measured = {name: value for name, value in row.items() if name.startswith(("val_", "accuracy_"))}
        self.training.best_metrics = {**measured, "best_epoch": self.training.epoch}
        return True

    def _save_and_draw(self, is_best: bool) -> None:
        """Write best.pt when this epoch is it; at times a checkpoint to keep, grids and curves; at last last.pt.

        last.pt is what a resumed run goes on from: whatever a kill before it cuts short is made again.
        """
        training, players, config = self.training, self.players, self.config
        at_times = self._is_over() or training.epoch % config.sample_and_save_frequency == 0
        training.tracker_run_id, training.seconds = self.tracker.run_id, self._seconds()
        if distributed.rank() > 0:
            return
        training.vae_optimizer = players.vae_optimizer.state_dict()
        if players.discriminator_optimizer is not None:
            training.discriminator_optimizer = players.discriminator_optimizer.state_dict()
        if at_times:
            self._draw()
        names = [f"epoch-{training.epoch:04d}"] * (at_times and config.keep_checkpoints != 0) + ["best"] * is_best
        for name in [*names, "last"]:
            save_checkpoint(self.folder / "checkpoints" / f"{name}.pt", players.networks, asdict(config), training)
        if config.keep_checkpoints is not None:
            kept = sorted((self.folder / "checkpoints").glob("epoch-*.pt"), key=lambda path: int(path.stem[6:]))
            for old in kept[: max(0, len(kept) - config.keep_checkpoints)]:
                old.unlink()

    def _draw(self) -> None:
        """Sample grid, reconstruction grid and curves of this epoch."""
        networks, epoch = self.players.networks, self.training.epoch
        samples = self.folder / "samples" / f"epoch-{epoch:04d}.png"
        reconstructions = self.folder / "reconstructions" / f"epoch-{epoch:04d}.png"
        draw_samples(networks, samples, seed=self.config.seed, device=self.device, count=N_DRAWN)
        draw_reconstructions(networks, self.select_split, reconstructions, device=self.device)
        figures.curves(self.folder / "metrics.csv", self.folder / "curves.png")
        for name, path in (("samples", samples), ("reconstructions", reconstructions)):
            self.tracker.image(name, path, step=epoch)

    def _is_over(self) -> bool:
        return self.training.epoch >= self.config.n_epochs or self._is_out_of_time()

    def _is_out_of_time(self) -> bool:
        """By the clock of rank 0."""
        limit = self.config.max_minutes
        return limit is not None and distributed.from_first(self._seconds() >= 60 * limit)

    def _seconds(self) -> float:
        """That the run has trained for, validation and pictures included, interruptions not."""
        return time.perf_counter() - self._started

    def _restored(self, resumed: Checkpoint) -> Training:
        """Put networks and optimisers back to where the checkpoint left them; lr and device may be other ones."""
        assert resumed.training is not None
        players, training = self.players, Training(**asdict(resumed.training))
        resumed.restore(players.networks)
        players.vae_optimizer.load_state_dict(training.vae_optimizer)
        if players.discriminator_optimizer is not None:
            players.discriminator_optimizer.load_state_dict(training.discriminator_optimizer)
        for optimizer in filter(None, (players.vae_optimizer, players.discriminator_optimizer)):
            for group in optimizer.param_groups:
                group.update(optimizer.defaults)
        return training


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """Draws an epoch's data order and noise: the same for a seed and an epoch, resumed or not."""
    return torch.Generator().manual_seed((seed << 24) + epoch + 1)


def _shown(means: dict[str, float]) -> str:
    return f"recon {means['recon']:.4f}  kld {means['kld']:.1f}  D {means['discriminator_loss']:.3f}"


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
        write_csv(path, self.COLUMNS, ([row.get(name) for name in self.COLUMNS] for row in rows))

    def append(self, row: dict[str, Any]) -> None:
        """Add an epoch. A column that does not apply stays empty."""
        with self._path.open("a", newline="") as file:
            csv.DictWriter(file, self.COLUMNS, restval="").writerow(row)
            file.flush()
            os.fsync(file.fileno())
