import csv
import re
from pathlib import Path

import numpy as np
import pytest

from advvae.outlier.conformal import false_alarms
from advvae.outlier.labels import auroc_by_label
from advvae.outlier.rendering import Table, read_tables, write_text
from advvae.outlier.statistics import METRICS, Evaluation, compare, evaluate_scores, mean_evaluation
from advvae.outlier.tables import result_rows, write_tables

INLIERS = np.arange(20.0)
MODEL, BASELINE, BACKWARD = INLIERS + 20, INLIERS + 10, INLIERS - 20  # AUROC 1; 1 - 50/400 = 0.875; 0


def evaluation(**outliers: np.ndarray) -> Evaluation:
    return evaluate_scores(dict.fromkeys(outliers, INLIERS), outliers, draws=100)


@pytest.fixture
def evaluations() -> dict[str, Evaluation]:
    near = evaluation(loss=BASELINE, pixel_knn=MODEL, kld=BACKWARD)
    far = evaluation(loss=MODEL, pixel_knn=BASELINE, kld=BACKWARD)
    one = evaluate_scores(dict.fromkeys(near.metrics, INLIERS), dict.fromkeys(near.metrics, np.zeros(1)), draws=100)
    return {"near_1": near, "far & away": far, "one": one, "mean": mean_evaluation([near, far, one])}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_results_have_a_row_per_set_and_score_in_full_precision(
    tmp_path: Path, evaluations: dict[str, Evaluation]
) -> None:
    write_tables(tmp_path, evaluations, baselines=["pixel_knn"], duplicates={"near_1": 3})
    table = rows(tmp_path / "results.csv")
    assert [(row["set"], row["score"]) for row in table] == [
        (name, score) for name in evaluations for score in ("loss", "pixel_knn", "kld")
    ]
    first = table[0]
    assert (first["n_in"], first["n_out"], first["n_in_groups"], first["duplicates"]) == ("20", "20", "", "3")
    assert {m: float(first[m]) for m in METRICS} == {m: evaluations["near_1"].metrics["loss"][m] for m in METRICS}
    assert float(first["auroc_low"]) == evaluations["near_1"].metrics["loss"]["auroc_low"]
    assert [row["baseline"] for row in table[:3]] == ["0", "1", "0"]
    assert [row["below_chance"] for row in table[:3]] == ["0", "0", "1"]
    assert table[6]["auroc"] == table[6]["fpr80_out_high"] == "undefined"
    assert table[9]["n_out"] == "41"


def cells(line: str) -> list[str]:
    return [text.strip() for text in line.strip("| \n").split("|")]


def test_markdown_shows_intervals_counts_marks_and_the_best_in_bold(
    tmp_path: Path, evaluations: dict[str, Evaluation]
) -> None:
    write_tables(tmp_path, evaluations, baselines=["pixel_knn"], duplicates={"near_1": 3})
    text = (tmp_path / "results.md").read_text()
    overview, near, far, one, mean = re.split(r"^(?=near_1|far|one|mean)", text, flags=re.MULTILINE)
    assert near.startswith("near_1: n_in = 20, n_out = 20, with 95 % bootstrap intervals. 3 of the outliers (15.0%)")
    assert "pixel_knn, a trivial baseline, does better than the best score (loss): AUROC 1.000 against 0.875" in near
    assert "baseline, does" not in far
    head, _, loss, pixel_knn, kld = (cells(line) for line in near.splitlines() if line.startswith("|"))
    assert head[:3] == ["score", "AUROC", "AUPR-out"]
    low, high = (evaluations["near_1"].metrics["loss"][f"auroc_{end}"] for end in ("low", "high"))
    assert loss[:2] == ["loss", f"0.875 [{low:.3f}, {high:.3f}]"]
    assert pixel_knn[:2] == ["pixel_knn (baseline)", "**1.000 [1.000, 1.000]**"]
    assert kld[1] == "0.000 [0.000, 0.000] †"
    fpr95_out = head.index("FPR95-out")  # smaller is better
    assert pixel_knn[fpr95_out] == "**0.000 [0.000, 0.000]**"
    assert kld[fpr95_out].startswith("1.000")
    assert "**" not in one
    assert cells(one.splitlines()[4])[1:] == ["undefined"] * len(METRICS)
    means = cells(mean.splitlines()[4])
    assert cells(overview.splitlines()[4]) == ["loss", loss[1], "**1.000 [1.000, 1.000]**", "undefined", means[1]]


def test_scores_that_look_equal_are_bold_together(tmp_path: Path) -> None:
    write_tables(tmp_path, {"far": evaluation(loss=MODEL, kld=MODEL + 1)})
    assert (tmp_path / "results.md").read_text().count("**1.000 [1.000, 1.000]**") == 2 * 5  # the larger-better ones


