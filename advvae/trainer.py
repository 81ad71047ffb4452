"""Training: `mode=train`, an epoch after the other, to be read top to bottom."""

import logging
import math
import statistics
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from advvae import distributed, figures
from advvae.checkpoint import Checkpoint, Training
from advvae.checkpoint_folder import best_of, newest_whole, prune, put_damaged_aside, write_checkpoints
from advvae.config import Config
from advvae.data import Split
from advvae.epoch import Epoch
from advvae.epoch_losses import READ_EVERY, NotFinite
from advvae.errors import UserError
from advvae.evaluator import draw_reconstructions, validate
from advvae.game import terms_played
from advvae.losses import Objective
from advvae.metrics_table import MetricsTable, rows_before
from advvae.models import AdversarialVAE
from advvae.players import make_players, moving
from advvae.progress import Bar, epoch_line, shown_losses, training_bar
from advvae.random_state import random_state, restore_random_state, seed_all
from advvae.sampler import draw_samples
from advvae.stepping import Stepper
from advvae.stopping import Interrupted, Stop, stops_noted
from advvae.tracking import Tracker
from advvae.weights import parts_of

logger = logging.getLogger(__name__)

N_DRAWN = 64  # samples in a grid
REWINDS = 3  # how often on_nan=rewind goes back in a run
GO_ON, SAVE, STOP = range(3)  # what rank 0 asks of all after a step


