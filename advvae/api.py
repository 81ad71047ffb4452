"""advvae from Python: the objects that the commands use, without a command.

Images go in as a torch tensor (n, C, H, W), a NumPy array (n, H, W) or (n, H, W, C), or a list of such images or of
Pillow's: uint8, uint16, or floats in [0, 1]. They are brought to the model's size and channels as files are. Images
come out as a tensor (n, C, H, W) of float32 in [0, 1].

A model that was trained with `dataset.window` or `dataset.percentiles` takes values in the unit of its files, such as
Hounsfield's, of any integer or float type, and puts them through its window. Floats in [0, 1] have been through it
already: what it gives, it takes again. `raw=True` says that images are in the unit of the files whatever they are, and
`raw=False` that none is; one of them is asked for where floats in [0, 1] may be either.

Models may be used in several threads, and one of them trains at a time. Random states and TF32 are the whole process's:
load, train and, on a GPU, score in one thread at a time where these must stay as they are.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor

from advvae import composing, hydra_globals
from advvae.config import FLAT_KEYS, Config
from advvae.data import Split
from advvae.data.given import given_pixels
from advvae.data.source import Form
from advvae.errors import UserError
from advvae.in_process import as_command
from advvae.jobs import Job
from advvae.latent_samplers import Mixture, draw_latents
from advvae.main import MODES
from advvae.models import AdversarialVAE
from advvae.models.evaluation import evaluation
from advvae.overrides import as_overrides, hydra_explained
from advvae.random_state import seeded_apart
from advvae.ready import ready_detector, ready_mixture
from advvae.running import run_job
from advvae.runs import Run
from advvae.sampler import decoded

if TYPE_CHECKING:
    import pandas

    from advvae.data.given import Images
    from advvae.outlier.detector import Detector

OF_ITS_RUN = ("scores", "fuse", "batch_size")  # keys that a loaded model uses as it was trained, if they are not given
OF_THIS_PLACE = ("data_dir", "output_dir", "device", "input", "checkpoint", "discriminator_checkpoint", "resume")
OF_LOAD = ("mode", "input", "checkpoint", "resume", "then")  # keys that `load` has no use for


class Posterior(NamedTuple):
    """q(z given x) of n images: mean and log-variance, each (n, latent_dim) float32."""

    mean: Tensor
    logvar: Tensor


class Model:
    """A trained model. `load` and `train` make it.

    Attributes:
        config: what it was trained by; the places of files and the device are those of here.
        networks: encoder, decoder and discriminator, as PyTorch modules in eval mode whose weights ask for no gradient;
            images in [-1, 1].
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        with seeded_apart(seed=0):  # networks are made with weights that are drawn, before their own are read
            self.networks: AdversarialVAE = job.trained_networks().eval().requires_grad_(False)
        self._detectors: dict[str, Detector] = {}  # fitted, by what was asked for
        self._mixtures: dict[str, Mixture | None] = {}  # by sampler

    @property
    def config(self) -> Config:
        loaded = self._job.checkpoint or self._job.discriminator
        assert loaded is not None
        names = [name for name in FLAT_KEYS if name in loaded.config and name not in OF_THIS_PLACE]
        return replace(self._job.config, **{name: loaded.config[name] for name in names})

    @property
    def folder(self) -> Path:
        """Of the run, or the exported model, that it was loaded from."""
        return self._job.weights_folder

    def __repr__(self) -> str:
        parts = [name for name in ("encoder", "decoder", "discriminator") if getattr(self.networks, name) is not None]
        form = self._form
        kind = f"{self.config.dataset['name']}, {form.channels} × {form.size} × {form.size}"
        return f"<advvae.Model of {kind}: {', '.join(parts)}; {self.folder}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a Model is neither pickled nor copied: advvae.load({str(self.folder)!r}) makes another one")

    def reconstruct(self, images: Images, *, raw: bool | None = None) -> Tensor:
        """Reconstructions (n, C, side, side) at the posterior mean.

        The side is `size`; of networks that were trained on crops it is `crop`, and the centred crop is reconstructed.

        Args:
            raw: whether images are in the unit of the files that a window was given for; None = by their type.

        Raises:
            UserError: there is no encoder and decoder; what was given is no images.
        """
        self._check_vae("reconstruct")
        batches = self._batches(images, raw)
        with evaluation(self.networks, self._job.device):
            return _to_unit_range(torch.cat([self.networks.reconstruct(batch).cpu() for batch in batches]))

    def sample(self, n: int = 16, *, seed: int = 0, sampler: str = "prior", truncation: float = 1.0) -> Tensor:
        """n samples (n, C, side, side), of the side of reconstructions; the same ones for the same seed.

        Args:
            sampler: prior, or gmm = a Gaussian mixture fitted to the training images' latents.
            truncation: below 1, nearer to the centre.

        Raises:
            UserError: there is no decoder; n or truncation is not above 0; `gmm` finds neither a fitted mixture nor the
                training images.
        """
        self._check_vae("sample")
        if n < 1:
            raise UserError(f"n must be 1 or more, got {n}")
        job = self._with(sampler=sampler, truncation=truncation)
        if sampler not in self._mixtures:
            self._mixtures[sampler] = ready_mixture(job, self.networks)
        mixture = self._mixtures[sampler]
        latents = draw_latents(n, self.networks.latent_dim, seed=seed, truncation=truncation, mixture=mixture)
        batches = decoded(self.networks, latents, device=job.device, batch_size=job.config.batch_size)
        return _to_unit_range(torch.cat([batch.cpu() for batch in batches]))

    def encode(self, images: Images, *, raw: bool | None = None) -> Posterior:
        """Mean and log-variance of q(z given x), each (n, latent_dim).

        Args:
            raw: as `reconstruct`.

        Raises:
            UserError: there is no encoder; what was given is no images.
        """
        self._check_vae("encode")
        batches = self._batches(images, raw)
        with evaluation(self.networks, self._job.device):
            means, logvars = zip(*(self.networks.encode(batch) for batch in batches), strict=True)
        return Posterior(torch.cat(means).cpu(), torch.cat(logvars).cpu())

    def score(
        self,
        images: Images,
        scores: Sequence[str] | None = None,
        *,
        alpha: float = 0.05,
        raw: bool | None = None,
    ) -> pandas.DataFrame:
        """Outlier scores of each image, larger = more outlying, each from the image alone.

        What scores learn from the training images is kept in the folder of the run; an exported model stays as it is.

        Args:
            scores: names, as `advvae mode=list` tells them; None = those that the run was trained with, or that were
                exported.
            alpha: share of normal images that may be flagged.
            raw: as `reconstruct`.

        Returns:
            A row per image, and of each score the columns `<score>`, `<score>_p` (its conformal p-value) and
            `<score>_flag` (1 = above the threshold, 0 = not; missing where too few images are there to calibrate with).

        Raises:
            UserError: an unknown score; one that is not fitted where the training images are not at hand.
        """
        split = self._split(images, raw)
        return self._judged(self._detector(scores, alpha), split, alpha)

    def screen(
        self, place: str | Path, scores: Sequence[str] | None = None, *, alpha: float = 0.05
    ) -> pandas.DataFrame:
        """`mode=screen` of a folder of images, an image, or an .npy or .npz file: the table that is its screen.csv.

        Args:
            scores, alpha: as `score`.

        Returns:
            The columns of `score` after `path` and `index`, a row per image that can be read. Which ones cannot is in
            `.attrs["unreadable"]`, a list of (path, index, reason), and the log warns of it.

        Raises:
            UserError: as `score`; nothing is there, or no image that can be read.
        """
        from advvae.outlier.frames import screen_frame
        from advvae.outlier.screen import tell_uncalibrated
        from advvae.outlier.screen_input import ScreenInput

        found = ScreenInput(Path(place).expanduser().absolute(), self._form, self._job.config.dataset.get("slices"))
        detector = self._detector(scores, alpha)
        tell_uncalibrated(detector, alpha)
        return screen_frame(found, partial(self._judged, detector, alpha=alpha))

    @property
    def _form(self) -> Form:
        return self._job.form(self._job.config.dataset, self._job.source)

    def _with(self, **keys: Any) -> Job:
        """The job with other values of flat keys, checked as those that are typed."""
        from advvae.checks import check

        changed = replace(self._job, config=replace(self._job.config, **keys))
        check(changed.config)
        return changed

    def _check_vae(self, what: str) -> None:
        if not self.networks.has_vae:
            raise UserError(f"{what} needs an encoder and a decoder, and {self.folder} holds a discriminator alone")

    def _detector(self, scores: Sequence[str] | None, alpha: float) -> Detector:
        """The fitted scores: made once, or read from the run's folder."""
        asked = {} if scores is None else {"scores": list(scores)}
        job = self._with(alpha=alpha, baselines=False, **asked)
        key = repr(job.config.scores)
        if key not in self._detectors:
            self._detectors[key] = ready_detector(job, self.networks)
        return self._detectors[key]

    def _judged(self, detector: Detector, split: Split, alpha: float) -> pandas.DataFrame:
        from advvae.outlier.frames import score_frame

        job, config = self._job, self._job.config
        reading: dict[str, Any] = {"batch_size": config.batch_size, "device": job.device, "crop": config.crop}
        return score_frame(detector, detector.score(self.networks, job.objective, split, **reading), alpha)

    def _batches(self, images: Images, raw: bool | None) -> Iterator[Tensor]:
        """Batches as the networks take them, in [-1, 1] and cropped."""
        split = replace(self._split(images, raw), crop=self._job.config.crop)
        return split.batches(self._job.config.batch_size, self._job.device)

    def _split(self, images: Images, raw: bool | None) -> Split:
        """Images of a caller's as a split without labels."""
        pixels = given_pixels(images, self._form, raw)
        n = len(pixels)
        return Split("images", "given", pixels, torch.arange(n), "given", np.full(n, -1), [], None)


