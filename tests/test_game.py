"""The two-player step: what each turn computes, moves, and leaves alone."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from advvae import game
from advvae.game import MEASURED, draw_noise, play_step, terms_played
from advvae.looks import own_batch_statistics
from advvae.losses import Objective, mean_squared_error
from advvae.models import AdversarialVAE, convolution
from advvae.players import Players, make_players
from tests.networks import changed, objective, real_images, small_networks, snapshot

CPU = torch.device("cpu")


def noise(n: int = 6, latent_dim: int = 3) -> tuple[Tensor, ...]:
    return draw_noise(n, latent_dim, torch.Generator().manual_seed(2), CPU)


def played(weights: Objective, with_discriminator: bool = True, lr: float = 1e-2) -> tuple[Players, Tensor]:
    networks = small_networks()
    if not with_discriminator:
        networks.discriminator = None
    players = make_players(networks, lr, CPU)
    return players, play_step(players, weights, real_images(), noise(), "32")


class Textbook:
    """Line by line as the formulas say it, for some steps: no freezing, no sharing, nothing clever."""

    def __init__(self, weights: Objective, steps: int, lr: float) -> None:
        self.weights = weights
        self.networks = small_networks().train()
        self.vae_optimizer = torch.optim.Adam(self.networks.vae_parameters(), lr=lr)
        self.discriminator_optimizer = torch.optim.Adam(self.networks.discriminator_parameters(), lr=lr)
        self.terms = [self.step() for _ in range(steps)]

    def step(self) -> Tensor:
        networks, weights = self.networks, self.weights
        x, (epsilon, z) = real_images(), noise()
        one, zero = torch.ones(len(x)), torch.zeros(len(x))
        judge = copy.deepcopy(networks.discriminator)  # its gradients and statistics are thrown away
        assert judge is not None
        mean, logvar = networks.encode(x)
        reconstruction = networks.decode(mean + (0.5 * logvar).exp() * epsilon)
        sample = networks.decode(z)
        recon = (x - reconstruction).square().mean()
        kld = (-0.5 * (1 + logvar - mean**2 - logvar.exp()).sum(1)).mean()
        by_reconstruction, by_sample = bce(judge(reconstruction), one), bce(judge(sample), one)
        loss = recon + weights.kld_weight * kld
        loss = loss + weights.recon_weight * by_reconstruction + weights.gen_weight * by_sample
        networks.zero_grad()
        loss.backward()
        norms = [norm_of_gradients(networks.vae_parameters())]
        self.vae_optimizer.step()

        real_loss = bce(networks.discriminate(x), one)
        statistics = {name: buffer.clone() for name, buffer in networks.named_buffers()}
        fake_loss = 0.5 * bce(networks.discriminate(reconstruction.detach()), zero)
        fake_loss = fake_loss + 0.5 * bce(networks.discriminate(sample.detach()), zero)
        discriminator_loss = 0.5 * (real_loss + fake_loss)
        networks.zero_grad()
        discriminator_loss.backward()
        norms.append(norm_of_gradients(networks.discriminator_parameters()))
        self.discriminator_optimizer.step()
        for name, buffer in networks.named_buffers():
            buffer.copy_(statistics[name])
        none = torch.zeros(())
        terms = [loss, recon, kld, by_reconstruction, by_sample, none, discriminator_loss, none]
        return torch.stack([*terms, *norms]).detach()


def norm_of_gradients(parameters: list[nn.Parameter]) -> Tensor:
    return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).square().sum().sqrt()


@pytest.mark.parametrize("steps", [1, 3])
def test_steps_give_the_losses_and_weights_of_the_textbook(steps: int) -> None:
    textbook = Textbook(objective(), steps, lr=1e-3)
    players = make_players(small_networks(), 1e-3, CPU)
    for expected in textbook.terms:
        terms = play_step(players, objective(), real_images(), noise(), "32")
        torch.testing.assert_close(terms, expected, rtol=1e-4, atol=1e-5)
    ours = players.networks.state_dict()
    for name, tensor in textbook.networks.state_dict().items():
        if "stages" in name and name.endswith(("0.bias", "running_mean")):
            continue  # batch normalisation takes this bias away: its gradient is rounding, which Adam scales up
        torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-4, msg=f"{name} differs")


def test_the_vae_turn_gives_gradients_to_encoder_and_decoder_alone() -> None:
    players = make_players(small_networks(), 1e-2, CPU)
    before = snapshot(players.networks)
    game._vae_turn(players, objective(), real_images(), noise(), "32")
    assert all(parameter.grad is None for parameter in players.networks.discriminator_parameters())
    assert all(parameter.grad is not None for parameter in players.networks.vae_parameters())
    assert changed(before, players.networks, lambda name: name.startswith("discriminator")) == []


def test_the_discriminator_turn_gives_gradients_to_the_discriminator_alone() -> None:
    players = make_players(small_networks(), 1e-2, CPU)
    _, looks = game._vae_turn(players, objective(), real_images(), noise(), "32")
    players.vae_optimizer.zero_grad()
    before = snapshot(players.networks)
    game._discriminator_turn(players, objective(), real_images(), looks, "32")
    assert all(parameter.grad is None for parameter in players.networks.vae_parameters())
    assert all(parameter.grad is not None for parameter in players.networks.discriminator_parameters())
    assert changed(before, players.networks, lambda name: not name.startswith("discriminator")) == []


class BrightnessJudge(nn.Module):
    """A discriminator that takes brighter images for more real: its gradient is known."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(5.0))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * images.flatten(1).mean(1)


