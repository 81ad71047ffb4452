"""The typed schema, and the meaning of every key.

Imports no torch, so that mistakes are answered at once.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from advvae.shift_names import shift_names

HERE = Path(__file__).resolve().parent
CONF = next(p for p in (HERE / "conf", HERE.parent / "conf") if p.is_dir())  # an installed wheel, or a checkout

MODES = ("train", "test", "sample", "outlier", "screen", "matrix", "export", "report", "list")
WITHOUT_RUN = ("report", "list")  # those that answer, and make no run folder
THEN = ("test", "sample", "outlier")  # the modes that may follow a training in the same job
RECONSTRUCTION_METRICS = ("mse", "psnr", "ssim", "ms_ssim", "lpips")  # that `metrics` may ask for, in their order
SAMPLE_METRICS = ("fid", "kid", "precision", "recall", "density", "coverage")
METRICS = {  # that a sweeper may ask for, beside an outlier run's scores.<name>.<metric>
    "train": ("val_loss", "val_mse", "val_kld", "accuracy_real", "accuracy_reconstruction", "accuracy_sample"),
    "test": ("loss", *RECONSTRUCTION_METRICS, "kld", *SAMPLE_METRICS),
}
FEATURES = ("random", "inception")
ON_NAN = ("stop", "rewind")
SAMPLERS = ("prior", "gmm")
PRECISIONS = ("auto", "32", "bf16")
COMPILES = ("auto", "none")
NEGATIVES = ("jigsaw", "swap", "cutmix", "cutout", "mixup", "rotate", "flip", "elastic")
LR_SCHEDULES = ("constant", "cosine")
KLD_UNITS = ("mean", "sum")
KLD_SCHEDULES = ("constant", "linear", "cyclic")
GAMES = ("bce", "hinge", "lsgan", "relativistic")
AUGMENTATIONS = ("colour", "translation", "cutout")
SMALLEST_SIZE = 8
PLACES = ("root", "path", "csv")  # keys of datasets that say where their images are
RESIZES = ("crop", "squash", "pad")
DATASET_KEYS: dict[str, Any] = {  # of every dataset, beside the arguments of its source
    "size": None,
    "channels": None,
    "keep_classes": None,
    "drop_classes": None,
    "window": None,
    "percentiles": None,
    "resize": None,
    "max_unreadable": 0.01,
    "normal": None,  # the classes that are normal, where the set has such
    "patients": None,  # the cohort whose patients it shares with other sets of this name
    "licence": None,  # of its images
}


def key(meaning: str, choices: Iterable[str] = ()) -> Any:
    """A flat key: its default stands in conf/config.yaml, with this meaning beside it."""
    return field(default="???", metadata={"meaning": meaning, "choices": tuple(choices)})


@dataclass
class Config:
    """Everything a run is made of. Groups (dataset, model, loss, …) are plain dicts with `name` and `_target_`."""

    batch_size: int = key("images per optimiser step, over all ranks")
    n_epochs: int = key("passes over the training split")
    max_minutes: float | None = key("stop training after this long, schedules following it; null = n_epochs alone")
    lr: float = key("Adam learning rate of both networks")
    latent_dim: int = key("size of z")
    lr_discriminator: float | None = key("Adam learning rate of the discriminator; null = lr")
    betas: list[float] = key("Adam's decay rates, of the means of gradients and of their squares")
    betas_discriminator: list[float] | None = key("the same of the discriminator; null = betas")
    lr_schedule: str = key("constant, or cosine: both learning rates fall to 0 over the run", LR_SCHEDULES)
    lr_warmup: float = key("epochs over which both learning rates rise from 0")
    clip_gradient: float | None = key("norm that each player's gradients are scaled down to; null = none")
    ema: float | None = key(
        "decay, such as 0.999, of a moving average of all weights, which is what is evaluated and kept; null = none"
    )
    hidden_dims: list[int] | None = key(
        "channels per stride-2 stage, of both networks; null = 32, 64, 128, … doubling to 512 at most, "
        "until the map is 2 px"
    )
    gen_weight: float = key('weight of "fool the discriminator with prior samples"')
    recon_weight: float = key('weight of "fool the discriminator with reconstructions"')
    kld_weight: float = key("weight of KL(q(z given x) to N(0, I)), summed over z, averaged over images")
    kld_unit: str = key(
        "what kld_weight weighs the KL against: mean, the reconstruction error per pixel and channel; or sum, over all "
        "of them, as the β of a β-VAE (then what counts is kld_weight / (channels · size²))",
        KLD_UNITS,
    )
    kld_schedule: str = key(
        "constant; linear: kld_weight rises from 0 over kld_epochs; cyclic: in the first half of each kld_epochs",
        KLD_SCHEDULES,
    )
    kld_epochs: float = key("length of the rise, or of a cycle, of kld_schedule")
    free_bits: float = key("nats of KL that each latent is allowed before it costs anything")
    adversarial: str = key(
        "the game of the discriminator's logits: bce, hinge, lsgan, or relativistic (each fake against a real image)",
        GAMES,
    )
    gradient_penalty: float | None = key(
        "γ of the discriminator's penalty γ/2·(R1 + R2) in each step; null = 1 with adversarial=relativistic, else 0"
    )
    feature_weight: float = key("weight of the distance of x and its reconstruction in the discriminator's features")
    adaptive_weight: bool = key(
        "true = bring the VAE's adversarial terms, before their weights, to the strength of its reconstruction loss",
        ("true", "false"),
    )
    adversarial_start: int = key("epoch from which the two play, counted from 0; before it the VAE learns alone")
    adversarial_ramp: float = key("epochs over which the weights of the VAE's adversarial terms rise from 0 then")
    discriminator_steps: int = key("steps of the discriminator for each of the VAE, each on new fakes")
    augment: list[str] = key(
        "random changes through which the discriminator sees all images, real and fake", AUGMENTATIONS
    )
    train_discriminator: bool = key(
        "false = no discriminator at all (needs gen_weight=0 recon_weight=0): a plain VAE", ("true", "false")
    )
    negatives: list[str] = key(
        "training images made unlike the data, a third kind of fake for the discriminator", NEGATIVES
    )
    sample_and_save_frequency: int = key("epochs between sample grids, reconstruction grids and kept checkpoints")
    keep_checkpoints: int | None = key("kept checkpoints beside `last` and `best`; null = all")
    checkpoint_every_minutes: float | None = key(
        "what a kill may cost: minutes between writings of `last`, which each epoch ends with; null = at its end alone"
    )
    on_nan: str = key(
        "what follows a loss, gradient or weight that is NaN or infinite: stop, or rewind = back to the last "
        "checkpoint with other noise, three times at most",
        ON_NAN,
    )
    resume: str | None = key(
        "auto = go on with the newest unfinished run, matrix or sweep of this config; a folder = with that one; "
        "null = a new one"
    )
    then: list[str] = key(
        "modes to run after training in the same job, e.g. then=[test,outlier]; their metrics join the job's", THEN
    )
    checkpoint: str | None = key(
        "run folder or file to load; null = newest finished train run on `dataset`, sweeps aside"
    )
    discriminator_checkpoint: str | None = key(
        "take the discriminator from this file instead; null = from `checkpoint`"
    )
    num_samples: int = key("images to draw in mode=sample")
    sampler: str = key(
        "where latents are drawn: prior, or gmm = a Gaussian mixture fitted to the training images' latents", SAMPLERS
    )
    truncation: float = key(
        "how far from the centre latents are drawn: the factor on z under the prior, on the distance from its "
        "component's mean under gmm; 1 = as the sampler says"
    )
    save_npz: bool = key(
        "true = mode=sample also writes samples.npz: images (n, H, W[, C]) and their latents", ("true", "false")
    )
    metrics: list[str] = key(
        "what mode=test measures beside loss and kld: mse to lpips of reconstructions, fid to coverage of samples, "
        "as many as test images, or num_samples where that is typed",
        (*RECONSTRUCTION_METRICS, *SAMPLE_METRICS),
    )
    features: Any = key(
        "what the metrics of samples compare images in, or {_target_: …} of your own; null = random for grey images, "
        "inception for colour",
        FEATURES,
    )
    scores: list[Any] = key("outlier scores: names, or {_target_: …} items of your own")
    fuse: list[str] = key("scores that `fused` combines, as p-values on half of the validation split")
    baselines: bool = key(
        "true = trivial scores (brightness, contrast, PNG bytes, pixels) beside the others", ("true", "false")
    )
    out_datasets: list[str] = key(
        "outlier sets scored in one run, instead of out_dataset: options of dataset, synthetic shifts of the inliers "
        "such as hflip or noise_3, or shifts for all of these"
    )
    near: list[str] = key("outlier sets, as out_datasets, that are also averaged by themselves: the hard ones")
    far: list[str] = key("outlier sets, as out_datasets, that are also averaged by themselves: the easy ones")
    alpha: float = key("share of normal images that a score's threshold may flag")
    input: str | None = key("folder of images, or .npy or .npz file, that mode=screen scores")
    maps: bool = key(
        "true = mode=outlier and mode=screen write the error map of each image, as an image and in an array",
        ("true", "false"),
    )
    datasets: list[str] = key("sets that mode=matrix takes as inliers and as outliers in turn")
    objective: str | None = key(
        "metric that a job returns to a sweeper, e.g. val_mse or scores.loss.auroc; null = val_loss"
    )
    allow_outlier_selection: bool = key(
        "true = let a sweep be steered by a metric measured on real outliers", ("true", "false")
    )
    size: int | None = key("side in pixels; null = the dataset's default")
    crop: int | None = key(
        "side in pixels of the random crops that the networks see, a whole image being many; null = whole images"
    )
    data_dir: str = key("where datasets are looked for and downloaded to (environment variable ADVVAE_DATA too)")
    num_workers: int = key(
        "worker processes for decoding, and threads that read large sets ahead; 0 = no process, and four threads"
    )
    seed: int = key("every random draw follows from it")
    deterministic: bool = key(
        "only deterministic kernels, precision 32: bit-equal repeats on one machine", ("true", "false")
    )
    device: str = key("auto, cpu, cuda, cuda:1, mps")
    precision: str = key(
        "32, bf16; auto = decided once before step 0, written to the run, reused on resume; a gain under 10 % gives 32",
        PRECISIONS,
    )
    n_devices: int = key("processes of this machine that train one model together, each on its own GPU or CPU cores")
    compile: str = key("auto = on a CUDA device the training step is recorded as a CUDA graph; none = never", COMPILES)
    no_wandb: bool = key("same as tracker=none", ("true", "false"))
    output_dir: str = key("root of all run folders")

    mode: str = "???"
    dataset: dict[str, Any] = field(default_factory=dict)
    out_dataset: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    tracker: dict[str, Any] = field(default_factory=dict)
    nodes: dict[str, Any] = field(default_factory=dict)  # of the datasets that out_datasets, near, far, datasets name

    @property
    def side(self) -> int:
        """Side in pixels of what the networks see, in a settled config."""
        assert self.size is not None
        return self.crop or self.size

    @property
    def kld_weight_of_mean(self) -> float:
        """The weight of the KL beside a reconstruction error that is a mean over pixels and channels."""
        return self.kld_weight / (self.dataset["channels"] * self.side**2 if self.kld_unit == "sum" else 1)

    @property
    def penalty(self) -> float:
        """What gradient_penalty stands for."""
        if self.gradient_penalty is None:
            return 1.0 if self.adversarial == "relativistic" else 0.0
        return self.gradient_penalty

    @property
    def outlier_sets(self) -> list[str]:
        """The sets that out_datasets, near and far name, each once; out_dataset where they name none."""
        names = expanded([*self.out_datasets, *self.near, *self.far])
        return list(dict.fromkeys(names)) or [self.out_dataset["name"]]

    @property
    def modes(self) -> list[str]:
        """The modes that this job runs, in order."""
        return [self.mode, *self.then]


def expanded(names: list[str]) -> list[str]:
    """Names of outlier sets, with the several that a shift stands for: noise = noise_1, … noise_5."""
    return [part for name in names for part in (shift_names(name) or [name])]


GROUPS = ("dataset", "out_dataset", "model", "loss", "mode", "tracker", "experiment")
FLAT_KEYS = {f.name: f.metadata for f in fields(Config) if f.metadata}
