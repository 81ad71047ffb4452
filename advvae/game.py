"""The two-player game, one step of it: the VAE's turn, then the discriminator's on the same images."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advvae import losses
from advvae.losses import Objective
from advvae.models import AdversarialVAE
from advvae.models.adversarial_vae import sample_prior

TERMS = ("vae_loss", "recon", "kld", "adversarial_reconstruction", "adversarial_sample", "discriminator_loss")
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass
class Players:
    """The networks and the optimiser of each player; a plain VAE plays alone."""

    networks: AdversarialVAE
    vae_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer | None


def make_players(networks: AdversarialVAE, lr: float, device: torch.device) -> Players:
    """Networks on the device, each player with its own Adam, all parameters frozen until their player's turn."""
    networks.to(device).to(memory_format=torch.channels_last).train().requires_grad_(False)
    fused = device.type in ("cpu", "cuda")
    vae_optimizer = torch.optim.Adam(networks.vae_parameters(), lr=lr, fused=fused)
    if networks.discriminator is None:
        return Players(networks, vae_optimizer, None)
    return Players(networks, vae_optimizer, torch.optim.Adam(networks.discriminator_parameters(), lr=lr, fused=fused))


def play_step(
    players: Players,
    objective: Objective,
    images: Tensor,
    noise: tuple[Tensor, Tensor],
    precision: str,
    negatives: Tensor | None = None,
) -> Tensor:
    """One step of each player on the same images.

    Args:
        images: (B, C, H, W) in [-1, 1].
        noise: ε of the posterior and z of the prior, each (B, latent_dim).
        negatives: a further kind of fake for the discriminator, (B, C, H, W) in [-1, 1].

    Returns:
        (6,): the batch means of `TERMS`, unweighted but for `vae_loss`; 0 for a term that is not computed.
    """
    reconstruction, sample, vae_terms = _vae_step(players, objective, images, noise, precision)
    if players.discriminator_optimizer is None or sample is None:
        return torch.stack([*vae_terms, vae_terms[0].new_zeros(())])
    fakes = [reconstruction, sample] if negatives is None else [reconstruction, sample, negatives]
    discriminator_term = _discriminator_step(players, images, fakes, precision)
    return torch.stack([*vae_terms, discriminator_term])


def _vae_step(
    players: Players, objective: Objective, images: Tensor, noise: tuple[Tensor, Tensor], precision: str
) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    """The VAE's turn: the discriminator only passes gradients on. A term of weight 0 skips its pass through it."""
    networks = players.networks
    with _turn(players.vae_optimizer):
        with _autocast(images.device, precision):
            mean, logvar = networks.encode(images)
            reconstruction = networks.decode(mean + torch.exp(0.5 * logvar) * noise[0])
            sample = None
            if networks.discriminator is not None:
                with torch.set_grad_enabled(objective.gen_weight > 0):
                    sample = networks.decode(noise[1])
            fooled_by_reconstruction = _fooling_loss(networks, reconstruction, objective.recon_weight)
            fooled_by_sample = _fooling_loss(networks, sample, objective.gen_weight)
        recon = objective.reconstruction_loss(images, reconstruction).mean()
        kld = losses.kl_divergence(mean, logvar).mean()
        loss = recon + objective.kld_weight * kld
        loss = loss + objective.recon_weight * fooled_by_reconstruction + objective.gen_weight * fooled_by_sample
        loss.backward()
    terms = [term.detach() for term in (loss, recon, kld, fooled_by_reconstruction, fooled_by_sample)]
    return reconstruction.detach(), None if sample is None else sample.detach(), terms


def _fooling_loss(networks: AdversarialVAE, fakes: Tensor | None, weight: float) -> Tensor:
    """BCE(D(fakes), 1), mean over the batch; a plain 0, without a pass through the discriminator, for weight 0."""
    if weight == 0 or fakes is None:
        return torch.zeros((), device=next(networks.parameters()).device)
    with own_batch_statistics(networks.discriminator):
        return losses.adversarial_loss(networks.discriminate(fakes)).mean()


def _discriminator_step(players: Players, images: Tensor, fakes: list[Tensor], precision: str) -> Tensor:
    """The discriminator's turn. Its running statistics move with the real images alone."""
    networks = players.networks
    assert players.discriminator_optimizer is not None
    with _turn(players.discriminator_optimizer):
        with _autocast(images.device, precision):
            real_logits = networks.discriminate(images)
            with own_batch_statistics(networks.discriminator):
                fake_logits = [networks.discriminate(fake) for fake in fakes]
        loss = losses.discriminator_loss(real_logits, *fake_logits).mean()
        loss.backward()
    return loss.detach()


@contextmanager
def _turn(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """One player's turn: its parameters alone are trainable, and at the end it takes its step."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        parameter.requires_grad_(True)
    yield
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for parameter in parameters:
        parameter.requires_grad_(False)


@contextmanager
def own_batch_statistics(network: nn.Module | None) -> Iterator[None]:
    """Passes in here are normalised by their own batch and leave the running statistics as they are."""
    layers = [] if network is None else [layer for layer in network.modules() if isinstance(layer, BATCH_NORMS)]
    tracked = [layer.track_running_stats for layer in layers]
    try:
        for layer in layers:
            layer.track_running_stats = False
        yield
    finally:
        for layer, was_tracked in zip(layers, tracked, strict=True):
            layer.track_running_stats = was_tracked


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def draw_noise(n: int, latent_dim: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
    """ε of the posterior and z of the prior, each (n, latent_dim)."""
    return sample_prior(n, latent_dim, generator, device), sample_prior(n, latent_dim, generator, device)


def terms_played(players: Players, objective: Objective) -> list[str]:
    """Those of `TERMS` that are part of this game."""
    absent = set()
    if objective.recon_weight == 0:
        absent.add("adversarial_reconstruction")
    if objective.gen_weight == 0:
        absent.add("adversarial_sample")
    if players.discriminator_optimizer is None:
        absent.add("discriminator_loss")
    return [term for term in TERMS if term not in absent]
