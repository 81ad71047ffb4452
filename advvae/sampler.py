"""Drawing new images from the prior: `mode=sample`, and the sample grids of a training run."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from advvae.errors import UserError
from advvae.figures import image_grid, save_image, to_pixels
from advvae.models import AdversarialVAE
from advvae.models.adversarial_vae import sample_prior
from advvae.models.evaluation import Device, evaluation

GRID_SIZE = 256  # images in samples.png: more would be too small to see and too large to open


def sample(
    networks: AdversarialVAE,
    *,
    num_samples: int,
    seed: int,
    device: Device,
    folder: Path,
    batch_size: int,
) -> dict[str, int]:
    """`mode=sample`: write `samples/00000.png` ... and `samples.png`, a grid of the first 256 at most.

    Returns:
        `num_samples`: the number of images written.

    Raises:
        UserError: there is no decoder.
    """
    if not networks.has_vae:
        raise UserError("mode=sample needs a decoder, and none was found: set checkpoint=<train run>")
    shown: list[Tensor] = []
    done = 0
    for images in generate(networks, num_samples, seed=seed, device=device, batch_size=batch_size):
        for pixels in to_pixels(images):
            save_image(pixels, folder / "samples" / f"{done:05d}.png")
            done += 1
        if sum(map(len, shown)) < GRID_SIZE:
            shown.append(images.cpu())
    image_grid(torch.cat(shown)[:GRID_SIZE], folder / "samples.png")
    return {"num_samples": done}


def draw_samples(networks: AdversarialVAE, path: Path, *, seed: int, device: Device, count: int = 16) -> None:
    """Draw a grid of `count` samples; the same seed shows the same latents, so that grids of epochs compare."""
    images = torch.cat(list(generate(networks, count, seed=seed, device=device, batch_size=count)))
    image_grid(images, path)


def generate(
    networks: AdversarialVAE, num_samples: int, *, seed: int, device: Device, batch_size: int
) -> Iterator[Tensor]:
    """Decode z ~ N(0, I) in batches (B, C, H, W) in [-1, 1]. The latents depend on the seed, not on `batch_size`."""
    latents = sample_prior(num_samples, networks.latent_dim, torch.Generator().manual_seed(seed))
    for z in latents.split(batch_size):
        with evaluation(networks, device):
            images = networks.decode(z.to(device))
        yield images
