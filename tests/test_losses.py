"""Each formula against a value worked out by hand, or in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from advvae import losses
from advvae.errors import UserError


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_mean_squared_error_is_the_mean_over_channels_and_pixels_of_each_image() -> None:
    real = torch.zeros(2, 3, 4, 4)
    reconstruction = torch.zeros(2, 3, 4, 4)
    reconstruction[1, 0] = 0.5  # one channel of three off by 0.5: 0.25 / 3
    assert losses.mean_squared_error(real, reconstruction).tolist() == pytest.approx([0.0, 0.25 / 3])


def test_kl_divergence_sums_over_z() -> None:
    mean = torch.tensor([[1.0, -2.0], [0.0, 0.0]])
    logvar = torch.tensor([[0.0, math.log(4.0)], [0.0, 0.0]])
    by_hand = 0.5 * 1 + 0.5 * (4 + 4 - 1 - math.log(4))
    assert losses.kl_divergence(mean, logvar).tolist() == pytest.approx([by_hand, 0.0])


def test_kl_divergence_agrees_with_torch_distributions_in_float64() -> None:
    generator = torch.Generator().manual_seed(1)
    mean, logvar = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    expected = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(losses.kl_divergence(mean, logvar).double(), expected, rtol=1e-5, atol=1e-5)


def test_adversarial_loss_is_the_cross_entropy_with_real() -> None:
    # sigmoid(0) = 1/2; a logit of -1000 must not overflow
    assert losses.adversarial_loss(torch.tensor([0.0, -1000.0])).tolist() == pytest.approx([math.log(2), 1000.0])


def test_discriminator_loss_weighs_real_images_as_much_as_both_fakes() -> None:
    real, reconstruction, sample = (torch.tensor([value]) for value in (2.0, -1.0, 0.5))

    def cross_entropy(logit: float, target: int) -> float:
        probability = 1 / (1 + math.exp(-logit))
        return -math.log(probability if target else 1 - probability)

    by_hand = 0.5 * (cross_entropy(2, 1) + 0.5 * cross_entropy(-1, 0) + 0.5 * cross_entropy(0.5, 0))
    assert losses.discriminator_loss(real, reconstruction, sample).item() == pytest.approx(by_hand)


def test_ssim_of_constant_images_follows_its_formula() -> None:
    # without variance, SSIM = (2ab + C1) / (a² + b² + C1), C1 = 0.01², of the values in [0, 1] range
    dark, bright = torch.full((1, 1, 16, 16), -0.5), torch.full((1, 1, 16, 16), 0.5)
    expected = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    assert losses.ssim(dark, bright).item() == pytest.approx(expected, abs=2e-4)  # float32 variances
    assert losses.ssim_loss(dark, bright).item() == pytest.approx(1 - expected, abs=2e-4)


@pytest.mark.parametrize("size", [8, 9, 10, 28, 32])
def test_ssim_takes_any_size(size: int) -> None:
    real = images(2, 3, size, size)
    assert losses.ssim(real, real).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    assert losses.ssim(real, images(2, 3, size, size, seed=1)).max() < 0.9


@pytest.mark.parametrize("size", [33, 48, 161])
def test_ms_ssim_takes_33_px_and_more(size: int) -> None:
    real = images(2, 1, size, size)
    assert losses.ms_ssim_loss(real, real).tolist() == pytest.approx([0.0, 0.0], abs=1e-5)
    assert losses.ms_ssim_loss(real, images(2, 1, size, size, seed=1)).min() > 0.05


def test_ms_ssim_refuses_small_images() -> None:
    with pytest.raises(UserError, match="use loss=ssim"):
        losses.ms_ssim_loss(images(1, 1, 32, 32), images(1, 1, 32, 32))


@pytest.mark.parametrize("loss", [losses.mean_squared_error, losses.ssim_loss])
def test_a_loss_of_one_image_does_not_depend_on_its_batch(loss: losses.ReconstructionLoss) -> None:
    real, reconstruction = images(5, 1, 16, 16), images(5, 1, 16, 16, seed=1)
    alone = torch.cat([loss(real[i : i + 1], reconstruction[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(loss(real, reconstruction), alone)


def test_losses_are_computed_in_float32_inside_autocast() -> None:
    real = images(2, 1, 16, 16)
    reconstruction = (real + 0.001).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = losses.ssim(real, reconstruction), losses.kl_divergence(real.flatten(1), real.flatten(1))
    outside = losses.ssim(real, reconstruction), losses.kl_divergence(real.flatten(1), real.flatten(1))
    for one, other in zip(inside, outside, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert inside[0].max() <= 1


@pytest.mark.parametrize(
    ("loss", "n_tensors"),
    [
        (losses.mean_squared_error, 2),
        (losses.ssim_loss, 2),
        (losses.kl_divergence, 2),
        (losses.adversarial_loss, 1),
        (losses.discriminator_loss, 3),
    ],
)
def test_bfloat16_tensors_are_computed_with_in_float32(loss: Callable[..., Tensor], n_tensors: int) -> None:
    tensors = [images(4, 1, 16, 16, seed=seed).to(torch.bfloat16) for seed in range(n_tensors)]
    if loss in (losses.adversarial_loss, losses.discriminator_loss):
        tensors = [tensor[:, 0, 0, 0] for tensor in tensors]
    if loss is losses.kl_divergence:
        tensors = [tensor.flatten(1) for tensor in tensors]
    assert loss(*tensors).dtype == torch.float32
    assert torch.equal(loss(*tensors), loss(*(tensor.float() for tensor in tensors)))
