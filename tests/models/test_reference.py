"""State dicts of caetas/GenerativeZoo, made here by plain modules of the same names, score as those modules do."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from advvae.checkpoint import read_checkpoint
from advvae.errors import UserError
from tests.command import FEW, Command

HIDDEN_DIMS = [4, 6, 8]
LATENT_DIM = 5


def stage(convolution: nn.Module, width: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.LeakyReLU())


class PlainVAE(nn.Module):
    """The names under which GenerativeZoo saves its VAE."""

    def __init__(self, size: int) -> None:
        super().__init__()
        first, second, third = HIDDEN_DIMS
        self.side = size // 8
        self.encoder = nn.Sequential(
            stage(nn.Conv2d(1, first, 3, 2, 1), first),
            stage(nn.Conv2d(first, second, 3, 2, 1), second),
            stage(nn.Conv2d(second, third, 3, 2, 1), third),
        )
        self.fc_mu = nn.Linear(third * self.side**2, LATENT_DIM)
        self.fc_logvar = nn.Linear(third * self.side**2, LATENT_DIM)
        self.decoder_input = nn.Linear(LATENT_DIM, third * self.side**2)
        self.decoder = nn.Sequential(
            stage(nn.ConvTranspose2d(third, second, 3, 2, 1, output_padding=1), second),
            stage(nn.ConvTranspose2d(second, first, 3, 2, 1, output_padding=1), first),
        )
        self.final_layer = nn.Sequential(
            nn.ConvTranspose2d(first, first, 3, 2, 1, output_padding=1),
            nn.BatchNorm2d(first),
            nn.LeakyReLU(),
            nn.Conv2d(first, 1, 3, padding=1),
            nn.Tanh(),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.encoder(images).flatten(1)
        mean, logvar = self.fc_mu(features), self.fc_logvar(features)
        maps = self.decoder_input(mean).view(-1, HIDDEN_DIMS[-1], self.side, self.side)
        return self.final_layer(self.decoder(maps)), mean, logvar


class PlainDiscriminator(nn.Module):
    """The names under which it saves its discriminator, an unused layer among them."""

    def __init__(self, size: int) -> None:
        super().__init__()
        widths = [1, *HIDDEN_DIMS]
        stages = [stage(nn.Conv2d(a, b, 3, 2, 1), b) for a, b in zip(widths, HIDDEN_DIMS, strict=False)]
        n_features = HIDDEN_DIMS[-1] * (size // 8) ** 2
        self.encoder = nn.Sequential(*stages, nn.Flatten(), nn.Linear(n_features, 1), nn.Sigmoid())
        self.fc = nn.Linear(n_features, 1)

    def logit(self, images: Tensor) -> Tensor:
        return self.encoder[:-1](images).squeeze(1)


def with_random_statistics(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(generator=generator)
            layer.running_var.uniform_(0.5, 2.0, generator=generator)
    return network.eval()


@pytest.fixture
def saved(tmp_path: Path) -> tuple[PlainVAE, PlainDiscriminator]:
    torch.manual_seed(3)
    vae, discriminator = PlainVAE(16), PlainDiscriminator(16)
    torch.save(with_random_statistics(vae).state_dict(), tmp_path / "vae.pt")
    torch.save(with_random_statistics(discriminator).state_dict(), tmp_path / "discriminator.pt")
    return vae, discriminator


def test_shapes_are_read_off_the_tensors(saved: tuple[nn.Module, nn.Module], tmp_path: Path) -> None:
    vae = read_checkpoint(tmp_path / "vae.pt")
    assert vae.config == {"channels": 1, "hidden_dims": HIDDEN_DIMS, "latent_dim": LATENT_DIM, "final_size": 2}
    assert set(vae.parts) == {"encoder", "decoder"}
    assert set(read_checkpoint(tmp_path / "discriminator.pt").parts) == {"discriminator"}


@torch.no_grad()
def test_scores_are_those_of_the_plain_modules(
    saved: tuple[PlainVAE, PlainDiscriminator], advvae: Command, tmp_path: Path
) -> None:
    vae, discriminator = saved
    arguments = ["mode=outlier", "dataset=digits", "out_dataset=digits", "size=16", "tracker=none", *FEW]
    files = ["checkpoint=vae.pt", "discriminator_checkpoint=discriminator.pt"]
    result = advvae(*arguments, *files, "kld_weight=0.01", "recon_weight=0.5")
    assert result.status == 0, result.errors

    from sklearn.datasets import load_digits

    rows = (result.folder / "scores.csv").read_text().splitlines()
    names = rows[0].split(",")
    first = dict(zip(names, rows[1].split(","), strict=True))
    from advvae.data import load_split
    from advvae.data.embedded import Digits

    split = load_split(Digits(), "test", name="digits", size=16, channels=1, data_dir=advvae.data_dir)
    images = next(iter(split.batches(8)))
    assert len(load_digits().images) == 1797
    reconstruction, mean, logvar = vae(images)
    kld = -0.5 * (1 + logvar - mean**2 - logvar.exp()).sum(1)
    fooled = bce(discriminator.logit(reconstruction), torch.ones(8), reduction="none")
    loss = (images - reconstruction).square().mean((1, 2, 3)) + 0.01 * kld + 0.5 * fooled
    assert float(first["loss"]) == pytest.approx(loss[0].item(), rel=1e-4)
    assert float(first["discriminator"]) == pytest.approx(-discriminator.logit(images)[0].item(), rel=1e-4)


def test_a_discriminator_alone_is_scored_alone(saved: tuple[nn.Module, nn.Module], advvae: Command) -> None:
    arguments = ["mode=outlier", "dataset=digits", "out_dataset=photos", "size=16", "tracker=none", *FEW]
    result = advvae(*arguments, "discriminator_checkpoint=discriminator.pt")
    assert result.status == 0, result.errors
    header = (result.folder / "scores.csv").read_text().splitlines()[0]
    assert header == "is_outlier,source,split,index,path,label,discriminator"
    assert "score loss is left out" in result.output


def test_a_vae_alone_scores_without_the_adversarial_term(saved: tuple[nn.Module, nn.Module], advvae: Command) -> None:
    result = advvae(
        "mode=outlier", "dataset=digits", "out_dataset=photos", "size=16", "tracker=none", "checkpoint=vae.pt", *FEW
    )
    assert result.status == 0, result.errors
    assert "score discriminator is left out" in result.output
    assert "score loss goes without its adversarial term" in result.output


def test_the_wrong_size_is_named(saved: tuple[nn.Module, nn.Module], advvae: Command) -> None:
    result = advvae("mode=test", "dataset=digits", "checkpoint=vae.pt", "tracker=none")
    assert result.status == 1
    assert "size=32 ends in a map of 4 px" in result.message


def test_other_state_dicts_are_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pt")
    with pytest.raises(UserError, match="not a checkpoint"):
        read_checkpoint(tmp_path / "linear.pt")
