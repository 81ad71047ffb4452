"""Precision, recall, density and coverage, against numpy and against sets of which they are known."""

import numpy as np
import pytest
import torch
from torch import Tensor

from advvae import neighbours
from advvae.neighbours import neighbour_metrics


def features(n: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)) + shift


def by_brute_force(real: np.ndarray, fake: np.ndarray, k: int) -> dict[str, float]:
    """The four definitions, image by image."""

    def radius(point: int, points: np.ndarray) -> float:
        return float(sorted(np.linalg.norm(points[point] - other) for other in points)[k])  # [0] is the point itself

    reach = [radius(i, real) for i in range(len(real))]
    fake_reach = [radius(j, fake) for j in range(len(fake))]
    far = [[np.linalg.norm(point - other) for other in fake] for point in real]
    pairs = [(i, j) for i in range(len(real)) for j in range(len(fake))]
    inside = {(i, j) for i, j in pairs if far[i][j] <= reach[i]}
    return {
        "precision": len({j for _, j in inside}) / len(fake),
        "recall": len({i for i, j in pairs if far[i][j] <= fake_reach[j]}) / len(real),
        "density": len(inside) / (k * len(fake)),
        "coverage": len({i for i, _ in inside}) / len(real),
    }


@pytest.mark.parametrize("block", [1, 100, 2**24])
def test_the_metrics_are_those_of_brute_force(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of one row, of three, which do not divide the rows evenly, and of all."""
    monkeypatch.setattr(neighbours, "BLOCK", block)
    real, fake = features(40, seed=0), features(33, seed=1, shift=0.9)
    expected = by_brute_force(real.double().numpy(), fake.double().numpy(), k=5)
    assert len(set(expected.values())) == 4  # no two of them can be mixed up
    assert all(0 < value < 1 for value in expected.values())
    assert neighbour_metrics(real, fake) == pytest.approx(expected, abs=1e-12)


def test_the_same_images_are_precise_and_cover_all() -> None:
    """Each lies in the ball of itself and of those whose five nearest it is among: k + 1 balls on average, of k."""
    real = features(50, seed=0)
    found = neighbour_metrics(real, real.flip(0))
    assert found == pytest.approx({"precision": 1, "recall": 1, "density": 6 / 5, "coverage": 1})


def test_a_sample_far_from_all_is_nowhere() -> None:
    found = neighbour_metrics(features(50, seed=0), features(50, seed=1, shift=1000.0))
    assert set(found.values()) == {0.0}


def test_one_mode_of_two_is_precise_and_covers_half() -> None:
    """Two clusters of 20 a hundred apart, and samples of the first alone."""
    first, second = features(20, seed=0) / 100, features(20, seed=1) / 100 + 100
    found = neighbour_metrics(torch.cat([first, second]), first.flip(0))
    assert found == pytest.approx({"precision": 1, "recall": 1 / 2, "density": 6 / 5, "coverage": 1 / 2})


def test_small_distances_far_from_the_origin_are_not_lost() -> None:
    """At 1000, float32's way by products of matrices cannot tell distances below about 1."""
    real, fake = features(40, seed=0).double(), features(33, seed=1, shift=0.9).double()
    near = neighbour_metrics(real, fake)
    assert neighbour_metrics(real / 64 + 1000, fake / 64 + 1000) == near
