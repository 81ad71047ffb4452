"""What a job fits to the networks it has loaded, and keeps beside them: an outlier detector, a mixture of latents."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advvae.config import Config
from advvae.errors import UserError
from advvae.jobs import Job

if TYPE_CHECKING:
    from torch import Tensor

    from advvae.data import Split
    from advvae.latent_samplers import Mixture
    from advvae.models import AdversarialVAE
    from advvae.outlier.detector import Detector
    from advvae.outlier.evidence import Score

logger = logging.getLogger(__name__)


def sampled_latents(job: Job, networks: "AdversarialVAE", n: int) -> "Tensor":
    """Latents (n, latent_dim) of the sampler that the config names."""
    from advvae.distributed import by_first
    from advvae.latent_samplers import draw_latents

    config = job.config
    mixture = by_first(partial(ready_mixture, job, networks))
    return draw_latents(n, networks.latent_dim, seed=config.seed, truncation=config.truncation, mixture=mixture)


def ready_mixture(job: Job, networks: "AdversarialVAE") -> "Mixture | None":
    """The mixture that sampler=gmm draws from, kept in the run's folder or fitted now; None = draw from the prior."""
    from advvae.latent_samplers import fit_mixture, read_mixture, save_mixture

    if job.config.sampler == "prior" or not networks.has_vae:
        return None
    identity = job.identity()
    reading: dict[str, Any] = {"device": job.device, "num_workers": job.config.num_workers}
    if kept := read_mixture(job.sampler_file, identity):
        return kept
    mixture = fit_mixture(networks, job.split("train"), seed=job.fit_seed, **reading)
    _keep(job, job.sampler_file, lambda path: save_mixture(path, mixture, identity))
    return mixture


def ready_detector(job: Job, networks: "AdversarialVAE") -> "Detector":
    """The detector of the job's scores, fitted as far as the run's detector file does not know them yet."""
    from advvae.distributed import rank
    from advvae.outlier.detector import make_detector, save_detector
    from advvae.outlier.scores import usable_scores

    config = job.config
    scores, left_out = usable_scores(job.scores(), networks, config.crop)
    for name, reason in left_out.items():
        logger.info(f"score {name} is left out: {reason}")
    if "loss" in scores and config.recon_weight > 0 and networks.discriminator is None:
        logger.info("score loss goes without its adversarial term: there is no discriminator")
    fuse = fused_scores(config, scores)
    identity = job.identity()
    asked: list[bool] = []  # for validation images, without which nothing is new

    def validation() -> "Split":
        asked.append(True)
        return job.whole_split("val")

    detector = make_detector(
        networks,
        job.objective,
        scores,
        fuse=fuse,
        train=lambda: job.whole_split("train"),
        validation=validation,
        seed=job.fit_seed,
        device=job.device,
        num_workers=config.num_workers,
        crop=config.crop,
        known=job.detector_file,
        identity=identity,
    )
    if asked and rank() == 0:
        _keep(job, job.detector_file, lambda path: save_detector(path, detector, identity))
    return detector


def _keep(job: Job, path: Path, save: Callable[[Path], None]) -> None:
    """Save what was fitted beside the weights; where these are an export, in the job's own folder."""
    own = job.folder / path.name
    try:
        save(own if job.is_of_export else path)
    except UserError:  # a run that belongs to somebody else: it is used, and this one keeps what was fitted
        save(own)


def fused_scores(config: Config, scores: "Mapping[str, Score]") -> tuple[str, ...]:
    """Those of `fuse` that can be computed; none unless `fused` is asked for and two are there to combine."""
    from advvae.outlier.scores import FUSED

    if FUSED not in config.scores:
        return ()
    found = tuple(name for name in config.fuse if name in scores)
    absent = [name for name in config.fuse if name not in scores]
    if len(found) < 2:
        logger.info(f"score {FUSED} is left out: of fuse={','.join(config.fuse)} fewer than two can be computed")
        return ()
    if absent:
        logger.info(f"score {FUSED} goes without {', '.join(absent)}")
    return found
