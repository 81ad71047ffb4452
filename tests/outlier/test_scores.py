import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advvae.errors import UserError
from advvae.models import AdversarialVAE
from advvae.outlier import vae_scores
from advvae.outlier.baselines import PixelKnn
from advvae.outlier.evidence import CROPS, DISCRIMINATOR, FEATURES, VAE, Evidence, FittedScore, needs
from advvae.outlier.scores import BASELINES, FUSED, SCORES, check_names, named_scores, usable_scores
from tests.outlier.toy import ToyDiscriminator, constant_images, toy_evidence, toy_networks

FROM_IMAGES = [name for name in SCORES if name not in ("lpath_copod", "patch_discriminator")]  # and PyOD, and no crops
NEED_CROPS = ["patch_discriminator"]
NEED_FEATURES = ["feature_distance", "feature_knn", "feature_mahalanobis"]
NEED_DISCRIMINATOR = ["discriminator", "discriminator_recon", *NEED_FEATURES, *NEED_CROPS]


class Bare(nn.Module):
    """A discriminator of a user's, without features()."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).sum(1)


class WithFeatures(nn.Module):
    """A discriminator of a user's: its logit, the sum of the pixels, is not made of its features, and has no layer."""

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :3]

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).sum(1)


class WithAnotherLogit(WithFeatures):
    """It has a layer named logit, which is not all that makes the logit."""

    def __init__(self) -> None:
        super().__init__()
        self.logit = nn.Linear(3, 1)


class Doubled(ToyDiscriminator):
    """The package's own with another forward."""

    def forward(self, images: Tensor) -> Tensor:
        return 2 * super().forward(images)


