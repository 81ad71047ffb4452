from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from advvae.errors import UserError
from advvae.figures import to_pixels
from advvae.latent_samplers import draw_latents
from advvae.models import AdversarialVAE, conv_networks
from advvae.sampler import draw_samples, generate, sample


@pytest.fixture
def networks() -> AdversarialVAE:
    torch.manual_seed(0)
    return conv_networks(channels=1, size=8, latent_dim=3, hidden_dims=[4, 8]).train()


def images_of(networks: AdversarialVAE, n: int, seed: int, batch_size: int) -> torch.Tensor:
    return torch.cat(list(generate(networks, n, seed=seed, device="cpu", batch_size=batch_size)))


def test_samples_follow_from_the_seed_alone(networks: AdversarialVAE) -> None:
    images = images_of(networks, 7, seed=1, batch_size=7)
    assert images.shape == (7, 1, 8, 8)
    torch.manual_seed(5)
    torch.testing.assert_close(images_of(networks, 7, seed=1, batch_size=2), images)
    assert not torch.allclose(images_of(networks, 7, seed=2, batch_size=7), images)


def test_one_file_per_sample_and_a_grid(networks: AdversarialVAE, tmp_path: Path) -> None:
    metrics = sample(networks, draw_latents(5, 3, seed=3), device="cpu", folder=tmp_path, batch_size=2)
    assert metrics == {"num_samples": 5}
    files = sorted((tmp_path / "samples").iterdir())
    assert [file.name for file in files] == [f"0000{i}.png" for i in range(5)]
    expected = ((images_of(networks, 5, seed=3, batch_size=5) + 1) * 127.5).squeeze(1).numpy()
    written = np.stack([np.asarray(Image.open(file)) for file in files])
    assert np.abs(written - expected).max() <= 0.51  # rounded
    assert Image.open(tmp_path / "samples.png").size == (3 * 64 + 4 * 4, 2 * 64 + 3 * 4)


def test_the_grid_of_very_many_samples_shows_the_first_256(networks: AdversarialVAE, tmp_path: Path) -> None:
    sample(networks, draw_latents(300, 3, seed=3), device="cpu", folder=tmp_path, batch_size=100)
    assert Image.open(tmp_path / "samples.png").size == (16 * 68 + 4, 16 * 68 + 4)
    assert len(list((tmp_path / "samples").iterdir())) == 300


@pytest.mark.parametrize("verb", ["sample", "draw"])
def test_sampling_changes_nothing(verb: str, networks: AdversarialVAE, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in networks.state_dict().items()}
    random_state = torch.get_rng_state()
    if verb == "sample":
        sample(networks, draw_latents(5, 3, seed=3), device="cpu", folder=tmp_path, batch_size=2)
    else:
        draw_samples(networks, tmp_path / "grid.png", seed=0, device="cpu")
    assert all(torch.equal(tensor, before[name]) for name, tensor in networks.state_dict().items())
    assert all(module.training for module in networks.modules())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_sampling_from_a_lone_discriminator_is_refused(networks: AdversarialVAE, tmp_path: Path) -> None:
    networks.encoder = networks.decoder = None
    with pytest.raises(UserError, match="checkpoint="):
        sample(networks, draw_latents(5, 3, seed=3), device="cpu", folder=tmp_path, batch_size=2)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_archive_holds_the_pixels_and_their_latents(channels: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    networks = conv_networks(channels=channels, size=8, latent_dim=3, hidden_dims=[4, 8])
    latents = draw_latents(5, 3, seed=3)
    sample(networks, latents, device="cpu", folder=tmp_path, batch_size=2, save_npz=True)
    with np.load(tmp_path / "samples.npz") as archive:
        images, kept = archive["images"], archive["latents"]
    assert (images.dtype, images.shape) == (np.uint8, (5, 8, 8) if channels == 1 else (5, 8, 8, 3))
    assert (kept.dtype, kept.shape) == (np.float32, (5, 3))
    assert (kept == latents.numpy()).all()
    files = sorted((tmp_path / "samples").iterdir())
    assert (images == np.stack([np.asarray(Image.open(file)) for file in files])).all()
    expected = to_pixels(networks.eval().decode(latents)).permute(0, 2, 3, 1).numpy().reshape(images.shape)
    assert np.abs(images.astype(int) - expected).max() <= 1  # other batches round otherwise
