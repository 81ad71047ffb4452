"""The two-player game, one step of it: the VAE's turn, then the discriminator's on the same images."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from advvae import losses
from advvae.distributed import begin_average, own_part
from advvae.looks import Looks, autocast, look_at_fakes, look_at_negatives, look_at_new_fakes, look_at_real
from advvae.losses import Objective
from advvae.models import AdversarialVAE
from advvae.models.adversarial_vae import sample_prior
from advvae.players import Players, parameters_of

TERMS = (
    *("vae_loss", "recon", "kld", "adversarial_reconstruction", "adversarial_sample", "feature_distance"),
    *("discriminator_loss", "gradient_penalty"),
)
GRADIENT_NORMS = ("vae_gradient_norm", "discriminator_gradient_norm")
MEASURED = (*TERMS, *GRADIENT_NORMS)  # in a step: what must be finite
LARGEST_ADAPTIVE = 1e4  # of the adaptive weight (Esser et al. 2021)


def play_step(
    players: Players,
    objective: Objective,
    images: Tensor,
    noise: Sequence[Tensor],
    precision: str,
    negatives: Tensor | None = None,
) -> Tensor:
    """One step of each player on the same images.

    The discriminator sees each fake once, for both turns: the VAE's turn leaves its weights as they are. Nor does the
    discriminator's turn look at the VAE's, so both players move at the end, and ranks sum one's gradients meanwhile.

    Args:
        images: (B, C, H, W) in [-1, 1].
        noise: ε of the posterior and z of the prior, each (B, latent_dim); two more for each further step of the
            discriminator, which looks at new fakes of the same images.
        negatives: a further kind of fake for the discriminator, (B, C, H, W) in [-1, 1].

    Returns:
        (10,): the `MEASURED`. The batch means of `TERMS`, unweighted but for `vae_loss`; then the norm of each
        player's gradients, unclipped, the largest where D has several steps. 0 for what is not computed. D's terms are
        those of its first step.
    """
    vae_terms, looks = _vae_turn(players, objective, images, noise, precision)
    averaging = [(players.vae_optimizer, _begin_average(players.vae_optimizer, len(images)))]
    discriminator_terms = [torch.zeros_like(vae_terms[0])] * 2
    if players.discriminator_optimizer is not None:
        discriminator_terms = _discriminator_turn(players, objective, images, looks, precision, negatives)
        begun = _begin_average(players.discriminator_optimizer, len(images))
        averaging.append((players.discriminator_optimizer, begun))
    norms = [torch.zeros_like(vae_terms[0])] * 2
    for i, (optimizer, end) in enumerate(averaging):
        norms[i] = _move(players, optimizer, end)
    if (judge := players.discriminator_optimizer) is not None:
        for i in range(2, len(noise), 2):
            looks = look_at_new_fakes(players.networks, objective, images, noise[i : i + 2], precision)
            _discriminator_turn(players, objective, images, looks, precision, negatives)
            norms[1] = norms[1].maximum(_move(players, judge, _begin_average(judge, len(images))))
    if players.average is not None:
        players.average.update()
    return torch.stack([*vae_terms, *discriminator_terms, *norms])


def _begin_average(optimizer: torch.optim.Optimizer, n_images: int) -> Callable[[], None]:
    """Begin to average a player's gradients, which are means over n images, over the ranks."""
    return begin_average(parameters_of(optimizer), n_images)


