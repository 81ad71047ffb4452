"""All the maths of the game, as pure functions of tensors. Every loss is per image, (B,) in float32.

x real, x̂ = decoder(μ + σ⊙ε), x̃ = decoder(z), D gives a logit, BCE is with logits:

    L_VAE = recon(x, x̂) + kld_weight·KL + recon_weight·BCE(D(x̂), 1) + gen_weight·BCE(D(x̃), 1)
    L_D   = ½·[ BCE(D(x), 1) + ½·BCE(D(x̂), 0) + ½·BCE(D(x̃), 0) ]

That is `adversarial=bce`. The others put in place of the two players' losses of D's logits, where s is the sigmoid:

    hinge         VAE: -D(x̂)                  D: ½·[ max(0, 1 - D(x)) + mean max(0, 1 + D(fake)) ]
    lsgan         VAE: ½·(D(x̂) - 1)²          D: ½·[ (D(x) - 1)² + mean D(fake)² ]
    relativistic  VAE: -log s(D(x̂) - D(x))    D: mean -log s(D(x) - D(fake))

and x̃ likewise; the means are over the kinds of fake.

Inside an autocast region these functions compute in float32 all the same: in bfloat16 SSIM leaves [0, 1], and a KL
summed over the latents loses its last digits.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from advvae.errors import UserError
from advvae.shapes import MS_SSIM_SMALLEST_SIDE

ReconstructionLoss = Callable[[Tensor, Tensor], Tensor]
"""(images, reconstructions), each (B, C, H, W) in [-1, 1] -> loss per image (B,)."""


def in_float32(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The loss, computed in float32 outside any autocast region."""

    @wraps(loss)
    def wrapper(*tensors: Tensor) -> Tensor:
        with torch.autocast(tensors[0].device.type, enabled=False):
            return loss(*(tensor.float() for tensor in tensors))

    return wrapper


@in_float32
def mean_squared_error(images: Tensor, reconstructions: Tensor) -> Tensor:
    """`loss=mse`: squared error in [-1, 1], mean over channels and pixels."""
    return (images - reconstructions).square().flatten(1).mean(1)


@in_float32
def ssim_loss(images: Tensor, reconstructions: Tensor) -> Tensor:
    """`loss=ssim`: 1 - SSIM in [0, 1] range (Wang et al. 2004), Gaussian window of 11 px or the largest odd one."""
    return 1 - ssim(images, reconstructions)


