"""The tables and pictures of `mode=matrix`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from advvae.audit import Overlap, audit_words
from advvae.figures import heat_map
from advvae.files import replacing, write_csv
from advvae.outlier.tables import counted

SAME_PATIENTS, SAME_IMAGES = "‡", "§"  # marks of pairs of sets
MEANINGS = {SAME_PATIENTS: "same patients", SAME_IMAGES: "some outliers are, or nearly are, images of the inliers' set"}
COLUMNS = (
    *("dataset", "out_dataset", "score", "n_in", "n_out", "n_in_groups", "n_out_groups"),
    *("duplicates", "near_duplicates", "shared_patients", "auroc", "auroc_low", "auroc_high"),
)


def write_matrix(folder: Path, measured: Mapping[str, dict[str, Any]], overlaps: Sequence[Overlap]) -> dict[str, Any]:
    """Write matrix.csv, matrix.md (which is printed too), matrix.png and matrix/<score>.png.

    Args:
        measured: inliers -> the metrics of their `mode=outlier` against each other set.
        overlaps: what each pair of sets has in common.

    Returns:
        `ranked_by`, and `auroc.<inliers>.<outliers>` of that score.
    """
    pairs = {(overlap.dataset, overlap.out_dataset): overlap for overlap in overlaps}
    rows = matrix_rows(measured, pairs)
    write_csv(folder / "matrix.csv", COLUMNS, ([row[name] for name in COLUMNS] for row in rows))
    sets, ranked_by = list(measured), next(iter(measured.values()))["ranked_by"]
    marks = np.array([[_mark(pairs.get((inliers, outliers))) for outliers in sets] for inliers in sets])
    for score in dict.fromkeys(row["score"] for row in rows):
        _draw(sets, rows, score, marks, folder / "matrix" / f"{score}.png")
    _draw(sets, rows, ranked_by, marks, folder / "matrix.png")
    text = f"{_table(sets, rows, ranked_by, marks)}\n\n{audit_words(overlaps)}\n"
    with replacing(folder / "matrix.md") as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    print(text)
    auroc: dict[str, dict[str, float | str]] = {name: {} for name in sets}
    for row in rows:
        if row["score"] == ranked_by:
            auroc[row["dataset"]][row["out_dataset"]] = row["auroc"]
    return {"ranked_by": ranked_by, "auroc": auroc}


def matrix_rows(
    measured: Mapping[str, dict[str, Any]], pairs: Mapping[tuple[str, str], Overlap]
) -> list[dict[str, Any]]:
    """A row per inliers, outliers and score."""
    rows = []
    for dataset, metrics in measured.items():
        for other, found in metrics["sets"].items():
            pair = pairs[dataset, other]
            known = {"dataset": dataset, "out_dataset": other, "n_in": found["n_in"], "n_out": found["n_out"]}
            known |= {name: getattr(pair, name) for name in ("duplicates", "near_duplicates", "shared_patients")}
            known |= {"n_in_groups": pairs[dataset, dataset].n_out_groups, "n_out_groups": pair.n_out_groups}
            for score, values in found["scores"].items():
                aurocs = {name: values[name] for name in ("auroc", "auroc_low", "auroc_high")}
                rows.append({**known, "score": score, **aurocs})
    return rows


def auroc_table(sets: Sequence[str], rows: Sequence[Mapping[str, Any]], score: str) -> np.ndarray:
    """(sets, sets) float64: AUROC of a score, inliers down, outliers across; NaN where it is undefined or not there."""
    values = np.full((len(sets), len(sets)), np.nan)
    for row in rows:
        if row["score"] == score and isinstance(row["auroc"], float):
            values[sets.index(row["dataset"]), sets.index(row["out_dataset"])] = row["auroc"]
    return values


def _mark(overlap: Overlap | None) -> str:
    if overlap is None or overlap.dataset == overlap.out_dataset:
        return ""
    images = SAME_IMAGES if overlap.duplicates or overlap.near_duplicates else ""
    return (SAME_PATIENTS if overlap.shared_patients else "") + images


def _table(sets: Sequence[str], rows: Sequence[Mapping[str, Any]], score: str, marks: np.ndarray) -> str:
    """The AUROCs as Markdown, with how many test images, and groups, each set has as inliers, and as outliers."""
    from tabulate import tabulate

    n_in = {row["dataset"]: counted(row["n_in"], row["n_in_groups"]) for row in rows}
    n_out = {row["out_dataset"]: counted(row["n_out"], row["n_out_groups"]) for row in rows}
    values = auroc_table(sets, rows, score)
    lines = []
    for name, aurocs, own_marks in zip(sets, values, marks, strict=True):
        cells = [f"{auroc:.3f} {mark}".strip() for auroc, mark in zip(aurocs, own_marks, strict=True)]
        mean = f"{np.nanmean(aurocs):.3f}" if np.isfinite(aurocs).any() else "–"
        lines.append([name, n_in[name], *(cell.replace("nan", "–") for cell in cells), mean])
    lines.append(["n_out", "", *(n_out[name] for name in sets), ""])
    text = tabulate(lines, ["inliers \\ outliers", "n_in", *sets, "mean"], tablefmt="github", disable_numparse=True)
    counts = "n_in test images of the inliers, n_out of the outliers."
    head = [f"AUROC of {score}, a network per row; {counts} Intervals are in matrix.csv.", *_meanings(marks)]
    return f"{' '.join(head)}\n\n{text}"


def _draw(sets: Sequence[str], rows: Sequence[Mapping[str, Any]], score: str, marks: np.ndarray, path: Path) -> None:
    title = "\n".join([f"AUROC of {score}", *_meanings(marks)])
    values = auroc_table(sets, rows, score)
    heat_map(values, sets, sets, "inliers", "outliers", title, path, limits=(0, 1), missing="–", marks=marks)


def _meanings(marks: np.ndarray) -> list[str]:
    """What each mark means that there is."""
    return [f"{mark} {meaning}." for mark, meaning in MEANINGS.items() if mark in "".join(marks.flat)]
