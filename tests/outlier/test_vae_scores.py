import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn.functional import softplus

from advvae.losses import ADVERSARIAL, Objective
from advvae.models import AdversarialVAE
from advvae.models.evaluation import evaluation
from advvae.outlier import vae_scores
from advvae.outlier.evidence import Evidence
from advvae.outlier.vae_scores import BIN, Elbo, InputComplexity, Iwae, LikelihoodRegret, Typicality
from tests.networks import changed, snapshot
from tests.outlier.toy import SIDE, constant_images, fit, toy_evidence, toy_networks

D = SIDE**2
IMAGES = constant_images(1, 0.5)  # reconstructed as ½ and ¼: squared errors ¼ and 1/16
VARIANCE = (1 / 4 + 1 / 16) / 2
KL = torch.tensor([1, 0.25]) / 2 + (4 - 1 - math.log(4)) / 2  # of N((v, 0), (1, 4)), v = 1 and ½


@pytest.fixture
def evidence() -> Evidence:
    return toy_evidence(IMAGES)


def minus_elbo(value: float, kl: float) -> float:
    """Of a constant image, with s² of IMAGES."""
    decoder = Normal(torch.tensor(value / 2), math.sqrt(VARIANCE))
    return kl - D * float(decoder.log_prob(torch.tensor(value)))


def test_reconstruction_errors_by_hand(evidence: Evidence) -> None:
    assert vae_scores.recon_mse(evidence).tolist() == [0.25, 0.0625]
    assert vae_scores.recon_l1(evidence).tolist() == [0.5, 0.25]


