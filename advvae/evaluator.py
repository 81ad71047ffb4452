"""Measuring trained networks: `mode=test`, and the validation of a training run."""

import math
from pathlib import Path

import torch
from torch import Tensor

from advvae import distributed
from advvae.data import Split
from advvae.errors import UserError
from advvae.figures import reconstruction_grid
from advvae.losses import Objective, kl_divergence, mean_squared_error, ssim
from advvae.memory import ValuesOfImages
from advvae.models import AdversarialVAE
from advvae.models.adversarial_vae import sample_prior
from advvae.models.evaluation import Device, evaluation
from advvae.progress import watched

SAMPLES_SEED = 0  # of the prior samples that validation shows the discriminator: the same ones after every epoch
EXACT = 1e-10  # mean squared error in [0, 1] range below which a reconstruction counts as perfect: PSNR 100 dB


def evaluate(
    networks: AdversarialVAE,
    objective: Objective,
    split: Split,
    *,
    batch_size: int,
    device: Device,
    folder: Path,
    num_workers: int = 0,
) -> dict[str, float]:
    """`mode=test`: how well the posterior mean's decoding resembles each image; draws `reconstructions.png`.

    Returns:
        `n` images, of `n_groups` where they have groups; means over the images: `loss` (recon + kld_weight·KL, as
        `val_loss`), `mse` in [-1, 1], `psnr` in dB and `ssim` in [0, 1] range, `kld` in nats.

    Raises:
        UserError: there is no encoder and decoder.
    """
    if not networks.has_vae:
        raise UserError("mode=test needs an encoder and a decoder, and none was found: set checkpoint=<train run>")
    own = distributed.own_batches(len(split), batch_size)
    measured = ValuesOfImages(len(own))
    with evaluation(networks, device):
        batches = split.subset(own).batches(batch_size, device, num_workers=num_workers)
        for images in watched(batches, f"testing on {split.name}", math.ceil(len(own) / batch_size)):
            terms, reconstruction = _vae_terms(networks, objective, images)
            terms |= {"psnr": psnr(images, reconstruction), "ssim": ssim(images, reconstruction)}
            for name, values in terms.items():
                measured.add(name, values)
    draw_reconstructions(networks, split, folder / "reconstructions.png", device=device)
    means = _means(measured, own, len(split))
    n_groups = {} if split.n_groups is None else {"n_groups": split.n_groups}
    return {"n": len(split), **n_groups, **{name: means[name] for name in ("loss", "mse", "psnr", "ssim", "kld")}}


def validate(
    networks: AdversarialVAE,
    objective: Objective,
    split: Split,
    *,
    batch_size: int,
    device: Device,
    num_workers: int = 0,
) -> dict[str, float]:
    """The figures of merit after an epoch: means over the images of `split`, at the posterior mean.

    Returns:
        `val_loss` (recon + kld_weight·KL: no adversarial term, so it compares across their weights), `val_mse` in
        [-1, 1], `val_kld` in nats. With a discriminator also its `accuracy_real`, `accuracy_reconstruction` and
        `accuracy_sample`: the share of logits on the right side of 0, as many fixed prior samples as images.
    """
    own = distributed.own_batches(len(split), batch_size)
    measured = ValuesOfImages(len(own))
    latents = sample_prior(len(split), networks.latent_dim, torch.Generator().manual_seed(SAMPLES_SEED))[own]
    done = 0
    with evaluation(networks, device):
        for images in split.subset(own).batches(batch_size, device, num_workers=num_workers):
            terms, reconstruction = _vae_terms(networks, objective, images)
            for name, values in terms.items():
                measured.add(f"val_{name}", values)
            if networks.discriminator is not None:
                sample = networks.decode(latents[done : done + len(images)].to(device))
                measured.add("accuracy_real", networks.discriminate(images) > 0)
                measured.add("accuracy_reconstruction", networks.discriminate(reconstruction) <= 0)
                measured.add("accuracy_sample", networks.discriminate(sample) <= 0)
            done += len(images)
    return _means(measured, own, len(split))


def draw_reconstructions(
    networks: AdversarialVAE, split: Split, path: Path, *, device: Device, count: int = 16
) -> None:
    """Draw `count` images, spread evenly over `split`, above their reconstructions at the posterior mean."""
    positions = torch.linspace(0, len(split) - 1, min(count, len(split))).round().long()
    images = torch.cat(list(split.subset(positions).batches(count, device)))
    with evaluation(networks, device):
        reconstruction_grid(images, networks.reconstruct(images), path)


def psnr(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (B,) in dB of images given in [-1, 1], taken in [0, 1] range.

    A perfect reconstruction, whose ratio is infinite, counts as 100 dB, so that the mean over images stays finite.
    """
    unit_range_error = mean_squared_error(images, reconstructions) / 4
    return -10 * unit_range_error.clamp_min(EXACT).log10()


def _vae_terms(networks: AdversarialVAE, objective: Objective, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """`loss`, `mse` and `kld` of each image (B,), and the reconstructions (B, C, H, W), at the posterior mean."""
    mean, logvar = networks.encode(images)
    reconstruction = networks.decode(mean)
    kld = kl_divergence(mean, logvar)
    loss = objective.reconstruction_loss(images, reconstruction) + objective.kld_weight * kld
    return {"loss": loss, "mse": mean_squared_error(images, reconstruction), "kld": kld}, reconstruction


def _means(measured: ValuesOfImages, positions: Tensor, n: int) -> dict[str, float]:
    """Means over the n images of all ranks in float64, on the CPU: not every device has float64."""
    of_all = distributed.gathered(measured.by_name, positions, n)
    return {name: values.cpu().double().mean().item() for name, values in of_all.items()}
