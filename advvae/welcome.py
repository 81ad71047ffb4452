"""What `advvae` says without arguments: what it can do, what it finds here, and what to type next."""

import os
from itertools import chain, islice
from pathlib import Path

from advvae.catalogue import FinishedRun, datasets, finished_runs
from advvae.config import CONF

COUNTED = 20  # finished runs; there may be thousands, each in a file of its own
HEAD = "advvae trains adversarial variational autoencoders on images, reconstructs, samples, and finds outliers."
TAIL = """\
advvae mode=list tells every dataset, model and score, and what was run; advvae --help every choice and key."""
FIRST = (
    ("advvae mode=train dataset=digits n_epochs=20", "train; digits needs no download"),
    ("advvae mode=train dataset=folder dataset.root=<folder>", "train on images of your own"),
)
NEXT = (
    ("advvae mode=test dataset={name}", "measure and draw its reconstructions"),
    ("advvae mode=sample dataset={name}", "draw samples"),
    ("advvae mode=outlier dataset={name} out_dataset={other}", "score outliers"),
    ("advvae mode=screen dataset={name} input=<folder>", "flag images of your own"),
    ("advvae mode=report checkpoint={folder}", "build its page again"),
)


def welcome(data_dir: Path, output_dir: Path) -> str:
    """The text; folders are looked into, and nothing is written."""
    present = [dataset.name for dataset in datasets([CONF], data_dir) if dataset.present]
    others = finished_runs(output_dir)
    finished = list(islice(others, COUNTED + 1))
    trained = next((run for run in chain(finished, others) if run.mode == "train"), None)
    lines = [HEAD, "", f"Data: {', '.join(present)}; others are downloaded to {data_dir} when first used."]
    if finished:
        newest = finished[0]
        told = f" ({newest.measured})" if newest.measured else ""
        count = len(finished) if len(finished) <= COUNTED else f"more than {COUNTED}"
        lines.append(f"Runs: {count} finished below {output_dir}, the newest {_named(newest)}{told}.")
    else:
        lines.append(f"Runs: none finished below {output_dir} yet.")
    lines += ["", "Type next:", *_commands(trained), "", TAIL]
    return "\n".join(lines)


def default_folders() -> tuple[Path, Path]:
    """data_dir and output_dir where nothing is typed."""
    return Path(os.environ.get("ADVVAE_DATA", "data")), Path("outputs")


def _commands(trained: FinishedRun | None) -> list[str]:
    commands = [*FIRST]
    if trained is not None:
        other = "digits" if trained.dataset == "photos" else "photos"  # which need no download
        names = {"name": trained.dataset, "folder": trained.folder, "other": other}
        commands = [(text.format(**names), why) for text, why in NEXT]
    width = max(len(command) for command, _ in commands)
    return [f"  {command:<{width}}   {why}" for command, why in commands]


def _named(run: FinishedRun) -> str:
    return f"{run.mode} on {run.dataset}" if run.dataset else f"{run.mode} {run.folder}"