def counted(networks: AdversarialVAE) -> dict[str, int]:
    """How often each network is asked from now on."""
    calls = {"encoder": 0, "decoder": 0, "features": 0}

    def counting(part: str, network: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        def call(inputs: Tensor) -> Any:
            calls[part] += 1
            return network(inputs)

        return call

    parts: Any = networks
    parts.encoder.forward = counting("encoder", parts.encoder.forward)
    parts.decoder.forward = counting("decoder", parts.decoder.forward)
    parts.discriminator.features = counting("features", parts.discriminator.features)
    return calls


def test_evidence_is_computed_once_and_only_when_asked_for() -> None:
    networks = toy_networks()
    calls = counted(networks)
    shared = toy_evidence(constant_images(1, 0.5), networks)
    assert not any(calls.values())
    once = ("loss", "recon_mse", "recon_l1", "kld", "elbo", "discriminator", "discriminator_recon", "feature_distance")
    for _ in range(2):
        for score in named_scores(once).values():
            if isinstance(score, FittedScore):
                score.fit(score.statistics(shared), seed=0)
            score(shared)
    assert calls == {"encoder": 1, "decoder": 1, "features": 2}  # D: of x and of x̂


def test_the_discriminator_needs_no_vae() -> None:
    networks = AdversarialVAE(None, None, Bare(), latent_dim=0)
    images = constant_images(1, -0.5)
    assert named_scores(["discriminator"])["discriminator"](toy_evidence(images, networks)).tolist() == [-16, 8]


def test_a_discriminator_without_features_still_gives_logits() -> None:
    networks = toy_networks()
    networks.discriminator = Bare()
    evidence = toy_evidence(constant_images(1), networks)
    assert evidence.logit.tolist() == [16]
    assert evidence.reconstruction_logit.tolist() == [8]
    with pytest.raises(UserError, match=r"features\(\), and none was found"):
        _ = evidence.features


@pytest.mark.parametrize(
    ("discriminator", "expected"),
    [(WithFeatures(), [16, 8]), (WithAnotherLogit(), [16, 8]), (Doubled(), [12, 9])],  # of x = 1, x̂ = ½
)
def test_logits_are_what_the_discriminator_gives(discriminator: nn.Module, expected: list[float]) -> None:
    networks = toy_networks()
    networks.discriminator = discriminator
    evidence = toy_evidence(constant_images(1), networks)
    n_features = evidence.features.shape[1]
    assert evidence.features.tolist() == [[1] * n_features]
    assert [evidence.logit.item(), evidence.reconstruction_logit.item()] == expected


@pytest.mark.parametrize(
    ("features", "found"),
    [
        (lambda images: images, r"shape \(2, 1, 4, 4\)"),
        (lambda images: images.flatten(), r"shape \(32,\)"),
        (lambda images: images.flatten(1)[:1], r"shape \(1, 16\)"),
        (lambda images: [images], "list"),
    ],
)
def test_features_must_be_a_row_per_image(features: Callable[[Tensor], Any], found: str) -> None:
    discriminator = WithFeatures()
    discriminator.features = features  # type: ignore[method-assign, assignment]
    networks = toy_networks()
    networks.discriminator = discriminator
    evidence = toy_evidence(constant_images(1, 0), networks)
    for part in ("features", "reconstruction_features"):
        with pytest.raises(
            UserError, match=rf"features\(\) of the discriminator gave {found} for 2 images: .*\(2, F\)"
        ):
            getattr(evidence, part)
    assert evidence.logit.tolist() == [16, 0]  # which needs none


@pytest.mark.parametrize("discriminator", [ToyDiscriminator(), Bare()])
def test_networks_trained_on_crops_are_not_asked_about_whole_images(discriminator: nn.Module) -> None:
    networks = toy_networks()
    networks.discriminator = discriminator
    evidence = Evidence(networks, toy_evidence(constant_images(1)).objective, torch.zeros(2, 1, 12, 12), crop=4)
    parts = ["mean", "logvar", "reconstruction", "squared_error", "kl", "logit", "reconstruction_logit"]
    for part in [*parts, *(["features", "reconstruction_features"] if hasattr(discriminator, "features") else [])]:
        with pytest.raises(UserError, match="the networks were trained on crops of 4 px, and the score looks at whole"):
            getattr(evidence, part)
    assert evidence.png_bytes.shape == (2,)


@pytest.mark.parametrize(
    "part",
    ["mean", "logvar", "reconstruction", "reconstruction_logit", "logit", "features", "reconstruction_features", "kl"],
)
def test_evidence_of_a_missing_network_is_an_error_of_the_user(part: str) -> None:
    with pytest.raises(UserError, match="checkpoint="):
        getattr(toy_evidence(constant_images(1), AdversarialVAE(None, None, None, 0)), part)


def test_scores_of_missing_networks_are_left_out_with_the_reason() -> None:
    pytest.importorskip("pyod")
    wanted = named_scores(SCORES)

    def usable(networks: AdversarialVAE, crop: int | None = None) -> tuple[list[str], dict[str, str]]:
        found, left_out = usable_scores(wanted, networks, crop)
        assert set(left_out) == set(SCORES) - set(found)
        return list(found), left_out

    whole, left_out = usable(toy_networks())
    assert whole == [name for name in SCORES if name not in NEED_CROPS]
    assert left_out["patch_discriminator"] == "needs networks trained on crops (crop=...), which no checkpoint gave"

    plain_vae = toy_networks()
    plain_vae.discriminator = None
    names, left_out = usable(plain_vae)
    assert names == [name for name in SCORES if name not in NEED_DISCRIMINATOR]
    assert left_out["discriminator_recon"] == "needs a discriminator, which no checkpoint gave"

    plug_in = toy_networks()
    plug_in.discriminator = Bare()
    names, left_out = usable(plug_in)
    assert names == [name for name in whole if name not in NEED_FEATURES]
    assert left_out["feature_knn"] == "needs a discriminator with features(), which no checkpoint gave"

    alone = toy_networks()
    alone.encoder = alone.decoder = None
    names, left_out = usable(alone)
    assert names == ["discriminator", "feature_knn", "feature_mahalanobis", *BASELINES]

    alone.discriminator = None
    with pytest.raises(UserError, match="none can be computed"):  # baselines alone are not what was asked for
        usable(alone)
    assert list(usable_scores(named_scores(BASELINES), alone)[0]) == list(BASELINES)


def test_networks_trained_on_crops_cannot_score_whole_images() -> None:
    pytest.importorskip("pyod")
    found, left_out = usable_scores(named_scores(SCORES), toy_networks(), crop=8)
    assert list(found) == ["patch_discriminator", *BASELINES]
    assert left_out["loss"] == "looks at whole images, and the networks were trained on crops of 8 px"


def test_no_usable_score_is_an_error_that_says_why() -> None:
    with pytest.raises(UserError, match=r"scores: .*discriminator needs a discriminator"):
        usable_scores(named_scores(["discriminator"]), AdversarialVAE(None, None, None, 0))
    with pytest.raises(UserError, match="list is empty"):
        usable_scores({}, toy_networks())


def test_needs_are_declared_on_functions_and_classes() -> None:
    @needs(VAE, DISCRIMINATOR)
    def both(evidence: Evidence) -> Tensor:
        raise NotImplementedError

    @needs(FEATURES, CROPS)
    class OfCrops:
        def __call__(self, evidence: Evidence) -> Tensor:
            raise NotImplementedError

    assert both.needs == (VAE, DISCRIMINATOR)  # type: ignore[attr-defined]
    assert OfCrops().needs == (FEATURES, CROPS)  # type: ignore[attr-defined]
    assert not any(hasattr(score, "gradients") for score in (both, *named_scores(FROM_IMAGES).values()))


def test_scores_are_named() -> None:
    class Brightness:
        def __call__(self, evidence: Evidence) -> Tensor:
            return evidence.images.flatten(1).mean(1)

    def contrast(evidence: Evidence, power: int) -> Tensor:
        return evidence.images.flatten(1).std(1) ** power

    named = named_scores(["loss", Brightness(), partial(contrast, power=2)])
    assert list(named) == ["loss", "Brightness", "contrast"]
    assert named["loss"] is vae_scores.loss


def test_classes_are_instantiated_anew_and_fused_is_the_detectors() -> None:
    one, other = named_scores(["elbo", FUSED]), named_scores(["elbo"])
    assert list(one) == ["elbo"]
    assert isinstance(one["elbo"], vae_scores.Elbo)
    assert one["elbo"] is not other["elbo"]


def test_two_scores_of_one_name_are_refused() -> None:
    assert list(named_scores(["pixel_knn", PixelKnn(k=10)])) == ["pixel_knn", "PixelKnn"]
    with pytest.raises(UserError, match="two are called 'PixelKnn'"):
        named_scores([PixelKnn(k=5), PixelKnn(k=10)])


def test_every_score_says_what_it_is() -> None:
    pytest.importorskip("pyod")
    for name, score in named_scores(SCORES).items():
        assert score.__doc__, name
    assert set(BASELINES) < set(SCORES)


def test_an_unknown_score_is_answered_with_the_list() -> None:
    for check in (check_names, named_scores):
        with pytest.raises(UserError, match=r"'losss'.*loss, recon_mse.*pixel_knn, fused"):
            check(["loss", "fused", "losss"])


def test_names_of_scores_are_known_without_torch() -> None:
    code = (
        "import sys, advvae.outlier.scores as s; s.check_names([*s.SCORES, s.FUSED]); "
        "print(not {'torch', 'numpy', 'sklearn'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert answer.strip() == "True"


def test_a_state_is_copied_once_to_where_it_is_measured() -> None:
    score = PixelKnn()
    score.fit(torch.zeros(7, 2), seed=0)
    double, single = torch.ones(1, 2, dtype=torch.float64), torch.ones(1, 2)
    copy = score.state_like(double)["bank"]
    assert copy.dtype == torch.float64
    assert score.state_like(double)["bank"] is copy
    assert score.state_like(single)["bank"].dtype == torch.float32
    score.state = {"bank": torch.ones(7, 2)}  # as when a saved one is put back
    assert score.state_like(single)["bank"].sum() == 14
