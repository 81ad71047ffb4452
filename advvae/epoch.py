"""An epoch of a training: its batches and draws, from its start or from where a checkpoint left it."""

import logging
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advvae import distributed
from advvae.checkpoint import Training, UnderWay
from advvae.config import Config
from advvae.data import Split
from advvae.epoch_losses import EpochLosses
from advvae.game import MEASURED, draw_noise
from advvae.negatives import make_negatives

logger = logging.getLogger(__name__)


class Epoch:
    """One pass over the training split, or what is left of it.

    The order of the data follows from the seed and the epoch alone, and so does the noise, unless the run has gone back
    to a checkpoint: then it draws other noise.

    Args:
        training: where the run stands.
        latent_dim: size of the noise.

    Attributes:
        losses: of its steps so far.
        n_steps: that it has as a whole.
    """

    def __init__(self, config: Config, split: Split, training: Training, latent_dim: int, device: torch.device) -> None:
        self.config, self.split, self.training = config, split, training
        self._latent_dim, self._device = latent_dim, device
        self.n_steps = len(split.batch_sizes(config.batch_size, distributed.n_ranks()))
        done = self._done()
        self.losses = EpochLosses(training.step)
        self._generator = epoch_generator(config.seed, training.epoch)
        self._batches = self._read(done.images if done else 0)  # which draws their order
        if training.rewinds:
            self._generator.manual_seed(_other_seed(config.seed, training))
        self._own = distributed.own_generator(self._generator) if config.negatives else self._generator
        self._started = time.perf_counter()
        if done:
            self._go_on(done)

    def __iter__(self) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Of each batch left: how many images it has over all ranks, and what this rank's step takes."""
        for n_images, images in self._batches:
            n_steps = self.config.discriminator_steps
            noise = draw_noise(n_images, self._latent_dim, self._generator, self._device, n_steps)
            negatives = [make_negatives(images, self.config.negatives, self._own)] if self.config.negatives else []
            yield n_images, (images, *noise, *negatives)

    def seconds(self) -> float:
        """That it has taken so far, without interruptions."""
        return time.perf_counter() - self._started

    def under_way(self) -> UnderWay:
        """Where it stands. All ranks have to ask.

        Raises:
            NotFinite: something measured in its steps is NaN or infinite.
        """
        self.losses.read()
        return UnderWay(
            self.config.seed,
            len(self.split),
            self.losses.steps,
            self.losses.images,
            self.losses.totals,
            self._generator.get_state(),
            distributed.from_all(self._own.get_state()),
            self.seconds(),
            self.training.rewinds,
        )

    def _done(self) -> UnderWay | None:
        """The part of the epoch that is done; None = none is, or none that these data can go on from."""
        if self.training.under_way is None:
            return None
        done = UnderWay(**self.training.under_way)
        if (done.seed, done.n_images) != (self.config.seed, len(self.split)):
            logger.warning("the seed or the number of training images has changed: the epoch begins anew")
            return None
        if len(done.totals) != len(MEASURED):
            logger.warning("an earlier version has begun the epoch, with other terms: it begins anew")
            return None
        return done

    def _read(self, skip: int) -> Iterator[tuple[int, Tensor]]:
        batch_size, rank, n_ranks = self.config.batch_size, distributed.rank(), distributed.n_ranks()
        sizes = self.split.batch_sizes(batch_size, n_ranks, skip)
        batches = self.split.batches(
            batch_size,
            self._device,
            shuffle=self._generator,
            skip=skip,
            num_workers=self.config.num_workers,
            rank=rank,
            n_ranks=n_ranks,
        )
        return zip(sizes, batches, strict=True)

    def _go_on(self, done: UnderWay) -> None:
        self.losses = EpochLosses(self.training.step, done.steps, done.images, done.totals)
        self._started -= done.seconds
        if self.training.rewinds == done.rewinds:
            self._generator.set_state(done.generator)
            if self._own is not self._generator and len(done.own_generators) == distributed.n_ranks():
                self._own.set_state(done.own_generators[distributed.rank()])


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """Draws an epoch's data order and noise: the same for a seed and an epoch, resumed or not."""
    return torch.Generator().manual_seed((seed << 24) + epoch + 1)


def _other_seed(seed: int, training: Training) -> int:
    """Of the noise after the run has gone back."""
    numbers = np.random.SeedSequence([seed, training.rewinds, training.steps_done])
    return int(numbers.generate_state(1, np.uint64)[0]) >> 1
