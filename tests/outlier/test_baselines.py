import io

import numpy as np
import pytest
import torch
from PIL import Image

from advvae.losses import Objective
from advvae.models import AdversarialVAE
from advvae.outlier.baselines import Contrast, MeanBrightness, PixelKnn, png_bytes
from advvae.outlier.evidence import Evidence
from tests.outlier.toy import constant_images, fit, toy_evidence


def test_brightness_is_how_many_deviations_an_image_is_off() -> None:
    score = MeanBrightness()
    fit(score, toy_evidence(constant_images(0, 0.2)))  # mean 0.1, standard deviation 0.1
    expected = torch.tensor([0.0, 9.0, 11.0])
    torch.testing.assert_close(score(toy_evidence(constant_images(0.1, 1, -1))), expected, rtol=1e-4, atol=1e-5)


def test_contrast_by_hand() -> None:
    """Half of the pixels at +c, half at -c: their standard deviation is c."""
    signs = torch.tensor([1.0, -1.0]).repeat(8).reshape(1, 1, 4, 4)
    score = Contrast()
    fit(score, toy_evidence(torch.cat([0.2 * signs, 0.4 * signs])))  # mean 0.3, standard deviation 0.1
    outlying = score(toy_evidence(torch.cat([0.3 * signs, signs, 0 * signs])))
    torch.testing.assert_close(outlying, torch.tensor([0.0, 7.0, 3.0]), rtol=1e-4, atol=1e-4)


def test_constant_training_images_are_no_obstacle() -> None:
    for score in (MeanBrightness(), Contrast(), PixelKnn()):
        fit(score, toy_evidence(constant_images(0.3, 0.3, 0.3)))
        values = score(toy_evidence(constant_images(0.3, 0.8)))
        assert values.isfinite().all()
        assert values[0].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_bytes_are_those_of_the_file(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 20, (40, 30, channels), dtype=np.uint8)
    file, hasty = io.BytesIO(), io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "PNG", optimize=True)
    Image.fromarray(pixels.squeeze()).save(hasty, "PNG")
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    noisy, flat = png_bytes(toy_evidence(torch.cat([images, torch.zeros_like(images)])))
    assert noisy == len(file.getvalue()) < len(hasty.getvalue())
    assert flat < noisy / 2


def test_pixel_knn_by_hand() -> None:
    """Constant images of 16 pixels: their distance is 4 times the difference of their values."""
    score = PixelKnn(k=2)
    fit(score, toy_evidence(constant_images(0, 0.1, 0.5)))
    distances = score(toy_evidence(constant_images(0, 1))).float()
    torch.testing.assert_close(distances, torch.tensor([0.4, 3.6]))
    assert PixelKnn().k == 5


def test_pixel_knn_averages_large_images_to_16_px() -> None:
    checkerboard = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2.0 - 1
    statistics = PixelKnn().statistics(toy_evidence(torch.stack([checkerboard, torch.ones(32, 32)])[:, None]))
    assert statistics.shape == (2, 256)
    assert statistics.unique(dim=1).squeeze().tolist() == [0, 1]


def test_near_images_are_told_apart_among_many() -> None:
    """As |a|² + |b|² - 2ab in float32, distances of 0.001 among 30 queries would be lost in rounding."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(30, 3, 16, 16, generator=generator)
    score = PixelKnn(k=1)
    fit(score, toy_evidence(images))
    nudged = images.clone()
    nudged[:, 0, 0, 0] += 0.001
    distances = score(toy_evidence(nudged)).float()
    torch.testing.assert_close(distances, torch.full((30,), 0.001), rtol=1e-3, atol=0)


def test_baselines_need_no_network(objective: Objective) -> None:
    images = torch.rand(4, 1, 8, 8)
    nothing = Evidence(AdversarialVAE(None, None, None, 0), objective, images)
    for score in (MeanBrightness(), Contrast(), PixelKnn()):
        fit(score, nothing)
        assert score(nothing).shape == (4,)
    assert png_bytes(nothing).shape == (4,)