def _move(players: Players, optimizer: torch.optim.Optimizer, end_average: Callable[[], None]) -> Tensor:
    """A player's step by its gradients, whose norm () before any clipping is returned."""
    end_average()
    moved = [parameter for parameter in parameters_of(optimizer) if parameter.grad is not None]
    norm = get_total_norm([parameter.grad for parameter in moved if parameter.grad is not None])
    if players.clip_gradient is not None:
        clip_grads_with_norm_(moved, players.clip_gradient, norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def _vae_turn(
    players: Players, objective: Objective, images: Tensor, noise: Sequence[Tensor], precision: str
) -> tuple[list[Tensor], Looks]:
    """The VAE's gradients: the discriminator only hands them on, and none for a term of weight 0.

    Returns:
        The terms of the VAE, and what D has said of x̂, x̃, and of x where the VAE has to know; nothing of a plain VAE.
    """
    networks, weights = players.networks, (objective.recon_weight, objective.gen_weight)
    pulling = (objective.recon_weight > 0 or objective.feature_weight > 0, objective.gen_weight > 0)
    looks, distance = Looks(), None
    with autocast(images.device, precision):
        mean, logvar = networks.encode(images)
        fakes = [networks.decode(mean + torch.exp(0.5 * logvar) * noise[0])]
        if networks.discriminator is not None:
            with torch.set_grad_enabled(objective.gen_weight > 0):
                fakes.append(networks.decode(noise[1]))
            looks.fakes = [fake if pulls else fake.detach() for fake, pulls in zip(fakes, pulling, strict=True)]
            distance = look_at_fakes(networks, objective, images, looks)
    recon = objective.reconstruction_loss(images, fakes[0]).mean()
    kld = losses.kl_divergence(mean, logvar).mean()
    loss = recon + _kld_term(objective, mean, logvar, kld)
    fooled = [
        _fooled(objective, looks, i) if weight > 0 else torch.zeros_like(recon) for i, weight in enumerate(weights)
    ]
    terms = [weight * term for weight, term in zip(weights, fooled, strict=True) if weight > 0]
    if distance is not None:
        terms.append(objective.feature_weight * distance)
    if terms:
        adversarial = torch.stack(terms).sum()
        pulled = [i for i, pulls in enumerate(pulling) if pulls]
        pulls = torch.autograd.grad(adversarial, [looks.fakes[i] for i in pulled], retain_graph=True)
        factor = _adversarial_factor(objective, networks, recon, [fakes[i] for i in pulled], pulls)
        if factor is not None:
            adversarial, pulls = factor * adversarial, tuple(factor * pull for pull in pulls)
        torch.autograd.backward([loss, *(fakes[i] for i in pulled)], [None, *pulls])
        loss = loss + adversarial
    else:
        loss.backward()
    shown = [loss, recon, kld, *fooled, torch.zeros_like(recon) if distance is None else distance]
    return [term.detach() for term in shown], looks


def _fooled(objective: Objective, looks: Looks, kind: int) -> Tensor:
    """How far the fakes of a kind are from passing for real, ()."""
    if not objective.adversarial.is_relative:
        return objective.adversarial.fool(looks.fake_logits[kind]).mean()
    assert looks.real_logits is not None
    return objective.adversarial.fool(looks.fake_logits[kind], looks.real_logits.detach()).mean()


def _kld_term(objective: Objective, mean: Tensor, logvar: Tensor, kld: Tensor) -> Tensor:
    """What the VAE minimises of the KL."""
    if objective.free_bits > 0:
        kld = losses.kl_of_latents(mean, logvar).clamp_min(objective.free_bits).sum()
    term = objective.kld_weight * kld
    return term if objective.kld_factor is None else objective.kld_factor * term


def _adversarial_factor(
    objective: Objective, networks: AdversarialVAE, recon: Tensor, fakes: list[Tensor], pulls: Sequence[Tensor]
) -> Tensor | None:
    """What the VAE's terms of D are multiplied by, (): what the schedule says, and the adaptive weight; None = 1.

    The adaptive weight brings their weighted mean to the strength of the reconstruction loss, so that their weights
    still say how strong they are beside it (Esser et al. 2021, equation 7, of several terms).

    Args:
        pulls: the gradients of these terms, with their weights, at the fakes.
    """
    factor = objective.adversarial_factor
    if objective.adaptive_weight:
        assert networks.decoder is not None
        last = [parameter for parameter in networks.decoder.parameters() if parameter.ndim > 1][-1]
        (by_recon,) = torch.autograd.grad(recon, last, retain_graph=True)
        (by_pulls,) = torch.autograd.grad(fakes, last, pulls, retain_graph=True)
        weights = objective.recon_weight + objective.gen_weight + objective.feature_weight
        adaptive = (by_recon.norm() / (by_pulls.norm() / weights + 1e-6)).clamp_max(LARGEST_ADAPTIVE)
        factor = adaptive if factor is None else factor * adaptive
    return factor


def _discriminator_turn(
    players: Players,
    objective: Objective,
    images: Tensor,
    looks: Looks,
    precision: str,
    negatives: Tensor | None = None,
) -> list[Tensor]:
    """The discriminator's gradients. Its running statistics move with the real images alone.

    Returns:
        Its loss, and the penalty R1 + R2 that is added to it by γ/2.
    """
    networks = players.networks
    with autocast(images.device, precision):
        if looks.real_logits is None:
            look_at_real(networks, objective, images, looks)
        if negatives is not None:
            look_at_negatives(networks, objective, negatives, looks)
    assert looks.real_logits is not None
    loss = objective.adversarial.tell(looks.real_logits, *looks.fake_logits).mean()
    penalty = torch.zeros_like(loss)
    if objective.gradient_penalty > 0:
        assert looks.real is not None
        penalty = losses.squared_gradient(looks.real_logits, looks.real).mean()
        seen = zip(looks.fake_logits, looks.fakes, strict=True)
        penalty = penalty + torch.stack([losses.squared_gradient(*look).mean() for look in seen]).mean()
    told = loss if objective.gradient_penalty == 0 else loss + objective.gradient_penalty / 2 * penalty
    told.backward(inputs=networks.discriminator_parameters())  # of the fakes too, no gradient is asked for
    return [loss.detach(), penalty.detach()]


def draw_noise(
    n: int, latent_dim: int, generator: torch.Generator, device: torch.device, n_steps: int = 1
) -> tuple[Tensor, ...]:
    """ε of the posterior and z of the prior for a batch of n images: of each (n, latent_dim) this rank's part.

    Args:
        n_steps: of the discriminator, each with two draws of its own.
    """
    return tuple(own_part(sample_prior(n, latent_dim, generator, device)) for _ in range(2 * n_steps))


def terms_played(players: Players, objective: Objective) -> list[str]:
    """Those of `TERMS` that are part of this game."""
    absent = set()
    if objective.recon_weight == 0:
        absent.add("adversarial_reconstruction")
    if objective.gen_weight == 0:
        absent.add("adversarial_sample")
    if objective.feature_weight == 0:
        absent.add("feature_distance")
    if objective.gradient_penalty == 0:
        absent.add("gradient_penalty")
    if players.discriminator_optimizer is None:
        absent |= {"discriminator_loss", "gradient_penalty"}
    return [term for term in TERMS if term not in absent]
