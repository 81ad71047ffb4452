"""The typed schema, the meaning of every key, and the checks of what a user typed.

Imports no torch, so that mistakes are answered at once.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from advvae.errors import UserError
from advvae.shapes import MS_SSIM_SMALLEST_SIDE, stage_sizes
from advvae.shift_names import shift_names

HERE = Path(__file__).resolve().parent
CONF = next(p for p in (HERE / "conf", HERE.parent / "conf") if p.is_dir())  # an installed wheel, or a checkout

MODES = ("train", "test", "sample", "outlier", "screen", "matrix")
THEN = ("test", "sample", "outlier")  # the modes that may follow a training in the same job
METRICS = {  # that a sweeper may ask for, beside an outlier run's scores.<name>.<metric>
    "train": ("val_loss", "val_mse", "val_kld", "accuracy_real", "accuracy_reconstruction", "accuracy_sample"),
    "test": ("loss", "mse", "psnr", "ssim", "kld"),
}
PRECISIONS = ("auto", "32", "bf16")
NEGATIVES = ("jigsaw", "swap", "cutmix", "cutout", "mixup", "rotate", "flip", "elastic")
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
    hidden_dims: list[int] | None = key(
        "channels per stride-2 stage, of both networks; null = 32, 64, 128, … doubling to 512 at most, "
        "until the map is 2 px"
    )
    gen_weight: float = key('weight of "fool the discriminator with prior samples"')
    recon_weight: float = key('weight of "fool the discriminator with reconstructions"')
    kld_weight: float = key("weight of KL(q(z given x) to N(0, I)), summed over z, averaged over images")
    train_discriminator: bool = key(
        "false = no discriminator at all (needs gen_weight=0 recon_weight=0): a plain VAE", ("true", "false")
    )
    negatives: list[str] = key(
        "training images made unlike the data, a third kind of fake for the discriminator", NEGATIVES
    )
    sample_and_save_frequency: int = key("epochs between sample grids, reconstruction grids and kept checkpoints")
    keep_checkpoints: int | None = key("kept checkpoints beside `last` and `best`; null = all")
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
    num_workers: int = key("worker processes for decoding and loading")
    seed: int = key("every random draw follows from it")
    deterministic: bool = key(
        "only deterministic kernels, precision 32: bit-equal repeats on one machine", ("true", "false")
    )
    device: str = key("auto, cpu, cuda, cuda:1, mps")
    precision: str = key(
        "32, bf16; auto = decided once before step 0, written to the run, reused on resume; a gain under 10 % gives 32",
        PRECISIONS,
    )
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


def check(config: Config) -> None:
    """Refuse values that no run can have, naming the key.

    Raises:
        UserError: the first such value.
    """
    _check_ranges(config)
    _check_choices(config)
    weights = {name: getattr(config, name) for name in ("gen_weight", "recon_weight") if getattr(config, name) > 0}
    if not config.train_discriminator and weights:
        name, value = next(iter(weights.items()))
        raise UserError(f"train_discriminator=false needs gen_weight=0 recon_weight=0, got {name}={value}")
    if config.mode != "train" and config.then:
        raise UserError(f"then={_shown(config.then)} follows mode=train only, got mode={config.mode}")
    if config.mode == "train" and (config.checkpoint or config.discriminator_checkpoint):
        name = "checkpoint" if config.checkpoint else "discriminator_checkpoint"
        raise UserError(
            f"{name}= belongs to mode=test, sample, outlier and screen; to go on with a run use resume=<its folder>"
        )
    if config.mode not in ("train", "matrix") and config.resume:
        raise UserError(f"resume= belongs to mode=train, mode=matrix and sweeps, got mode={config.mode}")
    if config.deterministic and config.precision == "bf16":
        raise UserError("deterministic=true needs precision=32, got precision=bf16")
    _check_objective(config)


def check_settled(config: Config) -> None:
    """Refuse what the settled config shows: a network that the images do not fit, images that are nowhere.

    Raises:
        UserError: too small an image for the stages, or for the loss; a folder or file that is missing.
    """
    scored = "outlier" in config.modes and config.out_dataset["name"] in config.outlier_sets
    for group in ("dataset", "out_dataset") if scored else ("dataset",):
        node = getattr(config, group)
        places = {"folder": ("root", "csv"), "array": ("path",)}.get(node["name"], ())
        if places and not any(node.get(name) for name in places):
            raise UserError(f"{group}={node['name']} needs {group}.{places[0]}=<where the images are>")
        for name in places:
            if node.get(name) and not Path(node[name]).exists():
                raise UserError(f"{group}.{name}={node[name]}: there is nothing there")
    assert config.size is not None
    assert config.hidden_dims is not None
    if config.crop is not None and config.crop > config.size:
        raise UserError(f"crop={config.crop} does not fit into images of size={config.size}")
    sizes = stage_sizes(config.side, len(config.hidden_dims))
    if sizes[-2] < 2:
        raise UserError(
            f"{'crop' if config.crop else 'size'}={config.side} is too small for {len(config.hidden_dims)} stages "
            f"(hidden_dims={_shown(config.hidden_dims)}): at most {sizes.index(1)}"
        )
    if sizes[-1] == 1 and config.batch_size == 1:
        raise UserError("batch_size=1 leaves nothing to normalise by where the last map is 1 px: drop a stage")
    if config.loss["name"] == "ms_ssim" and config.side < MS_SSIM_SMALLEST_SIDE:
        raise UserError(
            f"loss=ms_ssim needs images of {MS_SSIM_SMALLEST_SIDE} px or more, got {config.side}: use loss=ssim"
        )


def _check_ranges(config: Config) -> None:
    for name in ("batch_size", "n_epochs", "latent_dim", "sample_and_save_frequency", "num_samples"):
        if getattr(config, name) < 1:
            raise UserError(f"{name} must be 1 or more, got {getattr(config, name)}")
    for name in ("gen_weight", "recon_weight", "kld_weight"):
        if not 0 <= getattr(config, name) < math.inf:  # NaN fails every comparison
            raise UserError(f"{name} must be a finite number, 0 or more, got {getattr(config, name)}")
    for name in ("lr", "max_minutes"):
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{name} must be a finite number above 0, got {value}")
    if config.keep_checkpoints is not None and config.keep_checkpoints < 0:
        raise UserError(f"keep_checkpoints must be 0 or more, or null for all, got {config.keep_checkpoints}")
    if config.num_workers < 0:
        raise UserError(f"num_workers must be 0 or more, got {config.num_workers}")
    if not 0 <= config.seed < 2**32:
        raise UserError(f"seed must be between 0 and {2**32 - 1}, got {config.seed}")
    for name in ("size", "crop"):
        if (value := getattr(config, name)) is not None and value < SMALLEST_SIZE:
            raise UserError(f"{name} must be {SMALLEST_SIZE} px or more, got {value}")
    if not 0 < config.alpha < 1:
        raise UserError(f"alpha must lie between 0 and 1, got {config.alpha}")
    if config.hidden_dims is not None and (not config.hidden_dims or min(config.hidden_dims) < 1):
        raise UserError(f"hidden_dims must list widths of 1 or more, got {_shown(config.hidden_dims)}")


def _check_choices(config: Config) -> None:
    if config.precision not in PRECISIONS:
        raise UserError(f"precision must be one of {', '.join(PRECISIONS)}, got {config.precision}")
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", config.device):
        raise UserError(f"device must be auto, cpu, cuda, cuda:<number> or mps, got {config.device}")
    for mode in config.then:
        if mode not in THEN:
            raise UserError(f"then takes {', '.join(THEN)}, got {mode}")
    for kind in config.negatives:
        if kind not in NEGATIVES:
            raise UserError(f"negatives takes {', '.join(NEGATIVES)}, got {kind}")
    if config.negatives and not config.train_discriminator:
        raise UserError(f"negatives={_shown(config.negatives)} are for the discriminator: train_discriminator is false")
    if config.mode == "screen" and not config.input:
        raise UserError("mode=screen needs input=<a folder of images, or a .npy or .npz file>")
    if config.mode == "matrix" and len(set(config.datasets)) < max(2, len(config.datasets)):
        raise UserError("mode=matrix needs two or more different sets, as in datasets=[mnist,fashionmnist]")
    if shifts := [name for name in config.datasets if shift_names(name)]:
        raise UserError(f"datasets={_shown(config.datasets)}: {shifts[0]} is no set that a network can be trained on")
    if len(set(config.then)) < len(config.then):
        raise UserError(f"then={_shown(config.then)} names a mode twice")
    for group in ("dataset", "out_dataset"):
        node = getattr(config, group)
        if node["channels"] not in (None, 1, 3):
            raise UserError(f"{group}.channels must be 1, 3 or null, got {node['channels']}")
        for name in ("keep_classes", "drop_classes"):
            if node[name] is not None and (not isinstance(node[name], list) or not node[name]):
                raise UserError(f"{group}.{name} takes a list of classes, as in [normal] or [0,1], got {node[name]}")
        _check_pixels(group, node)
    for name in ("data_dir", "output_dir"):
        if not getattr(config, name):
            raise UserError(f"{name} must name a folder, got nothing")


def _check_pixels(group: str, node: dict[str, Any]) -> None:
    """Refuse what values cannot be mapped by, or images brought to a square by."""
    if (window := node["window"]) is not None and not _is_range(window, -math.inf, math.inf):
        raise UserError(f"{group}.window takes two numbers, the lower one first, as in [-160,240], got {window}")
    if (percentiles := node.get("percentiles")) is not None:
        if not _is_range(percentiles, 0, 100):
            raise UserError(
                f"{group}.percentiles takes two of 0 to 100, the lower one first, as in [0.5,99.5], got {percentiles}"
            )
        if group != "dataset":
            raise UserError(f"{group}.percentiles: outliers are mapped as the training images are; see {group}.window")
    if node["resize"] not in (None, *RESIZES):
        raise UserError(f"{group}.resize must be one of {', '.join(RESIZES)}, got {node['resize']}")
    share = node["max_unreadable"]
    if not isinstance(share, int | float) or not 0 <= share < 1:
        raise UserError(f"{group}.max_unreadable must be a share from 0 to below 1, got {share}")


def _is_range(values: Any, least: float, most: float) -> bool:
    """Whether these are two finite numbers, rising, from `least` to `most`."""
    if not isinstance(values, list) or len(values) != 2 or not all(isinstance(value, int | float) for value in values):
        return False
    low, high = values
    return least <= low < high <= most and math.isfinite(low) and math.isfinite(high)


def _check_objective(config: Config) -> None:
    """Refuse an objective that the job's modes do not measure: better now than after hours of training."""
    if config.objective is None:
        return
    measured = [metric for mode in config.modes for metric in METRICS.get(mode, ())]
    is_outlier_metric = config.objective.startswith("scores.") and config.objective.count(".") == 2
    if config.objective not in measured and not (is_outlier_metric and "outlier" in config.modes):
        raise UserError(
            f"objective={config.objective} is not measured by {' and '.join(config.modes)}: there is "
            f"{', '.join(measured)}" + (" and scores.<name>.<metric>" if "outlier" in config.modes else "; see then=")
        )
    real = [name for name in config.outlier_sets if not shift_names(name)]
    if is_outlier_metric and real and not config.allow_outlier_selection:
        raise UserError(
            f"objective={config.objective} is measured on real outliers ({', '.join(real)}): choosing by it makes the "
            "result optimistic; out_datasets=[hflip,shuffle] is not, and allow_outlier_selection=true lets you"
        )


def _shown(values: list[Any]) -> str:
    """A list as one types it on the command line."""
    return "[" + ",".join(str(value) for value in values) + "]"
