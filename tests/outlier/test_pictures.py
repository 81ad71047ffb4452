from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image, ImageFont
from torch.overrides import TorchFunctionMode

from advvae.outlier import pictures
from advvae.outlier.sheet import wrapped

Scores = dict[str, np.ndarray]


def texts(figure: Any) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text)]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list:
    """The matplotlib figures that were saved."""
    from matplotlib.figure import Figure

    saved: list[Figure] = []
    save = Figure.savefig

    def savefig(figure: Figure, *args: Any, **kwargs: Any) -> None:
        saved.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return saved


def test_histograms_are_shares_of_each_set_with_counts(tmp_path: Path, drawn: list) -> None:
    inliers = {"loss": np.zeros(4), "other": np.arange(4.0)}
    outliers = {"mnist": {"loss": np.ones(2), "other": np.arange(2.0)}}
    pictures.histograms(inliers, outliers, {}, tmp_path / "new" / "histograms.png")
    area, outline = (patch.get_data().values for patch in drawn[0].axes[0].patches)
    assert area.sum() == outline.sum() == 1
    assert area[0] == outline[-1] == 1
    assert {"loss", "other", "inliers (n = 4)", "mnist (n = 2)"} <= set(texts(drawn[0]))
    assert "threshold" not in texts(drawn[0])
    assert (tmp_path / "new" / "histograms.png").read_bytes().startswith(b"\x89PNG")


def test_the_number_of_groups_stands_beside_that_of_images(tmp_path: Path, drawn: list) -> None:
    inliers, outliers = {"loss": np.zeros(4)}, {name: {"loss": np.ones(2000)} for name in ("mine", "other")}
    path = tmp_path / "histograms.png"
    pictures.histograms(inliers, outliers, {}, path, in_groups=3, out_groups={"mine": 1500, "other": None})
    pictures.screen_histogram(np.arange(4.0), np.arange(2.0), None, "loss", path, n_groups=2)
    assert {"inliers (n = 4, 3 groups)", "mine (n = 2,000, 1,500 groups)", "other (n = 2,000)"} <= set(texts(drawn[0]))
    assert {"normal validation images (n = 4, 2 groups)", "screened (n = 2)"} <= set(texts(drawn[1]))


def test_thresholds_stand_in_their_panels_and_in_the_legend(tmp_path: Path, drawn: list) -> None:
    inliers = {"without": np.arange(4.0), "loss": np.arange(4.0), "other": np.arange(4.0)}
    thresholds = {"without": None, "loss": 2.5, "other": 9.0}  # the last beyond all scores
    pictures.histograms(inliers, {}, thresholds, tmp_path / "histograms.png")
    lines = [[line.get_xdata()[0] for line in axis.lines] for axis in drawn[0].axes]
    assert lines == [[], [2.5], [9.0]]
    assert {"threshold 2.5", "threshold 9", "threshold"} <= set(texts(drawn[0]))
    assert drawn[0].axes[2].get_xlim()[1] >= 9


def test_six_sets_are_drawn_each_in_its_own_style_and_the_others_named(tmp_path: Path, drawn: list) -> None:
    inliers = {"loss": np.arange(5.0)}
    outliers = {f"set{number}": {"loss": np.arange(5.0) + number} for number in range(8)}
    pictures.histograms(inliers, outliers, {}, tmp_path / "histograms.png")
    pictures.roc(inliers, outliers, None, tmp_path / "roc.png")
    pictures.auroc_bars({name: {"loss": (0.9, 0.8, 1.0)} for name in outliers}, [], tmp_path / "bars.png")
    outlines = [(str(patch.get_linestyle()), patch.get_edgecolor()) for patch in drawn[0].axes[0].patches[1:]]
    assert len(outlines) == len({style for style, _ in outlines}) == 6
    assert len(drawn[1].axes[0].lines) == 6 + 1  # and chance
    assert len({line.get_marker() for line in drawn[2].axes[0].lines} - {"None"}) == 6
    for figure in drawn:
        assert any("not drawn: set6, set7" in text for text in texts(figure))


def test_one_far_score_does_not_squeeze_the_histogram() -> None:
    values = np.append(np.linspace(-1, 1, 10_000), 1e6)
    edges, logarithmic = pictures.bins([values, values], None)
    assert not logarithmic
    assert edges[-1] < 1.01


def test_wide_positive_scores_are_binned_by_logarithms() -> None:
    edges, logarithmic = pictures.bins([np.array([0.01]), np.array([1.0])], None)
    assert logarithmic
    np.testing.assert_allclose(edges[[0, 20, 40]], [0.01, 0.1, 1], rtol=0.01)
    assert not pictures.bins([np.array([0.01]), np.array([1.0])], -1.0)[1]


