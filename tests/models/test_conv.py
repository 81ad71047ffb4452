from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from advvae.errors import UserError
from advvae.models import AdversarialVAE, conv_networks, resnet_networks
from advvae.models.conv import Discriminator
from advvae.models.convolution import Conv2d, ConvTranspose2d
from advvae.shapes import default_hidden_dims, stage_sizes
from benchmarks import textbook
from tests.networks import real_images, small_networks


@pytest.mark.parametrize("size", [8, 9, 11, 17, 28, 33, 50])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("build", [conv_networks, resnet_networks])
def test_any_size_comes_back_as_it_went_in(build: Callable[..., AdversarialVAE], size: int, channels: int) -> None:
    networks = build(channels, size, latent_dim=5, hidden_dims=[4] * len(default_hidden_dims(size)))
    images = real_images(2, channels, size)
    mean, logvar = networks.encode(images)
    assert mean.shape == logvar.shape == (2, 5)
    reconstruction = networks.decode(mean)
    assert reconstruction.shape == images.shape
    assert reconstruction.abs().max() <= 1
    features, logits = networks.judge(images)
    assert features.ndim == 2
    assert logits.shape == (2,)
    assert torch.equal(logits, networks.discriminate(images))


def test_stages_halve_rounding_up() -> None:
    assert stage_sizes(32, 4) == [32, 16, 8, 4, 2]
    assert stage_sizes(33, 3) == [33, 17, 9, 5]


def test_default_widths_double_until_the_map_is_2_px() -> None:
    assert default_hidden_dims(32) == default_hidden_dims(28) == [32, 64, 128, 256]
    assert default_hidden_dims(8) == [32, 64]
    assert default_hidden_dims(256) == [32, 64, 128, 256, 512, 512, 512]
    for size in range(8, 130):
        assert stage_sizes(size, len(default_hidden_dims(size)))[-1] == 2


def test_the_parameter_count_of_the_default_networks() -> None:
    networks = conv_networks(1, 32, 128, [32, 64, 128, 256])

    def convolutions(widths: list[int]) -> int:  # 3×3 weights, biases, and two numbers a channel for normalisation
        return sum(9 * a * b + 3 * b for a, b in pairwise(widths))

    down = convolutions([1, 32, 64, 128, 256])
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in networks.named_children()}
    assert counts["encoder"] == down + 2 * (1024 * 128 + 128)
    assert counts["discriminator"] == down + 1024 + 1
    assert counts["decoder"] == 128 * 1024 + 1024 + convolutions([256, 128, 64, 32, 32]) + 9 * 32 + 1


def test_reconstruct_is_free_of_noise() -> None:
    networks = small_networks().eval()
    images = real_images()
    torch.testing.assert_close(networks.reconstruct(images), networks.decode(networks.encode(images)[0]))
    assert torch.equal(networks.reconstruct(images), networks.reconstruct(images))


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_the_discriminator_has_the_norm_that_is_asked_for(norm: str, spectral_norm: bool) -> None:
    networks = conv_networks(1, 16, 3, [4, 6], norm=norm, spectral_norm=spectral_norm)
    discriminator = networks.discriminator
    assert isinstance(discriminator, Discriminator)
    kinds = {"batch": nn.BatchNorm2d, "group": nn.GroupNorm, "none": nn.Identity}
    assert sum(type(module) is kinds[norm] for module in discriminator.modules()) == 2
    assert sum(isinstance(module, nn.BatchNorm2d) for module in networks.modules()) == 4 + 2 * (norm == "batch")
    images = real_images(5, size=16)
    features = discriminator.features(images)
    assert features.shape == (5, 6 * 4 * 4)
    networks.eval()
    torch.testing.assert_close(
        discriminator.logit(discriminator.features(images)).squeeze(1), networks.discriminate(images)
    )


def test_spectral_norm_divides_by_the_largest_singular_value() -> None:
    discriminator = conv_networks(1, 16, 3, [4, 6], norm="none", spectral_norm=True).discriminator
    assert isinstance(discriminator, Discriminator)
    for _ in range(100):  # each pass of training refines the estimate
        discriminator(real_images(2, size=16))
    layers = [module for module in discriminator.modules() if hasattr(module, "parametrizations")]
    assert len(layers) == 3
    for layer in layers:
        weight: torch.Tensor = layer.weight  # type: ignore[assignment]
        assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("norm", ["group", "none"])
def test_a_discriminator_without_batch_statistics_judges_each_image_alone_in_training_too(norm: str) -> None:
    networks = conv_networks(1, 16, 3, [4, 6], norm=norm).train()
    images = real_images(5, size=16)
    torch.testing.assert_close(networks.discriminate(images)[:1], networks.discriminate(images[:1]))


def test_an_unknown_norm_is_named() -> None:
    with pytest.raises(UserError, match=r"model\.norm must be one of batch, group, none, got layer"):
        conv_networks(1, 16, 3, [4, 6], norm="layer")


def test_every_convolution_is_one_with_fast_gradients() -> None:
    layers = [layer for layer in small_networks().modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    assert {type(layer) for layer in layers} == {Conv2d, ConvTranspose2d}


def test_the_textbook_that_speed_is_compared_with_has_the_same_weights() -> None:
    networks = conv_networks(1, 32, 7, textbook.WIDTHS)
    theirs = (textbook.Encoder(7), textbook.Decoder(7), textbook.discriminator())
    for own, other in zip(networks.children(), theirs, strict=True):
        assert [p.shape for p in own.parameters()] == [p.shape for p in other.parameters()]


def test_gradients_reach_the_last_stage_channels_last() -> None:
    networks, images = small_networks().to(memory_format=torch.channels_last), real_images()
    strides: list[int] = []

    def watch(_stages: nn.Module, _inputs: object, maps: Tensor) -> None:
        maps.register_hook(lambda gradient: strides.append(gradient.stride(1)))

    for network in ("encoder", "discriminator"):
        networks.get_submodule(f"{network}.stages").register_forward_hook(watch)
    (networks.encode(images)[0].sum() + networks.discriminate(images).sum()).backward()
    assert strides == [1, 1]
