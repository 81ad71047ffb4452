"""The game of the logits, by objective and piece by piece, on networks of one parameter each: gradients are known.

Every image is m, every fake b; D(x) = s·mean(x) is linear, so that its gradient at each of the 64 pixels is s / 64.
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advvae.game import MEASURED, play_step
from advvae.losses import ADVERSARIAL, Objective, mean_squared_error
from advvae.models import AdversarialVAE
from advvae.players import Moving, Players, make_players
from tests.networks import objective, real_images, small_networks
from tests.test_game import CPU, BrightnessJudge, Centre, Constant, noise

S, M, B = 5.0, 0.3, 0.1  # of D, of the images, of the fakes
R, F = S * M, S * B  # logits of x, and of both kinds of fake


class Judge(BrightnessJudge):
    """With features: the brightness itself, from which `logit` makes the logit."""

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1).mean(1, keepdim=True)

    def logit(self, features: Tensor) -> Tensor:
        return self.scale * features


def gradients(weights: Objective, moving: Moving | float = 0.1) -> dict[str, float]:
    """Of the decoder's brightness and of D's scale in a step."""
    networks = AdversarialVAE(Centre(), Constant(), Judge(), latent_dim=3)
    networks.get_parameter("decoder.brightness").data.fill_(B)
    players, found = make_players(networks, moving, CPU), {}
    for name, optimizer in (("b", players.vae_optimizer), ("s", players.discriminator_optimizer)):
        assert optimizer is not None
        parameter = networks.get_parameter("decoder.brightness" if name == "b" else "discriminator.scale")

        def record(name: str = name, parameter: nn.Parameter = parameter) -> None:
            assert parameter.grad is not None
            found[name] = parameter.grad.item()

        optimizer.step = record  # type: ignore[assignment]
    play_step(players, weights, torch.full((6, 1, 8, 8), M), noise(), "32")
    return found


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


RECON = 2 * (B - M)  # d (b - m)² / db
OF_VAE = {  # d / db of each term of the VAE
    "bce": -S * sigmoid(-F),
    "hinge": -S,
    "lsgan": S * (F - 1),
    "relativistic": -S * sigmoid(R - F),
}
OF_DISCRIMINATOR = {  # d / ds; of the hinge loss, x is beyond the margin
    "bce": 0.5 * (-M * sigmoid(-R) + B * sigmoid(F)),
    "hinge": 0.5 * B,
    "lsgan": M * (R - 1) + B * F,
    "relativistic": (B - M) * sigmoid(F - R),
}


@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize(("recon_weight", "gen_weight"), [(1.0, 0.0), (0.0, 2.0), (1.0, 2.0)])
def test_each_objective_has_its_gradients(name: str, recon_weight: float, gen_weight: float) -> None:
    found = gradients(Objective(mean_squared_error, 0.0, recon_weight, gen_weight, adversarial=ADVERSARIAL[name]))
    assert found["b"] == pytest.approx(RECON + (recon_weight + gen_weight) * OF_VAE[name], rel=1e-5)
    assert found["s"] == pytest.approx(OF_DISCRIMINATOR[name], rel=1e-5)


def test_what_the_discriminator_tells() -> None:
    real, fake = torch.tensor([0.4, -0.2]), torch.tensor([0.6, -0.3])
    told = {name: [t.tolist() for t in game.are_told(real, fake)] for name, game in ADVERSARIAL.items()}
    assert told["bce"] == told["hinge"] == [[True, False], [False, True]]
    assert told["lsgan"] == [[False, False], [False, True]]
    assert told["relativistic"] == [[False, True], [False, True]]


@pytest.mark.parametrize("name", ["bce", "relativistic"])
def test_the_penalty_is_half_gamma_times_the_squared_gradients_at_real_images_and_fakes(name: str) -> None:
    """‖∇D‖² = 64·(s / 64)² = s² / 64 at x and at each fake, so that d/ds of γ/2·(R1 + R2) is γ/2·2·(2s / 64)."""
    game = ADVERSARIAL[name]
    found = gradients(Objective(mean_squared_error, 0.0, 0.0, 1.0, adversarial=game, gradient_penalty=3.0))
    assert found["s"] == pytest.approx(OF_DISCRIMINATOR[name] + 3.0 * 2 * S / 64, rel=1e-5)
    assert found["b"] == pytest.approx(RECON + OF_VAE[name], rel=1e-5)  # the VAE does not pay it


def test_features_pull_the_reconstruction_towards_its_image() -> None:
    """The feature is the brightness: d (b - m)² / db once more."""
    found = gradients(Objective(mean_squared_error, 0.0, 0.0, 0.0, feature_weight=4.0))
    assert found["b"] == pytest.approx(RECON + 4.0 * 2 * (B - M), rel=1e-5)
    assert found["s"] == pytest.approx(OF_DISCRIMINATOR["bce"], rel=1e-5)  # D is not moved to make features alike


def test_a_discriminator_without_features_is_told() -> None:
    from advvae.errors import UserError

    networks = AdversarialVAE(Centre(), Constant(), BrightnessJudge(), latent_dim=3)
    with pytest.raises(UserError, match="feature_weight needs a discriminator with features"):
        play_step(
            make_players(networks, 0.1, CPU),
            Objective(mean_squared_error, 0.0, 0.0, 0.0, feature_weight=1.0),
            real_images(),
            noise(),
            "32",
        )


def test_a_schedule_multiplies_the_terms_of_the_discriminator() -> None:
    half = Objective(mean_squared_error, 0.0, 1.0, 2.0, feature_weight=4.0, adversarial_factor=torch.tensor(0.5))
    found = gradients(half)
    assert found["b"] == pytest.approx(RECON + 0.5 * (3 * OF_VAE["bce"] + 4 * 2 * (B - M)), rel=1e-5)
    assert found["s"] == pytest.approx(OF_DISCRIMINATOR["bce"], rel=1e-5)


class Painter(Constant):
    """Its last weight is a matrix of one number, as the adaptive weight needs it."""

    def __init__(self) -> None:
        super().__init__()
        self.brightness = nn.Parameter(torch.full((1, 1), B))

    def forward(self, z: Tensor) -> Tensor:
        return self.brightness.view(1, 1, 1, 1).expand(len(z), 1, 8, 8)


@pytest.mark.parametrize("gen_weight", [0.5, 7.0])
def test_under_the_adaptive_weight_a_weight_is_in_units_of_the_reconstructions_gradient(gen_weight: float) -> None:
    networks = AdversarialVAE(Centre(), Painter(), Judge(), latent_dim=3)
    players, found = make_players(networks, 0.1, CPU), []
    brightness = networks.get_parameter("decoder.brightness")

    def record() -> None:
        assert brightness.grad is not None
        found.append(brightness.grad.item())

    players.vae_optimizer.step = record  # type: ignore[assignment]
    weights = Objective(mean_squared_error, 0.0, 0.0, gen_weight, adaptive_weight=True)
    play_step(players, weights, torch.full((6, 1, 8, 8), M), noise(), "32")
    assert found == pytest.approx([(1 + gen_weight) * RECON], rel=1e-4)  # both pull upwards


def test_gradients_are_clipped_to_a_norm_and_told_unclipped() -> None:
    free, clipped = (make_players(small_networks(), Moving(1e-2, clip_gradient=clip), CPU) for clip in (None, 1e-3))
    seen: dict[str, list[float]] = {}
    terms = {}
    for name, players in (("free", free), ("clipped", clipped)):
        seen[name] = []
        for optimizer in (players.vae_optimizer, players.discriminator_optimizer):
            assert optimizer is not None
            optimizer.register_step_pre_hook(lambda of, *_, name=name: seen[name].append(norm(of)))
        terms[name] = play_step(players, objective(), real_images(), noise(), "32")
    assert torch.equal(terms["free"], terms["clipped"])
    assert terms["free"][-2:].tolist() == pytest.approx(seen["free"], rel=1e-5)
    assert seen["clipped"] == pytest.approx([1e-3, 1e-3], rel=1e-2)


def norm(optimizer: torch.optim.Optimizer) -> float:
    moved = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return torch.cat([gradient.flatten() for gradient in moved]).norm().item()


def test_free_bits_cost_nothing_and_give_no_gradient() -> None:
    players, allowed = (make_players(small_networks(), 1e-2, CPU) for _ in range(2))
    plain = play_step(players, objective(kld_weight=1.0), real_images(), noise(), "32")
    weights = Objective(mean_squared_error, 1.0, 0.5, 0.25, free_bits=100.0)
    free = play_step(allowed, weights, real_images(), noise(), "32")
    kld = MEASURED.index("kld")
    assert free[kld] == plain[kld]  # it is told as it is
    assert free[0] - plain[0] == pytest.approx(3 * 100.0 - plain[kld].item(), rel=1e-5)  # three latents
    without = make_players(small_networks(), 1e-2, CPU)
    play_step(without, objective(kld_weight=0.0), real_images(), noise(), "32")
    assert torch.equal(weight(allowed), weight(without))
    assert not torch.equal(weight(allowed), weight(players))


class Spread(nn.Module):
    """Posterior means of 2 and of 0 by turns in the first latent, 0 in the others; no spread beside the prior's."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.zeros(len(images), 3)
        mean[::2, 0] = 2
        return mean * self.scale, torch.zeros(len(images), 3) * self.scale