def test_nmse_by_hand() -> None:
    """Half the values are 1, half 0: x̂ is ¼ everywhere, so the error is (9/16 + 1/16) / 2 and the variance ¼."""
    half = constant_images(1.0, 1.0).clone()
    half[0, :, : SIDE // 2] = 0
    darker = torch.cat([half[:1], half[:1] * 0.5])  # as well reconstructed, at half the contrast
    assert vae_scores.recon_nmse(toy_evidence(darker)).tolist() == pytest.approx([5 / 4, 5 / 4])
    constant = vae_scores.recon_nmse(toy_evidence(half[1:]))
    assert constant.item() == pytest.approx(0.25 / (BIN**2 / 12))


def test_ssim_by_hand(evidence: Evidence) -> None:
    """Constant images a and b in [0, 1] have no variance: SSIM = (2ab + 0.01²) / (a² + b² + 0.01²)."""
    expected = [1 - (2 * a * b + 1e-4) / (a**2 + b**2 + 1e-4) for a, b in ((1, 0.75), (0.75, 0.625))]
    assert vae_scores.recon_ssim(evidence).tolist() == pytest.approx(expected, abs=1e-4)


def test_kld_by_hand(evidence: Evidence) -> None:
    torch.testing.assert_close(vae_scores.kld(evidence), KL)


def test_loss_by_hand(evidence: Evidence) -> None:
    """D(x̂) of a constant reconstruction r is r + 2r + 3."""
    adversarial = softplus(-torch.tensor([3 * 0.5 + 3, 3 * 0.25 + 3]))
    expected = torch.tensor([0.25, 0.0625]) + 0.2 * KL + 0.1 * adversarial
    torch.testing.assert_close(vae_scores.loss(evidence), expected)


def test_loss_has_the_adversarial_term_that_was_trained_with() -> None:
    """Logits are 3v + 3 of x, and 3v/2 + 3 of its reconstruction; a relative game compares them."""
    terms = {"hinge": [-4.5, -3.75], "relativistic": [math.log1p(math.exp(difference)) for difference in (1.5, 0.75)]}
    for name, adversarial in terms.items():
        evidence = toy_evidence(IMAGES)
        evidence.objective = replace(evidence.objective, adversarial=ADVERSARIAL[name])
        expected = torch.tensor([0.25, 0.0625]) + 0.2 * KL + 0.1 * torch.tensor(adversarial)
        torch.testing.assert_close(vae_scores.loss(evidence), expected)


@pytest.mark.parametrize(("recon_weight", "has_discriminator"), [(0.0, True), (0.1, False)])
def test_loss_leaves_the_adversarial_term_out(recon_weight: float, has_discriminator: bool) -> None:
    networks = toy_networks()
    if not has_discriminator:
        networks.discriminator = None
    evidence = toy_evidence(IMAGES, networks, recon_weight)
    torch.testing.assert_close(vae_scores.loss(evidence), torch.tensor([0.25, 0.0625]) + 0.2 * KL)
    assert "reconstruction_features" not in vars(evidence)


def test_elbo_by_hand(evidence: Evidence) -> None:
    score = Elbo()
    fit(score, evidence)
    assert score.state["variance"].item() == VARIANCE
    expected = [minus_elbo(1, float(KL[0])), minus_elbo(0.5, float(KL[1]))]
    assert score(evidence).tolist() == pytest.approx(expected, rel=1e-6)


def test_a_perfect_reconstruction_has_a_finite_likelihood() -> None:
    black = toy_evidence(constant_images(0, 0))
    for score in (Elbo(), Typicality(), InputComplexity(), Iwae()):
        fit(score, black)
        assert score(black).isfinite().all()
    assert score.state["variance"].item() == pytest.approx(BIN**2 / 12)


def test_typicality_counts_too_likely_as_outlying(evidence: Evidence) -> None:
    score = Typicality()
    fit(score, evidence)
    distance = (minus_elbo(1, float(KL[0])) - minus_elbo(0.5, float(KL[1]))) / 2  # of either from the mean of both
    assert score(evidence).tolist() == pytest.approx([distance, distance], rel=1e-5)


def test_input_complexity_by_hand(evidence: Evidence) -> None:
    score = InputComplexity()
    fit(score, evidence)
    bits = (minus_elbo(1, float(KL[0])) - D * math.log(2 / 255)) / math.log(2)
    assert score(evidence)[0].item() == pytest.approx(bits - 8 * evidence.png_bytes[0].item(), rel=1e-6)


def test_iwae_by_hand(evidence: Evidence) -> None:
    score = Iwae(k=3)
    fit(score, evidence)
    prior = Normal(torch.zeros(2), torch.ones(2))
    for image, expected_of in zip(IMAGES, score(evidence), strict=True):
        v = image[0, 0, 0].item()
        posterior = Normal(torch.tensor([v, 0.0]), torch.tensor([1.0, 2.0]))
        weights = 0.0
        for noise in score.state["noise"]:
            z = posterior.mean + posterior.stddev * noise
            log_likelihood = D * Normal(z[0] / 2, math.sqrt(VARIANCE)).log_prob(torch.tensor(v))
            weights += float((log_likelihood + prior.log_prob(z).sum() - posterior.log_prob(z).sum()).exp())
        assert expected_of.item() == pytest.approx(-math.log(weights / 3), rel=1e-5)


def test_iwae_of_extreme_images_is_finite() -> None:
    """Weights of e^-1000 are 0 in floats: they are summed as logarithms."""
    score = Iwae()
    fit(score, toy_evidence(constant_images(0.001)))
    far = score(toy_evidence(constant_images(1)))
    assert far.isfinite().all()
    assert far.item() > 1000


def test_noise_follows_the_seed(evidence: Evidence) -> None:
    scores = Iwae(), Iwae(), Iwae()
    for score, seed in zip(scores, (0, 0, 1), strict=True):
        fit(score, evidence, seed)
    one, same, other = (score.state["noise"] for score in scores)
    assert one.shape == (16, 2)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def elbo_at(shift: Tensor, noise: Tensor, value: float) -> Tensor:
    """ELBO of a constant image with the encoder's shift, for noise (k, 2), up to what does not depend on the shift."""
    z = torch.stack([value + shift + noise[:, 0], 2 * noise[:, 1]], 1)
    return (D * Normal(z[:, 0] / 2, math.sqrt(VARIANCE)).log_prob(torch.tensor(value)) - z.square().sum(1) / 2).mean()


def test_likelihood_regret_by_hand(evidence: Evidence) -> None:
    """Adam's first step moves a parameter by the learning rate, in the direction in which the ELBO rises."""
    score = LikelihoodRegret(steps=1, lr=0.1, k=3)
    fit(score, evidence)
    noise = score.state["noise"]
    for value, regret in zip((1.0, 0.5), score(evidence), strict=True):
        shift = torch.zeros((), requires_grad=True)
        before = elbo_at(shift, noise, value)
        (gradient,) = torch.autograd.grad(before, shift)
        after = elbo_at(0.1 * gradient.sign(), noise, value)
        assert regret.item() == pytest.approx((after - before).item(), rel=1e-3)


def test_likelihood_regret_trains_a_copy(networks: AdversarialVAE, objective: Objective) -> None:
    before = snapshot(networks)
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with evaluation(networks, "cpu"):
        evidence = Evidence(networks, objective, images)
        score = LikelihoodRegret()
        fit(score, evidence)
        values = score(evidence)
        assert torch.equal(score(Evidence(networks, objective, images)), values)
    assert (values > 0).all()
    assert not values.requires_grad
    assert not changed(before, networks, lambda name: True)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in networks.parameters())


def test_likelihood_regret_shows_its_progress(evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    totals = []

    def watched(images: tuple[Tensor, ...], what: str, total: int) -> tuple[Tensor, ...]:
        totals.append(total)
        return images

    monkeypatch.setattr(vae_scores, "watched", watched)
    score = LikelihoodRegret(steps=1)
    fit(score, evidence)
    score(evidence)
    assert totals == [2]


def test_counts_are_positive() -> None:
    with pytest.raises(ValueError, match="k must be 1 or more, got 0"):
        Iwae(k=0)
    with pytest.raises(ValueError, match="steps must be 1 or more, got -1"):
        LikelihoodRegret(steps=-1)
