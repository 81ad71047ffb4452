"""Results as tables: CSV for programs, Markdown for reading, LaTeX for papers."""

import csv
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from advvae.files import replacing
from advvae.outlier.conformal import FalseAlarms
from advvae.outlier.statistics import METRICS, UNDEFINED, Evaluation, below_chance, best_baseline_words, compare

HEADINGS = dict(
    zip(
        METRICS,
        ("AUROC", "AUPR-out", "AUPR-in", "FPR95-out", "FPR95-in", "FPR80-out", "Sens. at 90 %", "Sens. at 95 %"),
        strict=True,
    )
)
SMALLER_IS_BETTER = ("fpr95_out", "fpr95_in", "fpr80_out")
BELOW_CHANCE = "†"
LATEX_HEAD = "% needs \\usepackage{booktabs} and \\usepackage{graphicx}"

Table = tuple[str, list[str], list[list[str]]]  # caption, headings, rows; best values between **


def write_tables(
    folder: Path,
    evaluations: Mapping[str, Evaluation],
    *,
    baselines: Collection[str] = (),
    duplicates: Mapping[str, int] | None = None,
    alarms: Mapping[str, FalseAlarms] | None = None,
    labels: Mapping[str, Mapping[str, Mapping[str, float | str]]] | None = None,
    controls: Mapping[str, Evaluation] | None = None,
) -> None:
    """Write results.{csv,md,tex}, and comparisons.csv, labels.csv, controls.csv and alarms.csv where they have rows.

    Args:
        evaluations: outlier set -> what was measured; their means are further entries, at the end.
        baselines: the trivial ones among the scores.
        duplicates: outlier set -> how many of its images are inliers too.
        alarms: score -> decisions on the inliers.
        labels: outlier set -> `auroc_by_label`.
        controls: name of a control -> what was measured, where 0.5 is expected.
    """
    duplicates, alarms, labels, controls = duplicates or {}, alarms or {}, labels or {}, controls or {}
    _write_csv(folder / "results.csv", result_rows(evaluations, baselines, duplicates))
    _write_csv(folder / "comparisons.csv", _comparison_rows(evaluations))
    _write_csv(folder / "labels.csv", _label_rows(labels))
    _write_csv(folder / "controls.csv", _control_rows(controls))
    _write_csv(folder / "alarms.csv", ({"score": score, **vars(alarm)} for score, alarm in alarms.items()))
    tables = [_set_table(name, evaluation, baselines, duplicates) for name, evaluation in evaluations.items()]
    if len(evaluations) > 1:
        tables.insert(0, _overview(evaluations, baselines))
    if alarms:
        tables.append(_alarm_table(alarms))
    for name, text in (("results.md", _markdown(tables)), ("results.tex", _latex(tables))):
        with replacing(folder / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8")


def result_rows(
    evaluations: Mapping[str, Evaluation], baselines: Collection[str], duplicates: Mapping[str, int]
) -> list[dict[str, object]]:
    """A row per set and score, in full precision."""
    rows: list[dict[str, object]] = []
    for name, evaluation in evaluations.items():
        known = {
            "set": name,
            "n_in": evaluation.n_in,
            "n_out": evaluation.n_out,
            "n_in_groups": evaluation.n_in_groups,
            "n_out_groups": evaluation.n_out_groups,
            "duplicates": duplicates.get(name),
        }
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
    scores = list(next(iter(evaluations.values())).metrics)
    columns = [[cell(e.metrics[score], "auroc") + _mark(e, score) for score in scores] for e in evaluations.values()]
    columns = [_bold(column, max) for column in columns]
    rows = [list(row) for row in zip(_names(scores, baselines), *columns, strict=True)]
    return "AUROC of every set", ["score", *evaluations], rows


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
    return _caption(name, evaluation, baselines, duplicates), ["score", *HEADINGS.values()], rows


def _caption(name: str, evaluation: Evaluation, baselines: Collection[str], duplicates: Mapping[str, int]) -> str:
    n_in, n_out = _count(evaluation.n_in, evaluation.n_in_groups), _count(evaluation.n_out, evaluation.n_out_groups)
    sentences = [f"{name}: n_in = {n_in}, n_out = {n_out}, with 95 % bootstrap intervals."]
    if duplicates.get(name):
        share = duplicates[name] / evaluation.n_out
        sentences.append(f"{duplicates[name]:,} of the outliers ({share:.1%}) equal an inlier, pixel by pixel.")
    if below_chance(evaluation):
        sentences.append(f"{BELOW_CHANCE} The whole interval is below chance.")
    if words := best_baseline_words(evaluation, baselines):
        sentences.append(words + ".")
    return " ".join(sentences)


def _alarm_table(alarms: Mapping[str, FalseAlarms]) -> Table:
    first = next(iter(alarms.values()))
    caption = (
        f"False alarms at alpha = {first.alpha:g}, thresholds from {first.n_calibrate:,} validation images: how many "
        f"of {first.n:,} inliers are flagged, and the central 95 % of that count if they are exchangeable with those."
    )
    rows = []
    for score, alarm in alarms.items():
        if alarm.threshold is None:
            rows.append(
                [score, f"none: {alarm.n_calibrate} images are too few for alpha = {alarm.alpha:g}", "", "", ""]
            )
        else:
            expected = f"{alarm.low:,} to {alarm.high:,}"
            rows.append([score, f"{alarm.threshold:.4g}", f"{alarm.count:,}", f"{alarm.count / alarm.n:.3f}", expected])
    return caption, ["score", "threshold", "false alarms", "rate", "expected"], rows


def _comparison_rows(evaluations: Mapping[str, Evaluation]) -> list[dict[str, object]]:
    return [{"set": name, **vars(pair)} for name, evaluation in evaluations.items() for pair in compare(evaluation)]


def _label_rows(labels: Mapping[str, Mapping[str, Mapping[str, float | str]]]) -> list[dict[str, object]]:
    return [
        {"set": name, "label": label, "n": values["n"], "score": score, "auroc": auroc}
        for name, table in labels.items()
        for label, values in table.items()
        for score, auroc in values.items()
        if score != "n"
    ]


def _control_rows(controls: Mapping[str, Evaluation]) -> list[dict[str, object]]:
    return [
        {
            "control": control,
            "score": score,
            "auroc": values["auroc"],
            "low": values["auroc_low"],
            "high": values["auroc_high"],
        }
        for control, evaluation in controls.items()
        for score, values in evaluation.metrics.items()
    ]


def _markdown(tables: Iterable[Table]) -> str:
    from tabulate import tabulate

    parts = [
        f"{caption}\n\n{tabulate(rows, headings, tablefmt='github', disable_numparse=True)}\n"
        for caption, headings, rows in tables
    ]
    return "\n".join(parts)


def _latex(tables: Iterable[Table]) -> str:
    """A `table` each, no wider than the text."""
    from tabulate import LATEX_ESCAPE_RULES, tabulate

    parts = [LATEX_HEAD]
    for caption, headings, rows in tables:
        escaped = "".join(LATEX_ESCAPE_RULES.get(letter, letter) for letter in caption)
        tabular = tabulate(rows, headings, tablefmt="latex_booktabs", disable_numparse=True)
        bold = re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", tabular)
        parts += [
            rf"\begin{{table}}\caption{{{escaped}}}",
            r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
            rf"{bold}}}",
            r"\end{table}",
        ]
    return "\n".join(parts).replace(BELOW_CHANCE, r"$\dagger$") + "\n"


def _write_csv(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """No file where there are no rows."""
    rows = list(rows)
    if not rows:
        return
    with replacing(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _names(scores: Sequence[str], baselines: Collection[str]) -> list[str]:
    return [f"{score} (baseline)" if score in baselines else score for score in scores]


def _mark(evaluation: Evaluation, score: str) -> str:
    return f" {BELOW_CHANCE}" if score in below_chance(evaluation) else ""


def _bold(cells: list[str], best: Callable[..., float]) -> list[str]:
    """The column with every cell marked that shows the best value."""
    values = [float(text.split()[0]) for text in cells if text != UNDEFINED]
    return [f"**{text}**" if text != UNDEFINED and float(text.split()[0]) == best(values) else text for text in cells]


def _count(n: int, groups: int | None) -> str:
    return f"{n:,}" if groups is None else f"{n:,} ({groups:,} groups)"


def _decimals(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3f}"
