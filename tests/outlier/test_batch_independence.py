"""A score of one image never depends on the other images of its batch."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from advvae.losses import Objective
from advvae.models import AdversarialVAE
from advvae.models.evaluation import evaluation
from advvae.outlier.evidence import Evidence, FittedScore, Score
from advvae.outlier.scores import SCORES, named_scores
from tests.networks import changed, snapshot

ON_CROPS, ONE_BY_ONE, WITH_PYOD = ["patch_discriminator"], ["likelihood_regret"], ["lpath_copod"]
ROUNDING = 1e-3  # of a score's standard deviation
OTHERS = [name for name in SCORES if name not in (*ON_CROPS, *ONE_BY_ONE, *WITH_PYOD)]


def photographs(n: int, seed: int, side: int, brightest: float = 1.0) -> Tensor:
    """Smooth random images with values from -1 to `brightest`."""
    coarse = torch.rand(n, 1, side // 2, side // 2, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, scale_factor=2, mode="bilinear") * (brightest + 1) - 1


@pytest.mark.parametrize(
    ("names", "n", "side", "crop"),
    [(OTHERS, 40, 8, None), (WITH_PYOD, 40, 8, None), (ON_CROPS, 40, 16, 8), (ONE_BY_ONE, 4, 8, None)],
)
def test_scores_do_not_depend_on_their_batch(
    names: list[str], n: int, side: int, crop: int | None, networks: AdversarialVAE, objective: Objective
) -> None:
    if names == WITH_PYOD:
        pytest.importorskip("pyod")
    scores = named_scores(names)
    training, inliers = photographs(200, 0, side), photographs(n, 1, side)
    outliers = photographs(n, 2, side, brightest=-0.5)
    shuffle = torch.randperm(2 * n, generator=torch.Generator().manual_seed(0))

    def scored(images: Tensor, batch_size: int) -> dict[str, Tensor]:
        batches = [Evidence(networks, objective, batch, crop) for batch in images.split(batch_size)]
        return {name: torch.cat([score(batch).double() for batch in batches]) for name, score in scores.items()}

    before = snapshot(magnified(networks))
    with evaluation(networks, "cpu"):
        assert networks.discriminate(inliers[..., :8, :8]).std() > 1
        assert networks.discriminate(networks.reconstruct(inliers[..., :8, :8])).std() > 0.05
        fit(scores, Evidence(networks, objective, training, crop))
        alone = [scored(images, 1) for images in (inliers, outliers)]
        by_kind = [scored(images, 64) for images in (inliers, outliers)]
        mixed = scored(torch.cat([inliers, outliers])[shuffle], 64)
    for name in scores:
        expected = torch.cat([values[name] for values in alone])
        assert expected.unique().numel() > n / 4  # or equality shows nothing
        for values in (torch.cat([values[name] for values in by_kind])[shuffle], mixed[name]):
            assert (values - expected[shuffle]).abs().max() <= ROUNDING * expected.std(), name
    assert not changed(before, networks, lambda name: True)


def magnified(networks: AdversarialVAE) -> AdversarialVAE:
    """With larger weights: untrained ones give nearly the same for all images."""
    for network in (networks.decoder, networks.discriminator):
        assert network is not None
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                layer.weight.data *= 4
    return networks


def fit(scores: Mapping[str, Score], evidence: Evidence) -> None:
    for score in scores.values():
        if isinstance(score, FittedScore):
            score.fit(score.statistics(evidence), seed=0)
