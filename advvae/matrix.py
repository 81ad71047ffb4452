"""`mode=matrix`: a network for each of several sets, and how well it tells its own from all the others."""

import csv
import logging
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

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
    of the score that runs are ranked by, such as `fused`, and `matrix/<score>.png` of every one.

    Returns:
        `ranked_by`, and `auroc.<inliers>.<outliers>` of that score.
    """
    config = job.config
    results = {name: _against_others(job, name, _trained_run(job, name)) for name in config.datasets}
    measured = {name: result["sets"] for name, result in results.items()}
    ranked_by = next(iter(results.values()))["ranked_by"]
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
    for score in dict.fromkeys(row["score"] for row in rows):
        _draw(config.datasets, rows, score, job.folder / "matrix" / f"{score}.png")
    _draw(config.datasets, rows, ranked_by, job.folder / "matrix.png")
    auroc = {
        name: {
            other: found["scores"][ranked_by]["auroc"] for other, found in sets.items() if ranked_by in found["scores"]
        }
        for name, sets in measured.items()
    }
    return {"ranked_by": ranked_by, "auroc": auroc}


def _trained_run(job: Job, name: str) -> Path:
    """The folder of the newest finished run on all of this set; a new one, with the job's settings, without it."""
    config = job.config
    finished = runs.finished_runs(config.output_dir, name)
    found = next((run for run in finished if not _is_partial(runs.read_config(run)["dataset"])), None)
    if found:
        logger.info(f"{name}: takes {found}")
        return found
    folder = runs.new_folder(config.output_dir, "train", name)
    logger.info(f"{name}: no finished run, so one is trained in {folder}")
    trained = replace(config, mode="train", dataset=config.nodes[name], datasets=[], nodes={})
    _run(job, trained, folder, [*_settings(job), "mode=train", f"dataset={name}"])
    return folder


def _is_partial(dataset: dict[str, Any]) -> bool:
    """Whether a run was trained on some classes of its set alone."""
    return bool(dataset["keep_classes"] or dataset["drop_classes"])


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
    overrides = [*_settings(job), "mode=outlier", f"dataset={name}", f"out_datasets=[{','.join(others)}]"]
    return _run(job, scored, job.folder / name, overrides)


def _settings(job: Job) -> list[str]:
    """What was typed beside the sets and the mode."""
    own = ("mode=", "datasets=", "dataset=", "out_dataset=", "out_datasets=", "near=", "far=")
    return [override for override in job.run.overrides if not override.startswith(own)]


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
    import numpy as np

    from advvae.outlier.pictures import auroc_map

    values = np.full((len(datasets), len(datasets)), np.nan)
    for row in rows:
        if row["score"] == score and isinstance(row["auroc"], float):
            values[datasets.index(row["dataset"]), datasets.index(row["out_dataset"])] = row["auroc"]
    auroc_map(values, datasets, datasets, path, row_name="inliers", title=f"AUROC of {score}")
