from typing import Any

import pytest
import torch
from torch import nn

from advvae.errors import UserError
from advvae.losses import squared_gradient
from advvae.models import resnet_networks
from advvae.models.resnet import Residual
from tests.networks import real_images


def test_a_stage_begins_as_a_resampling() -> None:
    """The mean over 2×2 pixels downwards; what is constant stays so upwards."""
    maps = torch.arange(64.0).view(1, 1, 8, 8)
    down, up = (Residual(1, 1, side, lambda width: nn.Identity()) for side in (4, 16))
    centre = down(maps)[0, 0, 1:3, 1:3]  # away from the border, where the filter sees less
    torch.testing.assert_close(centre, nn.functional.avg_pool2d(maps, 2)[0, 0, 1:3, 1:3], rtol=0, atol=1e-4)
    assert torch.equal(up(torch.full((1, 1, 8, 8), 3.0)), torch.full((1, 1, 16, 16), 3.0))


def test_the_discriminator_has_no_normalisation_unless_it_is_asked_for() -> None:
    def norms(**options: Any) -> list[nn.Module]:
        networks = resnet_networks(1, 8, 3, [4, 6], **options)
        return [layer for layer in networks.get_submodule("discriminator").modules() if isinstance(layer, nn.GroupNorm)]

    assert norms() == []
    assert len(norms(norm="group")) == 5  # two in each stage, and one at the end


def test_the_gradient_penalty_can_be_differentiated() -> None:
    networks = resnet_networks(1, 8, 3, [4, 6])
    images = real_images().requires_grad_()
    squared_gradient(networks.discriminate(images), images).mean().backward()
    penalised = {name for name, parameter in networks.named_parameters() if parameter.grad is not None}
    assert {name for name in penalised if name.endswith("weight")} >= {
        "discriminator.logit.weight", "discriminator.stages.0.weight", "discriminator.stages.1.convolutions.0.weight"
    }  # fmt: skip


@pytest.mark.parametrize("options", [{"norm": "layer"}, {"vae_norm": "layer"}, {"spectral_norm": "yes"}])
def test_unknown_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"model.{next(iter(options))} must be"):
        resnet_networks(1, 8, 3, [4, 6], **options)
