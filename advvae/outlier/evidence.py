"""What an outlier score is: a number per image, made from what the networks say of it. Larger = more outlying, always.

A score is a function of `Evidence`, or an object of a `FittedScore` class, which first learns from training images what
is normal. Either looks at each image by itself, so that a score never depends on which images share a batch.
`@needs` says what it cannot do without.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from advvae.errors import UserError
from advvae.losses import Objective, kl_divergence, mean_squared_error
from advvae.models import AdversarialVAE
from advvae.models.staged import StagedDiscriminator

VAE = "an encoder and a decoder"  # what a score may need, in words
DISCRIMINATOR = "a discriminator"
FEATURES = "a discriminator with features()"
CROPS = "networks trained on crops (crop=...)"


class Evidence:
    """What the networks say of one batch. Each part is computed when a score first asks for it, and only once.

    What networks say is float32, at their running statistics and the posterior mean.

    Attributes:
        networks, objective: what was trained, and what it was trained for.
        images: (B, C, H, W) in [-1, 1].
        crop: side of the crops that the networks were trained on, where `images` are the whole images, which these
            networks cannot take; None = they were trained on such images.

    Raises:
        UserError: from a part whose network is not there, or was trained on crops and cannot take whole images.
    """

    def __init__(self, networks: AdversarialVAE, objective: Objective, images: Tensor, crop: int | None = None) -> None:
        self.networks = networks
        self.objective = objective
        self.images = images
        self.crop = crop

    @property
    def mean(self) -> Tensor:
        """Mean of q(z given x), (B, latent_dim)."""
        return self._posterior[0]

    @property
    def logvar(self) -> Tensor:
        """Log-variance of q(z given x), (B, latent_dim)."""
        return self._posterior[1]

    @cached_property
    def reconstruction(self) -> Tensor:
        """decoder(mean), (B, C, H, W) in [-1, 1]."""
        return self.networks.decode(self.mean)

    @cached_property
    def squared_error(self) -> Tensor:
        """(x - x̂)², mean over channels and pixels, (B,)."""
        return mean_squared_error(self.images, self.reconstruction)

    @cached_property
    def kl(self) -> Tensor:
        """KL(q(z given x) to N(0, I)) in nats, (B,)."""
        return kl_divergence(self.mean, self.logvar)

    @cached_property
    def features(self) -> Tensor:
        """D's penultimate features of x, (B, F)."""
        return self._features(self._whole_images)

    @cached_property
    def reconstruction_features(self) -> Tensor:
        """D's penultimate features of the reconstruction, (B, F)."""
        return self._features(self.reconstruction)

    @cached_property
    def logit(self) -> Tensor:
        """D(x), (B,), larger = more real."""
        if self._logit_is_of_features:
            return self._to_logit(self.features)
        return self._discriminate(self._whole_images)

    @cached_property
    def reconstruction_logit(self) -> Tensor:
        """D of the reconstruction, (B,), larger = more real."""
        if self._logit_is_of_features:
            return self._to_logit(self.reconstruction_features)
        return self._discriminate(self.reconstruction)

    @cached_property
    def png_bytes(self) -> Tensor:
        """Size in bytes of each image as an 8-bit PNG file, (B,) float64 on the CPU."""
        pixels = ((self.images + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        return torch.tensor([_png_size(image) for image in pixels], dtype=torch.float64)

    @cached_property
    def _posterior(self) -> tuple[Tensor, Tensor]:
        if not self.networks.has_vae:
            raise UserError(f"a score asks for {VAE}, and none was found: set checkpoint=<train run>")
        return self.networks.encode(self._whole_images)

    @property
    def _whole_images(self) -> Tensor:
        """`images`, for a network to look at as they are. Raises UserError where none can."""
        if self.crop is not None:
            raise UserError(
                f"the networks were trained on crops of {self.crop} px, and the score looks at whole images"
            )
        return self.images

    @property
    def _logit_is_of_features(self) -> bool:
        """Whether D makes its logit from its features, which are then computed once; a user's own D may not."""
        kind = type(self.networks.discriminator)
        return issubclass(kind, StagedDiscriminator) and kind.forward is StagedDiscriminator.forward

    def _features(self, images: Tensor) -> Tensor:
        discriminator: Any = self.networks.discriminator
        if not hasattr(discriminator, "features"):
            raise UserError(f"a score asks for {FEATURES}, and none was found: set discriminator_checkpoint=<file>")
        features = discriminator.features(images)
        if not isinstance(features, Tensor) or features.ndim != 2 or features.shape[0] != images.shape[0]:
            n = len(images)
            raise UserError(
                f"features() of the discriminator gave {described(features)} for {n} images: return a tensor ({n}, F), "
                "or leave out the scores that look at features"
            )
        return features

    def _to_logit(self, features: Tensor) -> Tensor:
        discriminator: Any = self.networks.discriminator
        return discriminator.logit(features).squeeze(1)

    def _discriminate(self, images: Tensor) -> Tensor:
        if self.networks.discriminator is None:
            raise UserError(
                f"a score asks for {DISCRIMINATOR}, and none was found: set discriminator_checkpoint=<file>"
            )
        return self.networks.discriminate(images)


def described(values: object) -> str:
    """What was given instead of the tensor that is needed, in words."""
    return f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__


def _png_size(pixels: np.ndarray) -> int:
    """Bytes of the PNG file of an image (H, W, 1 or 3) uint8."""
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG", optimize=True)
    return file.tell()


Score = Callable[[Evidence], Tensor]
ScoreType = TypeVar("ScoreType", bound=Callable[..., Any])


def needs(*networks: str) -> Callable[[ScoreType], ScoreType]:
    """Declare what a score, a function or a class, cannot do without: it is left out where that is not there.

    Args:
        networks: of `VAE`, `DISCRIMINATOR`, `FEATURES`, `CROPS`.
    """

    def declare(score: ScoreType) -> ScoreType:
        score.needs = networks  # type: ignore[attr-defined]
        return score

    return declare


class FittedScore(ABC):
    """A score that first learns from training images what is normal.

    `statistics` of training images go into `fit`, which sets `state`; a score is `measure` of an image's statistics by
    that state. What needs the image itself overrides `__call__` instead of `measure`.

    Attributes:
        state: all that `fit` learnt, on the CPU; a score with the same constructor arguments and state is the same.
        learns_from_images: False = `fit` draws from the seed alone; it is then given (0, 0) statistics.
    """

    learns_from_images: ClassVar[bool] = True
    state: dict[str, Tensor]
    _copied: tuple[Any, Any, Any, dict[str, Tensor]] = (None, None, None, {})  # a state, device, type, and the copy

    @abstractmethod
    def statistics(self, evidence: Evidence) -> Tensor:
        """(B, k): what is fitted on and measured, of each image by itself."""

    @abstractmethod
    def fit(self, statistics: Tensor, seed: int) -> None:
        """Set `state` from the statistics (N, k) of training images, on the CPU. Random draws follow from `seed`."""

    def measure(self, statistics: Tensor) -> Tensor:
        """Scores (B,) of statistics (B, k) on any device."""
        raise NotImplementedError

    def __call__(self, evidence: Evidence) -> Tensor:
        """Scores (B,)."""
        return self.measure(self.statistics(evidence))

    def state_like(self, statistics: Tensor) -> dict[str, Tensor]:
        """`state` on the device and in the type of `statistics`; copied there once, since it may be large."""
        source, device, dtype, copy = self._copied
        if source is not self.state or device != statistics.device or dtype != statistics.dtype:
            copy = {name: tensor.to(statistics.dtype).to(statistics.device) for name, tensor in self.state.items()}
            self._copied = self.state, statistics.device, statistics.dtype, copy
        return copy
