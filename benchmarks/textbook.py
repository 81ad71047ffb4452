"""The adversarial VAE as a plain PyTorch tutorial would write it: what the throughput of advvae is compared with.

The same networks, losses and optimisers as the defaults of advvae: images decoded and transformed by PIL one by one in
a DataLoader, float32, contiguous layout, every pass by itself, the discriminator's gradients computed and thrown away
in the VAE's step, Adam as it comes, and `.item()` each step.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

WIDTHS = (32, 64, 128, 256)
SIDE = 2  # pixels of the last map, of images of 32 px


class Encoder(nn.Module):
    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*down())
        self.mean = nn.Linear(WIDTHS[-1] * SIDE**2, latent_dim)
        self.logvar = nn.Linear(WIDTHS[-1] * SIDE**2, latent_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.layers(images)
        return self.mean(features), self.logvar(features)


class Decoder(nn.Module):
    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(latent_dim, WIDTHS[-1] * SIDE**2), nn.Unflatten(1, (-1, SIDE, SIDE))]
        widths = [*reversed(WIDTHS), WIDTHS[0]]
        for wide, narrow in pairwise(widths):
            layers += [nn.ConvTranspose2d(wide, narrow, 3, stride=2, padding=1, output_padding=1)]
            layers += [nn.BatchNorm2d(narrow), nn.LeakyReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


def discriminator() -> nn.Module:
    return nn.Sequential(*down(), nn.Linear(WIDTHS[-1] * SIDE**2, 1))


def down() -> list[nn.Module]:
    layers: list[nn.Module] = []
    for narrow, wide in zip((1, *WIDTHS), WIDTHS, strict=False):
        layers += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1), nn.BatchNorm2d(wide), nn.LeakyReLU()]
    return [*layers, nn.Flatten()]


class Step(NamedTuple):
    n_images: int
    vae_loss: float
    discriminator_loss: float


def train(
    data_dir: str,
    *,
    rows: Sequence[int] | None = None,
    device: str,
    batch_size: int = 128,
    latent_dim: int = 128,
    lr: float = 2e-4,
    kld_weight: float = 1e-4,
    recon_weight: float = 0.002,
    gen_weight: float = 0.002,
    train_discriminator: bool = True,
    num_workers: int = 0,
) -> Iterator[Step]:
    """Trains without end on MNIST's training images, or on these rows of them."""
    to_tensor = transforms.Compose([transforms.Resize(32), transforms.ToTensor(), transforms.Normalize(0.5, 0.5)])
    dataset = datasets.MNIST(data_dir, train=True, transform=to_tensor, download=True)
    chosen = dataset if rows is None else Subset(dataset, rows)
    loader = DataLoader(chosen, batch_size, shuffle=True, num_workers=num_workers)
    encoder, decoder, judge = Encoder(latent_dim).to(device), Decoder(latent_dim).to(device), discriminator().to(device)
    vae_optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=lr)
    judge_optimizer = torch.optim.Adam(judge.parameters(), lr=lr)
    bce, mse = nn.BCEWithLogitsLoss(), nn.MSELoss()
    while True:
        for images, _ in loader:
            images = images.to(device)
            real, fake = torch.ones(len(images), 1, device=device), torch.zeros(len(images), 1, device=device)

            vae_optimizer.zero_grad()
            mean, logvar = encoder(images)
            reconstruction = decoder(mean + torch.exp(0.5 * logvar) * torch.randn_like(mean))
            kld = -0.5 * torch.mean(torch.sum(1 + logvar - mean.pow(2) - logvar.exp(), dim=1))
            loss = mse(reconstruction, images) + kld_weight * kld
            sample = decoder(torch.randn_like(mean)) if train_discriminator else None
            if recon_weight:
                loss = loss + recon_weight * bce(judge(reconstruction), real)
            if gen_weight:
                loss = loss + gen_weight * bce(judge(sample), real)
            loss.backward()
            vae_optimizer.step()
            vae_loss, judge_loss = loss.item(), 0.0

            if sample is not None:
                judge_optimizer.zero_grad()
                fooled = bce(judge(reconstruction.detach()), fake) + bce(judge(sample.detach()), fake)
                loss = 0.5 * (bce(judge(images), real) + 0.5 * fooled)
                loss.backward()
                judge_optimizer.step()
                judge_loss = loss.item()
            yield Step(len(images), vae_loss, judge_loss)
