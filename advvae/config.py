"""The typed schema, the meaning of every key, and the checks of what a user typed.

Imports no torch, so that mistakes are answered at once.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hydra.errors import CompactHydraException

from advvae.errors import UserError
from advvae.outlier.scores import SCORES

HERE = Path(__file__).resolve().parent
CONF = next(p for p in (HERE / "conf", HERE.parent / "conf") if p.is_dir())  # an installed wheel, or a checkout

MODES = ("train", "test", "sample", "outlier")
PRECISIONS = ("auto", "32", "bf16")
SMALLEST_SIZE = 8


class ConfigError(CompactHydraException):
    """A setting the user can fix: Hydra shows it as one line, without a traceback."""


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
    sample_and_save_frequency: int = key("epochs between sample grids, reconstruction grids and kept checkpoints")
    keep_checkpoints: int | None = key("kept checkpoints beside `last` and `best`; null = all")
    resume: str | None = key(
        "auto = go on with the newest unfinished run of this config; a folder = with that one; null = a new run"
    )
    then: list[str] = key(
        "modes to run after training in the same job, e.g. then=[test,outlier]; their metrics join the job's", MODES[1:]
    )
    checkpoint: str | None = key(
        "run folder or file to load; null = newest finished train run on `dataset`, sweeps aside"
    )
    discriminator_checkpoint: str | None = key(
        "take the discriminator from this file instead; null = from `checkpoint`"
    )
    num_samples: int = key("images to draw in mode=sample")
    scores: list[Any] = key("outlier scores: names, or {_target_: …} items of your own")
    objective: str | None = key(
        "metric that a job returns to a sweeper, e.g. val_mse or scores.loss.auroc; null = val_loss"
    )
    allow_outlier_selection: bool = key(
        "true = let a sweep be steered by a metric measured on real outliers", ("true", "false")
    )
    size: int | None = key("side in pixels; null = the dataset's default")
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

    @property
    def modes(self) -> list[str]:
        """The modes that this job runs, in order."""
        return [self.mode, *self.then]


GROUPS = ("dataset", "out_dataset", "model", "loss", "mode", "tracker", "experiment")
FLAT_KEYS = {f.name: f.metadata for f in fields(Config) if f.metadata}


def default_hidden_dims(size: int) -> list[int]:
    """32, 64, 128, … doubling to 512 at most, until the map is 2 px: [32, 64, 128, 256] at 32 px."""
    n_stages = max(1, math.ceil(math.log2(size / 2)))
    return [min(32 * 2**stage, 512) for stage in range(n_stages)]


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
            f"{name}= belongs to mode=test, sample and outlier; to go on with a run use resume=<its folder>"
        )
    if config.mode != "train" and config.resume:
        raise UserError(f"resume= belongs to mode=train, got mode={config.mode}")
    if config.objective and config.objective.split(".")[0] in ("scores", "sets") and not config.allow_outlier_selection:
        raise UserError(
            f"objective={config.objective} is measured on real outliers: choosing by it makes the result optimistic; "
            "allow_outlier_selection=true lets you"
        )


def check_network(config: Config) -> None:
    """Refuse a network that the images do not fit. `size` and `hidden_dims` are known by now.

    Raises:
        UserError: too small an image for the stages, or for the loss.
    """
    assert config.size is not None
    assert config.hidden_dims is not None
    side = config.size
    for stage in range(len(config.hidden_dims)):
        if side < 2:
            raise UserError(
                f"size={config.size} is too small for {len(config.hidden_dims)} stages "
                f"(hidden_dims={_shown(config.hidden_dims)}): at most {stage}"
            )
        side = (side + 1) // 2
    if config.loss["name"] == "ms_ssim" and config.size < 33:
        raise UserError(f"loss=ms_ssim needs images of 33 px or more, got size={config.size}: use loss=ssim")


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
    if config.size is not None and config.size < SMALLEST_SIZE:
        raise UserError(f"size must be {SMALLEST_SIZE} px or more, got {config.size}")
    if config.hidden_dims is not None and (not config.hidden_dims or min(config.hidden_dims) < 1):
        raise UserError(f"hidden_dims must list widths of 1 or more, got {_shown(config.hidden_dims)}")


def _check_choices(config: Config) -> None:
    if config.precision not in PRECISIONS:
        raise UserError(f"precision must be one of {', '.join(PRECISIONS)}, got {config.precision}")
    if config.device not in ("auto", "cpu", "mps") and config.device.split(":")[0] != "cuda":
        raise UserError(f"device must be auto, cpu, cuda, cuda:<number> or mps, got {config.device}")
    for name in config.scores:
        if isinstance(name, str) and name not in SCORES:
            raise UserError(f"scores takes {', '.join(SCORES)}, or {{_target_: …}} items; got {name}")
    for mode in config.then:
        if mode not in MODES[1:]:
            raise UserError(f"then takes {', '.join(MODES[1:])}, got {mode}")
    for group in ("dataset", "out_dataset"):
        channels = getattr(config, group).get("channels")
        if channels not in (None, 1, 3):
            raise UserError(f"{group}.channels must be 1, 3 or null, got {channels}")
    for name in ("data_dir", "output_dir"):
        if not getattr(config, name):
            raise UserError(f"{name} must name a folder, got nothing")


def _shown(values: list[Any]) -> str:
    """A list as one types it on the command line."""
    return "[" + ",".join(str(value) for value in values) + "]"
