"""What of the settings no run can have, told before anything heavy is loaded; each names its key."""

import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from advvae.config import (
    FEATURES,
    FLAT_KEYS,
    METRICS,
    RECONSTRUCTION_METRICS,
    RESIZES,
    SAMPLE_METRICS,
    SMALLEST_SIZE,
    Config,
)
from advvae.errors import UserError
from advvae.shapes import MS_SSIM_SMALLEST_SIDE, stage_sizes
from advvae.shift_names import shift_names
from advvae.torchrun import launched, n_launched

WITHOUT_DATA = ("sample", "screen", "export")  # modes that do what they can where a set's images are not at hand
OF_EVERY_SET = ("channels", "size", "resize")  # keys of `dataset` that, typed, are meant for all sets of mode=matrix
PLACES = {"advvae.data.files.Folder": ("root", "csv"), "advvae.data.array.Array": ("path",)}  # of a user's own images

NUMBERS: dict[str, tuple[Callable[[float], bool], str]] = {  # NaN fails every comparison
    **dict.fromkeys(
        (
            *("batch_size", "n_epochs", "latent_dim", "sample_and_save_frequency", "num_samples", "n_devices"),
            "discriminator_steps",
        ),
        (lambda value: value >= 1, "be 1 or more"),
    ),
    **dict.fromkeys(
        (
            *("gen_weight", "recon_weight", "kld_weight", "feature_weight", "gradient_penalty", "free_bits"),
            *("adversarial_start", "adversarial_ramp", "lr_warmup"),
        ),
        (lambda value: 0 <= value < math.inf, "be a finite number, 0 or more"),
    ),
    **dict.fromkeys(("betas", "betas_discriminator"), (lambda value: 0 <= value < 1, "lie between 0 and 1")),
    "ema": (lambda value: 0 < value < 1, "lie between 0 and 1, or be null for none"),
    **dict.fromkeys(
        (
            *("lr", "lr_discriminator", "max_minutes", "checkpoint_every_minutes"),
            *("kld_epochs", "clip_gradient", "truncation"),
        ),
        (lambda value: 0 < value < math.inf, "be a finite number above 0"),
    ),
    **dict.fromkeys(("size", "crop"), (lambda value: value >= SMALLEST_SIZE, f"be {SMALLEST_SIZE} px or more")),
    "keep_checkpoints": (lambda value: value >= 0, "be 0 or more, or null for all"),
    "num_workers": (lambda value: value >= 0, "be 0 or more"),
    "seed": (lambda value: 0 <= value < 2**32, f"be between 0 and {2**32 - 1}"),
    "alpha": (lambda value: 0 < value < 1, "lie between 0 and 1"),
}
LARGEST = {  # above which there is neither a use nor the memory
    **dict.fromkeys(("batch_size", "n_epochs", "sample_and_save_frequency", "keep_checkpoints"), 2**31 - 1),
    **dict.fromkeys(("latent_dim", "hidden_dims"), 2**16),
    **dict.fromkeys(("size", "crop"), 2**14),
    **dict.fromkeys(("num_workers", "n_devices"), 2**10),
    "num_samples": 10**6,
    "discriminator_steps": 100,
    "adversarial_start": 2**31 - 1,
}


def check(config: Config) -> None:
    """Refuse values that no run can have, naming the key.

    Raises:
        UserError: the first such value.
    """
    for name in FLAT_KEYS:
        check_value(name, getattr(config, name))
    _check_lists(config)
    _check_nodes(config)
    _check_discriminator(config)
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
    _check_devices(config)
    _check_objective(config)


def check_typed_of_matrix(typed: Iterable[str]) -> None:
    """Refuse keys of `dataset` that mode=matrix, whose sets have files and classes of their own, would not read."""
    known = [f"dataset.{name}" for name in OF_EVERY_SET]
    if unread := sorted(key for key in typed if key.startswith("dataset.") and key not in known):
        raise UserError(f"mode=matrix takes its sets as they are, but for {', '.join(known)}: leave out {unread[0]}")


def check_settled(config: Config) -> None:
    """Refuse what the settled config shows: a network that the images do not fit, images that are nowhere.

    Raises:
        UserError: too small an image for the stages, or for the loss; a folder or file that is missing.
    """
    for node in (config.dataset, config.out_dataset):
        if ".." in (path := Path(node["name"])).parts or path.is_absolute():  # folders are called by it
            raise UserError(f"dataset={node['name']} is no option")
    scored = "outlier" in config.modes and config.out_dataset["name"] in config.outlier_sets
    for group in ("dataset", "out_dataset") if scored else ("dataset",):
        node = getattr(config, group)
        places = PLACES.get(node.get("_target_"), ())
        if places and not any(node.get(name) for name in places) and config.mode not in WITHOUT_DATA:
            raise UserError(f"{group}={node['name']} needs {group}.{places[0]}=<where the images are>")
        for name in places if config.mode not in WITHOUT_DATA else ():
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
    if "ms_ssim" in config.metrics and "test" in config.modes and config.side < MS_SSIM_SMALLEST_SIDE:
        raise UserError(f"metrics=[ms_ssim] needs images of {MS_SSIM_SMALLEST_SIDE} px or more, got {config.side}")


def _check_devices(config: Config) -> None:
    n = n_launched() or config.n_devices
    if n == 1:
        return
    several = f"torchrun with {n} processes" if launched() else f"n_devices={n}"
    if config.mode == "matrix":
        raise UserError(f"mode=matrix trains each of its sets on one device, got {several}")
    if ":" in config.device or config.device == "mps":
        raise UserError(f"{several} needs device=auto, cuda or cpu, got device={config.device}")
    if config.mode == "train" and config.batch_size < 2 * n:
        raise UserError(f"batch_size={config.batch_size} is of all ranks: {several} needs two images for each, {2 * n}")


