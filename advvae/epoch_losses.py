"""The losses of an epoch, added up on the device and read now and then."""

import torch
from torch import Tensor

from advvae import distributed
from advvae.errors import UserError
from advvae.game import MEASURED, TERMS

READ_EVERY = 50  # steps between two looks at the losses: each look makes the host wait for the device


class NotFinite(UserError):
    """A loss, gradient or weight of a training is NaN or infinite."""

    def __init__(self, what: str, measured: dict[str, float]) -> None:
        values = ", ".join(f"{name}={value:.4g}" for name, value in measured.items())
        super().__init__(f"{what} is not finite ({values})")


class EpochLosses:
    """The terms of an epoch's steps, as means per image. They stay on the device until they are read.

    Args:
        step: of the run, at which the epoch begins.
        steps, images, totals: of its part that is done, as another of these objects had them.
    """

    def __init__(self, step: int, steps: int = 0, images: int = 0, totals: Tensor | None = None) -> None:
        self.steps = steps
        self.images = images  # of all ranks, read so far
        self.totals = torch.zeros(len(MEASURED), dtype=torch.float64) if totals is None else totals.clone()
        self.step = step + steps  # of the run, read so far
        self._unread: list[tuple[Tensor, int]] = []

    def add(self, measured: Tensor, n_images: int) -> None:
        """Add what was `MEASURED` in a step, (8,): means over n images, this rank's of the batch."""
        self.steps += 1
        self._unread.append((measured, n_images))
        if len(self._unread) == READ_EVERY:
            self.read()

    def means(self) -> dict[str, float]:
        """Means over the images so far.

        Raises:
            NotFinite: something measured is NaN or infinite.
        """
        self.read()
        return dict(zip(MEASURED, (self.totals / self.images).tolist(), strict=True))

    def read(self) -> None:
        """Wait for the device, and add up what it has computed.

        Step by step, so that the sums do not depend on when they are read.

        Raises:
            NotFinite: something measured is NaN or infinite.
        """
        if not self._unread:
            return
        counts = torch.tensor([[n_images] for _, n_images in self._unread], dtype=torch.float64)
        totals = torch.stack([measured for measured, _ in self._unread]).cpu().double() * counts
        totals, counts = distributed.summed(totals), distributed.summed(counts)
        self._unread.clear()
        for total, count in zip(totals, counts, strict=True):
            self.step += 1
            if not total.isfinite().all():
                named = dict(zip(MEASURED, (total / count).tolist(), strict=True))
                is_loss = not total[: len(TERMS)].isfinite().all()
                raise NotFinite(f"{'the loss' if is_loss else 'a gradient'} at step {self.step}", named)
            self.totals += total
        self.images += int(counts.sum())