def load(path: str | Path, *, device: str = "auto", config_dir: str | Path | None = None, **keys: Any) -> Model:
    """A trained model, from the folder of a run, a sweep (its best job) or an exported model, or a checkpoint's file.

    Args:
        device: auto, cpu, cuda, cuda:1, mps.
        config_dir: the folder of your own options, where the run has one of them.
        keys: flat keys, such as data_dir where the training images are elsewhere now, or batch_size, by which images
            are scored; None of them = as the run had it.

    Raises:
        UserError: nothing is there, or it is damaged; a key that there is not, or a value that it cannot have.
    """
    if of_others := [name for name in OF_LOAD if name in keys]:
        raise UserError(f"load() loads what its path names: leave {of_others[0]} out")
    typed = {"mode": "screen", "input": ".", "tracker": "none", "checkpoint": str(path), "device": device, **keys}
    with composing.composed(as_overrides(typed), _folders(config_dir)) as composed:
        settled = composing.settled_config(composed, Path(), in_sweep=False)
    loaded = settled.checkpoint or settled.discriminator
    assert loaded is not None
    own = {name: loaded.config[name] for name in OF_ITS_RUN if name in loaded.config and name not in keys}
    scratch = Path(tempfile.mkdtemp(prefix="advvae-"))
    run = Run(scratch, [], resumed=False)
    config = replace(settled.config, **own)
    job = Job(config, run, settled.checkpoint, settled.discriminator, ExitStack(), settled.typed)
    weakref.finalize(job, shutil.rmtree, scratch, ignore_errors=True)
    return Model(job)


