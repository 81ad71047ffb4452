import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from advvae.data import Split
from advvae.errors import UserError
from advvae.evaluator import draw_reconstructions, evaluate, psnr, validate
from advvae.losses import Objective, mean_squared_error
from advvae.models import AdversarialVAE, conv_networks
from advvae.models.adversarial_vae import sample_prior
from advvae.models.evaluation import evaluation

OBJECTIVE = Objective(mean_squared_error, kld_weight=0.5, recon_weight=0.1, gen_weight=0.1)


def split_of(images: Tensor) -> Split:
    n = len(images)
    return Split("toy", "val", images, torch.arange(n), "val", np.zeros(n, dtype=np.int64), ["zero"], None)


@pytest.fixture
def split() -> Split:
    return split_of(torch.randint(0, 256, (13, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte())


@pytest.fixture
def networks() -> AdversarialVAE:
    """Untrained networks in training mode, but for a frozen encoder part, with running statistics of their own."""
    torch.manual_seed(0)
    networks = conv_networks(channels=1, size=8, latent_dim=3, hidden_dims=[4, 8])
    for module in networks.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features) / 4
            module.running_var = torch.rand(module.num_features) + 0.5
    networks.train()
    assert networks.encoder is not None
    networks.encoder.get_submodule("stages.0").eval()
    return networks


class Constant(torch.nn.Module):
    """A decoder that gives the same image for every latent."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.image = image

    def forward(self, z: Tensor) -> Tensor:
        return self.image.expand(len(z), *self.image.shape)


def constant_networks() -> AdversarialVAE:
    """KL = ½·(1 + 4) = 2.5 nats; reconstructions are all 0; D gives the sum of its image's first pixel and 0.25."""

    class Posterior(torch.nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return torch.tensor([[1.0, -2.0]]).expand(len(images), 2), torch.zeros(len(images), 2)

    class FirstPixel(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images[:, 0, 0, 0] + 0.25

    return AdversarialVAE(Posterior(), Constant(torch.zeros(1, 8, 8)), FirstPixel(), latent_dim=2)


def test_validation_gives_means_over_images() -> None:
    images = torch.zeros(5, 1, 8, 8, dtype=torch.uint8)  # -1 in network units: mse 1 against reconstructions of 0
    images[0] = 255  # 1 in network units; the only one whose logit is above 0
    metrics = validate(constant_networks(), OBJECTIVE, split_of(images), batch_size=2, device="cpu")
    assert metrics == pytest.approx(
        {
            "val_mse": 1.0,
            "val_kld": 2.5,
            "val_loss": 1 + 0.5 * 2.5,
            "accuracy_real": 1 / 5,
            "accuracy_reconstruction": 0.0,  # logit 0.25: taken for real
            "accuracy_sample": 0.0,
        }
    )


def test_validation_counts_images_not_batches() -> None:
    images = torch.full((5, 1, 8, 8), 255, dtype=torch.uint8)
    images[3:] = 0
    networks = constant_networks()
    networks.decoder = Constant(torch.ones(1, 8, 8))
    for batch_size in (1, 3, 4, 5):
        metrics = validate(networks, OBJECTIVE, split_of(images), batch_size=batch_size, device="cpu")
        assert metrics["val_mse"] == pytest.approx((3 * 0 + 2 * 4) / 5)


def test_validation_without_a_discriminator_has_no_accuracies(networks: AdversarialVAE, split: Split) -> None:
    networks.discriminator = None
    assert list(validate(networks, OBJECTIVE, split, batch_size=4, device="cpu")) == ["val_loss", "val_mse", "val_kld"]


def test_validation_does_not_depend_on_the_batch_size(networks: AdversarialVAE, split: Split) -> None:
    one, all_at_once = (validate(networks, OBJECTIVE, split, batch_size=size, device="cpu") for size in (1, 13))
    assert one == pytest.approx(all_at_once, rel=1e-5)


def test_validation_reads_no_adversarial_term(networks: AdversarialVAE, split: Split) -> None:
    heavy = Objective(mean_squared_error, kld_weight=0.5, recon_weight=1e3, gen_weight=1e3)
    light = validate(networks, OBJECTIVE, split, batch_size=4, device="cpu")
    assert validate(networks, heavy, split, batch_size=4, device="cpu") == light


def test_test_metrics_by_hand(tmp_path: Path) -> None:
    """Two white images against grey reconstructions (0): mse 1 in [-1, 1], ¼ in [0, 1]."""
    images = torch.full((2, 1, 8, 8), 255, dtype=torch.uint8)
    metrics = evaluate(constant_networks(), OBJECTIVE, split_of(images), batch_size=2, device="cpu", folder=tmp_path)
    similarity = (2 * 1 * 0.5 + 1e-4) / (1 + 0.25 + 1e-4)  # flat images: the luminance term alone, C1 = 0.01²
    expected = {"n": 2, "loss": 2.25, "mse": 1.0, "psnr": 10 * math.log10(4), "ssim": similarity, "kld": 2.5}
    assert list(metrics) == list(expected)
    assert metrics == pytest.approx(expected, rel=1e-4)
    assert (tmp_path / "reconstructions.png").is_file()


def test_psnr_is_a_mean_over_images_and_finite_when_perfect() -> None:
    images = torch.zeros(2, 1, 8, 8)
    reconstructions = torch.stack([torch.zeros(1, 8, 8), torch.full((1, 8, 8), 0.2)])
    np.testing.assert_allclose(psnr(images, reconstructions), [100, 20], rtol=1e-5)  # (0.2 / 2)² = 0.01


def test_test_and_validation_agree(networks: AdversarialVAE, split: Split, tmp_path: Path) -> None:
    tested = evaluate(networks, OBJECTIVE, split, batch_size=4, device="cpu", folder=tmp_path)
    validated = validate(networks, OBJECTIVE, split, batch_size=4, device="cpu")
    assert [tested[k] for k in ("loss", "mse", "kld")] == [validated[f"val_{k}"] for k in ("loss", "mse", "kld")]


def test_testing_a_lone_discriminator_is_refused(networks: AdversarialVAE, split: Split, tmp_path: Path) -> None:
    networks.decoder = None
    with pytest.raises(UserError, match="checkpoint="):
        evaluate(networks, OBJECTIVE, split, batch_size=4, device="cpu", folder=tmp_path)


@pytest.mark.parametrize("verb", ["validate", "evaluate", "draw"])
def test_measuring_and_drawing_change_nothing(
    verb: str, networks: AdversarialVAE, split: Split, tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in networks.state_dict().items()}
    modes = [module.training for module in networks.modules()]
    random_state = torch.get_rng_state()
    if verb == "validate":
        validate(networks, OBJECTIVE, split, batch_size=4, device="cpu")
    elif verb == "evaluate":
        evaluate(networks, OBJECTIVE, split, batch_size=4, device="cpu", folder=tmp_path)
    else:
        draw_reconstructions(networks, split, tmp_path / "grid.png", device="cpu")
    assert all(torch.equal(tensor, before[name]) for name, tensor in networks.state_dict().items())
    assert [module.training for module in networks.modules()] == modes
    assert len(set(modes)) == 2
    assert torch.equal(torch.get_rng_state(), random_state)


def test_evaluation_is_in_float32_without_gradients_even_inside_autocast(networks: AdversarialVAE) -> None:
    images = torch.rand(2, 1, 8, 8)
    tf32 = torch.backends.cudnn.allow_tf32
    with torch.autocast("cpu", dtype=torch.bfloat16), evaluation(networks, "cpu"):
        reconstruction = networks.reconstruct(images)
        assert not torch.backends.cudnn.allow_tf32
    assert reconstruction.dtype == torch.float32
    assert not reconstruction.requires_grad
    assert torch.backends.cudnn.allow_tf32 == tf32


def test_evaluation_puts_modes_back_after_an_error(networks: AdversarialVAE) -> None:
    with pytest.raises(ZeroDivisionError), evaluation(networks, "cpu"):
        _ = 1 // int(networks.training)  # evaluation mode: 1 // 0
    assert networks.training


def test_accuracy_on_samples_is_of_the_same_samples_every_time(networks: AdversarialVAE, split: Split) -> None:
    torch.manual_seed(1)
    first = validate(networks, OBJECTIVE, split, batch_size=4, device="cpu")
    torch.manual_seed(2)
    assert validate(networks, OBJECTIVE, split, batch_size=4, device="cpu") == first
    latents = sample_prior(13, 3, torch.Generator().manual_seed(0))
    with evaluation(networks, "cpu"):
        taken_for_fake = networks.discriminate(networks.decode(latents)) <= 0
    assert first["accuracy_sample"] == pytest.approx(taken_for_fake.double().mean().item())


def test_drawn_images_are_spread_over_the_split(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn = []
    monkeypatch.setattr("advvae.evaluator.reconstruction_grid", lambda images, *_: drawn.append(images))
    images = torch.arange(100, dtype=torch.uint8).reshape(100, 1, 1, 1).expand(100, 1, 8, 8).contiguous()
    draw_reconstructions(constant_networks(), split_of(images), tmp_path / "grid.png", device="cpu", count=4)
    assert (drawn[0][:, 0, 0, 0] * 127.5 + 127.5).round().tolist() == [0, 33, 66, 99]


def test_accuracies_tell_reconstructions_from_samples() -> None:
    class Encoder(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.full((len(images), 2), 9.0), torch.zeros(len(images), 2)  # far from any prior sample

    class Decoder(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return (z.mean(1) > 8).float()[:, None, None, None].expand(-1, 1, 8, 8)

    class Judge(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1).mean(1) - 0.5  # takes the white reconstructions for real, the grey samples not

    networks = AdversarialVAE(Encoder(), Decoder(), Judge(), latent_dim=2)
    objective = Objective(mean_squared_error, 0.0, 0.0, 0.0)
    images = torch.zeros(5, 1, 8, 8, dtype=torch.uint8)
    found = validate(networks, objective, split_of(images), batch_size=4, device="cpu")
    assert found["accuracy_reconstruction"] == 0
    assert found["accuracy_sample"] == 1
