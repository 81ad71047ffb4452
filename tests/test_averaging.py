"""The moving average of the weights, against its formula."""

import pytest
import torch
from torch import nn

from advvae.averaging import WeightAverage
from advvae.game import draw_noise, play_step
from advvae.models import AdversarialVAE, conv_networks
from advvae.players import Moving, make_players
from tests.networks import objective, real_images, small_networks, snapshot


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_average_follows_its_formula(decay: float) -> None:
    network = nn.Linear(1, 1, bias=False)
    networks = AdversarialVAE(network, None, None, 0)
    network.weight.data.fill_(8.0)
    average = WeightAverage(networks, decay)
    expected = 8.0
    for step in range(30):
        network.weight.data.fill_(float(step))
        average.update()
        kept = min(decay, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * step
        assert average.networks.get_parameter("encoder.weight").item() == pytest.approx(expected, rel=1e-5)


def test_statistics_are_averaged_and_counters_and_vectors_taken_over() -> None:
    networks = conv_networks(1, 8, 3, [4, 6], spectral_norm=True)
    average = WeightAverage(networks, 0.9)
    before = snapshot(average.networks)
    networks.train()
    networks.discriminate(real_images())
    average.update()
    after, now = average.networks.state_dict(), networks.state_dict()
    for name, tensor in now.items():
        share = (
            0.9 if name.endswith(("running_mean", "running_var")) else 1.0
        )  # 1 - (1 + 0) / (10 + 0) in the first step
        if tensor.is_floating_point() and not name.endswith("weight") and "original" not in name:
            torch.testing.assert_close(after[name], torch.lerp(before[name], tensor, share), msg=name)


def test_the_average_is_what_is_evaluated_and_no_optimiser_moves_it() -> None:
    plain = make_players(small_networks(), 1e-2, torch.device("cpu"))
    averaged = make_players(small_networks(), Moving(1e-2, ema=0.9), torch.device("cpu"))
    for players in (plain, averaged):
        for seed in range(3):
            noise = draw_noise(6, 3, torch.Generator().manual_seed(seed), torch.device("cpu"))
            play_step(players, objective(), real_images(), noise, "32")
    assert plain.evaluated is plain.networks
    trained, kept = averaged.networks.state_dict(), averaged.evaluated.state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in plain.networks.state_dict().items())
    assert not torch.equal(kept["decoder.input.weight"], trained["decoder.input.weight"])
    assert not any(parameter.requires_grad for parameter in averaged.evaluated.parameters())
