"""What each mode does: from a settled config to networks, data, and the verb that works on them."""

import logging
import os
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advvae.building import build, build_networks, build_source, select_device, trained_networks
from advvae.config import Config
from advvae.errors import UserError
from advvae.runs import Run, flat
from advvae.settle import Settled

if TYPE_CHECKING:
    import torch

    from advvae.checkpoint import Checkpoint
    from advvae.data import Split
    from advvae.losses import Objective
    from advvae.models import AdversarialVAE
    from advvae.outlier.scores import Score
    from advvae.tracking import Tracker

logger = logging.getLogger(__name__)


@dataclass
class Job:
    """A run under way: what was settled, and the folder that it fills."""

    config: Config
    run: Run
    checkpoint: "Checkpoint | None"
    discriminator: "Checkpoint | None"
    resources: ExitStack  # closes what the job opens, however it ends
    _splits: "dict[tuple[str, str], Split]" = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.run.folder

    @cached_property
    def device(self) -> "torch.device":
        return select_device(self.config.device)

    @cached_property
    def objective(self) -> "Objective":
        from advvae.losses import Objective

        config = self.config
        return Objective(build("loss", config.loss), config.kld_weight, config.recon_weight, config.gen_weight)

    @cached_property
    def source(self) -> Any:
        return build_source("dataset", self.config.dataset)

    @cached_property
    def tracker(self) -> "Tracker":
        """Opened when first used: by then all of the config is decided."""
        from advvae.tracking import open_tracker

        config, training = self.config, self.checkpoint.training if self.checkpoint else None
        tracker = open_tracker(
            config.tracker,
            folder=self.folder,
            config=vars(config),
            run_name=f"{config.mode}-{config.dataset['name']}-{self.folder.name}",
            images_allowed=not getattr(self.source, "private", False),
            run_id=training.tracker_run_id if training and config.mode == "train" else None,
        )
        return self.resources.enter_context(tracker)

    def split(self, name: str) -> "Split":
        """A split of the dataset."""
        return self._loaded("dataset", name)

    def outliers(self) -> "Split":
        """The outlier set's test split, brought to the network's size and channels."""
        return self._loaded("out_dataset", "test")

    def scores(self) -> "dict[str, Score]":
        """The outlier scores that the config names."""
        from advvae.outlier.scores import named_scores

        return named_scores(item if isinstance(item, str) else build("scores", item) for item in self.config.scores)

    def trained_networks(self) -> "AdversarialVAE":
        """The networks with the weights that were loaded."""
        return trained_networks(self.config, self.checkpoint, self.discriminator, self.device)

    def _loaded(self, group: str, split: str) -> "Split":
        if (group, split) not in self._splits:
            self._splits[group, split] = self._load(group, split)
        return self._splits[group, split]

    def _load(self, group: str, split: str) -> "Split":
        from advvae.data import load_split

        config = self.config
        node = getattr(config, group)
        assert config.size is not None
        return load_split(
            self.source if group == "dataset" else build_source(group, node),
            split,
            name=node["name"],
            size=config.size,
            channels=config.dataset["channels"],
            data_dir=Path(config.data_dir),
            keep_classes=node["keep_classes"],
            drop_classes=node["drop_classes"],
            num_workers=config.num_workers,
        )


def open_job(settled: Settled, run: Run, resources: ExitStack) -> Job:
    """Prepare a run: what was taken is said and written, seeds are set."""
    import torch

    config = settled.config
    job = Job(config, run, settled.checkpoint, settled.discriminator, resources)
    select_device(config.device)  # a device that is not there is told before any work
    run.add_overrides(settled.taken())
    for role, loaded in (("checkpoint", settled.checkpoint), ("discriminator", settled.discriminator)):
        if loaded:
            after = f", after epoch {loaded.training.epoch}" if loaded.training else ""
            logger.info(f"{role}: {loaded.path}{after}")
    run.begin()
    run.write_config(config, checksums(settled))
    torch.manual_seed(config.seed)
    if config.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS is deterministic with a fixed workspace only
    torch.use_deterministic_algorithms(config.deterministic)
    return job


def checksums(settled: Settled) -> dict[str, str]:
    """SHA-256 of the files that were loaded."""
    from advvae.checkpoint import sha256

    loaded = {"checkpoint_sha256": settled.checkpoint, "discriminator_checkpoint_sha256": settled.discriminator}
    return {name: sha256(file.path) for name, file in loaded.items() if file}


