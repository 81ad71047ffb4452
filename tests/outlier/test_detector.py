import csv
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from advvae.data import Split
from advvae.errors import UserError
from advvae.losses import Objective
from advvae.models import AdversarialVAE
from advvae.outlier.detector import find_outliers, score_split
from advvae.outlier.scores import SCORES, Evidence, Score
from advvae.outlier.statistics import detection_metrics

SplitMaker = Callable[..., Split]


@pytest.fixture
def find(networks: AdversarialVAE, objective: Objective, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """find_outliers on the networks of the tests."""

    def call(inliers: Split, outliers: Split, scores: dict[str, Score] = SCORES, batch_size: int = 4) -> dict[str, Any]:
        return find_outliers(
            networks,
            objective,
            inliers,
            outliers,
            scores=scores,
            batch_size=batch_size,
            device="cpu",
            folder=tmp_path,
        )

    return call


@pytest.fixture
def score(networks: AdversarialVAE, objective: Objective) -> Callable[..., dict[str, np.ndarray]]:
    """score_split with all scores on the networks of the tests."""

    def call(split: Split, batch_size: int = 4, scores: dict[str, Score] = SCORES) -> dict[str, np.ndarray]:
        return score_split(networks, objective, split, scores=scores, batch_size=batch_size, device="cpu")

    return call


def brightness(evidence: Evidence) -> Tensor:
    return evidence.images.flatten(1).mean(1)


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_report_and_files(find: Callable, make_split: SplitMaker, tmp_path: Path) -> None:
    result = find(make_split(13), make_split(6, seed=1, name="other"))
    assert result["n_in"] == 13
    assert result["n_out"] == 6
    assert list(result["scores"]) == ["loss", "discriminator"]
    for metrics in result["scores"].values():
        assert list(metrics) == ["auroc", "aupr_out", "aupr_in", "fpr95_out", "fpr95_in"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["histograms.png", "roc.png", "scores.csv"]
    assert all(Image.open(tmp_path / name).width > 300 for name in ("histograms.png", "roc.png"))


def test_the_csv_identifies_every_image(find: Callable, make_split: SplitMaker, tmp_path: Path) -> None:
    find(make_split(3), make_split(2, seed=1, name="mine", paths=["a,b.png", "c.png"]))
    rows = read(tmp_path / "scores.csv")
    assert list(rows[0]) == ["is_outlier", "source", "split", "index", "path", "label", "loss", "discriminator"]
    described = [tuple(row.values())[:6] for row in rows]
    assert described == [
        ("0", "toy", "test", "2", "", "even"),
        ("0", "toy", "test", "3", "", "odd"),
        ("0", "toy", "test", "4", "", "even"),
        ("1", "mine", "test", "2", "a,b.png", "even"),
        ("1", "mine", "test", "3", "c.png", "odd"),
    ]


def test_metrics_can_be_computed_again_from_the_csv(find: Callable, make_split: SplitMaker, tmp_path: Path) -> None:
    result = find(make_split(40), make_split(30, seed=1, darkest=100))
    rows = read(tmp_path / "scores.csv")
    for name, metrics in result["scores"].items():
        inliers, outliers = (np.array([float(row[name]) for row in rows if row["is_outlier"] == k]) for k in "01")
        assert detection_metrics(inliers, outliers) == metrics


def test_larger_is_more_outlying(find: Callable, make_split: SplitMaker) -> None:
    dark, bright = make_split(20), make_split(20, seed=1, darkest=250)
    result = find(dark, bright, scores={"brightness": brightness})
    assert result["scores"]["brightness"]["auroc"] == 1
    assert result["scores"]["brightness"]["fpr95_out"] == 0


def test_no_score_is_squashed_or_rounded(find: Callable, make_split: SplitMaker, tmp_path: Path) -> None:
    def huge(evidence: Evidence) -> Tensor:
        return 1e6 + 1e-6 * brightness(evidence).double()

    result = find(make_split(20), make_split(20, seed=1, darkest=20), scores={"huge": huge, "brightness": brightness})
    assert result["scores"]["huge"] == result["scores"]["brightness"]
    assert 0.5 < result["scores"]["huge"]["auroc"] < 1
    assert len({row["huge"] for row in read(tmp_path / "scores.csv")}) == 40


def test_scores_are_the_same_twice(score: Callable, make_split: SplitMaker) -> None:
    torch.manual_seed(1)
    first = score(make_split(13))
    torch.manual_seed(2)
    second = score(make_split(13))
    assert all((first[name] == second[name]).all() for name in SCORES)


def test_a_score_does_not_depend_on_the_other_images(score: Callable, make_split: SplitMaker) -> None:
    inliers, outliers = make_split(20), make_split(20, seed=1, darkest=200)
    alone = {name: np.append(score(inliers, 1)[name], score(outliers, 1)[name]) for name in SCORES}
    shuffle = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    together = torch.cat([inliers.images[inliers.rows], outliers.images[outliers.rows]])[shuffle]
    mixed = Split("both", "test", together, torch.arange(40), "test", np.zeros(40, dtype=int), ["any"], None)
    for name in SCORES:
        assert np.ptp(alone[name]) > 1e-3
        for batch_size in (3, 64):
            np.testing.assert_allclose(score(mixed, batch_size)[name], alone[name][shuffle], rtol=1e-4, atol=1e-5)


def test_scoring_changes_nothing(find: Callable, make_split: SplitMaker, networks: AdversarialVAE) -> None:
    before = {name: tensor.clone() for name, tensor in networks.state_dict().items()}
    random_state = torch.get_rng_state()
    find(make_split(13), make_split(6, seed=1))
    assert all(torch.equal(tensor, before[name]) for name, tensor in networks.state_dict().items())
    assert all(module.training for module in networks.modules())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_set_against_itself_is_chance_and_is_said_so(
    find: Callable, make_split: SplitMaker, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        result = find(make_split(13), make_split(13, name="same by another name"))
    assert [metrics["auroc"] for metrics in result["scores"].values()] == [0.5, 0.5]
    assert "the same images" in caplog.text


def test_swapping_the_sets_mirrors_the_auroc(
    find: Callable, make_split: SplitMaker, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = make_split(13), make_split(9, seed=1, darkest=100)
    forward, backward = find(first, second)["scores"], find(second, first)["scores"]
    for name in SCORES:
        assert forward[name]["auroc"] == pytest.approx(1 - backward[name]["auroc"], abs=1e-12)
    assert not caplog.text


def test_each_set_is_read_once_by_the_networks(
    find: Callable, make_split: SplitMaker, networks: AdversarialVAE
) -> None:
    seen = {"encoder": 0, "discriminator": 0}
    for part in seen:

        def count(module: torch.nn.Module, inputs: tuple[Tensor], part: str = part) -> None:
            seen[part] += len(inputs[0])

        getattr(networks, part).register_forward_pre_hook(count)
    find(make_split(13), make_split(6, seed=1))
    assert seen == {"encoder": 19, "discriminator": 2 * 19}  # D looks at x and at x̂


def test_the_discriminator_alone_can_be_scored(
    find: Callable, make_split: SplitMaker, networks: AdversarialVAE
) -> None:
    both = find(make_split(13), make_split(6, seed=1))["scores"]
    networks.encoder = networks.decoder = None
    alone = find(make_split(13), make_split(6, seed=1), scores={"discriminator": SCORES["discriminator"]})
    assert alone["scores"] == {"discriminator": both["discriminator"]}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda evidence: evidence.images.flatten(1), r"'mine' gave shape \(4, 64\) for 4 images"),
        (lambda evidence: evidence.images.mean(), r"'mine' gave shape \(\) for 4 images"),
        (lambda evidence: [0.0] * 4, "'mine' gave list"),
        (lambda evidence: (brightness(evidence) - 2).log(), r"'mine' is nan for image 2 of toy test \(13 of 13"),
    ],
)
def test_a_score_must_be_one_finite_number_per_image(
    broken: Score, message: str, find: Callable, make_split: SplitMaker, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        find(make_split(13), make_split(6, seed=1), scores={"mine": broken})
    assert not list(tmp_path.iterdir())


def test_a_failing_write_leaves_no_scores(
    find: Callable, make_split: SplitMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Split) -> list[str]:
        raise OSError("No space left on device")

    monkeypatch.setattr(Split, "label_names", full)
    with pytest.raises(UserError, match=r"scores\.csv: No space"):
        find(make_split(3), make_split(2, seed=1))
    assert not list(tmp_path.iterdir())
