"""Numbers that charts draw."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from advvae.measured import number
from advvae.report.charts import heat_chart, histogram_chart, line_chart, roc_chart


def test_a_histogram_holds_every_value_as_a_share_of_its_set() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(size=1000), [1e9]])
    chart = histogram_chart("loss", {"inliers": values, "few": np.array([0.5, 0.6])}, threshold=1.5)
    assert [sum(line["y"]) for line in chart.data] == pytest.approx([1, 1], rel=1e-3)
    assert max(chart.data[0]["x"]) < 10, "one outlier does not stretch the axis"
    assert chart.layout["shapes"][0]["x0"] == 1.5
    assert [line["name"] for line in chart.data] == ["inliers (n = 1,001)", "few (n = 2)"]
    assert histogram_chart("constant", {"inliers": np.ones(5)}, None).data[0]["y"]


def test_a_roc_curve_has_the_auroc_of_its_scores() -> None:
    generator = np.random.default_rng(0)
    inliers, outliers = generator.normal(size=3000), generator.normal(1, size=2000)
    chart = roc_chart("loss", inliers, {"other": outliers})
    expected = roc_auc_score([0] * 3000 + [1] * 2000, np.concatenate([inliers, outliers]))
    curve = chart.data[1]
    assert curve["name"] == f"other: AUROC {expected:.4f}"
    assert (curve["x"][0], curve["y"][0], curve["x"][-1], curve["y"][-1]) == (0, 0, 1, 1)
    assert len(curve["x"]) <= 400
    assert np.trapezoid(curve["y"], curve["x"]) == pytest.approx(expected, abs=2e-3)


def test_curves_have_gaps_and_a_logarithmic_axis_where_they_span_much() -> None:
    chart = line_chart("VAE", "epoch", "loss", [1, 2, 3], {"loss": [10.0, float("nan"), 1.0]})
    assert chart.data[0]["y"] == [10.0, None, 1.0]
    assert chart.layout["yaxis"]["type"] == "log"
    assert "type" not in line_chart("D", "epoch", "loss", [1, 2], {"loss": [1.0, 1.5]}).layout["yaxis"]
    assert line_chart("D", "epoch", "accuracy", [1], {"a": [0.5]}, unit=True).layout["yaxis"]["range"][1] > 1


def test_cells_without_a_number_stay_empty() -> None:
    chart = heat_chart("AUROC", np.array([[0.5, np.nan]]), ["a"], ["b", "c"], ("inliers", "outliers"))
    assert chart.data[0]["z"] == [[0.5, None]]
    assert chart.data[0]["text"] == [["0.500", ""]]
    assert np.isnan(number("undefined"))
