"""Measuring trained networks: `mode=test`, and the validation of a training run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advvae.config import RECONSTRUCTION_METRICS
from advvae.data import Split
from advvae.errors import UserError
from advvae.features import PerceptualDistance
from advvae.figures import reconstruction_grid
from advvae.losses import Objective, kl_divergence, mean_squared_error, ms_ssim_loss, ssim
from advvae.models import AdversarialVAE
from advvae.models.adversarial_vae import sample_prior
from advvae.models.evaluation import Device, evaluation, of_all_images

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
    metrics: Sequence[str] = ("mse", "psnr", "ssim"),
) -> dict[str, float]:
    """`mode=test`: how well the posterior mean's decoding resembles each image; draws `reconstructions.png`.

    Args:
        metrics: which of `mse` in [-1, 1], `psnr` in dB, `ssim` and `ms_ssim` in [0, 1] range, and `lpips` to measure.

    Returns:
        `n` images, of `n_groups` where they have groups; means over the images: `loss` (recon + kld_weight·KL, as
        `val_loss`), `metrics`, `kld` in nats.

    Raises:
        UserError: there is no encoder and decoder; the weights that lpips needs are not there.
    """
    if not networks.has_vae:
        raise UserError("mode=test needs an encoder and a decoder, and none was found: set checkpoint=<train run>")

    similarities = similarity_measures(metrics, device)

    def compute(images: Tensor, positions: Tensor) -> dict[str, Tensor]:
        terms, reconstruction = _vae_terms(networks, objective, images)
        return terms | {name: measure(images, reconstruction) for name, measure in similarities.items()}

    reading: dict[str, Any] = {"batch_size": batch_size, "device": device, "num_workers": num_workers}
    means = _means(of_all_images(networks, split, compute, what=f"testing on {split.name}", **reading))
    draw_reconstructions(networks, split, folder / "reconstructions.png", device=device)
    n_groups = {} if split.n_groups is None else {"n_groups": split.n_groups}
    return {"n": len(split), **n_groups, **{name: means[name] for name in ("loss", *similarities, "kld")}}


def similarity_measures(metrics: Sequence[str], device: Device) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Those of RECONSTRUCTION_METRICS that `metrics` asks for: (images, reconstructions), both in [-1, 1] -> (B,)."""
    measures: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "mse": mean_squared_error,
        "psnr": psnr,
        "ssim": ssim,
        "ms_ssim": lambda images, reconstructions: 1 - ms_ssim_loss(images, reconstructions),
    }
    if "lpips" in metrics:
        measures["lpips"] = PerceptualDistance().eval().to(device)
    return {name: measures[name] for name in RECONSTRUCTION_METRICS if name in metrics}


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
        `accuracy_sample`: the share of logits on the right side (`Adversarial.are_told`), as many fixed prior samples
        as images.
    """
    latents = sample_prior(len(split), networks.latent_dim, torch.Generator().manual_seed(SAMPLES_SEED))

    def compute(images: Tensor, positions: Tensor) -> dict[str, Tensor]:
        terms, reconstruction = _vae_terms(networks, objective, images)
        measured = {f"val_{name}": values for name, values in terms.items()}
        if networks.discriminator is not None:
            sample = networks.decode(latents[positions].to(device))
            real, told = networks.discriminate(images), objective.adversarial.are_told
            measured["accuracy_reconstruction"] = told(real, networks.discriminate(reconstruction))[1]
            measured["accuracy_real"], measured["accuracy_sample"] = told(real, networks.discriminate(sample))
        return measured

    reading: dict[str, Any] = {"batch_size": batch_size, "device": device, "num_workers": num_workers}
    return _means(of_all_images(networks, split, compute, what="validating", **reading))


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


def _means(measured: Mapping[str, Tensor]) -> dict[str, float]:
    """Means over images in float64, on the CPU: not every device has float64."""
    return {name: values.cpu().double().mean().item() for name, values in measured.items()}
