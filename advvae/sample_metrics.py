"""`mode=test`: samples against the test split, and beside that training images against it, the floor."""

import logging
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advvae.data import Split
from advvae.distributed import by_first, gathered, n_ranks, rank
from advvae.errors import UserError
from advvae.feature_cache import file_for, keep_features, keep_numbers, kept_features, kept_numbers, key_of
from advvae.features import Extractor
from advvae.memory import ValuesOfImages
from advvae.models import AdversarialVAE
from advvae.models.evaluation import Device, evaluation, of_all_images
from advvae.neighbours import NEIGHBOURS, neighbour_metrics
from advvae.progress import watched
from advvae.random_state import seeded_apart
from advvae.sampler import decoded

logger = logging.getLogger(__name__)

FLOOR_SEED = 0  # of the training images' choice, and of KID's subsets: the same in every run
SUBSETS, SUBSET_SIZE = 100, 1000  # of KID, as Bińkowski et al. 2018 took them
BY_NEIGHBOURS = ("precision", "recall", "density", "coverage")
FLOOR = "_floor"  # what the name of a metric ends in where it is the training images'


def measure_samples(
    networks: AdversarialVAE,
    extractor: Extractor,
    metrics: Sequence[str],
    *,
    test: Split,
    train: Split,
    latents: Tensor,
    batch_size: int,
    device: Device,
    cache: Path | None,
    num_workers: int = 0,
) -> dict[str, float]:
    """`metrics` of samples, the decoded latents (n, latent_dim), against `test`, each with its floor.

    The floor of a metric is that of as many training images, always the same ones, in the samples' place.

    Args:
        metrics: some of fid, kid, precision, recall, density, coverage.
        cache: the folder that keeps what is known of real images; None = nothing is kept.

    Returns:
        `n_samples`, each metric and `<metric>_floor`; with `kid` its `kid_std`, over subsets.

    Raises:
        UserError: there is no decoder; there are too few images; features are not finite.
    """
    if not networks.has_vae:
        raise UserError(f"metrics={_shown(metrics)} need a decoder, and none was found: set checkpoint=<train run>")
    n_samples = len(latents)
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(FLOOR_SEED))[:n_samples]
    reference = train.subset(chosen.sort().values)
    for what, n in (("samples", n_samples), (test.name, len(test)), (f"{train.name} train", len(train))):
        _check_number(metrics, what, n)
    if len(reference) < n_samples:
        logger.info(f"the floor is that of all {len(reference)} training images, which are fewer than the samples")
    reading: dict[str, Any] = {"batch_size": batch_size, "device": device, "num_workers": num_workers}
    cache = None if extractor.is_own else cache
    real = features_of_images(extractor, test, cache=cache, **reading)
    fake = features_of_samples(networks, extractor, latents, batch_size=batch_size, device=device)
    measured = by_first(partial(distances, metrics, real, fake))
    floors = floor(extractor, metrics, real, test=test, reference=reference, cache=cache, **reading)
    return {"n_samples": n_samples, **_beside(measured, floors)}


def features_of_images(extractor: Extractor, split: Split, *, cache: Path | None, **reading: Any) -> Tensor:
    """(n, F) float32 on the CPU: the features of a split's images, on every rank; those of `cache` where it has them.

    reading: batch_size, device and num_workers.
    """

    def kept() -> tuple[Path, Tensor | None]:
        assert cache is not None
        path = file_for(cache, "features", split, extractor, f"{key_of(extractor, split)}.npz")
        return path, kept_features(path, len(split))

    path, known = by_first(kept) if cache else (None, None)
    if known is not None:
        return known
    found = of_all_images(
        extractor.network,
        split,
        lambda images, positions: {"features": extractor(images)},
        what=f"features of {split.name} {split.split}",
        **reading,
    )["features"].cpu()
    _check_finite(found, f"the {split.split} images of {split.name}")
    if path and rank() == 0:
        keep_features(path, found)
    return found


