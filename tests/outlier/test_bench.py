import csv
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from advvae.data import Split
from advvae.data.shifts import shifted
from advvae.errors import UserError
from advvae.losses import Objective
from advvae.models import AdversarialVAE
from advvae.outlier.bench import find_outliers
from advvae.outlier.detector import make_detector
from advvae.outlier.evidence import Evidence, Score
from advvae.outlier.scores import named_scores
from advvae.outlier.statistics import METRICS, detection_metrics

SplitMaker = Callable[..., Split]
NAMES = ("loss", "discriminator")


def brightness(evidence: Evidence) -> Tensor:
    return evidence.images.flatten(1).mean(1)


@pytest.fixture
def find(
    networks: AdversarialVAE, objective: Objective, make_split: SplitMaker, tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    """find_outliers on the networks of the tests, with few images to fit on and to calibrate with."""

    def call(
        inliers: Split,
        *outliers: Split,
        scores: Mapping[str, Score] | None = None,
        fuse: tuple[str, ...] = (),
        groups: Mapping[str, Sequence[str]] | None = None,
        batch_size: int = 4,
        alpha: float = 0.1,
        **arguments: Any,
    ) -> dict[str, Any]:
        train = make_split(50, seed=8)
        detector = make_detector(
            networks,
            objective,
            named_scores(NAMES) if scores is None else scores,
            fuse=fuse,
            train=lambda: train,
            validation=lambda: make_split(40, seed=9),
            seed=0,
            device="cpu",
            known=None,
            identity={},
        )
        return find_outliers(
            detector,
            networks,
            objective,
            inliers,
            outliers,
            train=train,
            groups=groups or {},
            alpha=alpha,
            seed=0,
            batch_size=batch_size,
            device="cpu",
            folder=tmp_path,
            **arguments,
        )

    return call


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_report_and_files(find: Callable, make_split: SplitMaker, tmp_path: Path) -> None:
    result = find(make_split(13), make_split(6, seed=1, name="other"), fuse=NAMES)
    assert (result["n_in"], result["n_out"], result["ranked_by"]) == (13, 6, "fused")
    assert list(result["scores"]) == [*NAMES, "fused"]
    with_intervals = [f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high")]
    for name, metrics in result["scores"].items():
        assert list(metrics) == [*with_intervals, "threshold", "false_alarm_rate"]
        assert {metric: metrics[metric] for metric in with_intervals} == result["sets"]["other"]["scores"][name]
    pictures = ["auroc.png", "false_alarms.png", "histograms.png", "misses.png", "roc.png"]
    tables = ["alarms.csv", "comparisons.csv", "controls.csv", "labels.csv", "results.csv", "results.md", "results.tex"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*pictures, *tables, "scores.csv"])
    assert all(Image.open(tmp_path / name).width > 300 for name in pictures)


def test_the_csv_identifies_every_image(find: Callable, make_split: SplitMaker, tmp_path: Path) -> None:
    mine = make_split(2, seed=1, name="mine", paths=["a,b.png", "c.png"])
    find(make_split(3), mine, shifted(make_split(3), "hflip", seed=0))
    rows = read(tmp_path / "scores.csv")
    assert list(rows[0]) == ["is_outlier", "source", "split", "index", "path", "label", "loss", "discriminator"]
    described = [tuple(row.values())[:6] for row in rows]
    assert described == [
        ("0", "toy", "test", "2", "", "even"),
        ("0", "toy", "test", "3", "", "odd"),
        ("0", "toy", "test", "4", "", "even"),
        ("1", "mine", "test", "2", "a,b.png", "even"),
        ("1", "mine", "test", "3", "c.png", "odd"),
        ("1", "hflip", "test", "2", "", "even"),
        ("1", "hflip", "test", "3", "", "odd"),
        ("1", "hflip", "test", "4", "", "even"),
    ]


def test_the_csv_names_groups_where_there_are_some(find: Callable, make_split: SplitMaker, tmp_path: Path) -> None:
    sick = replace(make_split(2, seed=1, name="sick"), groups=np.array(["p", "q"]))
    find(make_split(3), sick, make_split(2, seed=2, name="other"))
    rows = read(tmp_path / "scores.csv")
    assert list(rows[0])[:8] == ["is_outlier", "source", "split", "index", "path", "label", "group", "loss"]
    assert [row["group"] for row in rows] == ["", "", "", "p", "q", "", ""]


def test_metrics_tell_each_label(find: Callable, make_split: SplitMaker, tmp_path: Path) -> None:
    """As labels.csv does; a set without labels, or a shift, has none."""
    sick = replace(make_split(8, seed=1, name="sick"), groups=np.arange(8) // 3)
    plain = replace(make_split(6, seed=2, name="plain"), labels=np.full(6, -1))
    sets = find(make_split(12), sick, plain, shifted(make_split(12), "hflip", seed=0))["sets"]
    assert [name for name in sets if "labels" in sets[name]] == ["sick"]
    assert {label: (found["n"], found["n_groups"]) for label, found in sets["sick"]["labels"].items()} == {
        "even": (4, 3),
        "odd": (4, 3),
    }
    for row in read(tmp_path / "labels.csv"):
        values = sets["sick"]["labels"][row["label"]]["scores"][row["score"]]
        assert [str(value) for value in values.values()] == [row[name] for name in values]
        assert list(values) == ["auroc", "auroc_low", "auroc_high"]
    assert "n_groups" not in find(make_split(12), make_split(6, seed=1))["sets"]["toy"]["labels"]["odd"]


def test_metrics_can_be_computed_again_from_the_csv(find: Callable, make_split: SplitMaker, tmp_path: Path) -> None:
    result = find(make_split(40), make_split(30, seed=1, darkest=100))
    rows = read(tmp_path / "scores.csv")
    for name in NAMES:
        inliers, outliers = (np.array([float(row[name]) for row in rows if row["is_outlier"] == k]) for k in "01")
        for metric, value in detection_metrics(inliers, outliers).items():
            assert result["scores"][name][metric] == value
        threshold = result["scores"][name]["threshold"]
        assert result["scores"][name]["false_alarm_rate"] == np.mean(inliers > threshold)


def test_several_sets_are_averaged(find: Callable, make_split: SplitMaker, tmp_path: Path) -> None:
    inliers = make_split(30)
    sets = [make_split(20, seed=k, name=f"set {k}", darkest=40 * k) for k in (1, 2, 3)]
    result = find(inliers, *sets, groups={"near": ["set 1", "set 2"], "far": ["set 3"]})
    aurocs = {name: found["scores"]["loss"]["auroc"] for name, found in result["sets"].items()}
    assert list(aurocs) == ["set 1", "set 2", "set 3"]
    assert result["scores"]["loss"]["auroc"] == pytest.approx(np.mean(list(aurocs.values())))
    assert result["near"]["loss"]["auroc"] == pytest.approx((aurocs["set 1"] + aurocs["set 2"]) / 2)
    assert result["far"]["loss"]["auroc"] == aurocs["set 3"]
    assert (tmp_path / "auroc_map.png").is_file()
    assert sorted(path.stem for path in (tmp_path / "misses").iterdir()) == list(aurocs)
    alone = find(inliers, sets[1])
    assert alone["sets"]["set 2"] == result["sets"]["set 2"]


def test_the_number_of_groups_stands_beside_that_of_images(find: Callable, make_split: SplitMaker) -> None:
    inliers = replace(make_split(12), groups=np.repeat(["p", "q", "r"], 4))
    outliers = replace(make_split(6, seed=1, name="sick"), groups=np.repeat([1, 2], 3))
    result = find(inliers, outliers, make_split(5, seed=2, name="other"))
    assert (result["n_in"], result["n_in_groups"], result["n_out"]) == (12, 3, 11)
    counts = ("n_in", "n_in_groups", "n_out", "n_out_groups")
    assert [result["sets"]["sick"][name] for name in counts] == [12, 3, 6, 2]
    assert [result["sets"]["other"].get(name) for name in counts] == [12, 3, 5, None]
    assert not any("groups" in name for name in find(make_split(12), make_split(6, seed=1)))


@pytest.fixture
def sick(make_split: SplitMaker) -> Split:
    """Images of the same name as the inliers, whose upper half is marked."""
    split = make_split(6, seed=1)
    masks = torch.zeros(len(split.images), 8, 8, dtype=torch.uint8)
    masks[:, :4] = 1
    return replace(split, masks=masks)


def test_masks_give_pixel_metrics(find: Callable, make_split: SplitMaker, sick: Split, tmp_path: Path) -> None:
    result = find(make_split(8), sick, make_split(5, seed=2, name="other"))
    assert list(result["sets"]["toy"]["pixels"]) == ["difference", "smoothed"]
    assert result["sets"]["toy"]["pixels"]["smoothed"]["n_images"] == 6
    assert "pixels" not in result["sets"]["other"]
    assert len(read(tmp_path / "pixels.csv")) == 6
    assert Image.open(tmp_path / "overlays.png").width > 300
    assert "best Dice" in (tmp_path / "results.md").read_text()


def test_maps_of_all_images_are_written_where_they_are_asked_for(
    find: Callable, make_split: SplitMaker, sick: Split, tmp_path: Path
) -> None:
    find(make_split(8), sick, make_split(5, seed=2, name="other"))
    assert not (tmp_path / "maps").exists()
    find(make_split(8), sick, make_split(5, seed=2, name="other"), maps=True)
    for folder, n in (("inliers", 8), ("outliers/toy", 6), ("outliers/other", 5)):
        for name in ("difference", "smoothed"):
            assert np.load(tmp_path / "maps" / folder / f"{name}.npy").shape == (n, 8, 8)
            pictures = sorted(path.name for path in (tmp_path / "maps" / folder / name).iterdir())
            assert pictures == [f"{index:05}.png" for index in range(2, n + 2)]  # as `index` in scores.csv


@pytest.mark.parametrize(
    ("crop", "reason"),
    [(6, "they were trained on crops of 6 px"), (None, "they are a discriminator alone")],
)
def test_without_reconstructions_the_log_says_why_there_are_no_maps(
    crop: int | None,
    reason: str,
    find: Callable,
    make_split: SplitMaker,
    sick: Split,
    networks: AdversarialVAE,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if crop is None:
        networks.encoder = networks.decoder = None
    plain, words = make_split(6, seed=1), f"no error maps: the networks reconstruct no whole images, since {reason}"
    for outliers, maps in ((plain, False), (plain, True), (sick, False)):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            result = find(make_split(8), outliers, scores={"brightness": brightness}, maps=maps, crop=crop)
        assert (words in caplog.text) == (maps or outliers is sick)
        assert "pixels" not in result["sets"]["toy"]
    assert not {"maps", "pixels.csv", "overlays.png"} & {path.name for path in tmp_path.iterdir()}


def test_draws_take_an_image_and_its_shift_together(find: Callable, make_split: SplitMaker, tmp_path: Path) -> None:
    """Every image grows by the same amount: drawn apart, the two sides would vary against each other."""
    inliers = make_split(200)
    brighter = replace(inliers, name="brighter", transform=lambda images, rows: images + 0.02)
    shift = find(inliers, brighter, scores={"brightness": brightness})["scores"]["brightness"]
    apart = find(inliers, replace(brighter, images=inliers.images.clone()), scores={"brightness": brightness})
    width = apart["scores"]["brightness"]["auroc_high"] - apart["scores"]["brightness"]["auroc_low"]
    assert shift["auroc_high"] - shift["auroc_low"] < 0.5 * width
    controls = {row["control"]: row for row in read(tmp_path / "controls.csv")}
    assert controls["set against itself"]["low"] == controls["set against itself"]["high"] == "0.5"


def test_larger_is_more_outlying(find: Callable, make_split: SplitMaker) -> None:
    dark, bright = make_split(20), make_split(20, seed=1, darkest=250)
    result = find(dark, bright, scores={"brightness": brightness})
    assert result["scores"]["brightness"]["auroc"] == 1
    assert result["scores"]["brightness"]["fpr95_out"] == 0


def test_no_score_is_squashed_or_rounded(find: Callable, make_split: SplitMaker, tmp_path: Path) -> None:
    def huge(evidence: Evidence) -> Tensor:
        return 1e6 + 1e-6 * brightness(evidence).double()

    result = find(make_split(20), make_split(20, seed=1, darkest=20), scores={"huge": huge, "brightness": brightness})
    scores = result["sets"]["toy"]["scores"]
    assert scores["huge"] == scores["brightness"]
    assert 0.5 < scores["huge"]["auroc"] < 1
    assert len({row["huge"] for row in read(tmp_path / "scores.csv")}) == 40


def test_scoring_changes_nothing(find: Callable, make_split: SplitMaker, networks: AdversarialVAE) -> None:
    before = {name: tensor.clone() for name, tensor in networks.state_dict().items()}
    random_state = torch.get_rng_state()
    find(make_split(13), make_split(6, seed=1))
    assert all(torch.equal(tensor, before[name]) for name, tensor in networks.state_dict().items())
    assert all(module.training for module in networks.modules())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_shared_images_are_counted_and_told(
    find: Callable, make_split: SplitMaker, caplog: pytest.LogCaptureFixture
) -> None:
    inliers = make_split(13)
    with caplog.at_level(logging.WARNING):
        result = find(inliers, make_split(13, name="same by another name"))
    assert [result["scores"][name]["auroc"] for name in NAMES] == [0.5, 0.5]
    assert result["sets"]["same by another name"]["duplicates"] == 13
    assert "13 of its 13 images (100.0%) equal an inlier" in caplog.text
    assert "at chance by construction" in caplog.text
    partly = make_split(6, seed=1)
    partly.images[2:4] = inliers.images[5:7]
    assert find(inliers, partly)["sets"]["toy"]["duplicates"] == 2


def test_controls_come_out_at_chance_for_an_honest_score(
    find: Callable, make_split: SplitMaker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def of_its_batch(evidence: Evidence) -> Tensor:
        return brightness(evidence) - brightness(evidence).mean()  # as under batch statistics

    find(make_split(60), make_split(6, seed=1), scores={"brightness": brightness, "of_its_batch": of_its_batch})
    controls = {(row["control"], row["score"]): float(row["auroc"]) for row in read(tmp_path / "controls.csv")}
    assert controls["set against itself", "brightness"] == 0.5
    assert controls["set against itself", "of_its_batch"] != 0.5
    assert "score of_its_batch of an image depends on those it is scored with" in caplog.text
    assert "score brightness" not in caplog.text
    assert controls["train vs test inliers", "brightness"] == pytest.approx(0.5, abs=0.15)


def test_a_score_that_knows_the_training_images_by_heart_shows(
    find: Callable, make_split: SplitMaker, tmp_path: Path
) -> None:
    known = {tuple(image.flatten().tolist()) for batch in make_split(50, seed=8).batches(50) for image in batch}

    def memory(evidence: Evidence) -> Tensor:
        return torch.tensor([tuple(image.flatten().tolist()) not in known for image in evidence.images]).float()

    find(make_split(30), make_split(6, seed=1), scores={"memory": memory})
    (row,) = [row for row in read(tmp_path / "controls.csv") if row["control"] == "train vs test inliers"]
    assert float(row["auroc"]) == 1


def test_a_set_of_one_image_has_no_metrics(
    find: Callable, make_split: SplitMaker, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with caplog.at_level(logging.WARNING):
        result = find(make_split(13), make_split(1, seed=1))
    assert {result["scores"]["loss"][metric] for metric in METRICS} == {"undefined"}
    assert "undefined" in caplog.text
    assert "undefined" in (tmp_path / "results.md").read_text()


def test_constant_images_are_scored(find: Callable, make_split: SplitMaker, tmp_path: Path) -> None:
    constant = make_split(5, seed=1)
    constant.images[:] = 255
    scores = named_scores([name for name in ALL if name not in ("likelihood_regret", "patch_discriminator")])
    result = find(make_split(13), constant, scores=scores)
    assert all(0 <= metrics["auroc"] <= 1 for metrics in result["scores"].values())


ALL = (
    *("loss", "recon_mse", "recon_l1", "recon_nmse", "recon_ssim", "kld", "elbo", "iwae"),
    *("typicality", "input_complexity"),
    *("latent_mahalanobis", "latent_gmm", "lpath", "discriminator", "discriminator_recon", "feature_distance"),
    *("feature_knn", "feature_mahalanobis", "mean_brightness", "contrast", "png_bytes", "pixel_knn"),
)


def test_swapping_the_sets_mirrors_the_auroc(find: Callable, make_split: SplitMaker) -> None:
    first, second = make_split(13), make_split(9, seed=1, darkest=100)
    forward, backward = find(first, second)["scores"], find(second, first)["scores"]
    for name in NAMES:
        assert forward[name]["auroc"] == pytest.approx(1 - backward[name]["auroc"], abs=1e-12)


def test_below_chance_is_told_and_not_flipped(
    find: Callable, make_split: SplitMaker, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        result = find(make_split(20, darkest=250), make_split(20, seed=1), scores={"brightness": brightness})
    assert result["scores"]["brightness"]["auroc"] == 0
    assert "below chance, whole interval: brightness (not flipped)" in caplog.text


def test_the_discriminator_alone_can_be_scored(
    find: Callable, make_split: SplitMaker, networks: AdversarialVAE, tmp_path: Path
) -> None:
    both = find(make_split(13), make_split(6, seed=1))["scores"]
    networks.encoder = networks.decoder = None
    alone = find(make_split(13), make_split(6, seed=1), scores=named_scores(["discriminator"]))
    assert alone["scores"] == {"discriminator": both["discriminator"]}
    assert (tmp_path / "misses.png").is_file()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda evidence: evidence.images.flatten(1), r"'mine' gave .*\(20, 64\).* for 20 images"),
        (lambda evidence: [0.0] * 4, "'mine' gave .*list"),
        (lambda evidence: (brightness(evidence) - 2).log(), r"'mine' is nan for image"),
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
