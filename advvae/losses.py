"""All the maths of the game, as pure functions of tensors. Every loss is per image, (B,) in float32.

x real, x̂ = decoder(μ + σ⊙ε), x̃ = decoder(z), D gives a logit, BCE is with logits:

    L_VAE = recon(x, x̂) + kld_weight·KL + recon_weight·BCE(D(x̂), 1) + gen_weight·BCE(D(x̃), 1)
    L_D   = ½·[ BCE(D(x), 1) + ½·BCE(D(x̂), 0) + ½·BCE(D(x̃), 0) ]

Inside an autocast region these functions compute in float32 all the same: in bfloat16 SSIM leaves [0, 1], and a KL
summed over the latents loses its last digits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps

import torch
from torch import Tensor
from torch.nn.functional import softplus

from advvae.errors import UserError
from advvae.shapes import MS_SSIM_SMALLEST_SIDE

ReconstructionLoss = Callable[[Tensor, Tensor], Tensor]
"""(images, reconstructions), each (B, C, H, W) in [-1, 1] -> loss per image (B,)."""


@dataclass(frozen=True)
class Objective:
    """What the VAE minimises: its reconstruction loss and the weights of the other terms."""

    reconstruction_loss: ReconstructionLoss
    kld_weight: float
    recon_weight: float
    gen_weight: float


def _in_float32(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The loss, computed in float32 outside any autocast region."""

    @wraps(loss)
    def wrapper(*tensors: Tensor) -> Tensor:
        with torch.autocast(tensors[0].device.type, enabled=False):
            return loss(*(tensor.float() for tensor in tensors))

    return wrapper


@_in_float32
def mean_squared_error(images: Tensor, reconstructions: Tensor) -> Tensor:
    """`loss=mse`: squared error in [-1, 1], mean over channels and pixels."""
    return (images - reconstructions).square().flatten(1).mean(1)


@_in_float32
def ssim_loss(images: Tensor, reconstructions: Tensor) -> Tensor:
    """`loss=ssim`: 1 - SSIM in [0, 1] range (Wang et al. 2004), Gaussian window of 11 px or the largest odd one."""
    return 1 - ssim(images, reconstructions)


@_in_float32
def ssim(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Structural similarity of images given in [-1, 1], 1 = equal."""
    import pytorch_msssim

    side = min(images.shape[-2:])
    window = min(11, side - 1 + side % 2)
    return pytorch_msssim.ssim(
        _unit_range(images), _unit_range(reconstructions), data_range=1.0, size_average=False, win_size=window
    )


@_in_float32
def ms_ssim_loss(images: Tensor, reconstructions: Tensor) -> Tensor:
    """`loss=ms_ssim`: 1 - multi-scale SSIM over five scales (Wang et al. 2003), in [0, 1] range.

    The window is the largest odd one of at most 11 px that fits the coarsest scale: 16·(window - 1) < side.

    Raises:
        UserError: the images are smaller than 33 px.
    """
    import pytorch_msssim

    side = min(images.shape[-2:])
    if side < MS_SSIM_SMALLEST_SIDE:
        raise UserError(f"loss=ms_ssim needs images of {MS_SSIM_SMALLEST_SIDE} px or more, got {side}: use loss=ssim")
    widest = (side - 1) // 16 + 1
    window = min(11, widest - 1 + widest % 2)
    similarity = pytorch_msssim.ms_ssim(
        _unit_range(images), _unit_range(reconstructions), data_range=1.0, size_average=False, win_size=window
    )
    return 1 - similarity


@_in_float32
def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) to N(0, I)) in nats, summed over z (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1)


@_in_float32
def adversarial_loss(logits: Tensor) -> Tensor:
    """BCE(D(·), 1): how far these images are from passing for real (the non-saturating loss of Goodfellow 2014)."""
    return softplus(-logits)


@_in_float32
def discriminator_loss(real: Tensor, *fakes: Tensor) -> Tensor:
    """L_D of the logits of x and of each kind of fake, x̂, x̃ and any more: x weighs as much as all fakes together."""
    loss = softplus(-real)
    for fake in fakes:
        loss = loss + softplus(fake) / len(fakes)
    return 0.5 * loss


def _unit_range(images: Tensor) -> Tensor:
    return (images + 1) / 2
