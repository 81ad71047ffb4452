import math

import numpy as np
import pytest
import torch
from scipy.stats import skew
from sklearn.mixture import GaussianMixture
from torch import Tensor

from advvae.errors import UserError
from advvae.outlier import latent_scores
from advvae.outlier.latent_scores import LatentGmm, LatentMahalanobis, LPath, LPathCopod, likelihood_path
from tests.outlier.toy import constant_images, fit, toy_evidence


def normal(n: int, k: int, seed: int = 0) -> Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed))


def test_mahalanobis_by_hand() -> None:
    """The corners of a rectangle have standard deviations 3 and 1, mean (10, 20), and no correlation."""
    score = LatentMahalanobis()
    score.fit(torch.tensor([[7.0, 19.0], [7.0, 21.0], [13.0, 19.0], [13.0, 21.0]]), seed=0)
    points = torch.tensor([[10.0, 20.0], [16.0, 20.0], [10.0, 17.0], [13.0, 21.0]])
    torch.testing.assert_close(score.measure(points), torch.tensor([0.0, 2.0, 3.0, math.sqrt(2)]))


def test_mahalanobis_knows_correlations() -> None:
    mixed = normal(500, 3).double() @ torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.5, 0.3], [0.0, 0.0, 9.0]]).double()
    score = LatentMahalanobis()
    score.fit(mixed, seed=0)
    centred = mixed - mixed.mean(0)
    precision = torch.linalg.inv(centred.T @ centred / 500)
    expected = torch.einsum("ni,ij,nj->n", centred, precision, centred).sqrt()
    torch.testing.assert_close(score.measure(mixed), expected, rtol=1e-4, atol=1e-4)


def test_latents_that_do_not_vary_are_no_obstacle() -> None:
    latents = torch.cat([normal(50, 2), torch.full((50, 1), 0.3), torch.zeros(50, 1)], 1)
    for score in (LatentMahalanobis(), LatentGmm(components=1)):
        score.fit(latents, seed=0)
        values = score.measure(latents)
        assert values.isfinite().all()
        nearer = torch.cat([latents[:, :2] / 2, latents[:, 2:]], 1)
        assert (score.measure(nearer) < values).float().mean() > 0.9
        score.fit(torch.zeros(50, 2), seed=0)
        assert score.measure(torch.tensor([[0.0, 0.0], [1.0, 1.0]])).isfinite().all()


def test_the_latent_scores_look_at_the_posterior_mean() -> None:
    evidence = toy_evidence(constant_images(1, 0.5))
    assert LatentMahalanobis().statistics(evidence).tolist() == [[1, 0], [0.5, 0]]
    assert LatentGmm().statistics(evidence).tolist() == [[1, 0], [0.5, 0]]


def test_gmm_is_the_mixture_density() -> None:
    latents = torch.cat([normal(300, 2), 0.2 * normal(300, 2, seed=1) + 5])
    score = LatentGmm(components=2)
    score.fit(latents, seed=3)
    mixture = GaussianMixture(2, random_state=3).fit(latents.double().numpy())
    expected = torch.from_numpy(-mixture.score_samples(latents.double().numpy()))
    torch.testing.assert_close(score.measure(latents).double(), expected, rtol=1e-3, atol=1e-3)
    between, *centres = score.measure(torch.tensor([[2.5, 2.5], [0.0, 0.0], [5.0, 5.0]]))
    assert between > max(centres) + 3


def test_a_gmm_follows_the_seed_alone() -> None:
    scores = LatentGmm(), LatentGmm(), LatentGmm()
    for global_seed, (score, seed) in enumerate(zip(scores, (0, 0, 1), strict=True)):
        np.random.seed(global_seed)  # noqa: NPY002 - what scikit-learn draws from where it is given no seed
        score.fit(normal(200, 4), seed)
    one, same, other = (score.state["means"] for score in scores)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_gmm_of_one_component_by_hand() -> None:
    """-log N(μ given 0, diag(9, 1)) of the rectangle's corner."""
    score = LatentGmm(components=1)
    score.fit(torch.tensor([[-3.0, -1.0], [-3.0, 1.0], [3.0, -1.0], [3.0, 1.0]]), seed=0)
    assert score.measure(torch.tensor([[3.0, 1.0]])).item() == pytest.approx(
        1 + math.log(2 * math.pi) + math.log(3), rel=1e-4
    )


def test_few_images_get_fewer_components() -> None:
    score = LatentGmm()
    for n, components in ((3, 1), (50, 6), (100, 10)):  # 4 latents: 8 images for each
        score.fit(normal(n, 4), seed=0)
        assert len(score.state["means"]) == components


def test_the_likelihood_path_by_hand() -> None:
    """16 values, each ½ or ¼ off; μ = (v, 0); σ = (1, 2)."""
    path = likelihood_path(toy_evidence(constant_images(1, 0.5)))
    expected = torch.tensor([[4 * 0.5, 1, math.sqrt(5)], [4 * 0.25, 0.5, math.sqrt(5)]], dtype=torch.float64)
    torch.testing.assert_close(path, expected, rtol=1e-6, atol=1e-6)


def test_lpath_is_the_distance_of_the_path() -> None:
    """Two of the three follow from each other here, the third is constant: the ridge makes Σ invertible."""
    inliers = toy_evidence(constant_images(0.5, 0.6, 0.7, 0.8, 0.9))
    score = LPath()
    fit(score, inliers)
    centre, far = score(toy_evidence(constant_images(0.7, 1.7)))
    deviation = math.sqrt(2) / 10
    assert centre.item() == pytest.approx(0, abs=1e-3)
    assert far.item() == pytest.approx(1 / deviation, rel=1e-3)


def copod_by_hand(row: np.ndarray, training: np.ndarray) -> float:
    """Sum over columns of the largest of the two tails' mean and the tail towards which the column is skewed."""
    pool = np.vstack([training, row])
    left, right = (-np.log((sign * pool <= sign * row).mean(0)) for sign in (1, -1))
    skewed = np.sign(skew(pool))
    towards = np.where(skewed < 0, left, np.where(skewed > 0, right, left + right))
    return float(np.maximum(towards, (left + right) / 2).sum())


def test_copod_by_hand() -> None:
    pytest.importorskip("pyod")
    training, rows = normal(100, 3).double(), 2 * normal(8, 3, seed=1).double()
    score = LPathCopod()
    score.fit(training, seed=0)
    expected = [copod_by_hand(row, training.numpy()) for row in rows.numpy()]
    assert score.measure(rows).tolist() == pytest.approx(expected)


def test_copod_does_not_rank_images_among_each_other() -> None:
    pytest.importorskip("pyod")
    training, row, crowd = normal(50, 3).double(), torch.full((1, 3), 2.0), torch.full((200, 3), 3.0)
    score = LPathCopod()
    score.fit(training, seed=0)
    together = score.measure(torch.cat([row, crowd]).double())
    assert together[0] == score.measure(row.double())[0]


def test_copod_looks_at_the_likelihood_path() -> None:
    pytest.importorskip("pyod")
    evidence = toy_evidence(constant_images(1, 0.5))
    assert torch.equal(LPathCopod().statistics(evidence), likelihood_path(evidence))


def test_a_missing_pyod_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_scores, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"lpath_copod needs PyOD: pip install 'advvae\[pyod\]'"):
        LPathCopod()