def train(*, config_dir: str | Path | None = None, **keys: Any) -> Model:
    """`mode=train`: train a model in a run folder of its own, and load its best epoch.

    What is drawn from Python's, NumPy's and torch's generators afterwards is as without it. With n_devices above 1,
    other processes begin, which import the calling script: it must call this below `if __name__ == "__main__":`.
    After Ctrl-C, `train(resume=<the run's folder>)` goes on.

    Args:
        config_dir: the folder of your own options.
        keys: groups and flat keys as they are typed, such as dataset="digits", n_epochs=20, hidden_dims=[32, 64]; those
            of a group as **{"dataset.root": "scans"}.

    Raises:
        UserError: a key that there is not, or a value that it cannot have; whatever ends a training.
    """
    if "mode" in keys:
        raise UserError("train() is mode=train: leave mode out")
    typed = as_overrides({"mode": "train", **keys})
    with composing.composed(typed, _folders(config_dir), with_folder=True) as composed:
        folder, output_dir = Path(composed.hydra.runtime.output_dir), Path(composed.output_dir).absolute()
        data_dir = composed.data_dir
    with hydra_explained(), as_command(folder, output_dir), hydra_globals.job_of(composed):
        run_job(composed, False, MODES)
    return load(folder, device=str(keys.get("device", "auto")), config_dir=config_dir, data_dir=data_dir)


def read_sweep(folder: str | Path) -> pandas.DataFrame:
    """The jobs of a sweep, a row each: `job`, the keys that were swept, `status`, `error`, `seconds`, and metrics.

    Raises:
        UserError: the folder holds no jobs.
    """
    from advvae.sweep_frame import sweep_frame

    return sweep_frame(Path(folder).expanduser())


def _folders(config_dir: str | Path | None) -> list[Path]:
    return [] if config_dir is None else [Path(config_dir).expanduser()]


def _to_unit_range(images: Tensor) -> Tensor:
    """[-1, 1] to [0, 1]."""
    return (images + 1) / 2
