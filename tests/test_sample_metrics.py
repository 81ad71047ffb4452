"""Samples of the prior against the test split: closed forms, floors, what is kept, and the command."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advvae.data import Split
from advvae.errors import UserError
from advvae.feature_cache import key_of
from advvae.features import Extractor
from advvae.latent_samplers import draw_latents
from advvae.models import AdversarialVAE, conv_networks
from advvae.sample_metrics import frechet_distance, kernel_distance, measure_samples
from tests.command import TINY, Command

ALL = ["fid", "kid", "precision", "recall", "density", "coverage"]


class Projections(nn.Module):
    """Four features of 8 px images, each a fixed random projection."""

    axes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.axes: Tensor
        self.register_buffer("axes", torch.randn(64, 4, generator=torch.Generator().manual_seed(0)) / 8)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.axes


class Brightness(nn.Module):
    """One feature: the mean pixel."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).mean(1, keepdim=True)


def split_of(n: int, seed: int, name: str = "test") -> Split:
    images = torch.randint(0, 256, (n, 1, 8, 8), generator=torch.Generator().manual_seed(seed)).byte()
    return Split("toy", name, images, torch.arange(n), name, np.zeros(n, dtype=np.int64), ["zero"], None)


@pytest.fixture
def networks() -> AdversarialVAE:
    torch.manual_seed(0)
    return conv_networks(channels=1, size=8, latent_dim=3, hidden_dims=[4, 8])


@pytest.fixture
def measure(networks: AdversarialVAE) -> Callable[..., dict[str, float]]:
    """`measure_samples` of 25 samples against 30 test images, beside 25 of 60 training images; keywords change that."""
    usual: dict[str, Any] = {
        "extractor": Extractor("random", Projections()),
        "metrics": ALL,
        "test": split_of(30, seed=1),
        "train": split_of(60, seed=2, name="train"),
        "latents": draw_latents(25, 3, seed=0),
        "batch_size": 8,
        "device": "cpu",
        "cache": None,
    }
    return lambda **changed: measure_samples(networks, **(usual | changed))


def standardised(n: int, n_features: int, seed: int) -> Tensor:
    """(n, F) float64 whose mean is 0 and whose covariance, divided by n - 1, is I, both to the last digit."""
    points = torch.randn(n, n_features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    centred = points - points.mean(0)
    return centred @ torch.linalg.inv(torch.linalg.cholesky(centred.T @ centred / (n - 1))).T


def test_fid_is_the_closed_form_of_two_gaussians() -> None:
    """N(0, I) and N(m, diag(s²)): |m|² + Σ(1 - s)² = 25 + (1 + 0.25 + 0) = 26.25."""
    real = standardised(200, 3, seed=0)
    fake = standardised(300, 3, seed=1) * torch.tensor([2.0, 0.5, 1.0]) + torch.tensor([3.0, 0.0, 4.0])
    assert frechet_distance(real, fake) == pytest.approx(26.25, abs=1e-9)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-6)