class Trainer:
    """A training under way.

    Args:
        config: with the precision decided.
        select_split: the half of the validation split that chooses `best.pt`.
        shared_folder: of the run, where rank 0 writes the checkpoints that all ranks read.
        resumed: a run's checkpoint, to go on from.
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
        shared_folder: Path,
        device: torch.device,
        tracker: Tracker,
        resumed: Checkpoint | None = None,
    ) -> None:
        self.config = config
        self.objective = objective
        self.train_split = train_split
        self.select_split = select_split
        self.folder = folder
        self.shared_folder = shared_folder
        self.device = device
        self.tracker = tracker
        distributed.with_shared_batch_statistics(networks, device)
        self.players = make_players(networks, moving(config), device)
        self.training = Training()
        seed_all(config.seed)  # whatever drew before, such as a library as it was imported
        if resumed:
            self._restore(resumed)
        self.step = Stepper(config, self.players, objective, device)
        for copy in self.players.copies:
            distributed.begin_alike(copy)
        self._started = self._saved = time.perf_counter()
        self._stop = Stop()

    def train(self) -> dict[str, Any]:
        """Train to the last epoch, or to the end of `max_minutes`.

        Returns:
            The best epoch's validation metrics, and what it took.

        Raises:
            UserError: a loss, gradient or weight is NaN or infinite.
            Interrupted: a signal has asked for an end; last.pt is where to go on from.
        """
        self._started = time.perf_counter() - self.training.seconds
        table = MetricsTable(self.folder / "metrics.csv", self.training.rows)
        rates = []
        with stops_noted() as self._stop, training_bar(self.config.n_epochs, len(self.train_split)) as bar:
            if self.training.steps_done == 0:
                self._save("last")  # so that there is something to go back to, and on with, from the first step on
            # An epoch that is under way, and the first one, end in their validation in any case.
            while not self._is_over() or self.training.under_way or not self.training.epoch:
                try:
                    row = self._train_epoch(bar)
                    row |= self._validate()
                except NotFinite as error:
                    self._go_back(error)
                    table = MetricsTable(self.folder / "metrics.csv", self.training.rows)
                    continue
                table.append(row)
                self.training.rows.append(row)
                self.tracker.log(row, step=self.training.epoch)
                self._save_and_draw(is_best=self._note_best(row))
                rates.append(row["images_per_second"])
                logger.info(epoch_line(self.config.n_epochs, row))
                if self._asked() == STOP:
                    raise Interrupted(self._stop.signal)
        training = self.training
        result = {**training.best_metrics, "epochs": training.epoch, "steps": training.step}
        result["train_seconds"] = round(self._seconds(), 3)
        return result | ({"images_per_second": round(statistics.median(rates), 1)} if rates else {})

    def _train_epoch(self, bar: Bar) -> dict[str, Any]:
        """One pass over the training split, or what is left of it; returns the first columns of its row."""
        training = self.training
        epoch = Epoch(self.config, self.train_split, training, self.players.networks.latent_dim, self.device)
        self.step.begin(training.epoch)
        bar.go_to(training.epoch + 1, training.epoch * len(self.train_split) + epoch.losses.images)
        for n_images, inputs in epoch:
            self.step.move_to(training.epoch + epoch.losses.steps / epoch.n_steps, self._seconds() / 60)
            epoch.losses.add(self.step(*inputs), len(inputs[0]))
            bar.advance(n_images)
            if epoch.losses.steps % READ_EVERY == 0:
                bar.describe(training.epoch + 1, shown_losses(epoch.losses.means()))
            self._answer(epoch)
            if self._is_out_of_time():
                break
        means, seconds = epoch.losses.means(), epoch.seconds()
        self._check_weights(epoch)
        training.epoch += 1
        training.step += epoch.losses.steps
        training.under_way = None
        return {
            "epoch": training.epoch,
            "step": training.step,
            "seconds": round(self._seconds(), 3),
            "images_per_second": round(epoch.losses.images / seconds, 1),
            **{name: means[name] for name in terms_played(self.step.players, self.step.objective)},
        }

    def _validate(self) -> dict[str, float]:
        """The epoch's validation metrics, on the half of the validation split that selects."""
        config = self.config
        for copy in self.players.copies:
            distributed.average_statistics(copy)
        networks = self.players.evaluated
        if self.step.players.networks.discriminator is None:  # it has not learnt anything yet that could be measured
            networks = networks.without_discriminator()
        metrics = validate(
            networks,
            self.objective,
            self.select_split,
            batch_size=config.batch_size,
            device=self.device,
            num_workers=config.num_workers,
        )
        if not math.isfinite(metrics["val_loss"]):
            raise NotFinite(f"val_loss after step {self.training.step}", metrics)
        return metrics

    def _check_weights(self, epoch: Epoch) -> None:
        """Before they are written. Losses show those of the steps before, and of the discriminator's not the last."""
        if names := self.players.not_finite():
            raise NotFinite(f"{names[0]} after step {epoch.losses.step}", epoch.losses.means())

    def _note_best(self, row: dict[str, Any]) -> bool:
        """Whether this is the best epoch so far, of those of the game once it has started; it is kept in mind if so."""
        is_first = self.training.epoch == self.config.adversarial_start + 1
        best = {} if is_first else self.training.best_metrics
        if row["val_loss"] >= best.get("val_loss", math.inf):
            return False
        measured = {name: value for name, value in row.items() if name.startswith(("val_", "accuracy_"))}
        self.training.best_metrics = {**measured, "best_epoch": self.training.epoch}
        return True

    def _save_and_draw(self, is_best: bool) -> None:
        """Write best.pt when this epoch is it; at times a checkpoint to keep, grids and curves; at last last.pt.

        last.pt is what a resumed run goes on from: whatever a kill before it cuts short is made again.
        """
        training, config = self.training, self.config
        at_times = self._is_over() or training.epoch % config.sample_and_save_frequency == 0
        if at_times and distributed.rank() == 0:
            self._draw()
        kept = [f"epoch-{training.epoch:04d}"] if at_times and config.keep_checkpoints != 0 else []
        self._save(*kept, *(["best"] if is_best else []), "last")

    def _save(self, *names: str) -> None:
        """Write checkpoints of this moment under these names. The last.pt before becomes the previous one."""
        training, players, config = self.training, self.players, self.config
        training.tracker_run_id, training.seconds = self.tracker.run_id, self._seconds()
        self._saved = time.perf_counter()
        if distributed.rank() > 0:
            return
        training.random_state = random_state()
        training.vae_optimizer = players.vae_optimizer.state_dict()
        if players.discriminator_optimizer is not None:
            training.discriminator_optimizer = players.discriminator_optimizer.state_dict()
        training.weights, training.average_steps = None, 0
        if players.average is not None:
            training.weights, training.average_steps = parts_of(players.networks), int(players.average.n_steps)
        write_checkpoints(self.folder, names, players.evaluated, asdict(config), training)
        prune(self.folder, config.keep_checkpoints)

    def _answer(self, epoch: Epoch) -> None:
        """Write a checkpoint in the middle of an epoch when it is time to, or when a signal asks for the end.

        Raises:
            Interrupted: a signal does.
        """
        asked = self._asked()
        if asked == GO_ON:
            return
        self.training.under_way = asdict(epoch.under_way())
        self._check_weights(epoch)
        with ExitStack() as averaged:
            for copy in self.players.copies:
                averaged.enter_context(distributed.averaged_statistics(copy))
            self._save("last")
        if asked == STOP:
            raise Interrupted(self._stop.signal)

    def _asked(self) -> int:
        """What rank 0 asks of all ranks after a step."""
        minutes = self.config.checkpoint_every_minutes
        is_due = minutes is not None and time.perf_counter() - self._saved >= 60 * minutes
        return distributed.number_from_first(STOP if self._stop.signal else SAVE if is_due else GO_ON)

    def _draw(self) -> None:
        """Sample grid, reconstruction grid and curves of this epoch."""
        networks, epoch = self.players.evaluated, self.training.epoch
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

    def _go_back(self, error: NotFinite) -> None:
        """on_nan=rewind: to the newest good checkpoint, from where other noise is drawn.

        Raises:
            UserError: the run is not to go back, or has done so too often.
        """
        checkpoint, rewinds = newest_whole(self.shared_folder), self.training.rewinds
        assert checkpoint.training is not None
        good = f"{error}; the last good checkpoint is {checkpoint.path}, {checkpoint.training.place}"
        if self.config.on_nan != "rewind":
            raise UserError(f"{good}. Try a smaller lr, or on_nan=rewind") from None
        if rewinds == REWINDS:
            raise UserError(f"{good}; going back to it {REWINDS} times has not helped. Try a smaller lr") from None
        self._restore(checkpoint)
        self.training.rewinds = rewinds + 1
        self.step.renew()
        logger.warning(f"{good}: from there on with other noise ({rewinds + 1} of {REWINDS})")

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Put everything back to where the checkpoint left it; lr and device may be other ones.

        Raises:
            UserError: the file's state does not fit what the config describes.
        """
        assert checkpoint.training is not None
        training = Training(**asdict(checkpoint.training))
        self.players.restore_networks(checkpoint)
        try:
            self.players.restore_optimizers(training.vae_optimizer, training.discriminator_optimizer)
            if training.random_state:
                restore_random_state(training.random_state)
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise UserError(f"{checkpoint.path} holds a training state that is not whole ({error!r})") from None
        training.rows = training.rows or rows_before(self.folder / "metrics.csv", training.epoch)
        put_damaged_aside(self.folder, checkpoint)
        training.best_metrics = best_of(self.shared_folder, checkpoint, self.config)
        self.training = training