@pytest.mark.parametrize("widest", [0.5, 5, 1e6])
def test_logarithmic_axes_have_a_few_numbers(widest: float, tmp_path: Path, drawn: list) -> None:
    outliers = {"far": {"loss": np.array([widest])}}
    pictures.histograms({"loss": np.array([0.01, 0.02])}, outliers, {}, tmp_path / "histograms.png")
    axis = drawn[0].axes[0].xaxis
    low, high = sorted(axis.get_view_interval())
    shown = [number for number in axis.get_majorticklocs() if low <= number <= high]
    assert 3 <= len(shown) <= 10
    assert not any(label.get_text() for label in axis.get_ticklabels(minor=True))


@pytest.mark.parametrize("values", [np.zeros(3), np.full(3, 1e6), 1e6 + np.arange(3) * 1e-9, np.full(3, -1e-30)])
def test_scores_that_hardly_differ_can_be_drawn(values: np.ndarray, tmp_path: Path) -> None:
    pictures.screen_histogram(values, values, float(values[0]), "constant", tmp_path / "histogram.png")
    edges, _ = pictures.bins([values, values], None)
    assert (np.diff(edges) > 0).all()


@pytest.mark.parametrize("threshold", [None, 1.5])
def test_screened_images_are_drawn_over_the_normal_ones(threshold: float | None, tmp_path: Path, drawn: list) -> None:
    pictures.screen_histogram(np.arange(4.0), np.arange(2.0), threshold, "fused", tmp_path / "histogram.png")
    assert {"fused", "normal validation images (n = 4)", "screened (n = 2)"} <= set(texts(drawn[0]))
    assert ("threshold 1.5" in texts(drawn[0])) == (threshold is not None)


def test_roc_tells_each_auroc_and_shades_its_band(tmp_path: Path, drawn: list) -> None:
    inliers = {"good": np.array([0.0, 1.0]), "bad": np.array([0.0, 2.0])}
    outliers = {"near": {"good": np.array([2.0, 3.0]), "bad": np.array([1.0])}, "far": inliers}
    grid = np.array([0, 1])
    pictures.roc(inliers, outliers, {("near", "bad"): (grid, grid * 0.5, grid)}, tmp_path / "roc.png")
    good, bad = drawn[0].axes
    assert [text.get_text() for text in good.get_legend().get_texts()] == ["near: 1.0000", "far: 0.5000"]
    assert [text.get_text() for text in bad.get_legend().get_texts()] == ["near: 0.5000", "far: 0.5000"]
    assert (len(good.collections), len(bad.collections)) == (0, 1)
    styles = [line.get_linestyle() for line in good.lines]
    assert styles[0] != styles[1]


def test_bars_go_from_the_best_to_the_undefined(tmp_path: Path, drawn: list) -> None:
    nan = math.nan
    evaluations = {"mnist": {"a": (0.4, 0.3, 0.5), "b": (nan, nan, nan), "c": (0.9, 0.8, 1.0), "d": (0.7, 0.6, 0.8)}}
    pictures.auroc_bars(evaluations, ["d"], tmp_path / "bars.png")
    axis = drawn[0].axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["c", "d (baseline)", "a", "b"]
    assert axis.yaxis_inverted()
    ends = [(round(bar.get_x(), 3), round(bar.get_x() + bar.get_width(), 3), bar.get_hatch()) for bar in axis.patches]
    assert ends == [(0.5, 0.9, None), (0.5, 0.7, "////"), (0.5, 0.4, None)]  # from chance
    assert [text.get_text() for text in axis.texts] == ["0.9000", "0.7000", "0.4000", "undefined"]
    assert list(axis.lines[0].get_xdata()) == [0.8, 1.0]
    assert axis.get_xlim()[0] < 0.3


def test_several_sets_have_a_marker_each_and_go_by_their_mean(tmp_path: Path, drawn: list) -> None:
    undefined = (math.nan,) * 3
    evaluations = {
        "near": {"a": (0.6, 0.5, 0.7), "b": (0.7, 0.6, 0.8)},
        "far": {"a": (1.0, 0.9, 1.0), "b": (0.8, 0.7, 0.9)},
        "single": {"a": undefined, "b": undefined},
    }
    pictures.auroc_bars(evaluations, ["b"], tmp_path / "bars.png")
    axis = drawn[0].axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b (baseline)"]
    near, far = axis.lines[:2]
    assert (near.get_xdata().tolist(), far.get_xdata().tolist()) == ([0.6, 0.7], [1.0, 0.8])
    assert near.get_marker() != far.get_marker()
    assert axis.collections[0].get_segments()[0][:, 0].tolist() == [0.5, 0.7]
    assert {"near", "far", "single"} <= set(texts(drawn[0]))


