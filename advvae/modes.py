"""What each mode does: the networks and data of a job, handed to the verb that works on them."""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advvae.building import build_networks
from advvae.config import FLAT_KEYS, SAMPLE_METRICS, expanded
from advvae.errors import UserError
from advvae.jobs import Job
from advvae.ready import ready_detector, sampled_latents

if TYPE_CHECKING:
    from torch import Tensor

    from advvae.data import Split
    from advvae.models import AdversarialVAE
    from advvae.outlier.detector import Detector

logger = logging.getLogger(__name__)

OF_A_COMMAND = ("data_dir", "output_dir", "checkpoint", "discriminator_checkpoint", "resume", "device", "alpha")
OF_ITS_SCORES = ("scores", "fuse", "baselines")
TRAINED = set(FLAT_KEYS) - {*OF_A_COMMAND, *OF_ITS_SCORES}  # keys that an exported model takes from its training
TRIED = 5  # validation images that exported graphs are compared on


def train(job: Job) -> dict[str, Any]:
    """`mode=train`: a new run, or one that goes on."""
    from advvae.checkpoint import read_checkpoint
    from advvae.data import infer_channels
    from advvae.distributed import by_first, n_ranks, wait_for_all
    from advvae.looks import check_penalty
    from advvae.outlier.scores import usable_scores
    from advvae.trainer import Trainer

    config = job.config
    if config.dataset["channels"] is None:
        assert config.size is not None
        infer = partial(infer_channels, job.source, Path(config.data_dir), config.size)
        config.dataset["channels"] = by_first(infer)
    if config.dataset["window"] is None and config.dataset["percentiles"]:
        config.dataset["window"] = by_first(lambda: training_window(job))
    networks = build_networks(config)
    check_penalty(networks, job.objective)
    if "outlier" in config.then:  # a mistake in it is told before hours of training, not after
        usable_scores(job.scores(), networks, config.crop)
        job.outliers()
    if "test" in config.then:
        check_metrics(job)
    train_split, (select_split, _) = job.split("train"), job.split("val").halves()
    if n_ranks() > 1 and len(train_split) < 2 * n_ranks():
        raise UserError(f"{train_split.name}: {len(train_split)} training images are too few for {n_ranks()} processes")
    if config.precision == "auto":
        precision = by_first(partial(measured_precision, job, networks, train_split, n_ranks()))
        config = replace(config, precision=precision)
        job.run.add_overrides([f"precision={precision}"])
    job.config = config
    job.run.write_config(config)
    if job.checkpoint and job.checkpoint.training and job.checkpoint.training.epoch < config.n_epochs:
        job.run.metrics.clear()  # what was measured on weights that training is about to change
    if config.train_discriminator and config.adversarial_start >= config.n_epochs:
        logger.warning(
            f"adversarial_start={config.adversarial_start} is no epoch of n_epochs={config.n_epochs}: no game"
        )
    trainer = Trainer(
        config,
        networks,
        job.objective,
        train_split,
        select_split,
        folder=job.folder,
        shared_folder=job.shared_folder or job.folder,
        device=job.device,
        tracker=job.tracker,
        resumed=job.checkpoint,
    )
    metrics = trainer.train()
    if config.train_discriminator and metrics["epochs"] <= config.adversarial_start < config.n_epochs:
        logger.warning(f"the training ended before epoch adversarial_start={config.adversarial_start}: no game")
    wait_for_all()
    job.checkpoint = read_checkpoint((job.shared_folder or job.folder) / "checkpoints" / "best.pt")
    return metrics


def measured_precision(job: Job, networks: "AdversarialVAE", train_split: "Split", n_ranks: int) -> str:
    """What a trial on a rank's share of a batch chooses for `precision=auto`."""
    from advvae.data.locks import writable_cache
    from advvae.precision import choose_precision

    config = job.config
    images = next(iter(train_split.batches(config.batch_size, job.device, n_ranks=n_ranks)))
    compile = "none" if n_ranks > 1 else config.compile
    return choose_precision(networks, job.objective, images, writable_cache(Path(config.data_dir)), compile)


def training_window(job: Job) -> list[float]:
    """The values between which `dataset.percentiles` of the training images lie."""
    from advvae.data.window import percentile_window

    config, node = job.config, job.config.dataset
    assert config.size is not None
    low, high = percentile_window(
        job.source,
        node["percentiles"],
        name=node["name"],
        size=config.size,
        data_dir=Path(config.data_dir),
        keep_classes=node["keep_classes"],
        drop_classes=node["drop_classes"],
        num_workers=config.num_workers,
    )
    logger.info(f"dataset.window=[{low:g},{high:g}], as dataset.percentiles of the training images")
    return [low, high]


def test(job: Job) -> dict[str, Any]:
    """`mode=test`: reconstructions of the test split, and samples against it."""
    from advvae.data.locks import writable_cache
    from advvae.evaluator import evaluate

    config, networks, split, extractor = job.config, job.trained_networks(), job.split("test"), job.extractor()
    reading: dict[str, Any] = {
        "batch_size": config.batch_size,
        "device": job.device,
        "num_workers": config.num_workers,
    }
    measured = evaluate(networks, job.objective, split, folder=job.folder, metrics=config.metrics, **reading)
    if extractor is None:
        return measured
    from advvae.sample_metrics import measure_samples

    return measured | measure_samples(
        networks,
        extractor,
        [name for name in SAMPLE_METRICS if name in config.metrics],
        test=split,
        train=job.split("train"),
        latents=sampled_latents(job, networks, job.n_samples),
        cache=writable_cache(Path(config.data_dir)),
        **reading,
    )


def check_metrics(job: Job) -> None:
    """Tell what `metrics` need and is not there before hours of training, not after. Raises UserError."""
    from advvae.evaluator import similarity_measures

    job.extractor()
    similarity_measures(job.config.metrics, job.device)


