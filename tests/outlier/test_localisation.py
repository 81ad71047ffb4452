from __future__ import annotations

import csv
import errno
import json
import logging
import resource
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from advvae.data import Split
from advvae.data.shifts import shifted
from advvae.errors import UserError
from advvae.models import AdversarialVAE
from advvae.models.evaluation import evaluation
from advvae.outlier import localisation, maps, pixel_report
from advvae.outlier.localisation import Localisation, Marked, localise, pixel_metrics
from advvae.outlier.maps import map_files, maps_of, pixel_errors
from advvae.outlier.overlay import overlays
from advvae.outlier.pixel_report import report_pixels

SplitMaker = Callable[..., Split]


def marked(errors: list | np.ndarray, masks: list | np.ndarray, groups: np.ndarray | None = None) -> Marked:
    return Marked(np.array(errors, np.float32), np.array(masks, bool), groups)


def random_images(n: int, seed: int, *, lesions: int = 2, shift: float = 0.2, steps: int = 20) -> Marked:
    """n images of 12 px with square lesions, which may touch; errors are rounded, so that many tie."""
    random = np.random.default_rng(seed)
    errors, masks = random.random((n, 12, 12)), np.zeros((n, 12, 12), bool)
    for mask in masks:
        for top, left, side in random.integers(1, 9, (lesions, 3)):
            mask[top : top + side // 3 + 1, left : left + side // 2 + 1] = True
    return marked(((errors + shift * masks) * steps).round() / steps, masks)


def pooled(*sides: Marked) -> tuple[np.ndarray, np.ndarray]:
    parts = ((np.float64(side.errors).ravel(), side.masks.ravel()) for side in sides)
    errors, masks = zip(*parts, strict=True)
    return np.concatenate(errors), np.concatenate(masks)


# Metrics


def test_metrics_by_hand() -> None:
    """Fifteen normal pixels, and two regions, of three pixels and of one."""
    inliers = marked([[[0, 1, 2, 3, 4], [0, 1, 2, 3, 6]]], np.zeros((1, 2, 5)))
    outliers = marked([[[5, 7, 7], [0, 0, 0], [3, 0, 0]]], [[[1, 1, 1], [0, 0, 0], [1, 0, 0]]])
    found = localise(inliers, outliers)
    # 3 is above 11 normal pixels and ties with 2, 5 is above 14, and each 7 above all 15
    assert found.metrics["auroc"] == pytest.approx((11 + 2 / 2 + 14 + 15 + 15) / (4 * 15))
    # in steps of 1/15 of the normal pixels: 7 finds 2/3 of one region and nothing of the other, up to 1; 5 all of one,
    # up to 2; 3 ties with two normal pixels, so from 2 to 4 the mean rises from 1/2 to 1, and stays until 0.3 = 4.5
    area = (1 / 3 + 1 / 2 + 2 * (1 / 2 + 1) / 2 + 0.5) / 15
    assert found.metrics["aupro"] == pytest.approx(area / 0.3)
    # from 5 on 3 of 4 are found and one normal pixel is flagged: 2 · 3 / (4 + 4); from 3 on it is 2 · 4 / (8 + 4)
    assert (found.metrics["dice"], found.metrics["threshold"]) == (0.75, 5)
    assert found.counts == {"n_in": 1, "n_images": 1, "n_regions": 2}
    assert found.metrics["auroc_low"] == found.metrics["dice_high"] == "undefined"  # of one image on a side


@pytest.mark.parametrize("seed", range(3))
def test_auroc_is_that_of_scikit_learn_in_float64(seed: int) -> None:
    inliers, outliers = random_images(5, seed, lesions=0), random_images(4, seed + 10)
    errors, masks = pooled(inliers, outliers)
    assert localise(inliers, outliers).metrics["auroc"] == pytest.approx(roc_auc_score(masks, errors), abs=1e-12)


def slow_metrics(inliers: Marked, outliers: Marked) -> tuple[float, float]:
    """AUPRO and best Dice by a loop over all thresholds, images and regions."""
    from scipy.ndimage import label

    errors, masks = pooled(inliers, outliers)
    points, best = [(0.0, 0.0)], 0.0
    for threshold in np.unique(errors)[::-1]:
        overlaps = []
        for side in (inliers, outliers):
            for image, mask in zip(side.errors, side.masks, strict=True):
                regions, n = label(mask, np.ones((3, 3)))
                overlaps += [np.mean(image[regions == region] >= threshold) for region in range(1, n + 1)]
        flagged = errors >= threshold
        points.append((float(np.mean(flagged[~masks])), float(np.mean(overlaps))))
        best = max(best, 2 * np.sum(flagged & masks) / (np.sum(flagged) + np.sum(masks)))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 < 0.3 < x1:
            x1, y1 = 0.3, y0 + (y1 - y0) * (0.3 - x0) / (x1 - x0)
        if x1 <= 0.3:
            area += (x1 - x0) * (y0 + y1) / 2
    return area / 0.3, best


@pytest.mark.parametrize(("seed", "steps"), [(0, 4), (1, 20), (2, 1000)])
def test_aupro_and_dice_are_those_of_a_loop_over_thresholds(seed: int, steps: int) -> None:
    inliers, outliers = random_images(4, seed, lesions=0, steps=steps), random_images(5, seed + 10, steps=steps)
    found = localise(inliers, outliers).metrics
    assert (found["aupro"], found["dice"]) == pytest.approx(slow_metrics(inliers, outliers), abs=1e-12)


def test_a_region_counts_as_much_as_another_whatever_its_size() -> None:
    """The large region has the largest errors, the small one none: AUROC is near 1, AUPRO a half."""
    mask = np.zeros((1, 8, 8), bool)
    mask[0, :4], mask[0, 7, 7] = True, True
    errors = np.where(mask, 2.0, 1.0)
    errors[0, 7, 7] = 0
    found = localise(marked(np.ones((1, 8, 8)), np.zeros((1, 8, 8))), marked(errors, mask)).metrics
    assert found["auroc"] == pytest.approx(32 / 33)
    assert found["aupro"] == pytest.approx(0.5)


def test_regions_touch_at_corners_and_end_at_their_image() -> None:
    diagonal = np.eye(4, dtype=bool)
    masks = np.stack([diagonal, diagonal, np.array([[1, 0, 1, 0]] * 4, bool), np.zeros((4, 4), bool)])
    images = marked(np.ones((4, 4, 4)), masks)
    assert images.n_regions == 1 + 1 + 2
    assert [shares.tolist() for shares in images.region_shares] == [[0.25] * 4, [0.25] * 4, [0.25] * 8, []]


def test_chance_is_a_half_and_0_15() -> None:
    """Of constant errors all pixels are flagged at once: a straight line."""
    outliers = marked(np.ones((2, 4, 4)), np.stack([np.eye(4), np.eye(4)]))
    found = localise(marked(np.ones((2, 4, 4)), np.zeros((2, 4, 4))), outliers).metrics
    assert (found["auroc"], found["aupro"]) == (0.5, pytest.approx(0.15))
    assert found["dice"] == pytest.approx(2 * 8 / (64 + 8))


def test_each_image_has_its_own_auroc_and_its_dice_at_the_common_threshold() -> None:
    inliers = marked(np.zeros((1, 2, 2)), np.zeros((1, 2, 2)))
    masks = [[[1, 0], [0, 0]], [[1, 1], [0, 0]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]]
    errors = [[[5, 6], [0, 0]], [[5, 7], [0, 0]], [[0, 0], [0, 0]], [[5, 5], [5, 4]]]
    found = localise(inliers, marked(errors, masks))
    assert found.metrics["threshold"] == 4
    np.testing.assert_allclose(found.aurocs, [2 / 3, 1, np.nan, np.nan])  # nothing, or all, is anomalous
    np.testing.assert_allclose(found.dices, [2 / 3, 1, np.nan, 1])


def test_errors_that_differ_by_one_bit_are_told_apart() -> None:
    """float32 values just above 0.1, which float16 or histograms would make one."""
    above = np.nextafter(np.float32(0.1), np.float32(1))
    outliers = marked([[[0.1, above], [0.1, 0.1]]], [[[0, 1], [0, 0]]])
    assert localise(marked(np.full((1, 2, 2), 0.1), np.zeros((1, 2, 2))), outliers).metrics["auroc"] == 1


def test_without_a_normal_pixel_only_dice_is_defined() -> None:
    everything = marked(np.ones((3, 2, 2)), np.ones((3, 2, 2)))
    found = localise(everything, everything).metrics
    assert {found[f"{metric}{end}"] for metric in ("auroc", "aupro") for end in ("", "_low", "_high")} == {"undefined"}
    assert found["dice"] == found["dice_low"] == found["dice_high"] == 1
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_errors_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(UserError, match="error maps: 1 of 3 are not finite: train again"):
        marked([[[1, 2]], [[value, value]], [[0, 0]]], np.zeros((3, 1, 2)))


# Intervals


def test_a_draw_of_every_image_once_gives_the_values() -> None:
    """The curves of a draw have fewer points than the exact ones, and tell nearly the same."""
    inliers, outliers = random_images(30, 0, lesions=0, steps=10**6), random_images(30, 1, steps=10**6)
    anomalous = outliers.errors[outliers.masks]
    thresholds = localisation._spread(anomalous, np.concatenate(outliers.region_shares))
    assert len(thresholds) <= localisation.BINS
    curves = sum(localisation._curves(side, thresholds).sum(axis=0) for side in (inliers, outliers))
    exact = localise(inliers, outliers).metrics
    values = [float(exact[metric]) for metric in localisation.METRICS]
    np.testing.assert_allclose(pixel_metrics(curves.reshape(3, -1)), values, atol=1e-3)


def interval(found: Localisation, metric: str) -> tuple[float, float]:
    return float(found.metrics[f"{metric}_low"]), float(found.metrics[f"{metric}_high"])


def test_intervals_cover_the_values_and_follow_from_the_seed() -> None:
    inliers, outliers = random_images(20, 0, lesions=0), random_images(20, 1)
    found, again, other = (localise(inliers, outliers, seed) for seed in (0, 0, 1))
    for metric in localisation.METRICS:
        low, high = interval(found, metric)
        assert low < float(found.metrics[metric]) < high
    assert found.metrics == again.metrics
    assert found.metrics != other.metrics
    assert found.metrics["auroc"] == other.metrics["auroc"]


def test_draws_take_images_and_not_pixels() -> None:
    """Two kinds of outliers, found well and not at all: which ones a draw takes matters, and nothing else does."""
    mask = np.zeros((20, 10, 10), bool)
    mask[:, :5] = True
    errors = np.where(mask, np.where(np.arange(20) < 10, 2.0, 0.0)[:, None, None], 1.0)
    found = localise(marked(np.ones((20, 10, 10)), np.zeros((20, 10, 10))), marked(errors, mask))
    assert found.metrics["auroc"] == 0.5
    low, high = interval(found, "auroc")  # of ± 1.96 · √(0.25 / 20) = ± 0.22, where 1,000 pixels would give ± 0.03
    assert (low, high) == pytest.approx((0.28, 0.72), abs=0.03)


def test_draws_take_whole_groups() -> None:
    """Ten images each of four patients are not forty: the interval is about √10 times as wide."""
    random = np.random.default_rng(0)
    patients = np.repeat(np.arange(4), 10)
    mask = np.zeros((40, 6, 6), bool)
    mask[:, 2:4, 2:4] = True
    errors = random.random((40, 6, 6)) + mask * np.array([-0.3, 0.0, 0.3, 0.6])[patients][:, None, None]
    inliers = marked(random.random((40, 6, 6)), np.zeros((40, 6, 6)))
    images = localise(inliers, marked(errors, mask))
    grouped = localise(inliers, marked(errors, mask, groups=np.array(list("abcd"))[patients]))
    assert grouped.counts == {"n_in": 40, "n_images": 40, "n_groups": 4, "n_regions": 40}
    assert grouped.metrics["auroc"] == images.metrics["auroc"]
    widths = [high - low for low, high in (interval(found, "auroc") for found in (images, grouped))]
    assert widths[1] > 2 * widths[0]


# Error maps


def test_error_maps_are_shares_of_the_range_averaged_over_channels() -> None:
    images, other = torch.full((1, 3, 16, 16), -1.0), torch.full((1, 3, 16, 16), -1.0)
    other[:, 0] = 1
    found = pixel_errors(images, other)
    assert list(found) == ["difference", "smoothed"]
    for errors in found.values():
        assert errors.dtype == np.float32
        np.testing.assert_allclose(errors, np.full((1, 16, 16), 1 / 3), rtol=1e-6)


def test_smoothing_is_by_a_gaussian_of_a_16th_of_the_side() -> None:
    from scipy.ndimage import gaussian_filter

    images, other = torch.rand(2, 1, 5, 40, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = pixel_errors(images, other)
    expected = gaussian_filter(np.float64(found["difference"]), sigma=40 / 16, axes=(-2, -1))
    np.testing.assert_allclose(found["smoothed"], expected, atol=1e-6)


def test_the_map_of_an_image_is_its_own(networks: AdversarialVAE, make_split: SplitMaker) -> None:
    """At the posterior mean and with running statistics, whatever images are beside it; nothing is changed by it."""
    before = {name: tensor.clone() for name, tensor in networks.state_dict().items()}
    split = make_split(7)
    all_maps, single = (
        [np.concatenate([batch[kind] for batch in maps_of(networks, split, batch_size=n, device="cpu")])
         for kind in maps.MAPS] for n in (7, 1)
    )  # fmt: skip
    np.testing.assert_allclose(all_maps, single, atol=1e-6)
    assert np.ptp(all_maps[0]) > 0.01
    images = next(split.batches(7))
    with evaluation(networks, "cpu"):
        expected = (images - networks.reconstruct(images)).abs()[:, 0] / 2
    np.testing.assert_allclose(all_maps[0], expected, atol=1e-6)
    assert all(torch.equal(tensor, before[name]) for name, tensor in networks.state_dict().items())
    assert networks.training


def test_maps_that_are_not_finite_are_refused(networks: AdversarialVAE, make_split: SplitMaker) -> None:
    assert networks.encoder is not None
    with torch.no_grad():
        next(networks.encoder.parameters()).fill_(torch.nan)
    with pytest.raises(UserError, match="error maps: some reconstructions of toy test are not finite: train again"):
        next(maps_of(networks, make_split(3), batch_size=2, device="cpu"))


def test_grad_is_on_between_batches_of_maps(networks: AdversarialVAE, make_split: SplitMaker) -> None:
    for _ in maps_of(networks, make_split(4), batch_size=2, device="cpu"):
        assert torch.is_grad_enabled()
        assert networks.training


# Files of maps


def test_map_files_hold_all_images_in_order(networks: AdversarialVAE, make_split: SplitMaker, tmp_path: Path) -> None:
    first, second = make_split(3), make_split(12, seed=1)
    with map_files(networks, tmp_path / "maps", 8, batch_size=2, device="cpu") as add:
        add(first, ["a", "b", "c"])
        add(second, [f"split/{number:05}" for number in range(12)])
    scale = json.loads((tmp_path / "maps" / "scale.json").read_text())
    for name in maps.MAPS:
        array = np.load(tmp_path / "maps" / f"{name}.npy")
        both = [
            batch[name] for split in (first, second) for batch in maps_of(networks, split, batch_size=4, device="cpu")
        ]
        assert (array.dtype, array.shape) == (np.float32, (15, 8, 8))
        np.testing.assert_allclose(array, np.concatenate(both), atol=1e-6)
        assert scale[name] == {"black": 0, "brightest": array.max()}
        names = [*(f"{letter}.png" for letter in "abc"), *(f"split/{number:05}.png" for number in range(12))]
        pictures = [tmp_path / "maps" / name / picture for picture in names]
        assert sorted((tmp_path / "maps" / name).rglob("*.png")) == pictures
        listed = [{"row": str(row), "picture": picture} for row, picture in enumerate(names)]
        assert rows(tmp_path / "maps" / "pictures.csv") == listed
        image, row, column = np.unravel_index(array.argmax(), array.shape)
        pixels = np.asarray(Image.open(pictures[image]))
        assert pixels.shape == (8, 8, 3)
        assert pixels[row, column].tolist() == [252, 254, 164]  # the brightest colour of inferno


def test_a_full_disk_is_one_message_and_leaves_no_half_array(
    networks: AdversarialVAE, make_split: SplitMaker, tmp_path: Path
) -> None:
    """Files of at most 1,000 bytes stand for it: the header fits, and one batch of two images, but not two batches."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with (
            pytest.raises(UserError, match=r"^cannot write .*\.npy: File too large$"),
            map_files(networks, tmp_path / "maps", 8, batch_size=2, device="cpu") as add,
        ):
            add(make_split(6), list("abcdef"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "maps").iterdir())


def test_a_disk_that_is_full_of_pictures_is_one_message(
    networks: AdversarialVAE, make_split: SplitMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(pixels: torch.Tensor, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(maps, "save_image", full)
    with (
        pytest.raises(UserError, match=r"^cannot write .*00000\.png: No space left on device$"),
        map_files(networks, tmp_path, 8, batch_size=2, device="cpu") as add,
    ):
        add(make_split(6), [f"{number:05}" for number in range(6)])


# Reports


@pytest.fixture
def with_masks(make_split: SplitMaker) -> Callable[..., Split]:
    """n images, of which those at `unknown` positions have no mask; the others are anomalous in the 3 × 3 px corner."""

    def make(n: int, unknown: tuple[int, ...] = (), **arguments: object) -> Split:
        split = make_split(n, **arguments)
        masks = torch.zeros(len(split.images), 8, 8, dtype=torch.uint8)
        masks[:, :3, :3] = 1
        masks[split.rows[list(unknown)]] = 2
        return replace(split, masks=masks)

    return make


@pytest.fixture
def report(networks: AdversarialVAE, tmp_path: Path) -> Callable[..., dict]:
    def call(inliers: Split, *outliers: Split) -> dict:
        return report_pixels(networks, inliers, outliers, tmp_path, seed=0, batch_size=4, device="cpu")

    return call


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_only_known_masks_are_used_and_the_others_are_counted(
    report: Callable, with_masks: Callable, make_split: SplitMaker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sick = with_masks(6, unknown=(1, 4), seed=1, name="sick", paths=list("abcdef"))
    with caplog.at_level(logging.INFO):
        found = report(make_split(5), sick)["sick"]
    assert list(found) == ["difference", "smoothed"]
    for metrics in found.values():
        counts = {name: metrics[name] for name in ("n_in", "n_images", "n_regions", "n_left_out")}
        assert counts == {"n_in": 5, "n_images": 4, "n_regions": 4, "n_left_out": 2}
        assert metrics["auroc_low"] < metrics["auroc"] < metrics["auroc_high"]
    assert "sick: pixel metrics leave out 2 of 6 images, whose masks are not known" in caplog.text
    listed = rows(tmp_path / "pixels.csv")
    assert [(row["source"], row["index"], row["path"]) for row in listed] == [
        ("sick", "2", "a"), ("sick", "4", "c"), ("sick", "5", "d"), ("sick", "7", "f"),
    ]  # fmt: skip
    assert {row["anomalous_pixels"] for row in listed} == {"9"}
    assert "group" not in listed[0]
    assert (tmp_path / "overlays.png").is_file()


def test_metrics_can_be_computed_again_from_the_images(
    report: Callable, with_masks: Callable, make_split: SplitMaker, networks: AdversarialVAE, tmp_path: Path
) -> None:
    inliers, sick = make_split(5), with_masks(6, unknown=(0,), seed=1)
    found = report(inliers, sick)["toy"]
    errors = [
        np.concatenate([batch["smoothed"] for batch in maps_of(networks, split, batch_size=4, device="cpu")])
        for split in (inliers, sick.subset(torch.arange(1, 6)))
    ]
    masks = np.zeros((5, 8, 8), bool)
    masks[:, :3, :3] = True
    values = np.concatenate(errors).ravel()
    expected = roc_auc_score(np.concatenate([np.zeros((5, 8, 8)), masks]).ravel(), values)
    assert found["smoothed"]["auroc"] == pytest.approx(expected, abs=1e-6)
    for row, own in zip(rows(tmp_path / "pixels.csv"), errors[1], strict=True):
        flagged = own >= found["smoothed"]["threshold"]
        assert float(row["smoothed_auroc"]) == pytest.approx(roc_auc_score(masks[0].ravel(), own.ravel()), abs=1e-6)
        assert float(row["smoothed_dice"]) == pytest.approx(2 * flagged[:3, :3].sum() / (flagged.sum() + 9))


def test_inliers_are_normal_but_for_what_their_own_mask_marks(
    report: Callable, with_masks: Callable, make_split: SplitMaker
) -> None:
    plain, sick = make_split(5), with_masks(4, seed=1)
    unknown = with_masks(5, unknown=(0, 1, 2, 3, 4))
    assert report(plain, sick)["toy"] == report(unknown, sick)["toy"]
    marked = with_masks(5, unknown=(0, 1, 2, 3))
    assert report(marked, sick)["toy"]["smoothed"]["n_regions"] == 4 + 1


def test_masks_are_not_of_shifted_images(report: Callable, with_masks: Callable, tmp_path: Path) -> None:
    sick = with_masks(4)
    assert report(sick, shifted(sick, "hflip", seed=0)) == {}
    assert not list(tmp_path.iterdir())


def test_masks_that_mark_nothing_measure_nothing(
    report: Callable, make_split: SplitMaker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    split = make_split(4, seed=1, name="well")
    with caplog.at_level(logging.INFO):
        assert report(make_split(3), make_split(3), replace(split, masks=torch.zeros(6, 8, 8).byte())) == {}
    assert "well: no pixel metrics: no mask marks a pixel" in caplog.text
    assert not list(tmp_path.iterdir())


def test_of_too_many_images_some_are_drawn_and_said_so(
    report: Callable, with_masks: Callable, make_split: SplitMaker,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(pixel_report, "PIXELS", 64 * 4)
    found = report(make_split(9), with_masks(6, seed=1, name="sick", unknown=(0,)))["sick"]["difference"]
    assert (found["n_in"], found["n_images"], found["n_left_out"]) == (4, 4, 2)
    assert "toy: pixel metrics use 4 of 9 images" in caplog.text
    assert "sick: pixel metrics use 4 of 5 images" in caplog.text


def test_several_sets_have_their_rows_and_their_overlays(
    report: Callable, with_masks: Callable, make_split: SplitMaker, tmp_path: Path
) -> None:
    groups = np.array(["p", "p", "q"])
    sets = with_masks(3, seed=1, name="a"), make_split(4), replace(with_masks(3, seed=2, name="b"), groups=groups)
    found = report(make_split(5), *sets)
    assert list(found) == ["a", "b"]
    assert found["b"]["smoothed"]["n_groups"] == 2
    assert "n_groups" not in found["a"]["smoothed"]
    listed = rows(tmp_path / "pixels.csv")
    assert [row["source"] for row in listed] == ["a"] * 3 + ["b"] * 3
    assert list(listed[0])[:6] == ["source", "split", "index", "path", "group", "anomalous_pixels"]
    assert [row["group"] for row in listed] == ["", "", "", "p", "p", "q"]
    assert sorted(path.name for path in (tmp_path / "overlays").iterdir()) == ["a.png", "b.png"]


def test_overlays_show_the_best_and_the_worst(
    report: Callable, with_masks: Callable, make_split: SplitMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list = []
    monkeypatch.setattr(pixel_report, "overlays", lambda *arguments: drawn.extend(arguments))
    monkeypatch.setattr(pixel_report, "SHOWN", 2)
    sick = with_masks(7, seed=1)
    report(make_split(5), sick)
    images, _, _, captions, path, _ = drawn
    dices = {int(row["index"]): float(row["smoothed_dice"]) for row in rows(tmp_path / "pixels.csv")}
    order = sorted(dices, key=lambda index: (-dices[index], index))
    indices = [int(caption.split(":")[0]) for caption in captions]
    assert indices == [*order[:2], *order[-2:]]
    assert captions[0] == f"{order[0]}: Dice {dices[order[0]]:.3f}"
    torch.testing.assert_close(images, next(sick.batches(7))[[index - 2 for index in indices]])
    assert path == tmp_path / "overlays.png"


def test_an_overlay_outlines_the_mask_outside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from advvae.outlier import overlay

    seen: list = []
    sheet = overlay.sheet

    def noted(parts: list, names: list[str], captions: list[str], title: str) -> Image.Image:
        seen.extend([parts, names])
        return sheet(parts, names, captions, title)

    monkeypatch.setattr(overlay, "sheet", noted)
    mask, errors = np.zeros((1, 16, 16), bool), np.zeros((1, 16, 16), np.float32)
    mask[0, 4:8, 4:8], errors[0, 5, 5] = True, 0.25
    overlays(torch.full((1, 1, 16, 16), -0.2), mask, errors, ["one"], tmp_path / "new" / "overlays.png", "title")
    (image, covered, _), names = seen
    assert names[2] == "smoothed\n|difference|\n0 to 0.250"
    assert image.shape == covered.shape == (1, 3, 144, 144)  # nine pixels for one
    row = covered[0, :, 54]  # through the middle of the mask, which is 36 to 71
    assert row[:, 36:72].ne(255).any(dim=0).all()
    assert row[:, [34, 35, 72, 73]].eq(255).all()
    assert row[:, [32, 33, 74, 75]].eq(0).all()
    assert row[:, 40].tolist() == [round(0.6 * 102 + 0.4 * colour) for colour in (0, 0, 3)]  # the map's darkest
    assert covered[0, :, 49, 49].tolist() == [round(0.6 * 102 + 0.4 * colour) for colour in (252, 254, 164)]


def test_inliers_are_drawn_by_patient() -> None:
    """Each inlier twice, as one patient's, is each inlier once: a draw that took images would have other intervals."""
    once = random_images(12, seed=0, lesions=0)
    outliers = marked(random_images(9, seed=1).errors, np.ones((9, *once.errors.shape[1:]), bool))
    twice = marked(once.errors.repeat(2, 0), once.masks.repeat(2, 0), np.arange(12).repeat(2))
    for metric in ("auroc", "aupro"):  # Dice counts pixels
        assert interval(localise(twice, outliers), metric) == pytest.approx(interval(localise(once, outliers), metric))