class Constant(nn.Module):
    """A decoder of one parameter: every image has this brightness."""

    def __init__(self) -> None:
        super().__init__()
        self.brightness = nn.Parameter(torch.tensor(0.0))

    def forward(self, z: Tensor) -> Tensor:
        return self.brightness.expand(len(z), 1, 8, 8)


class Centre(nn.Module):
    """An encoder that sends every image to N(0, I)."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(3))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean.expand(len(images), 3), torch.zeros(len(images), 3)


@pytest.mark.parametrize(("recon_weight", "gen_weight"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_the_adversarial_gradient_pulls_the_decoder_towards_what_passes_for_real(
    recon_weight: float, gen_weight: float
) -> None:
    networks = AdversarialVAE(Centre(), Constant(), BrightnessJudge(), latent_dim=3)
    players = make_players(networks, 0.1, CPU)
    brightness = networks.get_parameter("decoder.brightness")
    grey = torch.zeros(6, 1, 8, 8)  # equal to the reconstruction: the only gradient is the adversarial one
    gradients: list[float] = []
    step = players.vae_optimizer.step

    def record() -> None:
        assert brightness.grad is not None
        gradients.append(brightness.grad.item())
        step()

    players.vae_optimizer.step = record  # type: ignore[assignment]
    play_step(players, Objective(mean_squared_error, 0.0, recon_weight, gen_weight), grey, noise(), "32")
    # d softplus(-5b)/db at b = 0 is -5/2 for each of the terms: descending it makes the images brighter
    assert gradients == pytest.approx([-2.5 * (recon_weight + gen_weight)])
    assert brightness.item() > 0


def test_the_discriminators_running_statistics_are_those_of_the_real_images_alone() -> None:
    players, _ = played(objective())
    alone = small_networks().train()
    alone.discriminate(real_images())
    for name, buffer in alone.named_buffers():
        if name.startswith("discriminator"):
            torch.testing.assert_close(players.networks.get_buffer(name), buffer)
    assert players.networks.get_buffer("discriminator.stages.0.1.num_batches_tracked") == 1


def test_the_decoders_running_statistics_move_with_both_of_its_passes() -> None:
    for weights in (objective(), objective(gen_weight=0.0)):
        players, _ = played(weights)
        assert players.networks.get_buffer("decoder.stages.0.1.num_batches_tracked") == 2
        assert players.networks.get_buffer("encoder.stages.0.1.num_batches_tracked") == 1


def test_each_pass_through_the_discriminator_is_normalised_by_its_own_batch() -> None:
    network = nn.BatchNorm1d(1).train()
    with own_batch_statistics(network):
        normalised = network(torch.tensor([[1.0], [3.0]]))
    assert normalised.flatten().tolist() == pytest.approx([-1.0, 1.0], abs=1e-4)
    assert network.get_buffer("running_mean").item() == 0
    assert network.num_batches_tracked == 0
    network(torch.tensor([[1.0], [3.0]]))
    assert network.get_buffer("running_mean").item() == pytest.approx(0.2)


@pytest.mark.parametrize("recon_weight", [0.0, 0.5])
@pytest.mark.parametrize("gen_weight", [0.0, 0.5])
def test_each_image_passes_the_discriminator_once_and_a_weight_of_zero_asks_for_no_gradient(
    recon_weight: float, gen_weight: float
) -> None:
    players = make_players(small_networks(), 1e-2, CPU)
    asked: list[bool] = []
    discriminator = players.networks.get_submodule("discriminator")
    discriminator.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[0].requires_grad))
    weights = objective(recon_weight=recon_weight, gen_weight=gen_weight)
    terms = play_step(players, weights, real_images(), noise(), "32")
    assert asked == [recon_weight > 0, gen_weight > 0, False]  # of x̂, x̃ and x
    assert terms[MEASURED.index("discriminator_loss")] > 0  # it learns from both kinds of fake all the same


def test_a_step_of_the_defaults_passes_each_network_no_more_often_than_the_game_needs() -> None:
    """x once through the encoder, x̂ and x̃ through the decoder, and all three through D; and nothing is drawn."""
    players = make_players(small_networks(), 1e-2, CPU)
    passes: dict[str, int] = {}
    for name in ("encoder", "decoder", "discriminator"):
        network = players.networks.get_submodule(name)
        network.register_forward_hook(lambda *_, name=name: passes.update({name: passes.get(name, 0) + 1}))
    state = torch.get_rng_state()
    play_step(players, objective(), real_images(), noise(), "32")
    assert passes == {"encoder": 1, "decoder": 2, "discriminator": 3}
    assert torch.equal(torch.get_rng_state(), state)


def test_no_gradient_is_computed_that_its_turn_does_not_use(monkeypatch: pytest.MonkeyPatch) -> None:
    players = make_players(small_networks(), 1e-2, CPU)
    weights_of = {id(p): name for name, p in players.networks.named_parameters()}
    computed: list[str] = []
    correlate = convolution._correlate

    def watched(small: Tensor, large: Tensor, weight: Tensor, *settings: Any) -> Tensor:
        computed.append(weights_of.get(id(weight), "decoder.output.0.weight"))  # which is turned, so another tensor
        return correlate(small, large, weight, *settings)

    monkeypatch.setattr(convolution, "_correlate", watched)
    _, looks = game._vae_turn(players, objective(), real_images(), noise(), "32")
    assert {name.split(".")[0] for name in computed} == {"encoder", "decoder"}
    computed.clear()
    game._discriminator_turn(players, objective(), real_images(), looks, "32")
    assert sorted(computed) == sorted([f"discriminator.stages.{i}.0.weight" for i in range(2)] * 3)


def test_an_infinite_logit_of_a_skipped_term_does_not_reach_the_loss() -> None:
    players = make_players(small_networks(), 1e-2, CPU)
    players.networks.get_parameter("discriminator.logit.bias").data.fill_(-torch.inf)
    terms = game._vae_turn(players, objective(recon_weight=0.0, gen_weight=0.0), real_images(), noise(), "32")[0]
    assert torch.stack(terms).isfinite().all()  # 0 · ∞ would be NaN


def test_gen_weight_reaches_the_decoder() -> None:
    without, _ = played(objective(gen_weight=0.0))
    with_weight, _ = played(objective(gen_weight=1.0))
    assert not torch.equal(
        without.networks.state_dict()["decoder.input.weight"], with_weight.networks.state_dict()["decoder.input.weight"]
    )


def test_a_plain_vae_plays_alone() -> None:
    players, terms = played(objective(recon_weight=0.0, gen_weight=0.0), with_discriminator=False)
    assert players.discriminator_optimizer is None
    played_alone = ["vae_loss", "recon", "kld", "vae_gradient_norm"]
    assert [name for name, value in zip(MEASURED, terms, strict=True) if value != 0] == played_alone
    assert players.networks.get_buffer("decoder.stages.0.1.num_batches_tracked") == 1
    assert terms_played(players, objective(recon_weight=0.0, gen_weight=0.0)) == ["vae_loss", "recon", "kld"]


def test_bfloat16_keeps_losses_and_statistics_in_float32() -> None:
    players = make_players(small_networks(), 1e-2, CPU)
    dtypes = set()
    discriminator = players.networks.get_submodule("discriminator")
    discriminator.register_forward_hook(lambda _module, _inputs, logits: dtypes.add(logits.dtype))
    terms = play_step(players, objective(), real_images(), noise(), "bf16")
    assert dtypes == {torch.bfloat16}
    _, exact = played(objective())
    assert terms.dtype == torch.float32
    torch.testing.assert_close(terms, exact, rtol=0.05, atol=0.02)
    assert {tensor.dtype for tensor in players.networks.state_dict().values()} == {torch.float32, torch.int64}


def test_the_noise_of_posterior_and_prior_are_two_draws() -> None:
    epsilon, z = noise()
    assert epsilon.shape == z.shape == (6, 3)
    assert not torch.equal(epsilon, z)


def test_a_sample_that_only_the_discriminator_sees_is_drawn_without_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    players = make_players(small_networks(), 1e-2, CPU)
    enabled = []
    decode = players.networks.decode

    def watched(z: Tensor) -> Tensor:
        enabled.append(torch.is_grad_enabled())
        return decode(z)

    monkeypatch.setattr(players.networks, "decode", watched)
    play_step(players, objective(gen_weight=0.0), real_images(), noise(), "32")
    play_step(players, objective(gen_weight=0.1), real_images(), noise(), "32")
    assert enabled == [True, False, True, True]


def test_negatives_are_a_third_of_the_fakes_and_move_the_discriminator_alone() -> None:
    negatives = real_images(seed=7)
    players = make_players(small_networks(), 1e-2, CPU)
    judge = copy.deepcopy(small_networks())
    terms = play_step(players, objective(), real_images(), noise(), "32", negatives)
    plain, plain_terms = played(objective())
    of_vae = [i for i, name in enumerate(MEASURED) if not name.startswith("discriminator")]
    assert torch.equal(terms[of_vae], plain_terms[of_vae])  # the VAE never sees them
    ours, theirs = players.networks.state_dict(), plain.networks.state_dict()
    statistics = [name for name in ours if name.startswith("discriminator") and "running" in name]
    assert statistics
    assert all(torch.equal(ours[name], theirs[name]) for name in statistics)  # those of the real images alone
    assert not torch.equal(ours["discriminator.logit.weight"], theirs["discriminator.logit.weight"])

    after = _vae_turn_alone(judge)
    real, *fakes = (judge.discriminate(images) for images in (real_images(), *after, negatives))
    zero = torch.zeros(6)
    expected = 0.5 * (bce(real, 1 + zero) + sum(bce(fake, zero) for fake in fakes) / 3)
    torch.testing.assert_close(terms[MEASURED.index("discriminator_loss")], expected.detach(), rtol=1e-4, atol=1e-5)


def _vae_turn_alone(networks: AdversarialVAE) -> tuple[Tensor, Tensor]:
    """The reconstructions and samples that a step makes, before its optimiser moves."""
    mean, logvar = networks.encode(real_images())
    epsilon, z = noise()
    return networks.decode(mean + (0.5 * logvar).exp() * epsilon), networks.decode(z)