def test_map_of_aurocs_has_a_dash_where_there_is_none(tmp_path: Path, drawn: list) -> None:
    values = np.array([[np.nan, 0.75], [0.5, np.nan]])
    sets = ["mnist", "kmnist"]
    names = {"row_name": "trained on", "column_name": "tested on", "title": "AUROC of fused"}
    pictures.auroc_map(values, sets, sets, tmp_path / "map.png", **names)
    pictures.auroc_map(values, ["loss", "kld"], sets, tmp_path / "map.png")
    assert [text.get_text() for text in drawn[0].axes[0].texts] == ["–", "0.750", "0.500", "–"]
    assert drawn[0].axes[0].images[0].get_clim() == (0, 1)
    assert set(names.values()) <= set(texts(drawn[0]))
    assert {"score", "outliers", "AUROC"} <= set(texts(drawn[1]))


@pytest.fixture
def names_in_margin(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the rows of the sheets that were drawn."""
    seen: list[str] = []
    real = pictures.sheet

    def sheet(parts: list, names: list[str], captions: list[str], title: str) -> Image.Image:
        seen.extend(names)
        return real(parts, names, captions, title)

    monkeypatch.setattr(pictures, "sheet", sheet)
    return seen


def test_error_maps_share_a_scale_which_is_told(tmp_path: Path, names_in_margin: list[str]) -> None:
    images = torch.zeros(10, 1, 144, 144)
    reconstructions = images + torch.linspace(0, 1, 10).view(-1, 1, 1, 1)
    pictures.error_maps(images, reconstructions, [f"caption {i}" for i in range(10)], tmp_path / "maps.png", "title")
    assert names_in_margin == ["input", "reconstruction", "|difference|\n0 to 0.500", "smoothed\n0 to 0.500"]
    pixels = np.asarray(Image.open(tmp_path / "maps.png"))
    left = pixels.shape[1] - 8 * 148  # of the first of eight columns, tiles of 144 px and their gaps
    for image, share in ((8, 8 / 9), (9, 1.0)):  # the first and second of the second block
        colour = colormaps["inferno"](share, bytes=True)[:3]
        columns = np.flatnonzero((pixels == colour).all(axis=2).sum(axis=0) >= 2 * 144)  # in both maps
        assert columns.tolist() == list(range(left + 148 * (image - 8), left + 148 * (image - 8) + 144))


def test_error_maps_are_means_over_channels(tmp_path: Path, names_in_margin: list[str]) -> None:
    images = torch.zeros(1, 3, 8, 8)
    other = images.clone()
    other[:, 0] = 0.6
    pictures.error_maps(images, other, ["any"], tmp_path / "maps.png", "one")
    assert names_in_margin[2] == "|difference|\n0 to 0.100"  # 0.6 of a range of 2, in one channel of three


def test_smoothing_leaves_areas_and_takes_away_points(tmp_path: Path, names_in_margin: list[str]) -> None:
    images = torch.zeros(1, 1, 32, 32)
    point, area = images.clone(), images.clone()
    point[..., 16, 16] = 1
    area[..., 8:24, 8:24] = 1
    for other in (point, area):
        pictures.error_maps(images, other, ["any"], tmp_path / "maps.png", "one")
    smoothed = [float(name.split()[-1]) for name in names_in_margin if name.startswith("smoothed")]
    assert smoothed == pytest.approx([0.5 / (2 * math.pi * 2**2), 0.5], abs=1e-3)  # a Gaussian of 2 px


class Types(TorchFunctionMode):
    """Notes the type of each tensor that torch makes."""

    def __init__(self) -> None:
        super().__init__()
        self.made: set[torch.dtype] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.made.add(result.dtype)
        return result


def test_no_float64_is_asked_of_a_device_that_may_have_none(tmp_path: Path) -> None:
    images = torch.rand(2, 3, 8, 8)
    with Types() as types:
        pictures.error_maps(images, -images, ["a", "b"], tmp_path / "maps.png", "any")
    assert torch.float32 in types.made
    assert torch.float64 not in types.made


def test_equal_images_have_dark_maps(tmp_path: Path) -> None:
    images = torch.rand(2, 3, 8, 8)
    pictures.error_maps(images, images, ["a", "b"], tmp_path / "maps.png", "equal")
    assert np.asarray(Image.open(tmp_path / "maps.png"))[-50, -50].tolist() == [0, 0, 3]  # the darkest colour


def test_captions_are_broken_where_they_fit() -> None:
    font = ImageFont.load_default(size=18)
    text = wrapped("loss 0.1234\nscans/patient_012/slice_0003.png", font, 140)
    assert text.splitlines()[0].strip() == "loss 0.1234"
    assert text.replace("\n", "") == "loss 0.1234scans/patient_012/slice_0003.png"
    assert all(font.getlength(line.rstrip()) <= 140 for line in text.splitlines())
    assert all(font.getlength(line) <= 140 for line in wrapped("0" * 60, font, 140).splitlines())
