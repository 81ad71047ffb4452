"""Tables as files: CSV for programs, Markdown for reading, LaTeX for papers."""

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from advvae.files import replacing, write_csv

BELOW_CHANCE = "†"
LATEX_HEAD = "% needs \\usepackage{booktabs} and \\usepackage{graphicx}"


class Table(NamedTuple):
    """What is shown; the best values stand between **."""

    caption: str
    headings: list[str]
    rows: list[list[str]]


def write_named(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write a CSV file of rows that all have the same columns; no file where there are no rows."""
    if rows := list(rows):
        write_csv(path, rows[0], (row.values() for row in rows))


def write_text(folder: Path, tables: Iterable[Table]) -> None:
    """Write results.md and results.tex."""
    tables = list(tables)
    for name, text in (("results.md", _markdown(tables)), ("results.tex", _latex(tables))):
        with replacing(folder / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8")


def read_tables(path: Path) -> list[Table]:
    """The tables of a Markdown file, each with the paragraph before it; [] where there is no such file."""
    if not path.is_file():
        return []
    tables = []
    for caption, text in pairwise(path.read_text(encoding="utf-8").split("\n\n")):
        if text.startswith("|"):
            headings, _, *rows = (
                [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
                for line in text.strip().splitlines()
            )
            tables.append(Table(caption.strip(), headings, rows))
    return tables


def _markdown(tables: Iterable[Table]) -> str:
    from tabulate import tabulate

    parts = []
    for caption, headings, rows in tables:
        head, *lines = ([cell.replace("|", "\\|") for cell in line] for line in (headings, *rows))
        parts.append(f"{caption}\n\n{tabulate(lines, head, tablefmt='github', disable_numparse=True)}\n")
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
