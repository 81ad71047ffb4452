import copy

import pytest
import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor, nn

from advvae.losses import Objective
from advvae.models import AdversarialVAE
from advvae.outlier import discriminator_scores
from advvae.outlier.discriminator_scores import (
    FeatureKnn,
    FeatureMahalanobis,
    PatchDiscriminator,
    normalised_by_image,
)
from advvae.outlier.evidence import Evidence
from tests.networks import changed, snapshot
from tests.outlier.toy import constant_images, fit, images_with_corners, toy_evidence


def random_images(n: int, side: int, seed: int = 0) -> Tensor:
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_logits_by_hand() -> None:
    """D(x) = f₁ + 2 f₂ + 3; x̂ is ½ everywhere."""
    evidence = toy_evidence(constant_images(1))
    assert discriminator_scores.discriminator(evidence).tolist() == [-6]
    assert discriminator_scores.discriminator_recon(evidence).tolist() == [-4.5]


def test_feature_distance_by_hand() -> None:
    """f(x) = (1, 1), f(x̂) = (½, ½)."""
    distance = discriminator_scores.feature_distance(toy_evidence(constant_images(1)))
    torch.testing.assert_close(distance, torch.tensor([0.5**0.5]))


def test_knn_is_the_cosine_distance_of_the_kth_nearest() -> None:
    score = FeatureKnn(k=2)
    fit(score, toy_evidence(images_with_corners((1, 0), (0, 0.5), (-0.2, 0))))
    distances = score(toy_evidence(images_with_corners((0.1, 0), (0.3, 0.3), (0, -1))))
    torch.testing.assert_close(distances, torch.tensor([1.0, 1 - 0.5**0.5, 1.0]))


def test_knn_takes_the_farthest_of_fewer_images_and_no_features_at_all() -> None:
    score = FeatureKnn()
    assert score.k == 5
    fit(score, toy_evidence(images_with_corners((1, 0), (0, 1), (-1, 0))))
    distances = score(toy_evidence(images_with_corners((1, 0), (0, 0))))
    torch.testing.assert_close(distances, torch.tensor([2.0, 1.0]))


def test_knn_of_many_images_is_that_of_each() -> None:
    score = FeatureKnn()
    score.fit(torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), seed=0)
    queries = torch.randn(3000, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(score.measure(queries)[2500:], score.measure(queries[2500:]))


def test_feature_mahalanobis_is_ledoit_wolfs() -> None:
    features = torch.randn(40, 30, generator=torch.Generator().manual_seed(0)).double() * torch.arange(1, 31) + 7
    score = FeatureMahalanobis()
    score.fit(features, seed=0)
    standardised = ((features - features.mean(0)) / features.std(0, correction=0)).numpy()
    expected = torch.from_numpy(LedoitWolf().fit(standardised).mahalanobis(standardised)).sqrt()
    torch.testing.assert_close(score.measure(features), expected, rtol=1e-5, atol=1e-5)  # but for the ridge


def test_constant_features_are_no_obstacle() -> None:
    """A float32 feature that is constant but for rounding counts as constant."""
    generator = torch.Generator().manual_seed(0)
    rounding = 5 + 1e-6 * torch.rand(40, 1, generator=generator)
    features = torch.cat([torch.randn(40, 2, generator=generator), rounding, torch.zeros(40, 1)], 1)
    score = FeatureMahalanobis()
    score.fit(features, seed=0)
    values = score.measure(features)
    assert values.isfinite().all()
    features[:, 2] = 5 + 1e-6
    torch.testing.assert_close(score.measure(features), values, rtol=1e-4, atol=1e-4)


class ManyFeatures(nn.Module):
    """Features: each pixel of the image."""

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).sum(1)


def many_features(images: Tensor, objective: Objective) -> Evidence:
    return Evidence(AdversarialVAE(None, None, ManyFeatures(), latent_dim=0), objective, images)


def test_more_features_than_2048_are_averaged_to_that_many(objective: Objective) -> None:
    images = random_images(5, 64)  # of 4,096 pixels: the averages are of two each
    pairs = images.reshape(5, 2048, 2).mean(2)
    evidence = many_features(images, objective)
    torch.testing.assert_close(FeatureMahalanobis().statistics(evidence), pairs)
    torch.testing.assert_close(FeatureKnn().statistics(evidence), pairs / pairs.norm(dim=1, keepdim=True))
    odd = many_features(random_images(5, 61), objective)  # 3,721 are no multiple
    assert FeatureMahalanobis().statistics(odd).shape == FeatureKnn().statistics(odd).shape == (5, 2048)


