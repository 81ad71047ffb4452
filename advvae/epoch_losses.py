"""The losses of an epoch, added up on the device and read now and then."""

from pathlib import Path

import torch
from torch import Tensor

from advvae import distributed
from advvae.errors import UserError
from advvae.game import TERMS

READ_EVERY = 50  # steps between two looks at the losses: each look makes the host wait for the device


class EpochLosses:
    """The terms of an epoch's steps, as means per image. They stay on the device until they are read."""

    def __init__(self, step: int, folder: Path) -> None:
        self.steps = 0
        self.images = 0  # of all ranks, read so far
        self._step = step  # of the run, read so far
        self._folder = folder
        self._totals = torch.zeros(len(TERMS), dtype=torch.float64)
        self._unread: list[tuple[Tensor, int]] = []

    def add(self, terms: Tensor, n_images: int) -> None:
        """Add a step's means (6,) over n images, this rank's of the batch."""
        self.steps += 1
        self._unread.append((terms, n_images))
        if len(self._unread) == READ_EVERY:
            self._read()

    def means(self) -> dict[str, float]:
        """Means over the images so far.

        Raises:
            UserError: a term is NaN or infinite.
        """
        self._read()
        return dict(zip(TERMS, (self._totals / self.images).tolist(), strict=True))

    def _read(self) -> None:
        if not self._unread:
            return
        counts = torch.tensor([[n_images] for _, n_images in self._unread], dtype=torch.float64)
        totals = torch.stack([terms for terms, _ in self._unread]).cpu().double() * counts
        totals, counts = distributed.summed(totals), distributed.summed(counts)
        for terms in totals / counts:
            self._step += 1
            if not terms.isfinite().all():
                named = dict(zip(TERMS, terms.tolist(), strict=True))
                raise not_finite(f"the loss at step {self._step}", named, self._folder)
        self._totals += totals.sum(0)
        self.images += int(counts.sum())
        self._unread.clear()


def not_finite(what: str, terms: dict[str, float], folder: Path) -> UserError:
    """The error that names the terms, and what there is to go back to in the run's folder."""
    values = ", ".join(f"{name}={value:.4g}" for name, value in terms.items())
    last = folder / "checkpoints" / "last.pt"
    good = f"the last good checkpoint is {last}" if last.is_file() else "there is no checkpoint yet"
    return UserError(f"{what} is not finite ({values}); {good}. Try a smaller lr")
