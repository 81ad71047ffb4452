"""Outlier scores of single images. Larger = more outlying, always.

A score is any callable from `Evidence`, what the networks say of a batch, to a tensor (B,). It looks at each image by
itself, so that a score never depends on which images share a batch. `@needs` says which networks it cannot do without.

Torch is imported where it is used: the names in `SCORES` are checked before it is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeVar

from advvae.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from advvae.losses import Objective
    from advvae.models import AdversarialVAE

VAE, DISCRIMINATOR = "an encoder and a decoder", "a discriminator"  # the networks a score may need, in words


class Evidence:
    """What the networks say of one batch. Each part is computed when a score first asks for it, and only once.

    All parts are float32, at the networks' running statistics and the posterior mean.

    Attributes:
        networks, objective: what was trained, and what it was trained for.
        images: (B, C, H, W) in [-1, 1].

    Raises:
        UserError: from a part whose network is not there.
    """

    def __init__(self, networks: AdversarialVAE, objective: Objective, images: Tensor) -> None:
        self.networks = networks
        self.objective = objective
        self.images = images

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
    def logit(self) -> Tensor:
        """D(x), (B,), larger = more real."""
        return self._discriminate(self.images)

    @cached_property
    def reconstruction_logit(self) -> Tensor:
        """D of the reconstruction, (B,), larger = more real."""
        return self._discriminate(self.reconstruction)

    @cached_property
    def _posterior(self) -> tuple[Tensor, Tensor]:
        if not self.networks.has_vae:
            raise UserError(f"a score asks for {VAE}, and none was found: set checkpoint=<train run>")
        return self.networks.encode(self.images)

    def _discriminate(self, images: Tensor) -> Tensor:
        if self.networks.discriminator is None:
            raise UserError(
                f"a score asks for {DISCRIMINATOR}, and none was found: set discriminator_checkpoint=<file>"
            )
        return self.networks.discriminate(images)


Score = Callable[[Evidence], "Tensor"]
ScoreType = TypeVar("ScoreType", bound=Score)


def needs(*networks: str) -> Callable[[ScoreType], ScoreType]:
    """Declare the networks (`VAE`, `DISCRIMINATOR`) without which a score is left out."""

    def declare(score: ScoreType) -> ScoreType:
        score.needs = networks  # type: ignore[attr-defined]
        return score

    return declare


@needs(VAE)
def loss(evidence: Evidence) -> Tensor:
    """recon(x, x̂) + kld_weight·KL + recon_weight·BCE(D(x̂), 1): the VAE's loss, with x̂ = decoder(μ) free of noise.

    The last term is there where the network was trained with it and its discriminator was found.
    """
    from advvae.losses import adversarial_loss, kl_divergence

    objective = evidence.objective
    values = objective.reconstruction_loss(evidence.images, evidence.reconstruction)
    values = values + objective.kld_weight * kl_divergence(evidence.mean, evidence.logvar)
    if objective.recon_weight > 0 and evidence.networks.discriminator is not None:
        values = values + objective.recon_weight * adversarial_loss(evidence.reconstruction_logit)
    return values


@needs(DISCRIMINATOR)
def discriminator(evidence: Evidence) -> Tensor:
    """-D(x), the negative logit. No sigmoid: in float32 it is 1 from a logit of 17 on, and ranks would tie."""
    return -evidence.logit


SCORES: dict[str, Score] = {"loss": loss, "discriminator": discriminator}


def named_scores(items: Iterable[str | Score]) -> dict[str, Score]:
    """The scores of a list of names and callables, by name; a callable goes by its own (or its class's) name.

    Raises:
        UserError: an unknown name.
    """
    scores: dict[str, Score] = {}
    for item in items:
        if isinstance(item, str):
            if item not in SCORES:
                raise UserError(f"scores: unknown score '{item}', available are {', '.join(SCORES)}")
            scores[item] = SCORES[item]
        else:
            plain = item.func if isinstance(item, partial) else item
            scores[getattr(plain, "__name__", type(plain).__name__)] = item
    return scores


def usable_scores(scores: Mapping[str, Score], networks: AdversarialVAE) -> tuple[dict[str, Score], dict[str, str]]:
    """Split scores into those that the networks can give, and the names of the others with the reason.

    Raises:
        UserError: none is left.
    """
    missing = set()
    if not networks.has_vae:
        missing.add(VAE)
    if networks.discriminator is None:
        missing.add(DISCRIMINATOR)
    left_out = {
        name: f"needs {' and '.join(lacking)}, which no checkpoint gave"
        for name, score in scores.items()
        if (lacking := [part for part in getattr(score, "needs", ()) if part in missing])
    }
    usable = {name: score for name, score in scores.items() if name not in left_out}
    if not usable:
        reasons = "; ".join(f"{name} {reason}" for name, reason in left_out.items())
        raise UserError(f"scores: none can be computed ({reasons or 'the list is empty'})")
    return usable, left_out