def test_free_bits_are_of_a_latents_mean_over_the_batch() -> None:
    """KL of the first latent ½·2² in every other image: 1 on the mean, and 0 of two others, which cost ½ each."""
    terms = {}
    for free_bits in (0.0, 0.5):
        players = make_players(AdversarialVAE(Spread(), Constant(), Judge(), latent_dim=3), 0.1, CPU)
        weights = Objective(mean_squared_error, 1.0, 0.0, 0.0, free_bits=free_bits)
        terms[free_bits] = play_step(players, weights, real_images(), noise(), "32")
    assert terms[0.0][MEASURED.index("kld")] == pytest.approx(1.0)
    assert terms[0.5][0] - terms[0.0][0] == pytest.approx(0.5 + 0.5, rel=1e-5)


def weight(players: Players) -> Tensor:
    return players.networks.state_dict()["encoder.logvar.weight"]


def test_further_steps_of_the_discriminator_see_new_fakes_and_leave_the_vae_alone() -> None:
    one, three = (make_players(small_networks(), 1e-2, CPU) for _ in range(2))
    shown: list[Any] = []
    three.networks.get_submodule("discriminator").register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    first = noise()
    further = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(5))
    terms = play_step(one, objective(), real_images(), first, "32")
    ours_terms = play_step(three, objective(), real_images(), (*first, *further), "32")
    assert torch.equal(ours_terms[:-1], terms[:-1])
    assert ours_terms[-1] >= terms[-1]  # the largest norm of its gradients
    ours, theirs = three.networks.state_dict(), one.networks.state_dict()
    of_vae = [name for name in ours if not name.startswith("discriminator")]
    assert all(torch.equal(ours[name], theirs[name]) for name in of_vae)  # statistics of its batch norms included
    assert not torch.equal(ours["discriminator.logit.weight"], theirs["discriminator.logit.weight"])
    assert ours["discriminator.stages.0.1.num_batches_tracked"] == 3  # the real images alone
    fakes = [images for images in shown if not torch.equal(images, real_images())]
    assert len(fakes) == 6
    assert all(not torch.equal(fakes[i], fakes[j]) for i in range(6) for j in range(i))


