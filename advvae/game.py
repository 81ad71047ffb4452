"""The two-player game, one step of it: the VAE's turn, then the discriminator's on the same images."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from advvae import losses
from advvae.distributed import begin_average, own_part
from advvae.losses import Objective
from advvae.models import AdversarialVAE
from advvae.models.adversarial_vae import sample_prior

TERMS = ("vae_loss", "recon", "kld", "adversarial_reconstruction", "adversarial_sample", "discriminator_loss")
GRADIENT_NORMS = ("vae_gradient_norm", "discriminator_gradient_norm")
MEASURED = (*TERMS, *GRADIENT_NORMS)  # in a step: what must be finite
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass
class Players:
    """The networks and the optimiser of each player; a plain VAE plays alone."""

    networks: AdversarialVAE
    vae_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer | None

    def restore_optimizers(self, vae_state: dict[str, Any], discriminator_state: dict[str, Any]) -> None:
        """Put the optimisers back to states that their state_dict() gave; settings such as lr stay as they are now."""
        states = ((self.vae_optimizer, vae_state), (self.discriminator_optimizer, discriminator_state))
        for optimizer, state in states:
            if optimizer is not None:
                optimizer.load_state_dict(state)
                for group in optimizer.param_groups:
                    group.update(optimizer.defaults)

    def not_finite(self) -> list[str]:
        """The weights and running statistics in which something is NaN or infinite, by their names."""
        named = {k: v for k, v in self.networks.state_dict().items() if v.is_floating_point()}
        finite = torch.stack([tensor.isfinite().all() for tensor in named.values()]).tolist()  # one wait for the device
        return [name for name, is_finite in zip(named, finite, strict=True) if not is_finite]


def make_players(networks: AdversarialVAE, lr: float, device: torch.device) -> Players:
    """Networks on the device, all of their parameters trainable, and each player with its own Adam."""
    networks.to(device).to(memory_format=torch.channels_last).train().requires_grad_(True)
    vae_optimizer = _adam(networks.vae_parameters(), lr, device)
    if networks.discriminator is None:
        return Players(networks, vae_optimizer, None)
    return Players(networks, vae_optimizer, _adam(networks.discriminator_parameters(), lr, device))


def _adam(parameters: list[nn.Parameter], lr: float, device: torch.device) -> torch.optim.Adam:
    """Adam in one kernel where there is one, and on a GPU without a number that the host would have to know."""
    is_cuda = device.type == "cuda"
    return torch.optim.Adam(parameters, lr=lr, fused=is_cuda or device.type == "cpu", capturable=is_cuda)


def play_step(
    players: Players,
    objective: Objective,
    images: Tensor,
    noise: tuple[Tensor, Tensor],
    precision: str,
    negatives: Tensor | None = None,
) -> Tensor:
    """One step of each player on the same images.

    The discriminator sees each fake once, for both turns: the VAE's turn leaves its weights as they are. Nor does the
    discriminator's turn look at the VAE's, so both players move at the end, and ranks sum one's gradients meanwhile.

    Args:
        images: (B, C, H, W) in [-1, 1].
        noise: ε of the posterior and z of the prior, each (B, latent_dim).
        negatives: a further kind of fake for the discriminator, (B, C, H, W) in [-1, 1].

    Returns:
        (8,): the `MEASURED`. The batch means of `TERMS`, unweighted but for `vae_loss`; then the norm of each player's
        gradients. 0 for what is not computed.
    """
    vae_terms, fake_logits = _vae_turn(players, objective, images, noise, precision)
    averaging = [(players.vae_optimizer, _begin_average(players.vae_optimizer, len(images)))]
    discriminator_term = torch.zeros_like(vae_terms[0])
    if players.discriminator_optimizer is not None:
        discriminator_term = _discriminator_turn(players, images, fake_logits, precision, negatives)
        begun = _begin_average(players.discriminator_optimizer, len(images))
        averaging.append((players.discriminator_optimizer, begun))
    norms = [torch.zeros_like(vae_terms[0])] * 2
    for i, (optimizer, end) in enumerate(averaging):
        end()
        gradients = [parameter.grad for parameter in _parameters(optimizer) if parameter.grad is not None]
        norms[i] = get_total_norm(gradients)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return torch.stack([*vae_terms, discriminator_term, *norms])


def _begin_average(optimizer: torch.optim.Optimizer, n_images: int) -> Callable[[], None]:
    """Begin to average a player's gradients, which are means over n images, over the ranks."""
    return begin_average(_parameters(optimizer), n_images)


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _vae_turn(
    players: Players, objective: Objective, images: Tensor, noise: tuple[Tensor, Tensor], precision: str
) -> tuple[list[Tensor], list[Tensor]]:
    """The VAE's gradients: the discriminator only hands them on, and none for a term of weight 0.

    Returns:
        The terms of the VAE, and the logits (B,) of x̂ and x̃ with their graphs; none of a plain VAE.
    """
    networks, weights = players.networks, (objective.recon_weight, objective.gen_weight)
    with _autocast(images.device, precision):
        mean, logvar = networks.encode(images)
        fakes = [networks.decode(mean + torch.exp(0.5 * logvar) * noise[0])]
        seen: list[Tensor] = []
        if networks.discriminator is not None:
            with torch.set_grad_enabled(objective.gen_weight > 0):
                fakes.append(networks.decode(noise[1]))
            seen = [fake if weight > 0 else fake.detach() for fake, weight in zip(fakes, weights, strict=True)]
        with own_batch_statistics(networks.discriminator):
            fake_logits = [networks.discriminate(fake) for fake in seen]
    recon = objective.reconstruction_loss(images, fakes[0]).mean()
    kld = losses.kl_divergence(mean, logvar).mean()
    loss = recon + objective.kld_weight * kld
    fooled = [torch.zeros_like(recon)] * 2
    if pulling := [i for i, weight in enumerate(weights) if weight > 0]:
        for i in pulling:
            fooled[i] = losses.adversarial_loss(fake_logits[i]).mean()
        adversarial = torch.stack([weights[i] * fooled[i] for i in pulling]).sum()
        pulls = torch.autograd.grad(adversarial, [seen[i] for i in pulling], retain_graph=True)
        torch.autograd.backward([loss, *(fakes[i] for i in pulling)], [None, *pulls])
        loss = loss + adversarial
    else:
        loss.backward()
    return [term.detach() for term in (loss, recon, kld, *fooled)], fake_logits


def _discriminator_turn(
    players: Players, images: Tensor, fake_logits: list[Tensor], precision: str, negatives: Tensor | None = None
) -> Tensor:
    """The discriminator's gradients. Its running statistics move with the real images alone."""
    networks = players.networks
    with _autocast(images.device, precision):
        real_logits = networks.discriminate(images)
        if negatives is not None:
            with own_batch_statistics(networks.discriminator):
                fake_logits = [*fake_logits, networks.discriminate(negatives)]
    loss = losses.discriminator_loss(real_logits, *fake_logits).mean()
    loss.backward(inputs=networks.discriminator_parameters())  # of the fakes too, no gradient is asked for
    return loss.detach()


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
    """ε of the posterior and z of the prior for a batch of n images: of each (n, latent_dim) this rank's part."""
    epsilon, z = (sample_prior(n, latent_dim, generator, device) for _ in range(2))
    return own_part(epsilon), own_part(z)


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
