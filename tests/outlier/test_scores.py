import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from advvae.errors import UserError
from advvae.losses import Objective, mean_squared_error
from advvae.models import AdversarialVAE
from advvae.outlier import scores
from advvae.outlier.scores import DISCRIMINATOR, SCORES, VAE, Evidence, named_scores, needs, usable_scores


class Scripted:
    """Networks that say what the test wants, and count how often they are asked."""

    def __init__(self, *, has_vae: bool = True, has_discriminator: bool = True) -> None:
        self.has_vae = has_vae
        self.discriminator = object() if has_discriminator else None
        self.calls: list[str] = []

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.calls.append("encode")
        return torch.tensor([[1.0, -2.0], [0.0, 0.0]]), torch.zeros(2, 2)  # KL: 2.5 and 0 nats

    def decode(self, z: Tensor) -> Tensor:
        self.calls.append("decode")
        return torch.zeros(2, 1, 4, 4)

    def discriminate(self, images: Tensor) -> Tensor:
        self.calls.append("discriminate")
        return torch.tensor([3.0, -20.0]) if images.any() else torch.tensor([0.0, 1.0])  # of x, and of x̂ = 0


IMAGES = torch.tensor([1.0, 0.5]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)  # mse 1 and ¼ against 0


def evidence(networks: Scripted, recon_weight: float = 0.1) -> Evidence:
    objective = Objective(mean_squared_error, kld_weight=0.2, recon_weight=recon_weight, gen_weight=7)
    return Evidence(networks, objective, IMAGES)  # type: ignore[arg-type]


def test_loss_by_hand() -> None:
    adversarial = binary_cross_entropy_with_logits(torch.tensor([0.0, 1.0]), torch.ones(2), reduction="none")
    expected = torch.tensor([1 + 0.2 * 2.5, 0.25]) + 0.1 * adversarial
    torch.testing.assert_close(SCORES["loss"](evidence(Scripted())), expected)


@pytest.mark.parametrize(("recon_weight", "has_discriminator"), [(0.0, True), (0.1, False)])
def test_loss_leaves_the_adversarial_term_out(recon_weight: float, has_discriminator: bool) -> None:
    networks = Scripted(has_discriminator=has_discriminator)
    torch.testing.assert_close(SCORES["loss"](evidence(networks, recon_weight)), torch.tensor([1.5, 0.25]))
    assert "discriminate" not in networks.calls


def test_discriminator_is_the_negative_logit_and_needs_no_vae() -> None:
    networks = Scripted(has_vae=False)
    assert SCORES["discriminator"](evidence(networks)).tolist() == [-3.0, 20.0]
    assert networks.calls == ["discriminate"]


def test_evidence_is_computed_once_and_only_when_asked_for() -> None:
    networks = Scripted()
    shared = evidence(networks)
    assert networks.calls == []
    for _ in range(2):
        for score in SCORES.values():
            score(shared)
    assert sorted(networks.calls) == ["decode", "discriminate", "discriminate", "encode"]  # D: of x and of x̂


@pytest.mark.parametrize("part", ["mean", "logvar", "reconstruction", "reconstruction_logit", "logit"])
def test_evidence_of_a_missing_network_is_an_error_of_the_user(part: str) -> None:
    with pytest.raises(UserError, match="checkpoint="):
        getattr(evidence(Scripted(has_vae=False, has_discriminator=False)), part)


def test_scores_of_missing_networks_are_left_out_with_the_reason() -> None:
    @needs(VAE, DISCRIMINATOR)
    def both(evidence: Evidence) -> Tensor:
        raise NotImplementedError

    def brightness(evidence: Evidence) -> Tensor:
        raise NotImplementedError

    wanted = {**SCORES, "both": both, "brightness": brightness}
    cases = {  # (VAE found, discriminator found): what remains
        (True, True): ["loss", "discriminator", "both", "brightness"],
        (True, False): ["loss", "brightness"],
        (False, True): ["discriminator", "brightness"],
        (False, False): ["brightness"],
    }
    for (has_vae, has_discriminator), expected in cases.items():
        networks = Scripted(has_vae=has_vae, has_discriminator=has_discriminator)
        usable, left_out = usable_scores(wanted, networks)  # type: ignore[arg-type]
        assert list(usable) == expected
        assert set(left_out) == set(wanted) - set(expected)
    assert left_out["loss"] == "needs an encoder and a decoder, which no checkpoint gave"
    assert left_out["both"] == "needs an encoder and a decoder and a discriminator, which no checkpoint gave"


def test_no_usable_score_is_an_error_that_says_why(networks: AdversarialVAE) -> None:
    networks.discriminator = None
    with pytest.raises(UserError, match=r"scores: .*discriminator needs a discriminator"):
        usable_scores({"discriminator": SCORES["discriminator"]}, networks)
    with pytest.raises(UserError, match="list is empty"):
        usable_scores({}, networks)


def test_scores_are_named() -> None:
    class Brightness:
        def __call__(self, evidence: Evidence) -> Tensor:
            return evidence.images.flatten(1).mean(1)

    def contrast(evidence: Evidence, power: int) -> Tensor:
        return evidence.images.flatten(1).std(1) ** power

    named = named_scores(["loss", Brightness(), partial(contrast, power=2)])
    assert list(named) == ["loss", "Brightness", "contrast"]
    assert named["loss"] is scores.loss


def test_an_unknown_score_is_answered_with_the_list() -> None:
    with pytest.raises(UserError, match=r"'losss'.*loss, discriminator"):
        named_scores(["losss"])


def test_names_of_scores_are_known_without_torch() -> None:
    code = "import sys, advvae.outlier.scores as s; print(list(s.SCORES), 'torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert answer.strip() == "['loss', 'discriminator'] False"
