"""`mode=matrix`: a network for each of several sets, and how well it tells its own from all the others.

What it does it finds again, so that the same command goes on after a stop: trained networks, unfinished trainings where
resume= is set, and in a resumed run the sets that have been scored.
"""

import logging
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from advvae import modes, runs
from advvae.building import build_source
from advvae.checks import OF_EVERY_SET
from advvae.cli import config_dirs
from advvae.comparing import differing
from advvae.config import CONF, Config
from advvae.errors import UserError
from advvae.jobs import Job, open_job
from advvae.report import leave_page
from advvae.resuming import resumed_folder
from advvae.settle import NETWORK_KEYS, settle
from advvae.targets import check_targets

logger = logging.getLogger(__name__)

COMPARED = ("dataset", "size", "crop", "latent_dim", "seed")  # of a finished run with the one that would be trained
TYPED_OF_TRAINING = (  # that are compared where they were typed
    *NETWORK_KEYS,
    *("model", "loss", "batch_size", "n_epochs", "max_minutes", "lr", "deterministic", "precision"),
    *("lr_discriminator", "betas", "betas_discriminator", "lr_schedule", "lr_warmup", "clip_gradient", "ema"),
    *("kld_schedule", "kld_epochs", "free_bits", "gradient_penalty", "feature_weight", "adaptive_weight"),
    *("adversarial_start", "adversarial_ramp", "discriminator_steps", "augment"),
)


def matrix(job: Job) -> dict[str, Any]:
    """Find a finished run on each set of `datasets`, or train one; score each against all others.

    Each set's scores and audit stand in a folder `<set>/` of the run. Of all together it writes `matrix.csv`;
    `matrix.md` and `matrix.png`, AUROCs of the score that runs are ranked by, such as `fused`; `matrix/<score>.png` of
    every one; and `audit.csv`, what the sets have in common.

    Returns:
        `ranked_by`, and `auroc.<inliers>.<outliers>` of that score.

    Raises:
        UserError: the images of some sets are missing, which is told of all of them before anything is trained.
    """
    from advvae.audit import read_audit, write_audit
    from advvae.matrix_report import write_matrix

    trained = {name: _training_of(job, name) for name in job.config.datasets}
    _check_images(trained)
    for config in trained.values():
        _score(job, config, _trained_run(job, config))
    measured = {name: runs.read_metrics(job.folder / name) for name in trained}
    overlaps = [overlap for name in trained for overlap in read_audit(job.folder / name / "audit.csv")]
    write_audit(job.folder / "audit.csv", overlaps)
    return write_matrix(job.folder, measured, overlaps)


def _training_of(job: Job, name: str) -> Config:
    """The config of a training on all of this set."""
    node, chosen = job.config.nodes[name], job.config.dataset
    typed = {key: chosen[key] for key in OF_EVERY_SET if f"dataset.{key}" in job.typed}
    node = {**node, "resize": node["resize"] or chosen["resize"], **typed}
    config = replace(job.config, mode="train", dataset=node, datasets=[], nodes={}, resume=None)
    return settle(config, set(job.typed)).config


def _check_images(trained: Mapping[str, Config]) -> None:
    """Refuse sets whose images are missing and cannot be downloaded, naming all of them and their files."""
    from advvae.data.splits import at_size, official_split

    reasons = []
    for name, config in trained.items():
        assert config.size is not None
        try:
            source = at_size(build_source(name, config.dataset), config.size)
            source.read(official_split("test", source.splits, name), Path(config.data_dir))
        except UserError as error:
            reasons.append(str(error))
    if reasons:
        raise UserError("; ".join(reasons))


def _trained_run(job: Job, config: Config) -> Path:
    """The folder of the newest finished run that is what the config would train; else of one that is trained now.

    Where the matrix has `resume`, an unfinished training of the same config goes on.
    """
    name = config.dataset["name"]
    for run in runs.finished_trainings(config.output_dir, name):
        if _fits(config, runs.read_config(run), job.typed):
            logger.info(f"{name}: takes {run}")
            return run
    resumed = resumed_folder(replace(config, resume="auto")) if job.config.resume else None
    folder = resumed or runs.new_folder(config.output_dir, "train", name)
    done = "goes on in" if resumed else "no finished run of these settings, so one is trained in"
    logger.info(f"{name}: {done} {folder}")
    _run(job, replace(config, resume=str(resumed) if resumed else None), folder)
    return folder


def _fits(wanted: Config, run: Mapping[str, Any], typed: frozenset[str]) -> bool:
    """Whether a run was trained on the same images to the same sizes with the same seed, and as was typed."""
    asked = {key.split(".")[0] for key in typed}
    compared = {*COMPARED, *(name for name in TYPED_OF_TRAINING if name in asked)}
    return compared <= set(run) and not compared & set(differing(wanted, run))


def _score(job: Job, config: Config, trained: Path) -> None:
    """Fill `<set>/` with what `mode=outlier` measures against each other set, unless it has been."""
    from advvae.checkpoint import sha256

    name = config.dataset["name"]
    folder = job.folder / name
    checkpoint = runs.checkpoint_file("checkpoint", str(trained))
    before = runs.read_config(folder).get("checkpoint_sha256")
    if runs.read_metrics(folder).get("status") == "finished" and before == sha256(checkpoint):
        logger.info(f"{name}: has been scored")
        return
    others = [other for other in job.config.datasets if other != name]
    scored = replace(config, mode="outlier", checkpoint=str(checkpoint), out_datasets=others, near=[], far=[])
    _run(job, replace(scored, nodes=job.config.nodes), folder)


def _run(job: Job, config: Config, folder: Path) -> None:
    """Run one mode in a folder of its own, as if it had been typed."""
    output_dir, resumed, scores = Path(config.output_dir), bool(config.resume), config.mode == "outlier"
    opened = runs.open_run(folder, output_dir, _overrides(job, config), resumed, keep_failed=False, again=scores)
    with opened as run, ExitStack() as resources:
        settled = settle(config, set(job.typed))
        check_targets(settled, job.config, (CONF, *config_dirs(sys.argv[1:])))
        own = open_job(settled, run, resources)
        run.metrics |= modes.outlier(own) if scores else modes.train(own)
        if scores:
            _audit(own, job.config.nodes)
        run.finish()
    leave_page(folder)


def _overrides(job: Job, config: Config) -> list[str]:
    """What would be typed to do the same alone."""
    own = ("mode=", "datasets=", "dataset=", "out_dataset=", "out_datasets=", "near=", "far=", "resume=")
    typed = [override for override in job.run.overrides if not override.startswith(own)]
    outliers = [f"out_datasets=[{','.join(config.out_datasets)}]"] if config.mode == "outlier" else []
    return [*typed, f"mode={config.mode}", f"dataset={config.dataset['name']}", *outliers, "resume=null"]


def _audit(own: Job, nodes: Mapping[str, dict[str, Any]]) -> None:
    """Write audit.csv: what the outlier sets, and the set's own test split, have in common with its images."""
    from advvae.audit import Audit, write_audit

    train, test = own.whole_split("train"), own.whole_split("test")
    audit = Audit(train, test, {name: node["patients"] for name, node in nodes.items()}, own.device)
    write_audit(own.folder / "audit.csv", [audit.overlap(split) for split in (test, *own.outliers())])
