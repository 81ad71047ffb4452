"""advvae from Python: the objects that the commands use, without a command.

Images go in as a torch tensor (n, C, H, W), a NumPy array (n, H, W) or (n, H, W, C), or a list of such images or of
Pillow's: uint8, uint16, or floats in [0, 1]. They are brought to the model's size and channels as files are. Images
come out as a tensor (n, C, H, W) of float32 in [0, 1].
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from advvae import composing, runs
from advvae.config import Config
from advvae.data import Split
from advvae.data.given import given_pixels
from advvae.data.source import Form
from advvae.errors import UserError
from advvae.jobs import Job
from advvae.latent_samplers import draw_latents
from advvae.main import MODES
from advvae.models import AdversarialVAE
from advvae.models.evaluation import evaluation
from advvae.overrides import as_overrides
from advvae.progress import ConsoleHandler
from advvae.ready import ready_detector, ready_mixture
from advvae.running import run_job
from advvae.runs import Run
from advvae.sampler import decoded

if TYPE_CHECKING:
    import pandas

    from advvae.data.given import Images


class Posterior(NamedTuple):
    """q(z given x) of n images: mean and log-variance, each (n, latent_dim) float32."""

    mean: Tensor
    logvar: Tensor


class Model:
    """A trained model. `load` and `train` make it.

    Attributes:
        config: what it was trained by.
        networks: encoder, decoder and discriminator, as PyTorch modules; images in [-1, 1].
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self.networks: AdversarialVAE = job.trained_networks()

    @property
    def config(self) -> Config:
        return self._job.config

    @property
    def folder(self) -> Path:
        """Of the run, or the exported model, that it was loaded from."""
        return self._job.weights_folder

    def __repr__(self) -> str:
        parts = [name for name in ("encoder", "decoder", "discriminator") if getattr(self.networks, name) is not None]
        form = self._form
        kind = f"{self.config.dataset['name']}, {form.channels} × {form.size} × {form.size}"
        return f"<advvae.Model of {kind}: {', '.join(parts)}; {self.folder}>"

    def reconstruct(self, images: Images) -> Tensor:
        """Reconstructions (n, C, size, size) at the posterior mean.

        Raises:
            UserError: there is no encoder and decoder; what was given is no images.
        """
        self._check_vae("reconstruct")
        parts = [self.networks.reconstruct(batch).cpu() for batch in self._evaluated(images)]
        return _to_unit_range(torch.cat(parts))

    def sample(self, n: int = 16, *, seed: int = 0, sampler: str = "prior", truncation: float = 1.0) -> Tensor:
        """n samples (n, C, size, size); the same ones for the same seed.

        Args:
            sampler: prior, or gmm = a Gaussian mixture fitted to the training images' latents.
            truncation: below 1, nearer to the centre.

        Raises:
            UserError: there is no decoder; `gmm` finds neither a fitted mixture nor the training images.
        """
        self._check_vae("sample")
        job = self._with(sampler=sampler)
        mixture = ready_mixture(job, self.networks)
        latents = draw_latents(n, self.networks.latent_dim, seed=seed, truncation=truncation, mixture=mixture)
        batches = decoded(self.networks, latents, device=job.device, batch_size=self.config.batch_size)
        return _to_unit_range(torch.cat([batch.cpu() for batch in batches]))

    def encode(self, images: Images) -> Posterior:
        """Mean and log-variance of q(z given x), each (n, latent_dim).

        Raises:
            UserError: there is no encoder; what was given is no images.
        """
        self._check_vae("encode")
        means, logvars = zip(*(self.networks.encode(batch) for batch in self._evaluated(images)), strict=True)
        return Posterior(torch.cat([mean.cpu() for mean in means]), torch.cat([logvar.cpu() for logvar in logvars]))

    def score(self, images: Images, scores: Sequence[str] | None = None, *, alpha: float = 0.05) -> pandas.DataFrame:
        """Outlier scores of each image, larger = more outlying, each from the image alone.

        Args:
            scores: names, as `advvae mode=list` tells them; None = those of the config.
            alpha: share of normal images that may be flagged.

        Returns:
            A row per image, and of each score the columns `<score>`, `<score>_p` (its conformal p-value) and
            `<score>_flag` (1 = above the threshold, 0 = not; missing where too few images are there to calibrate with).

        Raises:
            UserError: an unknown score; one that is not fitted where the training images are not at hand.
        """
        import pandas

        job = self._with(baselines=False, alpha=alpha) if scores is None else self._with(
            scores=list(scores), baselines=False, alpha=alpha
        )  # fmt: skip
        detector = ready_detector(job, self.networks)
        reading: dict[str, Any] = {"batch_size": self.config.batch_size, "device": job.device, "crop": self.config.crop}
        found = detector.score(self.networks, job.objective, self._split(images), **reading)
        columns: dict[str, Any] = {}
        for name, values in found.items():
            threshold = detector.threshold(name, alpha)
            flags = [pandas.NA] * len(values) if threshold is None else (values > threshold).astype(int)
            columns |= {name: values, f"{name}_p": detector.p_values(name, values)}
            columns[f"{name}_flag"] = pandas.array(flags, dtype="Int64")
        return pandas.DataFrame(columns)

    def screen(
        self, place: str | Path, scores: Sequence[str] | None = None, *, alpha: float = 0.05
    ) -> pandas.DataFrame:
        """`mode=screen` of a folder of images, an image, or an .npy or .npz file: the table that is its screen.csv.

        Raises:
            UserError: as `score`; nothing is there, or no image that can be read.
        """
        import pandas

        from advvae import modes

        keys: dict[str, Any] = {"input": str(place), "alpha": alpha, "baselines": False}
        job = self._with(**keys) if scores is None else self._with(scores=list(scores), **keys)
        with tempfile.TemporaryDirectory() as scratch:
            modes.screen(replace(job, run=Run(Path(scratch), [], resumed=False)))
            return pandas.read_csv(Path(scratch) / "screen.csv", dtype={"path": str})

    @property
    def _form(self) -> Form:
        return self._job.form(self.config.dataset, self._job.source)

    def _with(self, **keys: Any) -> Job:
        """The job with other values of flat keys, checked as those that are typed."""
        from advvae.checks import check

        changed = replace(self._job, config=replace(self.config, **keys))
        check(changed.config)
        return changed

    def _check_vae(self, what: str) -> None:
        if not self.networks.has_vae:
            raise UserError(f"{what} needs an encoder and a decoder, and {self.folder} holds a discriminator alone")

    def _evaluated(self, images: Images) -> Iterator[Tensor]:
        """Batches in [-1, 1], within `evaluation`."""
        split = replace(self._split(images), crop=self.config.crop)
        with evaluation(self.networks, self._job.device):
            yield from split.batches(self.config.batch_size, self._job.device)

    def _split(self, images: Images) -> Split:
        """Images of a caller's as a split without labels."""
        pixels = given_pixels(images, self._form)
        n = len(pixels)
        return Split("images", "given", pixels, torch.arange(n), "given", np.full(n, -1), [], None)


