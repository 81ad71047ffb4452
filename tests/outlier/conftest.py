from collections.abc import Callable

import numpy as np
import pytest
import torch

from advvae.data import Split
from advvae.losses import Objective, mean_squared_error
from advvae.models import AdversarialVAE, conv_networks

SplitMaker = Callable[..., Split]


@pytest.fixture
def make_split() -> SplitMaker:
    """Splits of random images; the images follow from the seed."""

    def make(n: int, seed: int = 0, name: str = "toy", darkest: int = 0, paths: list[str] | None = None) -> Split:
        images = torch.randint(darkest, 256, (n + 2, 1, 8, 8), generator=torch.Generator().manual_seed(seed)).byte()
        labels = np.arange(n) % 2
        return Split(name, "test", images, torch.arange(2, n + 2), "test", labels, ["even", "odd"], paths)

    return make


@pytest.fixture
def networks() -> AdversarialVAE:
    """Untrained networks in training mode, with running statistics far from those of any batch."""
    torch.manual_seed(0)
    networks = conv_networks(channels=1, size=8, latent_dim=3, hidden_dims=[4, 8])
    for module in networks.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features) / 4
            module.running_var = torch.rand(module.num_features) + 0.5
    return networks.train()


@pytest.fixture
def objective() -> Objective:
    return Objective(mean_squared_error, kld_weight=0.5, recon_weight=0.1, gen_weight=0.1)