def features_of_samples(
    networks: AdversarialVAE, extractor: Extractor, latents: Tensor, *, batch_size: int, device: Device
) -> Tensor:
    """(n, F) float32 on the CPU: the features of decoded latents, on every rank; each rank computes some batches."""
    n_samples = len(latents)
    own = torch.arange(n_samples).split(batch_size)[rank() :: n_ranks()]
    positions = torch.cat([torch.arange(0), *own])
    values = ValuesOfImages(len(positions))
    batches = decoded(networks, latents, device=device, batch_size=batch_size)
    n_batches = -(-n_samples // batch_size)
    for number, images in enumerate(watched(batches, "features of samples", n_batches)):
        if number % n_ranks() == rank():
            with evaluation(extractor.network, device):
                values.add("features", extractor(images))
    found = gathered(values.by_name, positions, n_samples)["features"].cpu()
    _check_finite(found, "the samples")
    return found


def floor(
    extractor: Extractor,
    metrics: Sequence[str],
    real: Tensor,
    *,
    test: Split,
    reference: Split,
    cache: Path | None,
    **reading: Any,
) -> dict[str, float]:
    """`metrics` of training images, `reference`, against the test split, whose features are `real`."""

    def kept() -> tuple[Path, dict[str, float]]:
        assert cache is not None
        settings = f"k{NEIGHBOURS}-{SUBSETS}x{SUBSET_SIZE}"  # what the metrics follow from beside the features
        path = file_for(cache, f"floor-{settings}", test, extractor, f"{key_of(extractor, test, reference)}.json")
        return path, kept_numbers(path)

    path, known = by_first(kept) if cache else (None, {})
    if missing := [metric for metric in metrics if metric not in known]:
        features = features_of_images(extractor, reference, cache=cache, **reading)
        known |= by_first(partial(distances, missing, real, features))
        if path and rank() == 0:
            keep_numbers(path, known)
    return known


def distances(metrics: Sequence[str], real: Tensor, fake: Tensor) -> dict[str, float]:
    """`metrics` between features (n, F) and (m, F), by name; with `kid` its `kid_std`."""
    measured: dict[str, float] = {}
    if "fid" in metrics:
        measured["fid"] = frechet_distance(real, fake)
    if "kid" in metrics:
        measured["kid"], measured["kid_std"] = kernel_distance(real, fake)
    if set(metrics) & set(BY_NEIGHBOURS):
        measured |= {name: value for name, value in neighbour_metrics(real, fake).items() if name in metrics}
    return measured


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """|μ - μ'|² + tr(Σ + Σ' - 2·(ΣΣ')^½) of two sets of features, as if they were Gaussian (Heusel et al. 2017)."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    # Every rank's features are here already; and rank 0 computes alone, for whom the others would be waited for.
    metric = FrechetInceptionDistance(feature=Given(real.shape[1]), sync_on_compute=False)
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    return metric.compute().item()


def kernel_distance(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """Mean and standard deviation over subsets of MMD² with a cubic kernel (Bińkowski et al. 2018), unbiased.

    Where both sets are no larger than a subset there is one, and no deviation.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(SUBSET_SIZE, len(real), len(fake))
    subsets = 1 if len(real) == len(fake) == size else SUBSETS
    with warnings.catch_warnings(), seeded_apart(FLOOR_SEED):
        warnings.simplefilter("ignore")  # it says that it keeps all features, which are here anyhow
        metric = KernelInceptionDistance(Given(real.shape[1]), subsets, size, sync_on_compute=False)
        metric.update(real.double(), real=True)
        metric.update(fake.double(), real=False)
        mean, deviation = metric.compute()
    return mean.item(), deviation.item()


class Given(nn.Module):
    """What torchmetrics takes for a network: it gives the features that it is given."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def _beside(measured: dict[str, float], floors: dict[str, float]) -> dict[str, float]:
    """Each metric and then its floor; a deviation has none."""
    together: dict[str, float] = {}
    for name, value in measured.items():
        together[name] = value
        if not name.endswith("_std"):
            together[f"{name}{FLOOR}"] = floors[name]
    return together


def _check_number(metrics: Sequence[str], what: str, n: int) -> None:
    needed = NEIGHBOURS + 1 if set(metrics) & set(BY_NEIGHBOURS) else 2
    if n < needed:
        raise UserError(f"metrics={_shown(metrics)} need {needed} images or more on each side, got {n} of {what}")


def _check_finite(features: Tensor, what: str) -> None:
    if not features.isfinite().all():
        raise UserError(f"features of {what} are not finite: the networks, or features=, give NaN or infinity")


def _shown(metrics: Sequence[str]) -> str:
    return f"[{','.join(metrics)}]"