def test_groups_are_counted_in_the_table(tmp_path: Path) -> None:
    scores = {"loss": INLIERS}, {"loss": MODEL}
    found = evaluate_scores(*scores, in_groups=np.arange(20) // 4, draws=10)
    write_tables(tmp_path, {"far": found})
    assert "n_in = 20 (5 groups), n_out = 20, with" in (tmp_path / "results.md").read_text()
    write_tables(tmp_path, {"far": found, "near": found})
    caption = (tmp_path / "results.md").read_text().splitlines()[0]
    assert caption == "AUROC of every set: n_in = 20 (5 groups), n_out = 20 of far, 20 of near"
    assert result_rows({"far": found}, [], {})[0]["n_in_groups"] == 5


def test_latex_is_escaped_bold_and_balanced(tmp_path: Path, evaluations: dict[str, Evaluation]) -> None:
    write_tables(tmp_path, evaluations, baselines=["pixel_knn"])
    text = (tmp_path / "results.tex").read_text()
    assert r"\textbf{1.000 [1.000, 1.000]}" in text
    assert r"pixel\_knn (baseline)" in text
    assert r"\caption{far \& away: n\_in = 20" in text
    assert r"0.000 [0.000, 0.000] $\dagger$" in text
    assert "**" not in text
    assert text.isascii()
    body = text.split("\n", 1)[1].replace(r"$\dagger$", "")  # the first line is a comment
    assert not re.search(r"(?<!\\)[_%#$](?!$)", body, re.MULTILINE)  # but for a % that ends a line
    for environment in ("table", "tabular"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") == 5
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(rf"\{rule}") == 5


def test_comparisons_labels_and_controls(tmp_path: Path, evaluations: dict[str, Evaluation]) -> None:
    scores = evaluations["near_1"].metrics
    labels = auroc_by_label(dict.fromkeys(scores, INLIERS), dict.fromkeys(scores, MODEL), ["cat"] * 19 + ["dog"])
    controls = {"set against itself": evaluation(loss=INLIERS)}
    write_tables(tmp_path, evaluations, labels={"far & away": labels}, controls=controls)
    comparisons = rows(tmp_path / "comparisons.csv")
    assert len(comparisons) == 4 * 3
    pair = compare(evaluations["near_1"])[0]
    assert comparisons[0] == {
        "set": "near_1",
        "n_in": "20",
        "n_out": "20",
        "n_in_groups": "",
        "n_out_groups": "",
        "first": "loss",
        "second": "pixel_knn",
        "difference": "-0.125",
        "low": str(pair.low),
        "high": str(pair.high),
    }
    cat, _, _, dog, _, _ = rows(tmp_path / "labels.csv")
    ends = {"auroc": "1.0", "auroc_low": "1.0", "auroc_high": "1.0"}
    assert cat == {"set": "far & away", "label": "cat", "n": "19", "n_groups": "", "score": "loss"} | ends
    assert (dog["n"], dog["auroc"], dog["auroc_low"]) == ("1", "undefined", "undefined")
    (control,) = rows(tmp_path / "controls.csv")
    assert (control["control"], control["score"]) == ("set against itself", "loss")
    assert (control["n_in"], control["n_out"], control["n_out_groups"]) == ("20", "20", "")
    assert float(control["auroc"]) == pytest.approx(0.5)
    assert float(control["low"]) < 0.5 < float(control["high"])


def test_labels_are_shown_by_the_headline_and_the_best_others(tmp_path: Path) -> None:
    """MODEL and pixel_knn do best over the set; the headline is the fused score, which does not."""
    outliers = {"kld": BACKWARD, "loss": MODEL, "contrast": BACKWARD, "pixel_knn": MODEL, "fused": BASELINE}
    inliers = dict.fromkeys(outliers, INLIERS)
    names, patients = ["cat"] * 10 + ["cat;dog"] * 10, np.arange(20) // 5
    labels = auroc_by_label(inliers, outliers, names, out_groups=patients, draws=10)
    found = evaluate_scores(inliers, outliers, in_groups=np.arange(20) // 4, out_groups=patients, draws=10)
    for headline, first in (("fused", "fused"), (None, "kld")):
        write_tables(
            tmp_path, {"far": found}, labels={"far": labels}, baselines=["contrast", "pixel_knn"], headline=headline
        )
        _, table = re.split(r"^(?=far: AUROC)", (tmp_path / "results.md").read_text(), flags=re.MULTILINE)
        caption, _, head, _, cat, dog = table.splitlines()
        assert "against all n_in = 20 (5 groups) inliers" in caption
        assert f"{first} is the score that images are ranked by; best of the others over the whole set: loss" in caption
        assert cells(head) == ["label", "n", first, "loss", "pixel_knn (baseline)"]
        assert cells(cat)[:2] == ["cat", "20 (4 groups)"]
        assert cells(dog)[:2] == ["dog", "10 (2 groups)"]
    assert len(rows(tmp_path / "labels.csv")) == 2 * 5
    assert rows(tmp_path / "labels.csv")[5]["n_groups"] == "2"


def test_one_label_has_no_table_of_its_own(tmp_path: Path) -> None:
    labels = auroc_by_label({"loss": INLIERS}, {"loss": MODEL}, ["cat"] * 20, draws=10)
    write_tables(tmp_path, {"far": evaluation(loss=MODEL)}, labels={"far": labels})
    assert "far: AUROC of the images" not in (tmp_path / "results.md").read_text()
    assert len(rows(tmp_path / "labels.csv")) == 1


def test_pixels_have_a_row_per_set_and_map(tmp_path: Path) -> None:
    values: dict[str, float | str] = {"n_in": 1500, "n_images": 30, "n_regions": 41, "n_left_out": 2, "threshold": 0.25}
    for metric, value in (("auroc", 0.9), ("aupro", 0.8), ("dice", 0.5)):
        values |= {metric: value, f"{metric}_low": value - 0.1, f"{metric}_high": value + 0.1}
    one = values | {"n_groups": 1, "n_in_groups": 40, "auroc_low": "undefined", "auroc_high": "undefined"}
    pixels = {"far": {"error": values, "smoothed": values}, "near": {"error": one}}
    write_tables(tmp_path, {"far": evaluation(loss=MODEL)}, pixels=pixels)
    text = (tmp_path / "results.md").read_text()
    assert "Outliers that are left out: 2 of far, 2 of near." in text
    expected = ["0.900 [0.800, 1.000]", "0.800 [0.700, 0.900]", "0.500 [0.400, 0.600]", "0.25"]
    _, _, _, first, second, third = (cells(line) for line in text.split("Anomalous pixels")[1].splitlines()[1:])
    assert first == ["far", "error", "1,500", "30", "41", *expected]
    assert second[:2] == ["far", "smoothed"]
    assert third[:6] == ["near", "error", "1,500 (40 groups)", "30 (1 group)", "41", "0.900"]


def test_false_alarms_and_thresholds_that_there_are_not(tmp_path: Path) -> None:
    alarms = {
        "loss": false_alarms(np.arange(99.0), np.array([1.0, 94.0, 94.5, 200.0]), 0.05),
        "kld": false_alarms(np.arange(18.0), np.array([1.0, 94.0, 94.5, 200.0]), 0.05),
    }
    write_tables(tmp_path, {"far": evaluation(loss=MODEL, kld=MODEL)}, alarms=alarms)
    loss, kld = rows(tmp_path / "alarms.csv")
    assert (loss["score"], loss["threshold"], loss["count"], loss["n"]) == ("loss", "94.0", "2", "4")
    assert (kld["threshold"], kld["count"]) == ("", "0")
    lines = (tmp_path / "results.md").read_text().splitlines()
    assert cells(lines[-2]) == ["loss", "94", "2", "0.500", f"{alarms['loss'].low} to {alarms['loss'].high}"]
    assert cells(lines[-1])[:2] == ["kld", "none: 18 images are too few for alpha = 0.05"]


def test_false_alarms_of_groups(tmp_path: Path) -> None:
    """Of two inliers of one patient one is flagged, of the other patient's two both."""
    calibration, inliers = np.arange(40.0), np.array([1.0, 50, 50, 50])
    patients, others = np.arange(40) // 2, np.array([7, 7, 8, 8])
    alarms = {
        score: false_alarms(calibration, inliers, alpha, groups=patients, in_groups=others)
        for score, alpha in (("loss", 0.1), ("kld", 0.01))
    }
    write_tables(tmp_path, {"far": evaluation(loss=MODEL, kld=MODEL)}, alarms=alarms)
    loss, _ = rows(tmp_path / "alarms.csv")
    assert [loss[name] for name in ("n_calibrate", "n_calibrate_groups", "n", "n_groups")] == ["40", "20", "4", "2"]
    text = (tmp_path / "results.md").read_text()
    assert "thresholds from 40 (20 groups) validation images: how many of 4 (2 groups) inliers are flagged" in text
    lines = text.splitlines()
    assert cells(lines[-2])[2:4] == ["3", "0.750"]
    assert cells(lines[-1])[:2] == ["kld", "none: 20 groups are too few for alpha = 0.01"]


def test_a_table_without_rows_is_not_written(tmp_path: Path) -> None:
    write_tables(tmp_path, {"far": evaluation(loss=MODEL)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.csv", "results.md", "results.tex"]
    assert "AUROC of every set" not in (tmp_path / "results.md").read_text()


def test_tables_are_read_as_they_were_written(tmp_path: Path) -> None:
    tables = [
        Table("One, in words.", ["score", "a | b"], [["loss", "**0.9**"], ["kld", ""]]),
        Table("Two.", ["x"], [["1"]]),
    ]
    write_text(tmp_path, tables)
    assert read_tables(tmp_path / "results.md") == tables
    assert read_tables(tmp_path / "nothing.md") == []