def test_up_to_2048_features_are_as_they_are_and_a_distance_takes_all(objective: Objective) -> None:
    few, many = random_images(3, 45).flatten(1), random_images(3, 64)  # 2,025 features
    assert torch.equal(FeatureMahalanobis().statistics(many_features(few.reshape(3, 1, 45, 45), objective)), few)
    evidence = many_features(many, objective)
    evidence.reconstruction_features = torch.zeros(3, 4096)
    torch.testing.assert_close(discriminator_scores.feature_distance(evidence), many.flatten(1).norm(dim=1))


@pytest.fixture
def patches(networks: AdversarialVAE, objective: Objective) -> Evidence:
    """Images of 20 px, seen by networks that were trained on crops of 8."""
    networks.eval()
    return Evidence(networks, objective, random_images(6, 20), crop=8)


@torch.no_grad()
def test_patch_discriminator_normalises_by_the_crops_of_one_image(patches: Evidence) -> None:
    """In training mode, batch normalisation of nothing but these crops does the same."""
    score = PatchDiscriminator()
    fit(score, patches)
    trained = copy.deepcopy(patches.networks.discriminator)
    assert trained is not None
    trained.train()
    corners = (score.state["positions"] * (20 - 8 + 1)).long().tolist()
    expected = [
        -trained(torch.stack([image[:, y : y + 8, x : x + 8] for y, x in corners])).mean() for image in patches.images
    ]
    torch.testing.assert_close(score(patches), torch.stack(expected), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_patch_discriminator_leaves_the_networks_as_they_were(patches: Evidence) -> None:
    before, logits = snapshot(patches.networks), patches.networks.discriminate(random_images(3, 8))
    score = PatchDiscriminator(crops=3)
    fit(score, patches)
    score(patches)
    assert not changed(before, patches.networks, lambda name: True)
    assert torch.equal(patches.networks.discriminate(random_images(3, 8)), logits)


def test_normalisation_is_put_back_after_an_error() -> None:
    norm = nn.BatchNorm2d(1).eval()
    images = random_images(4, 3)
    with pytest.raises(RuntimeError), normalised_by_image(norm, 3):
        norm(images)  # four crops are no whole number of images
    torch.testing.assert_close(norm(images), images, rtol=1e-4, atol=1e-4)  # running mean 0 and variance 1


@pytest.mark.parametrize("norm", [nn.GroupNorm(1, 2), nn.InstanceNorm2d(2), nn.Identity()])
def test_other_normalisations_stay(norm: nn.Module) -> None:
    maps = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    with normalised_by_image(norm, 2):
        inside = norm(maps)
    assert torch.equal(inside, norm(maps))


def test_affine_parameters_stay() -> None:
    norm = nn.BatchNorm2d(1).eval()
    nn.init.constant_(norm.weight, 2)
    nn.init.constant_(norm.bias, 5)
    with normalised_by_image(norm, 2):
        maps = norm(torch.tensor([0.0, 2.0, 10.0, 30.0]).reshape(4, 1, 1, 1))  # two images of two crops
    torch.testing.assert_close(maps.flatten(), torch.tensor([3.0, 7.0, 3.0, 7.0]), rtol=1e-4, atol=1e-4)


def test_crops_follow_the_seed_and_reach_every_border() -> None:
    score, same, other = PatchDiscriminator(500), PatchDiscriminator(500), PatchDiscriminator(500)
    for patch, seed in ((score, 0), (same, 0), (other, 1)):
        patch.fit(torch.empty(0, 0), seed)
    assert torch.equal(score.state["positions"], same.state["positions"])
    assert not torch.equal(score.state["positions"], other.state["positions"])
    rows_and_columns = torch.arange(12.0).expand(1, 1, 12, 12)
    crops = score._cut(torch.cat([rows_and_columns, rows_and_columns.mT]), 8).unflatten(0, (2, 500))
    assert crops.shape == (2, 500, 1, 8, 8)
    assert crops.flatten(1).amin(1).tolist() == [0, 0]
    assert crops.flatten(1).amax(1).tolist() == [11, 11]


def test_a_crop_as_large_as_the_image_is_the_image() -> None:
    score = PatchDiscriminator(2)
    score.fit(torch.empty(0, 0), seed=0)
    images = random_images(3, 8)
    assert torch.equal(score._cut(images, 8), images.repeat_interleave(2, 0))


def test_logits_are_made_from_the_features_that_are_there() -> None:
    evidence = toy_evidence(constant_images(1))
    evidence.features.add_(1)
    assert evidence.logit.tolist() == [9]  # of f = (2, 2), not computed again from x