@in_float32
def ssim(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Structural similarity of images given in [-1, 1], 1 = equal."""
    import pytorch_msssim

    side = min(images.shape[-2:])
    window = min(11, side - 1 + side % 2)
    return pytorch_msssim.ssim(
        _unit_range(images), _unit_range(reconstructions), data_range=1.0, size_average=False, win_size=window
    )


@in_float32
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


@in_float32
def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) to N(0, I)) in nats, summed over z (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1)


@in_float32
def kl_of_latents(mean: Tensor, logvar: Tensor) -> Tensor:
    """The same of each latent by itself, (latent_dim,), as the mean over the batch."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean(0)


@in_float32
def feature_distance(real: Tensor, reconstruction: Tensor) -> Tensor:
    """Squared error of D's features (B, F), mean over F (Larsen et al. 2016: a Gaussian around the features of x)."""
    return (reconstruction - real).square().mean(1)


@in_float32
def adversarial_loss(logits: Tensor) -> Tensor:
    """BCE(D(·), 1): how far these images are from passing for real (the non-saturating loss of Goodfellow 2014)."""
    return softplus(-logits)


@in_float32
def discriminator_loss(real: Tensor, *fakes: Tensor) -> Tensor:
    """L_D of the logits of x and of each kind of fake, x̂, x̃ and any more: x weighs as much as all fakes together."""
    loss = softplus(-real)
    for fake in fakes:
        loss = loss + softplus(fake) / len(fakes)
    return 0.5 * loss


@dataclass(frozen=True)
class Adversarial:
    """An adversarial objective: what either player wants of D's logits, each (B,).

    Attributes:
        fool: of fakes, and of x where the objective is relative -> what the VAE minimises.
        tell: of x, and of each kind of fake -> what D minimises.
        is_relative: whether a fake is compared with the real image beside it in the batch.
        boundary: the logit above which D takes an image for real, where the objective is not relative.
    """

    fool: Callable[..., Tensor]
    tell: Callable[..., Tensor]
    is_relative: bool = False
    boundary: float = 0.0

    def are_told(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Whether D takes each of the real images for real, and each of the fakes for a fake, by their logits (B,).

        A relative objective knows no boundary: there it is whether the fake beside it is told from the real image.
        """
        if self.is_relative:
            return real > fake, real > fake
        return real > self.boundary, fake <= self.boundary


def _mean(losses: list[Tensor]) -> Tensor:
    return torch.stack(losses).mean(0)


@in_float32
def _hinge_fool(fake: Tensor) -> Tensor:
    return -fake


@in_float32
def _hinge_tell(real: Tensor, *fakes: Tensor) -> Tensor:
    return 0.5 * (relu(1 - real) + _mean([relu(1 + fake) for fake in fakes]))


@in_float32
def _least_squares_fool(fake: Tensor) -> Tensor:
    return 0.5 * (fake - 1).square()


@in_float32
def _least_squares_tell(real: Tensor, *fakes: Tensor) -> Tensor:
    return 0.5 * ((real - 1).square() + _mean([fake.square() for fake in fakes]))


@in_float32
def _relativistic_fool(fake: Tensor, real: Tensor) -> Tensor:
    return softplus(real - fake)


@in_float32
def _relativistic_tell(real: Tensor, *fakes: Tensor) -> Tensor:
    return _mean([softplus(fake - real) for fake in fakes])


ADVERSARIAL = {
    "bce": Adversarial(adversarial_loss, discriminator_loss),  # Goodfellow et al. 2014, non-saturating
    "hinge": Adversarial(_hinge_fool, _hinge_tell),  # Lim & Ye 2017
    "lsgan": Adversarial(_least_squares_fool, _least_squares_tell, boundary=0.5),  # Mao et al. 2017
    "relativistic": Adversarial(_relativistic_fool, _relativistic_tell, is_relative=True),  # Jolicoeur-Martineau 2019
}


def squared_gradient(logits: Tensor, images: Tensor) -> Tensor:
    """‖∇D(x)‖² per image, (B,), of logits (B,) of images (B, C, H, W), each of which depends on its own image.

    Half of its mean over real images is the penalty R1, over fakes R2 (Mescheder et al. 2018). It can be
    differentiated again, by D's weights.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.float().square().flatten(1).sum(1)


@dataclass(frozen=True)
class Objective:
    """What the players minimise: the reconstruction loss, the weights of the VAE's other terms, the game of logits.

    Attributes:
        feature_weight: of the squared distance of x and x̂ in D's penultimate features (Larsen et al. 2016).
        free_bits: nats of KL that each latent is allowed for nothing (Kingma et al. 2016).
        gradient_penalty: γ of D's penalty γ/2·(R1 + R2), see `squared_gradient`.
        augment: names of `AUGMENTATIONS` that D sees every image through.
        adaptive_weight: whether the VAE's terms of D are brought to the strength of its reconstruction loss, by their
            gradients at the decoder's last layer (Esser et al. 2021).
        kld_factor, adversarial_factor: of the weights of the KL, and of the VAE's terms of D, as a schedule sets them:
            tensors (), None = 1.
    """

    reconstruction_loss: ReconstructionLoss
    kld_weight: float
    recon_weight: float
    gen_weight: float
    feature_weight: float = 0.0
    free_bits: float = 0.0
    adversarial: Adversarial = ADVERSARIAL["bce"]
    gradient_penalty: float = 0.0
    augment: tuple[str, ...] = ()
    adaptive_weight: bool = False
    kld_factor: Tensor | None = None
    adversarial_factor: Tensor | None = None

    def without_discriminator(self) -> "Objective":
        """The same, but for the VAE's terms of D."""
        return replace(self, recon_weight=0.0, gen_weight=0.0, feature_weight=0.0)


def _unit_range(images: Tensor) -> Tensor:
    return (images + 1) / 2
