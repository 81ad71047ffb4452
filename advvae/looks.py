"""What the discriminator D is shown in a step, and what it says."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from advvae import losses
from advvae.augmentation import Change, augmented, drawn_change
from advvae.errors import UserError
from advvae.losses import Objective
from advvae.models import AdversarialVAE

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass
class Looks:
    """What D was shown in a step, and what it said, with the graphs.

    Attributes:
        real, real_logits: x, and its logits; None = D has not been shown it yet.
        change: what D was shown x through; its reconstruction is compared with it through the same.
        fakes, fake_logits: of each kind of fake: images (B, C, H, W), and logits (B,).
    """

    real: Tensor | None = None
    real_logits: Tensor | None = None
    change: Change | None = None
    fakes: list[Tensor] = field(default_factory=list)
    fake_logits: list[Tensor] = field(default_factory=list)


def look_at_fakes(networks: AdversarialVAE, objective: Objective, images: Tensor, looks: Looks) -> Tensor | None:
    """Show D the fakes, and x where the VAE has to know what it says of it.

    Returns:
        How far x̂ is from x in D's features, (); None = it does not count.
    """
    if objective.gradient_penalty > 0:
        looks.fakes = [fake if fake.requires_grad else fake.requires_grad_() for fake in looks.fakes]
    by_features = objective.feature_weight > 0
    real_features = None
    if by_features or objective.adversarial.is_relative:
        real_features = look_at_real(networks, objective, images, looks)
    with own_batch_statistics(networks.discriminator):
        if not by_features:
            seen = [augmented(fake, objective.augment) for fake in looks.fakes]
            looks.fake_logits = [networks.discriminate(fake) for fake in seen]
            return None
        assert looks.change is not None
        reconstruction, *others = looks.fakes
        features, logits = networks.judge(looks.change(reconstruction))
        looks.fake_logits = [logits, *(networks.discriminate(augmented(fake, objective.augment)) for fake in others)]
    assert real_features is not None
    return losses.feature_distance(real_features.detach(), features).mean()


def look_at_real(networks: AdversarialVAE, objective: Objective, images: Tensor, looks: Looks) -> Tensor | None:
    """Show D the real images, with which alone its running statistics move; returns their features, if they count."""
    looks.real = images.detach().requires_grad_() if objective.gradient_penalty > 0 else images
    looks.change = drawn_change(looks.real, objective.augment)
    seen = looks.change(looks.real)
    if objective.feature_weight == 0:
        looks.real_logits = networks.discriminate(seen)
        return None
    features, looks.real_logits = networks.judge(seen)
    return features


def look_at_negatives(networks: AdversarialVAE, objective: Objective, negatives: Tensor, looks: Looks) -> None:
    """Show D a further kind of fake."""
    looks.fakes.append(negatives.detach().requires_grad_(objective.gradient_penalty > 0))
    with own_batch_statistics(networks.discriminator):
        looks.fake_logits.append(networks.discriminate(augmented(looks.fakes[-1], objective.augment)))


def look_at_new_fakes(
    networks: AdversarialVAE, objective: Objective, images: Tensor, noise: Sequence[Tensor], precision: str
) -> Looks:
    """Show D fakes that are made anew, for a step of its own. The VAE's running statistics stay as they are."""
    with torch.no_grad(), own_batch_statistics(networks), autocast(images.device, precision):
        mean, logvar = networks.encode(images)
        fakes = [networks.decode(mean + torch.exp(0.5 * logvar) * noise[0]), networks.decode(noise[1])]
    looks = Looks(fakes=[fake.requires_grad_(objective.gradient_penalty > 0) for fake in fakes])
    with own_batch_statistics(networks.discriminator), autocast(images.device, precision):
        looks.fake_logits = [networks.discriminate(augmented(fake, objective.augment)) for fake in looks.fakes]
    return looks


def check_penalty(networks: AdversarialVAE, objective: Objective) -> None:
    """Refuse R1 and R2, gradients at single images, where a batch norm makes each logit one of the whole batch.

    Raises:
        UserError: with what to set.
    """
    layers = () if networks.discriminator is None else networks.discriminator.modules()
    if objective.gradient_penalty > 0 and any(isinstance(layer, BATCH_NORMS) for layer in layers):
        raise UserError(
            f"gradient_penalty={objective.gradient_penalty:g}, which adversarial=relativistic brings along, needs a "
            "discriminator without batch norm: set model.norm=none or group, or gradient_penalty=0"
        )


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


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Where `precision` counts: losses are computed in float32 all the same."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