def test_fid_of_fewer_images_than_features_is_finite() -> None:
    real, fake = (torch.randn(6, 20, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert 0 < frechet_distance(real, fake) < 1e3


def test_kid_is_the_unbiased_squared_discrepancy_of_the_cubic_kernel() -> None:
    """Where both sets are one subset there is no draw: mean of k over pairs within each set, less twice across."""
    real, fake = (torch.randn(12, 3, generator=torch.Generator().manual_seed(seed)) + seed for seed in (0, 1))
    points = [features.double().numpy() for features in (real, fake)]
    kernel = [[(a @ b.T / 3 + 1) ** 3 for b in points] for a in points]
    within = [(kernel[i][i].sum() - np.trace(kernel[i][i])) / (12 * 11) for i in (0, 1)]
    mean, deviation = kernel_distance(real, fake)
    assert mean == pytest.approx(within[0] + within[1] - 2 * kernel[0][1].mean(), rel=1e-12)
    assert deviation == 0


def test_kid_draws_the_same_subsets_every_time_and_leaves_the_generator() -> None:
    real, fake = (torch.randn(n, 3, generator=torch.Generator().manual_seed(n)) for n in (1200, 1100))
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(kernel_distance(real, fake))
        assert torch.equal(torch.get_rng_state(), before)
    assert found[0] == found[1]
    assert found[0][1] > 0


def test_both_numbers_of_images_are_stated_and_every_metric_has_a_floor(measure: Callable[..., Any]) -> None:
    found = measure()
    assert found.pop("n_samples") == 25
    assert set(found) == {*ALL, "kid_std", *(f"{name}_floor" for name in ALL)}
    assert found["coverage_floor"] > 0.5 > found["coverage"]  # an untrained decoder's grey lies amid the noise alone


def test_fid_and_its_floor_by_hand(measure: Callable[..., Any], networks: AdversarialVAE) -> None:
    """Of one feature, the distance of Gaussians is (μ - μ')² + (σ - σ')². The floor takes all of 20 training images."""
    test, train = split_of(30, seed=1), split_of(20, seed=2, name="train")

    def brightness(split: Split) -> np.ndarray:
        return (split.images.double().numpy() / 127.5 - 1).mean((1, 2, 3))

    real, reference = brightness(test), brightness(train)
    expected = (real.mean() - reference.mean()) ** 2 + (real.std(ddof=1) - reference.std(ddof=1)) ** 2
    found = measure(extractor=Extractor("own", Brightness(), is_own=True), metrics=["fid"], train=train)
    assert found["fid_floor"] == pytest.approx(expected, rel=1e-4)
    networks.eval()
    with torch.no_grad():
        samples = networks.decode(torch.randn(25, 3, generator=torch.Generator().manual_seed(0))).double()
    fake = samples.mean((1, 2, 3)).numpy()
    by_hand = (real.mean() - fake.mean()) ** 2 + (real.std(ddof=1) - fake.std(ddof=1)) ** 2
    assert found["fid"] == pytest.approx(by_hand, rel=1e-4)


def test_the_same_seed_gives_the_same_numbers_for_every_batch_size(measure: Callable[..., Any]) -> None:
    once = measure()
    assert measure() == once
    for batch_size in (1, 25, 100):
        assert measure(batch_size=batch_size) == pytest.approx(once, rel=1e-4)
    other = measure(latents=draw_latents(25, 3, seed=1))
    floors = [f"{name}_floor" for name in ALL]
    assert [other[name] for name in floors] == [once[name] for name in floors]
    assert other["fid"] != once["fid"]


def test_measuring_samples_changes_neither_networks_nor_generator(
    measure: Callable[..., Any], networks: AdversarialVAE
) -> None:
    before = {name: tensor.clone() for name, tensor in networks.state_dict().items()}
    random_state = torch.get_rng_state()
    measure()
    assert all(torch.equal(tensor, before[name]) for name, tensor in networks.state_dict().items())
    assert networks.training
    assert torch.equal(torch.get_rng_state(), random_state)


def test_features_and_floors_are_taken_from_the_cache_the_second_time(
    measure: Callable[..., Any], tmp_path: Path
) -> None:
    """What was put there by hand in between is what is found."""
    once = measure(cache=tmp_path)
    assert measure(cache=tmp_path) == once == measure()
    (floors,) = tmp_path.glob("floor-*-toy-test-8px-random-*.json")
    kept = json.loads(floors.read_text())
    floors.write_text(json.dumps(kept | {"fid": 42.0}))
    assert measure(cache=tmp_path) == once | {"fid_floor": 42.0}
    (features,) = tmp_path.glob("features-toy-test-8px-random-*.npz")
    np.savez(features, features=np.full((30, 4), 1000, dtype=np.float32))
    assert measure(cache=tmp_path, metrics=["fid"])["fid"] > 1e6


@pytest.mark.parametrize("damage", ["truncated", "changed", "pickled", "other"])
def test_a_damaged_cache_is_made_anew(measure: Callable[..., Any], tmp_path: Path, damage: str) -> None:
    once = measure(cache=tmp_path)
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        if damage == "truncated":
            path.write_bytes(content[: len(content) // 2])
        elif damage == "changed":
            path.write_bytes(content[:300] + bytes([content[300] ^ 1]) + content[301:] if len(content) > 400 else b"{]")
        elif path.suffix == ".npz":
            of_another_kind = np.array([{"a": 1}] * 30) if damage == "pickled" else np.zeros((3, 4), np.float32)
            np.savez(path, features=of_another_kind)
        else:
            path.write_text('{"fid": "low"}')
    assert measure(cache=tmp_path) == once
    assert measure(cache=tmp_path) == once


def test_a_metric_that_is_asked_for_later_joins_the_kept_floors(measure: Callable[..., Any], tmp_path: Path) -> None:
    measure(cache=tmp_path, metrics=["fid"])
    assert measure(cache=tmp_path) == measure()
    (floors,) = tmp_path.glob("floor-*.json")
    assert set(json.loads(floors.read_text())) == {*ALL, "kid_std"}


def test_a_cache_that_cannot_be_written_is_gone_without(measure: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "no folder").write_text("")
    assert measure(cache=tmp_path / "no folder") == measure()


def test_features_of_ones_own_are_not_kept(measure: Callable[..., Any], tmp_path: Path) -> None:
    measure(cache=tmp_path, extractor=Extractor("my.Projections", Projections(), is_own=True))
    assert list(tmp_path.iterdir()) == []


def test_what_is_kept_follows_from_pixels_crop_and_weights() -> None:
    """And from nothing else: neither the set's name nor where its images lie among others."""
    split, extractor = split_of(30, seed=1), Extractor("random", Projections())
    key = key_of(extractor, split)
    assert key_of(extractor, replace(split, name="other", images=split.images.clone())) == key
    assert key_of(extractor, replace(split_of(30, seed=1), crop=8)) != key
    assert key_of(extractor, split.subset(torch.arange(29))) != key
    moved = replace(split, images=torch.cat([split.images[:3], split.images]), rows=split.rows + 3)
    assert key_of(extractor, moved) == key
    changed = split.images.clone()
    changed[29, 0, 7, 7] ^= 1
    assert key_of(extractor, replace(split, images=changed)) != key
    other = Projections()
    other.axes[63, 3] += 1
    assert key_of(Extractor("random", other), split) != key
    deep = replace(split, images=split.images.to(torch.uint16))
    assert key_of(extractor, deep) != key


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"latents": draw_latents(5, 3, seed=0)}, "need 6 images or more on each side, got 5 of samples"),
        ({"test": split_of(4, seed=1)}, "need 6 images or more on each side, got 4 of toy"),
        (
            {"latents": draw_latents(1, 3, seed=0), "metrics": ["fid"]},
            r"metrics=\[fid\] need 2 images or more on each side, got 1 of samples",
        ),
        ({"train": split_of(3, seed=1, name="train")}, "got 3 of toy train"),
    ],
)
def test_too_few_images_are_told(measure: Callable[..., Any], changed: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        measure(**changed)


def test_features_that_are_not_finite_are_told(measure: Callable[..., Any], networks: AdversarialVAE) -> None:
    for weights in networks.vae_parameters():
        weights.data.fill_(torch.nan)
    with pytest.raises(UserError, match="features of the samples are not finite"):
        measure()


def test_without_a_decoder_there_are_no_samples(measure: Callable[..., Any], networks: AdversarialVAE) -> None:
    networks.decoder = None
    with pytest.raises(UserError, match="checkpoint="):
        measure()


def test_the_command_measures_all_of_them_on_digits(advvae: Command) -> None:
    advvae.train()
    result = advvae("mode=test", "dataset=digits", f"metrics=[{','.join(ALL)}]", "tracker=none")
    assert result.status == 0, result.errors
    metrics = json.loads((result.folder / "metrics.json").read_text())
    measured = ["n", "loss", "kld", "n_samples", "fid", "fid_floor", "kid", "kid_floor", "kid_std"]
    measured += [name for metric in ALL[2:] for name in (metric, f"{metric}_floor")]
    assert [name for name in metrics if name in measured] == measured
    assert metrics["n"] == metrics["n_samples"] == 359  # a fifth of 1,797
    assert metrics["fid"] > metrics["fid_floor"] > 0
    assert metrics["coverage_floor"] > 0.8 > metrics["coverage"]
    (row,) = (line for line in result.output.splitlines() if " coverage " in line)
    assert f"{metrics['coverage_floor']:.4g}" in row  # the floor stands beside the metric


def test_num_samples_counts_where_it_is_typed_and_a_sweep_may_follow_a_metric(advvae: Command) -> None:
    advvae.train("num_samples=20", "then=[test]", "metrics=[fid]", "objective=fid")
    metrics = json.loads((advvae.runs()[-1] / "metrics.json").read_text())
    assert (metrics["n"], metrics["n_samples"]) == (359, 20)
    assert "mse" not in metrics
    for typed, expected in (("num_samples=999", 359), ("num_samples=16", 16)):
        result = advvae("mode=test", "dataset=digits", "metrics=[mse,precision]", typed, "tracker=none")
        metrics = json.loads((result.folder / "metrics.json").read_text())
        assert (metrics["n_samples"], "mse" in metrics, "fid" in metrics) == (expected, True, False)


def test_a_module_of_ones_own_is_named_by_target(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    (advvae.cwd / "my_features.py").write_text(
        "import torch\nclass Thumbnail(torch.nn.Module):\n"
        "    def __init__(self, side): super().__init__(); self.pool = torch.nn.AdaptiveAvgPool2d(side)\n"
        "    def forward(self, images): return self.pool(images).flatten(1)\n"
    )
    monkeypatch.syspath_prepend(advvae.cwd)
    advvae.train()
    own = "features={_target_: my_features.Thumbnail, side: 2}"
    result = advvae("mode=test", "dataset=digits", "metrics=[fid]", own, "tracker=none")
    assert result.status == 0, result.errors
    assert json.loads((result.folder / "metrics.json").read_text())["fid_floor"] < 0.01
    missing = advvae("mode=test", "dataset=digits", "metrics=[fid]", "features={_target_: my_features.No}")
    assert missing.status == 1
    assert "features: cannot build my_features.No" in missing.message


def test_what_metrics_cannot_be_is_told_before_training(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    train = ["mode=train", "dataset=digits", *TINY, "then=[test]"]
    for overrides, expected in (
        (["metrics=[ms_ssim]"], "metrics=[ms_ssim] needs images of 33 px or more, got 8"),
        (["objective=fid"], "objective=fid is not measured: it is not in metrics=[mse,psnr,ssim]"),
        (["metrics=[fid]", "features={_target_: builtins.dict}"], "features=builtins.dict must be a torch.nn.Module"),
    ):
        result = advvae(*train, *overrides)
        assert result.status == 1
        assert expected in result.message
        assert advvae.runs() == []
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    result = advvae(*train, "metrics=[mse,fid,kid]")
    assert "metrics=[fid,kid] needs torchmetrics: pip install 'advvae[metrics]'" in result.message


@pytest.mark.slow
def test_two_processes_measure_what_one_does(advvae: Command) -> None:
    advvae.train()
    asked = ("mode=test", "dataset=digits", f"metrics=[{','.join(ALL)}]", "tracker=none", "device=cpu")
    one = advvae(*asked)
    for path in [*(advvae.data_dir / "cache").glob("features-*"), *(advvae.data_dir / "cache").glob("floor-*")]:
        path.unlink()
    two = advvae(*asked, "n_devices=2")
    assert two.status == 0, two.errors
    first, second = (json.loads((run.folder / "metrics.json").read_text()) for run in (one, two))
    for name in first:
        if name not in ("status", "seconds"):
            assert second[name] == pytest.approx(first[name], rel=1e-3, abs=1e-6), name
