"""`mode=list`: the datasets, models and scores that there are, and what was run."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from advvae import runs
from advvae.checks import PLACES
from advvae.conf_text import first_comment
from advvae.config import MODES, Config
from advvae.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

MOST_RUNS = 20  # that are listed, the newest first
WIDTH = 160  # letters of a line where there is no terminal
HEADLINE = ("val_loss", "psnr", "ssim", "fid", "num_samples", "n")  # metrics that tell a run in short, in this order
SHOWN = 3  # of them


class Dataset(NamedTuple):
    """An option of `dataset`.

    present: whether its files are there; None = its source, one of the user's own, does not tell.
    place: what says where a user's own images are, such as dataset.root.
    """

    name: str
    about: str
    channels: str
    size: str
    splits: str
    licence: str
    present: bool | None
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
    newest = list(islice(finished_runs(Path(config.output_dir)), MOST_RUNS + 1))
    rows = [(run.mode, run.dataset, run.measured, str(run.folder)) for run in newest[:MOST_RUNS]]
    console.print(_table("finished runs, newest first", ("mode", "dataset", "measured", "folder"), rows))
    if not rows:
        print(f"none below output_dir={config.output_dir}")
    if len(newest) > MOST_RUNS:
        print(f"and older ones below {config.output_dir}")


def datasets(folders: Sequence[Path], data_dir: Path) -> Iterator[Dataset]:
    """Every option of `dataset`, with what its file and its source say."""
    for name, (about, node) in _options("dataset", folders):
        place = next((f"dataset.{key}=" for key in PLACES.get(str(node.get("_target_")), ())), "")
        splits, present = _splits_and_presence(name, node, data_dir)
        channels, size = (str(node.get(key) or "any") for key in ("channels", "size"))
        yield Dataset(name, about, channels, size, splits, node.get("licence") or "", present, place)


def finished_runs(output_dir: Path) -> Iterator[FinishedRun]:
    """The runs below a folder that came to their end, sweeps too, newest first; each is read when asked for."""
    found = [path for mode in MODES for path in output_dir.glob(f"{mode}/*/*/metrics.json")]
    found += output_dir.glob("sweeps/*/summary.csv")
    for file in sorted(found, key=lambda path: path.parent.name, reverse=True):
        folder = file.parent
        if file.name == "summary.csv":
            yield FinishedRun("sweep", "", folder, _sweep_in_short(folder))
        elif (metrics := runs.read_metrics(folder)).get("status") == "finished":
            yield FinishedRun(folder.parent.parent.name, folder.parent.name, folder, in_short(metrics))


def _sweep_in_short(folder: Path) -> str:
    """How many jobs a sweep has, and the lowest `val_loss` among those that finished with one."""
    told = f"{sum(1 for _ in folder.glob('*/metrics.json'))} jobs"
    with suppress(UserError):
        told += f", best val_loss {runs.read_metrics(runs.best_job(folder))['val_loss']:.4g}"
    return told


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


def _splits_and_presence(name: str, node: Mapping[str, Any], data_dir: Path) -> tuple[str, bool | None]:
    """The official splits of a set, and whether it is there."""
    from advvae.building import build_source

    try:
        source = build_source("dataset", {**node, "name": name})
        return " ".join(source.splits), are_there(source, data_dir)
    except (UserError, OSError):  # a user's own images, whose place is not typed
        return "", False


def are_there(source: Any, data_dir: Path) -> bool | None:
    """Whether the files of all splits of a source are there; None = it does not tell. Nothing is downloaded.

    Raises:
        UserError: the place of a user's own images is not typed, or there is nothing there.
    """
    from advvae.data.source import is_private

    is_there = getattr(source, "is_present", getattr(source, "files", None))
    if is_there is None:
        return None if is_private(source) else True  # ours without files are part of a package
    return all(is_there(split, data_dir.expanduser()) for split in source.splits)


def _dataset_table(rows: Sequence[Dataset]) -> "Table":
    cells = [
        (row.name, row.about, row.channels, row.size, row.splits, row.licence, _where(row)) for row in rows
    ]  # fmt: skip
    return _table("dataset=", ("name", "what it is", "channels", "size", "splits", "licence", "here"), cells)


def _where(row: Dataset) -> str:
    return f"with {row.place}" if row.place else {True: "present", False: "–", None: "?"}[row.present]


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    for number, heading in enumerate(headings):
        table.add_column(heading, no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table
