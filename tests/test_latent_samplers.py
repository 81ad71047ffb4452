"""Where latents are drawn: the prior and a fitted mixture, how it is kept, and what `mode=sample` makes of it."""

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from advvae.data import Split
from advvae.errors import UserError
from advvae.latent_samplers import Mixture, draw_latents, fit_mixture, read_mixture, save_mixture
from advvae.models import AdversarialVAE
from advvae.outlier.detector_file import ABSENT
from tests.command import TINY, Command

CENTRES = torch.tensor([[-20.0, -20.0], [-20.0, 20.0], [20.0, 20.0]])  # of three blobs, 40 apart
DEVIATIONS = torch.tensor([[1.0, 2.0], [0.5, 1.0], [3.0, 1.5]])
COUNTS = torch.tensor([1500, 900, 600])


class CornerEncoder(nn.Module):
    """μ = 20 (first pixel, second pixel); σ is that of the blob whose centre μ is."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean = 20 * images.flatten(1)[:, :2]
        return mean, 2 * DEVIATIONS[torch.cdist(mean, CENTRES).argmin(1)].log()


def blobs(corners: Tensor) -> Split:
    """Images (n, 1, 8, 8) whose first two pixels, -1 or 1, are those of corners (n, 2); the others are black."""
    images = torch.zeros(len(corners), 1, 8, 8, dtype=torch.uint8)
    images.flatten(1)[:, :2] = ((corners + 1) * 127.5).byte()
    n = len(corners)
    return Split("blobs", "train", images, torch.arange(n), "train", np.zeros(n, np.int64), ["any"], None)


@pytest.fixture
def encoder_of_blobs() -> AdversarialVAE:
    return AdversarialVAE(CornerEncoder(), nn.Identity(), None, latent_dim=2)


def fitted(networks: AdversarialVAE, seed: int = 0) -> Mixture:
    """To all blobs, in the order of CENTRES."""
    split = blobs(torch.repeat_interleave(CENTRES / 20, COUNTS, dim=0))
    mixture = fit_mixture(networks, split, seed=seed, device="cpu", components=3)
    order = torch.cdist(CENTRES.double(), mixture.means).argmin(1)
    return Mixture(*(values[order] for values in (mixture.weights, mixture.means, mixture.factors)))


def known_mixture() -> Mixture:
    factors = torch.tensor([[[1.0, 0.0], [0.5, 2.0]], [[0.1, 0.0], [0.0, 0.2]]], dtype=torch.float64)
    weights, means = torch.tensor([0.25, 0.75]).double(), torch.tensor([[5.0, -5.0], [-50.0, 0.0]]).double()
    return Mixture(weights, means, factors)


def test_a_fitted_mixture_is_what_the_latents_were_drawn_from(encoder_of_blobs: AdversarialVAE) -> None:
    """Means and covariances within five standard errors of n draws; no draw is nearer to another blob."""
    mixture = fitted(encoder_of_blobs)
    torch.testing.assert_close(mixture.weights, torch.tensor([0.5, 0.3, 0.2]).double(), rtol=0, atol=1e-6)
    for blob in range(3):
        deviation, n = DEVIATIONS[blob].double(), COUNTS[blob].item()
        assert ((mixture.means[blob] - CENTRES[blob]).abs() < 5 * deviation / math.sqrt(n)).all()
        off = mixture.factors[blob] @ mixture.factors[blob].T - deviation.square().diag()
        error = deviation.outer(deviation) * (1 + torch.eye(2)).sqrt() / math.sqrt(n)  # of a Gaussian's covariance
        assert (off.abs() < 5 * error).all()


def test_a_fit_follows_from_the_seed_alone(encoder_of_blobs: AdversarialVAE) -> None:
    one, same, other = (fitted(encoder_of_blobs, seed) for seed in (0, 0, 1))
    assert all(torch.equal(vars(one)[name], vars(same)[name]) for name in ("weights", "means", "factors"))
    assert not torch.equal(one.means, other.means)


@pytest.mark.parametrize(("corners", "told"), [([[1.0, 1.0]], "two training images"), (None, "not finite")])
def test_what_cannot_be_fitted_is_told(corners: list | None, told: str, encoder_of_blobs: AdversarialVAE) -> None:
    split = blobs(torch.ones(40, 2) if corners is None else torch.tensor(corners))
    if corners is None:
        encoder_of_blobs.encoder = nn.Sequential(nn.Flatten(), Diverged())
    with pytest.raises(UserError, match=told):
        fit_mixture(encoder_of_blobs, split, seed=0, device="cpu")


class Diverged(nn.Module):
    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return pixels[:, :2] * math.inf, pixels[:, :2]


def test_draws_have_the_moments_of_the_mixture() -> None:
    """40,000 draws: 10,000 of the first component, five standard errors of which are allowed."""
    latents = draw_latents(40_000, 2, seed=1, mixture=known_mixture())
    assert latents.dtype == torch.float32
    first = latents[latents[:, 0] > -25]
    n = 10_000
    assert abs(len(first) - n) < 5 * math.sqrt(40_000 * 0.25 * 0.75)
    expected = torch.tensor([[1.0, 0.5], [0.5, 4.25]])  # L Lᵀ
    assert ((first.mean(0) - torch.tensor([5.0, -5.0])).abs() < 5 * (expected.diag() / n).sqrt()).all()
    variances = expected.diag().outer(expected.diag())
    assert ((first.T.cov() - expected).abs() < 5 * ((variances + expected.square()) / n).sqrt()).all()


def test_truncation_halves_the_distance_from_the_centre() -> None:
    whole, half = (draw_latents(50, 2, seed=3, truncation=t) for t in (1, 0.5))
    assert torch.equal(half, whole / 2)
    mixture = known_mixture()
    whole, half = (draw_latents(50, 2, seed=3, truncation=t, mixture=mixture) for t in (1, 0.5))
    means = mixture.means[(whole[:, 0] < -25).long()].float()
    torch.testing.assert_close(half - means, (whole - means) / 2, rtol=1e-4, atol=1e-5)
    assert 0 < (whole[:, 0] < -25).sum() < 50  # of both components


def test_one_standard_normal_is_the_prior() -> None:
    standard = Mixture(torch.ones(1).double(), torch.zeros(1, 3).double(), torch.eye(3).double()[None])
    assert torch.equal(draw_latents(20, 3, seed=4, mixture=standard), draw_latents(20, 3, seed=4))


def test_the_prior_draws_what_torch_does() -> None:
    expected = torch.randn(9, 5, generator=torch.Generator().manual_seed(6))
    assert torch.equal(draw_latents(9, 5, seed=6), expected)


def test_a_kept_mixture_is_read_under_its_own_identity_alone(tmp_path: Path) -> None:
    path, mixture = tmp_path / "run" / "sampler-best.pt", known_mixture()
    identity = {"checkpoint_sha256": "a", "images": "b"}
    assert read_mixture(path, identity) is None
    save_mixture(path, mixture, identity)
    kept = read_mixture(path, identity)
    assert kept is not None
    assert all(torch.equal(vars(kept)[name], vars(mixture)[name]) for name in vars(mixture))
    assert read_mixture(path, identity | {"checkpoint_sha256": "c"}) is None
    assert read_mixture(path, identity | {"images": "c"}) is None
    assert read_mixture(path, identity | {"images": ABSENT}) is not None
    torch.save(torch.load(path, weights_only=True) | {"format": 99}, path)
    assert read_mixture(path, identity) is None


@pytest.mark.parametrize("harm", ["half", "words", "shapes"])
def test_a_damaged_mixture_is_ignored_and_named(harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, mixture = tmp_path / "sampler-best.pt", known_mixture()
    if harm == "shapes":
        mixture = Mixture(mixture.weights, mixture.means, mixture.factors[:1])
    save_mixture(path, mixture, {})
    if harm != "shapes":
        path.write_bytes(path.read_bytes()[:500] if harm == "half" else b"words")
    with caplog.at_level(logging.WARNING):
        assert read_mixture(path, {}) is None
    assert str(path) in caplog.text
    assert "fitted again" in caplog.text


def latents_of(folder: Path) -> np.ndarray:
    return np.load(folder / "samples.npz")["latents"]


def test_a_run_keeps_its_mixture_until_its_weights_change(advvae: Command) -> None:
    run = advvae.train().folder
    typed = ("mode=sample", f"checkpoint={run}", "sampler=gmm", "save_npz=true", "num_samples=20")
    first, again = advvae(*typed), advvae(*typed, "batch_size=3")
    assert "fitted a mixture of 10 Gaussians to the latents of 1,294 images" in first.output
    assert "fitted a mixture" not in again.output
    assert (latents_of(first.folder) == latents_of(again.folder)).all()
    kept = (run / "sampler-best.pt").read_bytes()
    other = advvae(*typed, "seed=1")  # draws others from the same mixture
    assert "fitted a mixture" not in other.output
    assert (latents_of(first.folder) != latents_of(other.folder)).all()
    (run / "sampler-best.pt").write_bytes(b"harmed")
    mended = advvae(*typed)
    assert "fitted again" in " ".join(mended.output.split())
    assert (latents_of(mended.folder) == latents_of(first.folder)).all()
    assert (run / "sampler-best.pt").read_bytes() == kept
    content = torch.load(run / "checkpoints" / "best.pt", weights_only=True)
    weights = content["encoder"]
    content["encoder"] = {name: value * 2 if value.is_floating_point() else value for name, value in weights.items()}
    torch.save(content, run / "checkpoints" / "best.pt")
    changed = advvae(*typed)
    assert "fitted a mixture" in changed.output
    assert (latents_of(changed.folder) != latents_of(first.folder)).any()


def test_a_mixture_that_the_run_cannot_keep_is_kept_by_the_new_one(advvae: Command) -> None:
    run = advvae.train().folder
    (run / "sampler-last.pt").mkdir()
    result = advvae("mode=sample", f"checkpoint={run}/checkpoints/last.pt", "sampler=gmm", "num_samples=2")
    assert result.status == 0, result.errors
    assert (result.folder / "sampler-last.pt").is_file()


def test_samples_are_drawn_though_the_images_have_gone(advvae: Command) -> None:
    scans = advvae.cwd / "scans"
    scans.mkdir()
    for number in range(60):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(scans / f"{number}.png")
    run = advvae("mode=train", "dataset=folder", "dataset.root=scans", *TINY).folder
    whole = advvae("mode=sample", f"checkpoint={run}", "num_samples=3", "sampler=gmm")
    pictures = {"interpolations.png", "traversals.png", "neighbours.png"}
    assert pictures <= {path.name for path in whole.folder.iterdir()}
    scans.rename(advvae.cwd / "elsewhere")
    for sampler in ("prior", "gmm"):  # of which the mixture is kept
        result = advvae("mode=sample", f"checkpoint={run}", "num_samples=3", f"sampler={sampler}")
        assert result.status == 0, result.errors
        told = "interpolations.png, traversals.png and neighbours.png are left out: "
        assert told in " ".join(result.output.split())
        found = {path.name for path in result.folder.iterdir()}
        assert "samples.png" in found
        assert not pictures & found
    (run / "sampler-best.pt").unlink()
    assert "no such folder" in advvae("mode=sample", f"checkpoint={run}", "sampler=gmm").message
