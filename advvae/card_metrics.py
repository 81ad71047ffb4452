"""What runs have measured of exported weights, as a model card tells it: in tables, and in the Hub's index."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advvae import runs
from advvae.checkpoint import Checkpoint
from advvae.config import RECONSTRUCTION_METRICS, SAMPLE_METRICS, Config
from advvae.outlier.tables import cell
from advvae.runs import flat
from advvae.weights import PARTS

VALIDATION = ("val_", "accuracy_", "best_epoch", "epochs", "steps", "images_per_second")  # metrics of a training
OUTLIER = ("n_in", "n_out", "n_in_groups", "n_out_groups", "ranked_by", "scores", "near", "far", "sets")
SAMPLING = ("num_samples", "active_units", "nearest_train_mse", "nearest_train_mse_val")  # of mode=sample
TABLES = ("scores", "near", "far", "sets")  # metrics that are whole tables
BOOKKEEPING = ("status", "error", "seconds")

SHAPING = ("dataset", "loss", "kld_weight", "kld_unit", "recon_weight", "adversarial")  # keys that numbers follow from
UNREAD = ("licence", "patients", "normal")  # keys of a dataset that no image follows from
HUB = {  # of datasets on the Hugging Face Hub
    "mnist": "ylecun/mnist",
    "fashionmnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "imagenet": "ILSVRC/imagenet-1k",
}


@dataclass(frozen=True)
class Origin:
    """Where the weights are from.

    run: the folder of their training, or of their file.
    checkpoint: that file.
    checksums: `checkpoint_sha256` of it, and `discriminator_checkpoint_sha256` where the discriminator has another.
    """

    run: Path
    checkpoint: Checkpoint
    checksums: Mapping[str, str]

    @property
    def parts(self) -> list[str]:
        """The networks that there are."""
        has_other = "discriminator_checkpoint_sha256" in self.checksums
        return [part for part in PARTS if part in self.checkpoint.parts or (part == "discriminator" and has_other)]

    @property
    def is_best(self) -> bool:
        """Whether these are the weights that the metrics of their training were measured on."""
        return self.checkpoint.path.name == "best.pt"

    @property
    def is_ours(self) -> bool:
        """Whether advvae trained them: a file of GenerativeZoo's does not say how it was trained."""
        return "dataset" in self.checkpoint.config


@dataclass(frozen=True)
class Measured:
    """What a mode measured of the weights on a split of their dataset. `metrics`: as in metrics.json."""

    mode: str
    dataset: str
    split: str
    metrics: Mapping[str, Any]

    @property
    def images(self) -> str:
        """What was measured on, in words."""
        against = ", ".join(self.metrics.get("sets", ()))
        return f"{self.split} images of {self.dataset}" + (f" against {against}" if against else "")


def measurements(config: Config, origin: Origin) -> Iterator[Measured]:
    """What the training measured and what followed it in its job, then the finished runs since that loaded the weights.

    Runs of another discriminator, another loss, or other images of the dataset (classes, window, files) are left out.
    """
    name = config.dataset["name"]
    if origin.is_best and "discriminator_checkpoint_sha256" not in origin.checksums:
        for mode, metrics in _by_mode(runs.read_metrics(origin.run)).items():
            if metrics:
                yield Measured(mode, name, "validation" if mode == "train" else "test", metrics)
    for mode in ("test", "outlier"):
        for folder in runs.runs_of(config.output_dir, mode, name):
            metrics = runs.read_metrics(folder)
            if metrics.get("status") == "finished" and _is_of(runs.read_config(folder), config, origin):
                yield Measured(mode, name, "test", metrics)


def _by_mode(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The metrics of a training's job by the mode that measured them; none of a mode that did not run."""
    training = {name: value for name, value in metrics.items() if name.startswith(VALIDATION)}
    outlier = {name: value for name, value in metrics.items() if name in OUTLIER}
    others = (*training, *outlier, *SAMPLING, *BOOKKEEPING)
    test = {name: value for name, value in metrics.items() if name not in others}
    return {"train": training, "test": test if "kld" in test else {}, "outlier": outlier}


def _is_of(run: Mapping[str, Any], config: Config, origin: Origin) -> bool:
    """Whether a run's config says that it measured these weights on these images."""
    files = ("checkpoint_sha256", "discriminator_checkpoint_sha256")
    is_same = all(run.get(file) == origin.checksums.get(file) for file in files)
    return is_same and all(_shaping(run.get(key)) == _shaping(getattr(config, key)) for key in SHAPING)


def _shaping(value: Any) -> Any:
    return {k: v for k, v in value.items() if k not in UNREAD} if isinstance(value, dict) else value


def tables(measured: Sequence[Measured]) -> str:
    """A table of each."""
    from tabulate import tabulate

    parts = []
    for part in measured:
        rows = [(name, f"{v:.5g}" if isinstance(v, float) else v) for name, v in _numbers(part.metrics).items()]
        table = tabulate(rows, ("metric", "value"), tablefmt="github", disable_numparse=True)
        parts.append(f"`mode={part.mode}`, {part.images}:\n\n{table}\n")
    if all(part.mode == "train" for part in measured):
        parts.append("No test or outlier run of these weights was found: numbers on unseen images are missing here.\n")
    return "\n".join(parts)


def _numbers(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Single numbers, and the AUROC of each score with its interval."""
    told = {name: value for name, value in metrics.items() if name not in (*TABLES, *BOOKKEEPING)}
    numbers: dict[str, Any] = {name: value for name, value in flat(told).items() if isinstance(value, int | float)}
    return numbers | {f"AUROC of {name}": cell(values, "auroc") for name, values in metrics.get("scores", {}).items()}


def index(name: str, measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """All that was measured, as `model-index` lists it: https://github.com/huggingface/hub-docs/blob/main/modelcard.md.

    The Hub has no task for outliers: they are one of two classes of images.
    """
    results = []
    for part in measured:
        aurocs = {name: values["auroc"] for name, values in part.metrics.get("scores", {}).items()}
        by_task = {
            ("image-to-image", "Reconstruction"): _listed(part, RECONSTRUCTION_METRICS),
            ("unconditional-image-generation", "Samples"): _listed(part, SAMPLE_METRICS),
            ("image-classification", "Outlier detection"): [
                {"type": "roc_auc", "name": f"AUROC of {name}", "value": value}
                for name, value in aurocs.items()
                if isinstance(value, float)
            ],
        }
        dataset = {"name": part.images, "type": HUB.get(part.dataset, part.dataset), "split": part.split}
        results += [
            {"task": {"type": task, "name": words}, "dataset": dict(dataset), "metrics": metrics}
            for (task, words), metrics in by_task.items()
            if metrics
        ]
    return [{"name": name, "results": results}] if results else []


def _listed(part: Measured, names: Sequence[str]) -> list[dict[str, Any]]:
    """Those of these metrics that were measured; a training calls them val_<name>."""
    prefix = "val_" if part.mode == "train" else ""
    found = {name: part.metrics.get(f"{prefix}{name}") for name in names}
    return [
        {"type": name, "name": f"{prefix}{name}", "value": value}
        for name, value in found.items()
        if isinstance(value, int | float) and math.isfinite(value)
    ]