def sample(job: Job) -> dict[str, Any]:
    """`mode=sample`: images from the prior or a fitted mixture, and pictures of what the latents mean."""
    from advvae.distributed import by_first
    from advvae.sampler import sample as draw

    config, networks = job.config, job.trained_networks()
    latents = sampled_latents(job, networks, config.num_samples)
    decoding: dict[str, Any] = {"device": job.device, "batch_size": config.batch_size}
    measured = draw(networks, latents, folder=job.folder, save_npz=config.save_npz, **decoding)
    return measured | by_first(partial(latent_pictures, job, networks, latents))


def latent_pictures(job: Job, networks: "AdversarialVAE", latents: "Tensor") -> dict[str, float]:
    """Pictures for which a run's data is read, and what they show in numbers; none where that cannot be read."""
    import torch

    from advvae.latent_pictures import draw_latent_pictures
    from advvae.nearest_images import MEASURED, draw_neighbours
    from advvae.sampler import decoded

    config, folder = job.config, job.folder
    try:  # the half of validation that thresholds are not calibrated with
        validation, train = job.split("val").halves()[0], job.split("train")
    except UserError as error:
        logger.info(f"interpolations.png, traversals.png and neighbours.png are left out: {error}")
        return {}
    decoding: dict[str, Any] = {"device": job.device, "batch_size": config.batch_size}
    reading: dict[str, Any] = {"device": job.device, "num_workers": config.num_workers}
    samples = torch.cat(list(decoded(networks, latents[:MEASURED], **decoding)))
    return {
        **draw_latent_pictures(networks, validation, batch_size=config.batch_size, folder=folder, **reading),
        **draw_neighbours(samples, validation, train, path=folder / "neighbours.png", **reading),
    }


def export(job: Job) -> dict[str, Any]:
    """`mode=export`: the networks and scores for other programs, with a model card."""
    from advvae import exporting
    from advvae.files import replacing
    from advvae.jobs import checksums
    from advvae.model_card import Origin, model_card
    from advvae.outlier.detector import save_detector
    from advvae.weights import FOLDER

    exporting.check_packages()
    assert job.checkpoint is not None
    job.config = exporting.without_images(replace(job.config, device="cpu"))
    networks = job.trained_networks()
    detector = available_detector(job, networks)
    trained = replace(job.config, **{k: v for k, v in job.checkpoint.config.items() if k in TRAINED})
    origin = Origin(job.weights_folder, job.checkpoint, checksums(job))
    with exporting.whole_folder(job.folder / FOLDER) as folder:
        images = validation_images(job)
        content, found = exporting.export(folder, trained, networks, job.objective, detector, images)
        if detector is not None:
            save_detector(folder / exporting.DETECTOR, detector, identity_of_exported(job, folder))
        with replacing(folder / exporting.CARD) as unfinished:
            unfinished.write_text(model_card(trained, origin, content), encoding="utf-8")
    return found


def identity_of_exported(job: Job, folder: Path) -> dict[str, str]:
    """What whoever loads an exported model, and types nothing of its dataset, asks its detector file for."""
    from advvae.checkpoint import read_checkpoint
    from advvae.weights import WEIGHTS

    checkpoint = read_checkpoint(folder / WEIGHTS)
    config = replace(job.config, dataset=checkpoint.config["dataset"])
    return replace(job, config=config, checkpoint=checkpoint, discriminator=None, typed=frozenset()).identity()


def validation_images(job: Job) -> "Tensor":
    """A few images (n, C, side, side) in [-1, 1] that exported graphs are tried on; none where they are not at hand."""
    import torch

    from advvae.catalogue import are_there

    config = job.config
    try:
        if not job.lacks_images and are_there(job.source, Path(config.data_dir)) is not False:  # nothing is downloaded
            split = job.split("val")
            return next(split.subset(torch.arange(min(TRIED, len(split)))).batches(TRIED))
    except UserError as error:
        logger.info(f"graphs are compared on random numbers alone: {error}")
    return torch.empty(0, config.dataset["channels"], config.side, config.side)


def available_detector(job: Job, networks: "AdversarialVAE") -> "Detector | None":
    """The fitted scores; None where there are no images to fit them on, which is said."""
    try:
        return ready_detector(job, networks)
    except UserError as error:
        logger.warning(f"the scores are left out: {error}")
        return None


def outlier(job: Job) -> dict[str, Any]:
    """`mode=outlier`: the test split against the outlier sets'."""
    from advvae.outlier.bench import find_outliers

    config, networks = job.config, job.trained_networks()
    inliers, outliers = job.whole_split("test"), job.outliers()  # a missing set is told before scores are fitted
    return find_outliers(
        ready_detector(job, networks),
        networks,
        job.objective,
        inliers,
        outliers,
        train=job.whole_split("train"),
        groups={"near": expanded(config.near), "far": expanded(config.far)},
        alpha=config.alpha,
        seed=config.seed,
        batch_size=config.batch_size,
        device=job.device,
        folder=job.folder,
        num_workers=config.num_workers,
        crop=config.crop,
        maps=config.maps,
    )


def screen(job: Job) -> dict[str, Any]:
    """`mode=screen`: the images of `input`, whatever they are."""
    from advvae.outlier.screen import screen as screen_images

    config, networks = job.config, job.trained_networks()
    assert config.input is not None
    return screen_images(
        ready_detector(job, networks),
        networks,
        job.objective,
        source_path=Path(config.input),
        form=job.form(config.dataset, job.source),
        slices=config.dataset.get("slices"),
        alpha=config.alpha,
        batch_size=config.batch_size,
        device=job.device,
        folder=job.folder,
        crop=config.crop,
        maps=config.maps,
    )
