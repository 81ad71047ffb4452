"""Convolutions with gradients of their own against PyTorch's, in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advvae.models import convolution
from advvae.models.convolution import Conv2d, ConvTranspose2d, flatten

Layer = nn.Conv2d | nn.ConvTranspose2d

PYTORCHS: dict[type, Any] = {Conv2d: nn.Conv2d, ConvTranspose2d: nn.ConvTranspose2d}
CASES: dict[str, Any] = {
    "down": (Conv2d, (8, 6), {"stride": 2, "padding": 1}, (8, 9, 7)),
    "down, from one channel": (Conv2d, (1, 6), {"stride": 2, "padding": 1}, (1, 9, 8)),
    "down, from three channels": (Conv2d, (3, 6), {"stride": 2, "padding": 1}, (3, 8, 8)),
    "flat, to one channel": (Conv2d, (8, 1), {"padding": 1}, (8, 7, 6)),
    "flat, to three channels": (Conv2d, (8, 3), {"padding": 1}, (8, 6, 6)),
    "down, to one channel": (Conv2d, (8, 1), {"stride": 2, "padding": 1}, (8, 7, 7)),
    "without padding": (Conv2d, (8, 6), {}, (8, 6, 7)),
    "without padding, to one channel": (Conv2d, (8, 1), {}, (8, 6, 7)),
    "up, even": (ConvTranspose2d, (6, 8), {"stride": 2, "padding": 1, "output_padding": 1}, (6, 4, 5)),
    "up, odd": (ConvTranspose2d, (6, 8), {"stride": 2, "padding": 1}, (6, 4, 5)),
    "up, to one channel": (ConvTranspose2d, (6, 1), {"stride": 2, "padding": 1, "output_padding": 1}, (6, 4, 4)),
}


def pair(case: str) -> tuple[Layer, Layer, Tensor]:
    """The layer, PyTorch's with the same weights, and images for both, channels last in memory."""
    torch.manual_seed(0)
    kind, channels, settings, shape = CASES[case]
    own = kind(*channels, kernel_size=3, **settings).double()
    theirs = PYTORCHS[kind](*channels, kernel_size=3, **settings).double()
    theirs.load_state_dict(own.state_dict())
    return own, theirs, torch.randn(5, *shape, dtype=torch.float64).to(memory_format=torch.channels_last)


def gradients(layer: Layer, images: Tensor, *, twice: bool = False) -> list[Tensor]:
    """Of a function of the output by images, weight and bias; or of those gradients' size by the three again."""
    inputs = [images.clone().requires_grad_(), *layer.parameters()]
    output = layer(inputs[0])
    first = torch.autograd.grad(output.sin().square().sum(), inputs, create_graph=twice)
    return list(torch.autograd.grad(torch.cat([g.flatten() for g in first]).square().sum(), inputs) if twice else first)


@pytest.fixture(params=["products over patches", "oneDNN"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As maps of a few pixels are convolved, and as large ones are."""
    if request.param == "oneDNN":
        monkeypatch.setattr(convolution, "PATCHES_AT_MOST", 0)
        monkeypatch.setattr(convolution, "FEW_PATCHES", 0)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_those_of_pytorch(case: str) -> None:
    own, theirs, images = pair(case)
    torch.testing.assert_close(own(images), theirs(images))
    torch.testing.assert_close(gradients(own, images), gradients(theirs, images))


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_gradients_are_those_of_pytorch(case: str) -> None:
    own, theirs, images = pair(case)
    torch.testing.assert_close(gradients(own, images, twice=True), gradients(theirs, images, twice=True))


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("case", CASES)
def test_what_comes_out_may_be_changed_in_place(case: str) -> None:
    """By an activation that follows at once."""
    own, _, images = pair(case)
    nn.functional.leaky_relu_(own(images)).sum().backward()


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("case", CASES)
def test_autocast_computes_in_bfloat16_and_leaves_gradients_in_float32(case: str) -> None:
    own, theirs, images = pair(case)
    found = []
    for layer in (own.float(), theirs.float()):
        with torch.autocast("cpu", torch.bfloat16):
            output = layer(images.float())
        assert output.dtype == torch.bfloat16
        output.float().square().sum().backward()
        assert layer.weight.grad is not None
        assert layer.weight.grad.dtype == torch.float32
        found.append((output.float(), layer.weight.grad))
    for ours, reference in zip(*found, strict=True):
        torch.testing.assert_close(ours, reference, rtol=0, atol=0.03 * float(reference.detach().abs().max()))


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_gradients_find_the_weights_in_bfloat16_too(case: str) -> None:
    """As a gradient penalty asks for them."""
    own, theirs, images = pair(case)
    found = []
    for layer, precision in ((own.float(), torch.bfloat16), (theirs.float(), torch.float32)):
        inputs = images.float().requires_grad_()
        with torch.autocast("cpu", precision, enabled=precision == torch.bfloat16):
            output = layer(inputs)
        (first,) = torch.autograd.grad(output.float().sin().sum(), inputs, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), layer.weight)[0])
    assert found[0].dtype == torch.float32
    torch.testing.assert_close(*found, rtol=0, atol=0.1 * float(found[1].abs().max()))


@pytest.mark.parametrize("case", CASES)
def test_a_frozen_layer_computes_no_gradients_of_its_own(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own, theirs, images = pair(case)
    monkeypatch.delattr(convolution, "_correlate")  # which would compute those of the weights
    own.requires_grad_(False), theirs.requires_grad_(False)
    torch.testing.assert_close(gradients_of_images(own, images), gradients_of_images(theirs, images))


@pytest.mark.parametrize("case", CASES)
def test_a_pass_computes_only_the_gradients_that_it_is_asked_for(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All could be given: the layer and the images require gradients."""
    own, theirs, images = pair(case)
    with monkeypatch.context() as without:
        without.delattr(convolution, "_correlate")  # which would compute those of the weights
        torch.testing.assert_close(gradients_of_images(own, images), gradients_of_images(theirs, images))
    images.requires_grad_()
    output = own(images)
    for name in ("_Gather", "_Scatter"):  # which would carry the gradient on to the images
        monkeypatch.delattr(convolution, name)
    output.square().sum().backward(inputs=list(own.parameters()))
    theirs(images).square().sum().backward(inputs=list(theirs.parameters()))
    torch.testing.assert_close([p.grad for p in own.parameters()], [p.grad for p in theirs.parameters()])


def gradients_of_images(layer: Layer, images: Tensor) -> tuple[Tensor, ...]:
    images = images.clone().requires_grad_()
    return torch.autograd.grad(layer(images).square().sum(), images)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("case", CASES)
def test_maps_stay_channels_last_in_both_directions(case: str) -> None:
    """Else normalisation and activation beside them walk through memory in two orders at once, ten times slower."""
    own, _, images = pair(case)
    images.requires_grad_()
    output = own(images)
    (gradient,) = torch.autograd.grad(output.square().sum(), images)
    for maps in (output, gradient):
        assert maps.is_contiguous(memory_format=torch.channels_last)
        if maps.shape[1] > 1:
            assert maps.stride(1) == 1


def test_flattening_brings_the_gradient_back_channels_last() -> None:
    maps = torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last).requires_grad_()
    flat = flatten(maps)
    assert torch.equal(flat, maps.flatten(1))
    weights = torch.randn(2, 36)
    (gradient,) = torch.autograd.grad((flat * weights).sum(), maps)
    assert gradient.stride(1) == 1
    assert torch.equal(gradient.flatten(1), weights)
