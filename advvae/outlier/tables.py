"""Results as tables: what stands in results.csv and beside it, and in results.md and results.tex."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from advvae.outlier.conformal import FalseAlarms
from advvae.outlier.labels import LabelEvaluation
from advvae.outlier.rendering import BELOW_CHANCE, Table, write_named, write_text
from advvae.outlier.statistics import METRICS, UNDEFINED, Evaluation, below_chance, best_baseline_words, compare

HEADINGS = dict(
    zip(
        METRICS,
        ("AUROC", "AUPR-out", "AUPR-in", "FPR95-out", "FPR95-in", "FPR80-out", "Sens. at 90 %", "Sens. at 95 %"),
        strict=True,
    )
)
SMALLER_IS_BETTER = ("fpr95_out", "fpr95_in", "fpr80_out")
ALARMS = "False alarms"  # which the caption of their table begins with


def write_tables(
    folder: Path,
    evaluations: Mapping[str, Evaluation],
    *,
    baselines: Collection[str] = (),
    duplicates: Mapping[str, int] | None = None,
    alarms: Mapping[str, FalseAlarms] | None = None,
    labels: Mapping[str, Mapping[str, LabelEvaluation]] | None = None,
    controls: Mapping[str, Evaluation] | None = None,
    pixels: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
    headline: str | None = None,
) -> None:
    """Write results.{csv,md,tex}, and comparisons.csv, labels.csv, controls.csv and alarms.csv where they have rows.

    Args:
        evaluations: outlier set -> what was measured; their means are further entries, at the end.
        baselines: the trivial ones among the scores.
        duplicates: outlier set -> how many of its images are inliers too.
        alarms: score -> decisions on the inliers.
        labels: outlier set -> `auroc_by_label`.
        controls: name of a control -> what was measured, where 0.5 is expected.
        pixels: outlier set -> error map -> `auroc`, `aupro`, `dice` with intervals, `threshold`, and `n_in`,
            `n_images`, `n_regions`, `n_left_out`; where images have groups `n_in_groups`, `n_groups`.
        headline: the score that images are ranked by; None = the first.
    """
    duplicates, alarms, labels, controls = duplicates or {}, alarms or {}, labels or {}, controls or {}
    write_named(folder / "results.csv", result_rows(evaluations, baselines, duplicates))
    write_named(folder / "comparisons.csv", _comparison_rows(evaluations))
    write_named(folder / "labels.csv", _label_rows(labels))
    write_named(folder / "controls.csv", _control_rows(controls))
    write_named(folder / "alarms.csv", ({"score": score, **vars(alarm)} for score, alarm in alarms.items()))
    tables = [_set_table(name, evaluation, baselines, duplicates) for name, evaluation in evaluations.items()]
    if len(evaluations) > 1:
        tables.insert(0, _overview(evaluations, baselines))
    tables += [
        _label_table(name, evaluations[name], by_label, baselines, headline)
        for name, by_label in labels.items()
        if len(by_label) > 1
    ]
    if pixels:
        tables.append(_pixel_table(pixels))
    if alarms:
        tables.append(_alarm_table(alarms))
    write_text(folder, tables)


def result_rows(
    evaluations: Mapping[str, Evaluation], baselines: Collection[str], duplicates: Mapping[str, int]
) -> list[dict[str, object]]:
    """A row per set and score, in full precision."""
    rows: list[dict[str, object]] = []
    for name, evaluation in evaluations.items():
        known = {"set": name, **_counts(evaluation), "duplicates": duplicates.get(name)}
        worse = below_chance(evaluation)
        for score, values in evaluation.metrics.items():
            marks = {"score": score, "baseline": int(score in baselines), "below_chance": int(score in worse)}
            rows.append({**known, **marks, **values})
    return rows


def cell(values: Mapping[str, float | str], metric: str) -> str:
    """A value with its interval, such as 0.987 [0.981, 0.992]."""
    low, high = _decimals(values[f"{metric}_low"]), _decimals(values[f"{metric}_high"])
    value = _decimals(values[metric])
    return value if isinstance(values[f"{metric}_low"], str) else f"{value} [{low}, {high}]"


def _overview(evaluations: Mapping[str, Evaluation], baselines: Collection[str]) -> Table:
    """AUROC alone, a column per set."""
    n_in = next(counted(e.n_in, e.n_in_groups) for e in evaluations.values())
    n_out = ", ".join(f"{counted(e.n_out, e.n_out_groups)} of {name}" for name, e in evaluations.items())
    scores = list(next(iter(evaluations.values())).metrics)
    columns = [[cell(e.metrics[score], "auroc") + _mark(e, score) for score in scores] for e in evaluations.values()]
    columns = [_bold(column, max) for column in columns]
    rows = [list(row) for row in zip(_names(scores, baselines), *columns, strict=True)]
    return Table(f"AUROC of every set: n_in = {n_in}, n_out = {n_out}", ["score", *evaluations], rows)


def _set_table(name: str, evaluation: Evaluation, baselines: Collection[str], duplicates: Mapping[str, int]) -> Table:
    """Every metric of one set."""
    scores = list(evaluation.metrics)
    columns = []
    for metric in METRICS:
        cells = [cell(values, metric) for values in evaluation.metrics.values()]
        if metric == "auroc":
            cells = [text + _mark(evaluation, score) for text, score in zip(cells, scores, strict=True)]
        columns.append(_bold(cells, min if metric in SMALLER_IS_BETTER else max))
    rows = [list(row) for row in zip(_names(scores, baselines), *columns, strict=True)]
    return Table(_caption(name, evaluation, baselines, duplicates), ["score", *HEADINGS.values()], rows)


def _caption(name: str, evaluation: Evaluation, baselines: Collection[str], duplicates: Mapping[str, int]) -> str:
    n_in, n_out = counted(evaluation.n_in, evaluation.n_in_groups), counted(evaluation.n_out, evaluation.n_out_groups)
    sentences = [f"{name}: n_in = {n_in}, n_out = {n_out}, with 95 % bootstrap intervals."]
    if duplicates.get(name):
        share = duplicates[name] / evaluation.n_out
        sentences.append(f"{duplicates[name]:,} of the outliers ({share:.1%}) equal an inlier, pixel by pixel.")
    if below_chance(evaluation):
        sentences.append(f"{BELOW_CHANCE} The whole interval is below chance.")
    if words := best_baseline_words(evaluation, baselines):
        sentences.append(words + ".")
    return " ".join(sentences)


def _label_table(
    name: str,
    evaluation: Evaluation,
    labels: Mapping[str, LabelEvaluation],
    baselines: Collection[str],
    headline: str | None,
) -> Table:
    """A row per label, and a column each for the score that ranks, the best other one and the best baseline."""
    headline = headline or next(iter(evaluation.metrics))
    others = [score for score in evaluation.metrics if score != headline and score not in baselines]
    trivial = [score for score in evaluation.metrics if score != headline and score in baselines]
    best = [max(scores, key=evaluation.auroc) for scores in (others, trivial) if scores]
    caption = (
        f"{name}: AUROC of the images of each label against all n_in = "
        f"{counted(evaluation.n_in, evaluation.n_in_groups)} inliers, with 95 % bootstrap intervals. An image of "
        f"several labels counts under each. {headline} is the score that images are ranked by"
    )
    caption += f"; best of the others over the whole set: {', '.join(best)}." if best else "."
    shown = [headline, *best]
    rows = [
        [label, counted(found.n, found.n_groups), *(cell(found.metrics[score], "auroc") for score in shown)]
        for label, found in labels.items()
    ]
    return Table(caption, ["label", "n", *_names(shown, baselines)], rows)


def _pixel_table(pixels: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """A row per outlier set and error map."""
    caption = (
        "Anomalous pixels found by error maps, with 95 % bootstrap intervals. The best Dice is that of the threshold "
        "which suits these images best: an upper bound of what a threshold reaches that is chosen beforehand."
    )
    left_out = {name: next(iter(by_map.values()))["n_left_out"] for name, by_map in pixels.items()}
    if any(left_out.values()):
        told = ", ".join(f"{n} of {name}" for name, n in left_out.items() if n)
        caption += f" Outliers that are left out: {told}."
    rows = [
        [
            *(name, kind, counted(values["n_in"], values.get("n_in_groups"))),
            *(counted(values["n_images"], values.get("n_groups")), f"{values['n_regions']:,}"),
            *(cell(values, metric) for metric in ("auroc", "aupro", "dice")),
            f"{values['threshold']:.4g}",
        ]
        for name, by_map in pixels.items()
        for kind, values in by_map.items()
    ]
    headings = ["set", "map", "n_in", "n_out", "regions", "pixel AUROC", "AUPRO", "best Dice", "threshold"]
    return Table(caption, headings, rows)


def _alarm_table(alarms: Mapping[str, FalseAlarms]) -> Table:
    first = next(iter(alarms.values()))
    by_groups = first.n_calibrate_groups is not None or first.n_groups is not None
    caption = (
        f"{ALARMS} at alpha = {first.alpha:g}, thresholds from "
        f"{counted(first.n_calibrate, first.n_calibrate_groups)} validation images: how many of "
        f"{counted(first.n, first.n_groups)} inliers are flagged, and the central 95 % of that count if "
        f"{'their groups' if by_groups else 'they'} are exchangeable with those."
    )
    if by_groups:
        caption += " The rate is the mean over groups, each of which counts once."
    rows = []
    for score, alarm in alarms.items():
        if alarm.threshold is None or alarm.rate is None:
            n = alarm.n_calibrate_groups
            few = f"{alarm.n_calibrate} images" if n is None else f"{n} groups"
            rows.append([score, f"none: {few} are too few for alpha = {alarm.alpha:g}", "", "", ""])
        else:
            expected = f"{alarm.low:,} to {alarm.high:,}"
            rows.append([score, f"{alarm.threshold:.4g}", f"{alarm.count:,}", f"{alarm.rate:.3f}", expected])
    return Table(caption, ["score", "threshold", "false alarms", "rate", "expected"], rows)


def _comparison_rows(evaluations: Mapping[str, Evaluation]) -> list[dict[str, object]]:
    return [
        {"set": name, **_counts(evaluation), **vars(pair)}
        for name, evaluation in evaluations.items()
        for pair in compare(evaluation)
    ]


def _label_rows(labels: Mapping[str, Mapping[str, LabelEvaluation]]) -> list[dict[str, object]]:
    return [
        {"set": name, "label": label, "n": found.n, "n_groups": found.n_groups, "score": score, **values}
        for name, by_label in labels.items()
        for label, found in by_label.items()
        for score, values in found.metrics.items()
    ]


def _control_rows(controls: Mapping[str, Evaluation]) -> list[dict[str, object]]:
    return [
        {
            "control": control,
            **_counts(evaluation),
            "score": score,
            "auroc": values["auroc"],
            "low": values["auroc_low"],
            "high": values["auroc_high"],
        }
        for control, evaluation in controls.items()
        for score, values in evaluation.metrics.items()
    ]


def _counts(evaluation: Evaluation) -> dict[str, int | None]:
    return {name: getattr(evaluation, name) for name in ("n_in", "n_out", "n_in_groups", "n_out_groups")}


def _names(scores: Sequence[str], baselines: Collection[str]) -> list[str]:
    return [f"{score} (baseline)" if score in baselines else score for score in scores]


def _mark(evaluation: Evaluation, score: str) -> str:
    return f" {BELOW_CHANCE}" if score in below_chance(evaluation) else ""


def _bold(cells: list[str], best: Callable[..., float]) -> list[str]:
    """The column with every cell marked that shows the best value."""
    values = [float(text.split()[0]) for text in cells if text != UNDEFINED]
    return [f"**{text}**" if text != UNDEFINED and float(text.split()[0]) == best(values) else text for text in cells]


def counted(n: int, groups: int | None) -> str:
    """A number of images, and of their groups; None = they have none."""
    return f"{n:,}" if groups is None else f"{n:,} ({groups:,} group{'s' * (groups != 1)})"


def _decimals(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3f}"