def load(path: str | Path, *, device: str = "auto", config_dir: str | Path | None = None, **keys: Any) -> Model:
    """A trained model, from the folder of a run, a sweep (its best job) or an exported model, or a checkpoint's file.

    Args:
        device: auto, cpu, cuda, cuda:1, mps.
        config_dir: the folder of your own options, where the run has one of them.
        keys: flat keys, such as data_dir where the training images are elsewhere now.

    Raises:
        UserError: nothing is there, or it is damaged; a key that there is not, or a value that it cannot have.
    """
    typed = {"mode": "screen", "input": ".", "tracker": "none", "checkpoint": str(path), "device": device, **keys}
    folders = [] if config_dir is None else [Path(config_dir)]
    scratch = tempfile.TemporaryDirectory(prefix="advvae-")
    with composing.composed(as_overrides(typed), folders) as composed:
        settled = composing.settled_config(composed, Path(scratch.name), in_sweep=False)
    run = Run(Path(scratch.name), [], resumed=False)
    job = Job(settled.config, run, settled.checkpoint, settled.discriminator, ExitStack(), settled.typed)
    job.resources.callback(scratch.cleanup)
    return Model(job)


def train(*, config_dir: str | Path | None = None, **keys: Any) -> Model:
    """`mode=train`: train a model in a run folder of its own, and load its best epoch.

    Args:
        config_dir: the folder of your own options.
        keys: groups and flat keys as they are typed, such as dataset="digits", n_epochs=20, hidden_dims=[32, 64]; those
            of a group as **{"dataset.root": "scans"}.

    Raises:
        UserError: a key that there is not, or a value that it cannot have; whatever ends a training.
    """
    if "mode" in keys:
        raise UserError("train() is mode=train: leave mode out")
    folders = [] if config_dir is None else [Path(config_dir)]
    with composing.composed(as_overrides({"mode": "train", **keys}), folders, with_folder=True) as composed:
        folder = Path(composed.hydra.runtime.output_dir)
        with _logged_to(folder / "advvae.log", Path(composed.output_dir).absolute()):
            run_job(composed, False, MODES)
    return load(folder, device=str(keys.get("device", "auto")), config_dir=config_dir, data_dir=composed.data_dir)


def read_sweep(folder: str | Path) -> pandas.DataFrame:
    """The jobs of a sweep, a row each: `job`, the keys that were swept, `status`, `error`, `seconds`, and metrics.

    Raises:
        UserError: the folder holds no jobs.
    """
    import pandas

    from advvae.sweep_rows import gather, varied_keys

    rows = gather(Path(folder))
    keys = varied_keys(rows)
    frame = pandas.DataFrame(
        [
            {
                "job": row["job"],
                **{key: row["overrides"].get(key) for key in keys},
                **{name: row[name] for name in ("status", "error", "seconds")},
                **row["metrics"],
            }
            for row in rows
        ]
    )
    for key in ("job", *keys):  # numbers, where all are
        numbers = pandas.to_numeric(frame[key], errors="coerce")
        if numbers.notna().all():
            frame[key] = numbers
    return frame


@contextmanager
def _logged_to(path: Path, output_dir: Path) -> Iterator[None]:
    """What a run tells goes to standard output and to a file, as Hydra arranges it for a command.

    Args:
        output_dir: where the run's folder is removed from again, if nothing but the file has come into it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    log, file = logging.getLogger("advvae"), logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("[%(asctime)s] %(message)s"))
    handlers, level, propagate = [ConsoleHandler(), file], log.level, log.propagate
    log.setLevel(logging.INFO)
    log.propagate = False  # a notebook's root logger would tell everything twice
    for handler in handlers:
        log.addHandler(handler)
    try:
        yield
    finally:
        log.setLevel(level)
        log.propagate = propagate
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()
        if path.parent.is_dir() and {entry.name for entry in path.parent.iterdir()} <= {path.name}:
            runs.remove_folder(path.parent, output_dir)


def _to_unit_range(images: Tensor) -> Tensor:
    """[-1, 1] to [0, 1]."""
    return (images + 1) / 2