def train(job: Job) -> dict[str, Any]:
    """`mode=train`: a new run, or one that goes on."""
    from advvae.checkpoint import read_checkpoint
    from advvae.data import infer_channels
    from advvae.game import choose_precision
    from advvae.outlier.scores import usable_scores
    from advvae.trainer import Trainer

    config = job.config
    if config.dataset["channels"] is None:
        config.dataset["channels"] = infer_channels(job.source, Path(config.data_dir), config.size or 32)
    networks = build_networks(config)
    if "outlier" in config.then:  # a mistake in it is told before hours of training, not after
        usable_scores(job.scores(), networks)
        job.outliers()
    train_split, (select_split, _) = job.split("train"), job.split("val").halves()
    if config.precision == "auto":
        images = next(iter(train_split.batches(config.batch_size, job.device)))
        precision = choose_precision(networks, job.objective, images, config.lr, job.device)
        config = replace(config, precision=precision)
        job.run.add_overrides([f"precision={precision}"])
    job.config = config
    job.run.write_config(config)
    if job.checkpoint and job.checkpoint.training and job.checkpoint.training.epoch < config.n_epochs:
        job.run.metrics.clear()  # what was measured on weights that training is about to change
    trainer = Trainer(
        config,
        networks,
        job.objective,
        train_split,
        select_split,
        folder=job.folder,
        device=job.device,
        tracker=job.tracker,
        resumed=job.checkpoint,
    )
    metrics = trainer.train()
    job.checkpoint = read_checkpoint(job.folder / "checkpoints" / "best.pt")
    return metrics


def test(job: Job) -> dict[str, Any]:
    """`mode=test`: reconstruction metrics on the test split."""
    from advvae.evaluator import evaluate

    config = job.config
    return evaluate(
        job.trained_networks(),
        job.objective,
        job.split("test"),
        batch_size=config.batch_size,
        device=job.device,
        folder=job.folder,
        num_workers=config.num_workers,
    )


def sample(job: Job) -> dict[str, Any]:
    """`mode=sample`: images from the prior."""
    from advvae.sampler import sample as draw

    config = job.config
    return draw(
        job.trained_networks(),
        num_samples=config.num_samples,
        seed=config.seed,
        device=job.device,
        folder=job.folder,
        batch_size=config.batch_size,
    )


def outlier(job: Job) -> dict[str, Any]:
    """`mode=outlier`: the test split against the outlier set's."""
    from advvae.outlier.detector import find_outliers
    from advvae.outlier.scores import usable_scores

    config, networks = job.config, job.trained_networks()
    scores, left_out = usable_scores(job.scores(), networks)
    for name, reason in left_out.items():
        logger.info(f"score {name} is left out: {reason}")
    if "loss" in scores and config.recon_weight > 0 and networks.discriminator is None:
        logger.info("score loss goes without its adversarial term: there is no discriminator")
    return find_outliers(
        networks,
        job.objective,
        job.split("test"),
        job.outliers(),
        scores=scores,
        batch_size=config.batch_size,
        device=job.device,
        folder=job.folder,
        num_workers=config.num_workers,
    )


def objective(config: Config, metrics: dict[str, Any]) -> float | None:
    """What the job returns to a sweeper: `val_loss`, or the metric that `objective` names.

    Raises:
        UserError: the job measured no such metric.
    """
    if config.objective is None:
        return metrics.get("val_loss")
    value: Any = metrics
    for name in config.objective.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if not isinstance(value, int | float):
        raise UserError(f"objective={config.objective} was not measured; there is {', '.join(flat(metrics))}")
    return float(value)


PICTURES = {"test": ("reconstructions",), "sample": ("samples",), "outlier": ("histograms", "roc")}


def track(job: Job, mode: str, metrics: dict[str, Any]) -> None:
    """Report what a mode measured and drew; training has done so epoch by epoch."""
    if mode == "train":
        return
    epoch = job.checkpoint.training.epoch if job.checkpoint and job.checkpoint.training else 0
    job.tracker.log({name: value for name, value in flat(metrics).items() if isinstance(value, int | float)}, epoch)
    for name in PICTURES[mode]:
        job.tracker.image(name, job.folder / f"{name}.png", epoch)


def report(job: Job) -> None:
    """The short table that every run ends with, and where its files are."""
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "value", title=" + ".join(job.config.modes), title_justify="left")
    for name, value in flat(job.run.metrics).items():
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    console = Console()
    console.print(table)
    logger.info(f"run folder: {job.folder}")