def check_value(name: str, value: Any) -> None:
    """Refuse what a flat key cannot be, whatever the others are; the value is of its type.

    Raises:
        UserError: with what it can be.
    """
    if isinstance(value, str) and not value.strip():
        raise UserError(f"{name}= is empty: type a value, or leave it out")
    if name == "hidden_dims" and value is not None and (not value or min(value) < 1):
        raise UserError(f"hidden_dims must list widths of 1 or more, got {_shown(value)}")
    if name in ("betas", "betas_discriminator") and value is not None and len(_listed(value)) != 2:
        raise UserError(f"{name} takes a list of two numbers, as in [0.5,0.9], got {value}")
    if name == "device" and not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise UserError(f"device must be auto, cpu, cuda, cuda:<number> or mps, got {value}")
    if name == "features" and not (value is None or isinstance(value, str) or _is_node(value)):
        raise UserError(f"features takes {', '.join(FEATURES)} or {{_target_: …}}, got {value}")
    choices, takes = FLAT_KEYS[name]["choices"], "takes" if isinstance(value, list) else "must be one of"
    for item in _listed(value):
        if isinstance(item, str) and choices and item not in choices:
            raise UserError(f"{name} {takes} {', '.join(choices)}, got {item}")
        if isinstance(item, int | float):
            check_number(name, item)


def check_number(name: str, value: float) -> None:
    """Refuse what a key, flat or of a dataset, cannot be as a number.

    Raises:
        UserError: with the range.
    """
    own = name.rpartition(".")[2]
    is_valid, valid = NUMBERS.get(own, (lambda value: True, ""))
    if not is_valid(value):
        raise UserError(f"{name} must {valid}, got {value}")
    if value > LARGEST.get(own, math.inf):
        raise UserError(f"{name} must be {LARGEST[own]} or less, got {value}")


def _check_discriminator(config: Config) -> None:
    """Refuse what needs a discriminator, or a weight, that is not there."""
    off = {"gen_weight": 0, "recon_weight": 0, "feature_weight": 0, "gradient_penalty": 0, "adversarial": "bce"}
    off |= {"discriminator_steps": 1, "augment": [], "negatives": [], "lr_discriminator": None}
    off |= {"adversarial_start": 0, "adversarial_ramp": 0, "betas_discriminator": None}
    for name, value in off.items():
        if not config.train_discriminator and (typed := getattr(config, name)) not in (value, None):
            typed = _shown(typed) if isinstance(typed, list) else typed
            if name in ("gen_weight", "recon_weight"):
                raise UserError(f"train_discriminator=false needs gen_weight=0 recon_weight=0, got {name}={typed}")
            raise UserError(f"{name}={typed} is for the discriminator: train_discriminator is false")
    if config.adaptive_weight and not any((config.gen_weight, config.recon_weight, config.feature_weight)):
        raise UserError("adaptive_weight=true needs gen_weight, recon_weight or feature_weight above 0")


def _check_lists(config: Config) -> None:
    """Refuse lists, and what is missing from them, that the other keys do not go with."""
    if config.mode == "screen" and not config.input:
        raise UserError("mode=screen needs input=<a folder of images, or a .npy or .npz file>")
    if config.mode == "matrix" and len(set(config.datasets)) < max(2, len(config.datasets)):
        raise UserError("mode=matrix needs two or more different sets, as in datasets=[mnist,fashionmnist]")
    if shifts := [name for name in config.datasets if shift_names(name)]:
        raise UserError(f"datasets={_shown(config.datasets)}: {shifts[0]} is no set that a network can be trained on")
    if len(set(config.then)) < len(config.then):
        raise UserError(f"then={_shown(config.then)} names a mode twice")


def _check_nodes(config: Config) -> None:
    """Refuse what no group can be; its options' own keys are left to what they name."""
    for group in ("dataset", "out_dataset"):
        node = getattr(config, group)
        if (channels := node["channels"]) is not None and not (_is_whole(channels) and channels in (1, 3)):
            raise UserError(f"{group}.channels must be 1, 3 or null, got {channels}")
        if (size := node.get("size")) is not None:
            if not _is_whole(size):
                raise UserError(f"{group}.size takes a whole number or null, got {size}")
            check_number(f"{group}.size", size)
        for name in ("keep_classes", "drop_classes"):
            if node[name] is not None and (not isinstance(node[name], list) or not node[name]):
                raise UserError(f"{group}.{name} takes a list of classes, as in [normal] or [0,1], got {node[name]}")
        _check_pixels(group, node)
    if (images := config.tracker.get("images")) not in (None, True, False):
        raise UserError(f"tracker.images must be true, false or null, got {images}")


def _is_node(value: Any) -> bool:
    return isinstance(value, dict) and "_target_" in value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


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
    not_asked_for = {*RECONSTRUCTION_METRICS, *SAMPLE_METRICS}.difference(config.metrics)
    if config.objective in not_asked_for and "test" in config.modes:
        raise UserError(f"objective={config.objective} is not measured: it is not in metrics={_shown(config.metrics)}")
    measured = [metric for mode in config.modes for metric in METRICS.get(mode, ()) if metric not in not_asked_for]
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


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _shown(values: list[Any]) -> str:
    """A list as one types it on the command line."""
    return "[" + ",".join(str(value) for value in values) + "]"
