"""Drawing new images: `mode=sample`, and the sample grids of a training run, which are from the prior."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from advvae.errors import UserError
from advvae.figures import image_grid, save_image, to_pixels
from advvae.files import replacing
from advvae.latent_samplers import draw_latents
from advvae.models import AdversarialVAE
from advvae.models.evaluation import Device, evaluation

GRID_SIZE = 256  # images in samples.png: more would be too small to see and too large to open


def sample(
    networks: AdversarialVAE,
    latents: Tensor,
    *,
    device: Device,
    folder: Path,
    batch_size: int,
    save_npz: bool = False,
) -> dict[str, int]:
    """`mode=sample`: write `samples/00000.png` ... and `samples.png`, a grid of the first 256 at most.

    Args:
        latents: (n, latent_dim) on the CPU, to decode.
        save_npz: also write `samples.npz`: `images` (n, H, W[, C]) uint8 and `latents` (n, latent_dim) float32.

    Returns:
        `num_samples`: the number of images written.

    Raises:
        UserError: there is no decoder.
    """
    if not networks.has_vae:
        raise UserError("mode=sample needs a decoder, and none was found: set checkpoint=<train run>")
    shown: list[Tensor] = []
    kept: list[Tensor] = []
    done = 0
    for images in decoded(networks, latents, device=device, batch_size=batch_size):
        batch = to_pixels(images)
        for pixels in batch:
            save_image(pixels, folder / "samples" / f"{done:05d}.png")
            done += 1
        if sum(map(len, shown)) < GRID_SIZE:
            shown.append(images.cpu())
        if save_npz:
            kept.append(batch)
    image_grid(torch.cat(shown)[:GRID_SIZE], folder / "samples.png")
    if save_npz:
        write_npz(folder / "samples.npz", torch.cat(kept), latents)
    return {"num_samples": done}


def write_npz(path: Path, pixels: Tensor, latents: Tensor) -> None:
    """Write pixels (n, C, H, W) uint8 as `images`, channels last and left out where there is one, and `latents`."""
    images = pixels.squeeze(1) if pixels.shape[1] == 1 else pixels.permute(0, 2, 3, 1)
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, images=images.contiguous().numpy(), latents=latents.float().numpy())


def draw_samples(networks: AdversarialVAE, path: Path, *, seed: int, device: Device, count: int = 16) -> None:
    """Draw a grid of `count` samples; the same seed shows the same latents, so that grids of epochs compare."""
    images = torch.cat(list(generate(networks, count, seed=seed, device=device, batch_size=count)))
    image_grid(images, path)


def generate(
    networks: AdversarialVAE, num_samples: int, *, seed: int, device: Device, batch_size: int
) -> Iterator[Tensor]:
    """Decode z ~ N(0, I) in batches (B, C, H, W) in [-1, 1]. The latents depend on the seed, not on `batch_size`."""
    return decoded(
        networks, draw_latents(num_samples, networks.latent_dim, seed=seed), device=device, batch_size=batch_size
    )


def decoded(networks: AdversarialVAE, latents: Tensor, *, device: Device, batch_size: int) -> Iterator[Tensor]:
    """Decode latents (n, latent_dim) in batches (B, C, H, W) in [-1, 1]."""
    for z in latents.split(batch_size):
        with evaluation(networks, device):
            images = networks.decode(z.to(device))
        yield images
