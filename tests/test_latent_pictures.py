"""The ways between latents that mode=sample draws."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from advvae.data import Split
from advvae.latent_pictures import activity, draw_latent_pictures, slerp
from advvae.models import AdversarialVAE

STEPS = torch.linspace(0, 1, 8)


class FirstPixels(nn.Module):
    """μ = (3 first pixel, second pixel / 5, 0)."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        first, second = images.flatten(1)[:, :2].unbind(1)
        mean = torch.stack([3 * first, second / 5, torch.zeros_like(first)], 1)
        return mean, torch.zeros_like(mean)


class Shade(nn.Module):
    """Images of one value, a third of the first latent."""

    def forward(self, z: Tensor) -> Tensor:
        return (z[:, 0] / 3).reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8)


@pytest.fixture
def networks() -> AdversarialVAE:
    return AdversarialVAE(FirstPixels(), Shade(), None, latent_dim=3)


def validation(first: list[int], second: list[int]) -> Split:
    """Images (n, 1, 8, 8) with these first and second pixels."""
    n = len(first)
    images = torch.zeros(n, 1, 8, 8, dtype=torch.uint8)
    images.flatten(1)[:, 0], images.flatten(1)[:, 1] = torch.tensor(first), torch.tensor(second)
    return Split("toy", "val", images, torch.arange(n), "train", np.zeros(n, np.int64), ["any"], None)


def test_slerp_between_orthogonal_latents_is_a_quarter_circle() -> None:
    start, end = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 2.0])
    angles = STEPS.double() * math.pi / 2
    expected = torch.stack([2 * angles.cos(), torch.zeros(8).double(), 2 * angles.sin()], 1)
    torch.testing.assert_close(slerp(start, end, STEPS), expected)


def test_slerp_keeps_the_norm_of_latents_that_share_it() -> None:
    start, end = torch.randn(2, 128, generator=torch.Generator().manual_seed(0))
    end = end * start.norm() / end.norm()
    way = slerp(start, end, STEPS)
    torch.testing.assert_close(way.norm(dim=1), start.norm().double().expand(8), rtol=1e-6, atol=0)
    torch.testing.assert_close(way[[0, -1]], torch.stack([start, end]).double(), rtol=1e-6, atol=1e-6)
    cosines = torch.cosine_similarity(way[:-1], way[1:])  # the steps are equal
    torch.testing.assert_close(cosines, cosines[:1].expand(7), rtol=1e-6, atol=0)


@pytest.mark.parametrize("factor", [1.0, 3.0, 0.0, -1.0])
def test_slerp_is_a_straight_line_where_there_is_no_arc(factor: float) -> None:
    start = torch.tensor([1.0, 2.0])
    expected = start.double() * (1 + (factor - 1) * STEPS.double()[:, None])
    torch.testing.assert_close(slerp(start, factor * start, STEPS), expected)
    torch.testing.assert_close(slerp(factor * start, start, STEPS), expected.flip(0))


def test_activity_is_the_variance_over_images() -> None:
    means = torch.tensor([[1.0, 5.0], [3.0, 5.0], [5.0, 5.0]])
    assert activity(means).tolist() == [pytest.approx(8 / 3), 0]


def test_active_units_vary_by_more_than_a_hundredth(networks: AdversarialVAE, tmp_path: Path) -> None:
    """Pixels 0 and 255 are ±1: μ₁ = ±3 of variance 9; μ₂ = ±0.2 of 0.04, or of 0 where it does not vary."""
    reading = {"batch_size": 2, "device": "cpu", "folder": tmp_path}
    both, one = validation([0, 0, 255, 255], [0, 255, 0, 255]), validation([0, 255], [0, 0])
    assert draw_latent_pictures(networks, both, **reading) == {"active_units": 2}  # type: ignore[arg-type]
    assert draw_latent_pictures(networks, one, **reading) == {"active_units": 1}  # type: ignore[arg-type]
    assert draw_latent_pictures(networks, validation([7], [0]), **reading) == {"active_units": 0}  # type: ignore[arg-type]


def centres(path: Path, columns: int, rows: int) -> np.ndarray:
    """The shade of the middle of each tile of 64 px, (rows, columns), the last of which ends with the picture."""
    pixels = np.asarray(Image.open(path).convert("L"))
    left, top = pixels.shape[1] - 68 * columns + 32, pixels.shape[0] - 68 * rows + 32
    return pixels[top::68, left::68]


def test_traversals_move_the_most_active_dimension_first(networks: AdversarialVAE, tmp_path: Path) -> None:
    """z₁ from -3 to 3 is -1 to 1 of a pixel: black to white in 8 steps; z₂ and z₃ change nothing, z₁ being -3."""
    draw_latent_pictures(
        networks, validation([0, 255, 0, 255], [0, 0, 255, 255]), batch_size=4, device="cpu", folder=tmp_path
    )
    shades = centres(tmp_path / "traversals.png", 11, 3)
    assert shades[0, :2].tolist() == [0, 0]  # the image, and what is decoded of its μ
    assert shades[0, 2:].tolist() == [round(255 * step / 8) for step in range(9)]
    assert (shades[1:, :2] == 255).all()  # white: said once
    assert (shades[1:, 2:] == 0).all()


def test_interpolations_go_from_one_image_to_another(networks: AdversarialVAE, tmp_path: Path) -> None:
    """Of 16 images the first eight are paired with the last: μ = (-3, 0.2, 0) and (3, 0.2, 0), on an arc of 172°."""
    draw_latent_pictures(
        networks, validation([0] * 8 + [255] * 8, [255] * 16), batch_size=4, device="cpu", folder=tmp_path
    )
    shades = centres(tmp_path / "interpolations.png", 10, 8)
    first, last = torch.tensor([-3.0, 0.2, 0.0]), torch.tensor([3.0, 0.2, 0.0])
    expected = ((slerp(first, last, STEPS)[:, 0] / 3 + 1) * 127.5).round().tolist()
    for row in shades.tolist():
        assert row[1:9] == pytest.approx(expected, abs=1)
        assert row[1] == 0
        assert row[8] == 255
