"""`mode=list`: the datasets, models and scores that there are, and what was run."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from advvae import runs
from advvae.checks import PLACES
from advvae.config import MODES, Config
from advvae.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

MOST_RUNS = 20  # that are listed, the newest first
WIDTH = 160  # letters of a line where there is no terminal
HEADLINE = ("val_loss", "psnr", "ssim", "fid", "num_samples", "n")  # metrics that tell a run in short, in this order
SHOWN = 3  # of them


class Dataset(NamedTuple):
    """An option of `dataset`. `place`: what says where a user's own images are, such as dataset.root."""

    name: str
    about: str
    channels: str
    size: str
    splits: str
    licence: str
    present: bool
    place: str


class FinishedRun(NamedTuple):
    """A run, or a sweep, that came to its end, and what it measured in a few words."""

    mode: str
    dataset: str
    folder: Path
    measured: str


def show(config: Config, folders: Sequence[Path]) -> None:
    """Print the datasets, models, losses, scores and finished runs.

    Args:
        folders: where options are: ours, and the user's own.
    """
    from rich.console import Console

    from advvae.outlier.scores import BASELINES, FUSED, SCORES

    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    console.print(_dataset_table(list(datasets(folders, Path(config.data_dir)))))
    print(f"Present means below data_dir={config.data_dir}; others are downloaded when first used. Licences are as the")
    print("sets' authors state them: read theirs before you publish.\n")
    for group in ("model", "loss", "experiment"):
        options = _options(group, folders)
        console.print(_table(f"{group}=", ("name", "what it is"), [(name, about) for name, (about, _) in options]))
    own = [name for name in SCORES if name not in BASELINES]
    console.print(f"[bold]scores=[/bold] {', '.join([*own, FUSED])}; baselines {', '.join(BASELINES)}")
    finished = list(finished_runs(Path(config.output_dir)))
    rows = [(run.mode, run.dataset, run.measured, str(run.folder)) for run in finished[:MOST_RUNS]]
    console.print(_table("finished runs, newest first", ("mode", "dataset", "measured", "folder"), rows))
    if not rows:
        print(f"none below output_dir={config.output_dir}")
    if len(finished) > MOST_RUNS:
        print(f"and {len(finished) - MOST_RUNS} older ones below {config.output_dir}")


def datasets(folders: Sequence[Path], data_dir: Path) -> Iterator[Dataset]:
    """Every option of `dataset`, with what its file and its source say."""
    for name, (about, node) in _options("dataset", folders):
        place = next((f"dataset.{key}=" for key in PLACES.get(str(node.get("_target_")), ())), "")
        splits, present = _splits_and_presence(name, node, data_dir)
        channels, size = (str(node.get(key) or "any") for key in ("channels", "size"))
        yield Dataset(name, about, channels, size, splits, node.get("licence") or "", present and not place, place)


def finished_runs(output_dir: Path) -> Iterator[FinishedRun]:
    """The runs below a folder that came to their end, sweeps too, the newest first."""
    found = [path for mode in MODES for path in output_dir.glob(f"{mode}/*/*/metrics.json")]
    found += output_dir.glob("sweeps/*/summary.csv")
    for file in sorted(found, key=lambda path: path.parent.name, reverse=True):
        folder = file.parent
        if file.name == "summary.csv":
            jobs = sum(1 for _ in folder.glob("*/metrics.json"))
            yield FinishedRun("sweep", "", folder, f"{jobs} jobs")
        elif (metrics := runs.read_metrics(folder)).get("status") == "finished":
            yield FinishedRun(folder.parent.parent.name, folder.parent.name, folder, in_short(metrics))


def in_short(metrics: Mapping[str, Any]) -> str:
    """The few numbers that tell what a run came to."""
    told = [f"{name} {metrics[name]:.4g}" for name in HEADLINE if isinstance(metrics.get(name), int | float)][:SHOWN]
    scores, ranked_by = metrics.get("scores", {}), metrics.get("ranked_by")
    if ranked_by in scores and isinstance(auroc := scores[ranked_by].get("auroc"), float):
        told.append(f"AUROC {auroc:.3f} ({ranked_by})")
    return ", ".join(told)


def _options(group: str, folders: Sequence[Path]) -> list[tuple[str, tuple[str, dict[str, Any]]]]:
    """The options of a group: name -> (first comment of its file, what the file says)."""
    found = {}
    for path in (path for folder in folders for path in sorted((folder / group).glob("*.yaml"))):
        text = path.read_text(encoding="utf-8")
        node = yaml.safe_load(text) or {}
        found[path.stem] = (first_comment(text), node if isinstance(node, dict) else {})
    return sorted(found.items())


def first_comment(text: str) -> str:
    """What an option's file says of it in its first line; "" where it says nothing."""
    comments = (line.lstrip("# ") for line in text.splitlines() if line.startswith("#") and "@package" not in line)
    return next(comments, "")


def _splits_and_presence(name: str, node: Mapping[str, Any], data_dir: Path) -> tuple[str, bool]:
    """The official splits of a set, and whether the files of all of them are there; nothing is downloaded."""
    from advvae.building import build_source

    try:
        source = build_source("dataset", {**node, "name": name})
        splits = list(source.splits)
        is_there = getattr(source, "is_present", getattr(source, "files", lambda split, data_dir: True))
        return " ".join(splits), all(is_there(split, data_dir.expanduser()) for split in splits)
    except (UserError, OSError):  # a user's own images, whose place is not typed
        return "", False


def _dataset_table(rows: Sequence[Dataset]) -> "Table":
    cells = [
        (row.name, row.about, row.channels, row.size, row.splits, row.licence, _where(row)) for row in rows
    ]  # fmt: skip
    return _table("dataset=", ("name", "what it is", "channels", "size", "splits", "licence", "here"), cells)


def _where(row: Dataset) -> str:
    return f"with {row.place}" if row.place else "present" if row.present else "–"


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    for number, heading in enumerate(headings):
        table.add_column(heading, no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table
