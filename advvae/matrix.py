"""`mode=matrix`: a network for each of several sets, and how well it tells its own from all the others."""

import csv
import logging
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from advvae import modes, runs
from advvae.config import Config
from advvae.files import replacing
from advvae.jobs import Job, open_job
from advvae.settle import settle

logger = logging.getLogger(__name__)

COLUMNS = ("dataset", "out_dataset", "score", "n_in", "n_out", "auroc", "auroc_low", "auroc_high")


def matrix(job: Job) -> dict[str, Any]:
    """Find the newest finished run on each set of `datasets`, or train one; score each against all others.

    Each pair's scores stand in a folder `<set>/` of the run, all AUROCs in `matrix.csv`, and in heat maps: `matrix.png`
    of the last score, such as `fused`, and `matrix/<score>.png` of every one.

    Returns:
        `score`, the last one; `auroc.<inliers>.<outliers>` of it.
    """
    config = job.config
    measured = {name: _against_others(job, name, _trained_run(job, name)) for name in config.datasets}
    rows = [
        {"dataset": dataset, "out_dataset": other, "score": score, "n_in": found["n_in"], "n_out": found["n_out"]}
        | {name: metrics[name] for name in COLUMNS[5:]}
        for dataset, sets in measured.items()
        for other, found in sets.items()
        for score, metrics in found["scores"].items()
    ]
    with replacing(job.folder / "matrix.csv") as unfinished, unfinished.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(rows)
    scores = list(dict.fromkeys(row["score"] for row in rows))
    for score in scores:
        _draw(config.datasets, rows, score, job.folder / "matrix" / f"{score}.png")
    _draw(config.datasets, rows, scores[-1], job.folder / "matrix.png")
    last = [row for row in rows if row["score"] == scores[-1]]
    auroc = {name: {row["out_dataset"]: row["auroc"] for row in last if row["dataset"] == name} for name in measured}
    return {"score": scores[-1], "auroc": auroc}


def _trained_run(job: Job, name: str) -> Path:
    """The folder of the newest finished run on this set; a new one, with the job's settings, where there is none."""
    config = job.config
    found = runs.newest_finished(config.output_dir, name)
    if found:
        logger.info(f"{name}: takes {found}")
        return found
    folder = runs.new_folder(config.output_dir, "train", name)
    logger.info(f"{name}: no finished run, so one is trained in {folder}")
    own = ("mode=", "datasets=", "dataset=", "out_dataset=", "-m")
    typed = [override for override in job.run.overrides if not override.startswith(own)]
    trained = replace(config, mode="train", dataset=config.nodes[name], datasets=[], nodes={})
    _run(job, trained, folder, [*typed, "mode=train", f"dataset={name}"])
    return folder


def _against_others(job: Job, name: str, trained: Path) -> dict[str, Any]:
    """What `mode=outlier` measures of a trained run, with each other set as the outliers."""
    config = job.config
    others = [other for other in config.datasets if other != name]
    scored = replace(
        config,
        mode="outlier",
        dataset=config.nodes[name],
        checkpoint=str(trained),
        out_datasets=others,
        near=[],
        far=[],
        datasets=[],
    )
    overrides = ["mode=outlier", f"dataset={name}", f"out_datasets=[{','.join(others)}]"]
    sets: dict[str, Any] = _run(job, scored, job.folder / name, overrides)["sets"]
    return sets


def _run(job: Job, config: Config, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Run one mode in a folder of its own, as if it had been typed."""
    output_dir = Path(config.output_dir)
    with runs.open_run(folder, output_dir, overrides, False, keep_failed=False) as run, ExitStack() as resources:
        own = open_job(settle(config, set(job.typed)), run, resources)
        run.metrics |= modes.train(own) if config.mode == "train" else modes.outlier(own)
        run.finish()
    return run.metrics


def _draw(datasets: list[str], rows: list[dict[str, Any]], score: str, path: Path) -> None:
    """AUROC of one score: inliers down, outliers across; "undefined" of a set of one image is an empty cell."""
    from advvae.figures import heat_map

    values = np.full((len(datasets), len(datasets)), np.nan)
    for row in rows:
        if row["score"] == score and isinstance(row["auroc"], float):
            values[datasets.index(row["dataset"]), datasets.index(row["out_dataset"])] = row["auroc"]
    title = f"AUROC of {score}"
    heat_map(values, datasets, datasets, "inliers", "outliers", title, path, limits=(0, 1), missing="–")