class Perfect(AdversarialVAE):
    """What it is given is its own reconstruction."""

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.given = images
        return super().encode(images)

    def decode(self, z: Tensor) -> Tensor:
        return self.given + 0 * super().decode(z)


def test_features_are_compared_through_the_same_change() -> None:
    small = small_networks()
    players = make_players(Perfect(small.encoder, small.decoder, small.discriminator, 3), 1e-2, CPU)
    for layer in players.networks.modules():  # whose batch statistics differ from x to x̂ by nothing
        assert not isinstance(layer, nn.Dropout)
    changes = ("colour", "translation", "cutout")
    weights = Objective(mean_squared_error, 0.0, 0.0, 0.0, feature_weight=1.0, augment=changes)
    terms = play_step(players, weights, real_images(), noise(), "32")
    assert terms[MEASURED.index("feature_distance")] < 1e-10


def test_the_discriminator_sees_augmented_images_alone() -> None:
    players = make_players(small_networks(), 1e-2, CPU)
    shown: list[Tensor] = []
    players.networks.get_submodule("discriminator").register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    weights = Objective(mean_squared_error, 0.0, 0.5, 0.25, augment=("cutout",))
    play_step(players, weights, real_images(), noise(), "32")
    assert len(shown) == 3
    assert all(images.eq(0).any() for images in shown)
