"""The card of an exported model, as the Hugging Face Hub reads it: what it is, what it is for, what it measured."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from advvae import runs
from advvae.config import Config
from advvae.provenance import read_provenance
from advvae.runs import flat

LARGE = (
    "scores",
    "near",
    "far",
    "sets",
    "thresholds",
    "flagged",
)  # metrics that have a table of their own, or none here
KEYS = ("size", "latent_dim", "hidden_dims", "kld_weight", "recon_weight", "gen_weight", "seed")  # told of a training

VALIDATION = ("val_", "accuracy_", "best_epoch", "epochs", "steps", "train_seconds")  # metrics of a training

USES = """\
To reconstruct and to sample images like those that it was trained on, and to rank images by how unlike them they are. A
score is larger for an image that is more outlying; thresholds in `config.json` flag at most the share `alpha` of images
that are exchangeable with the validation images they follow from."""

LIMITS = """\
- A score says that an image is unlike the training images, not what is wrong with it. **It is no medical device, and no
  ground for a diagnosis**: its errors on the images of another scanner, site, population or preparation are not known
  until they are measured there.
- Thresholds hold for images prepared as the training images were (`config.json`: `input`).
- A likelihood may be high for images that are simpler than the training images; look at the baselines of the run too.
- Samples may resemble training images; `mode=sample` shows the nearest ones.
- What scores have learnt (`detector-model.pt`, and the graph of the scorer) holds features of training images, and no
  images. Whether features may be published is for those to say whom the images belong to."""


@dataclass(frozen=True)
class Measured:
    """What a run measured of the model. `images`: what on. `metrics`: by dotted name."""

    mode: str
    images: str
    metrics: Mapping[str, Any]


def model_card(config: Config, run: Path, checkpoint_sha256: str) -> str:
    """The text of README.md.

    Args:
        run: the folder of the training run.
        checkpoint_sha256: of the weights; test and outlier runs below output_dir that loaded them are told too.
    """
    measured = list(measurements(config, run, checkpoint_sha256))
    name = f"advvae on {config.dataset['name']}"
    head: dict[str, Any] = {
        "library_name": "advvae",
        "license": "other",
        "license_name": "see-the-data",
        "tags": ["variational-autoencoder", "outlier-detection", "adversarial", "image-reconstruction"],
        "datasets": [config.dataset["name"]],
        "model-index": [_index(name, config.dataset["name"], measured)],
    }
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n",
        f"# {name}\n",
        f"An adversarial variational autoencoder for {_images(config)}: encoder, decoder"
        f"{' and discriminator' if config.train_discriminator else ''}, trained with advvae.\n",
        '## Use\n\n```python\nimport advvae\n\nmodel = advvae.load(".")\nimages = model.sample(16, seed=0)\n'
        "table = model.score(images)\n```\n",
        f"{USES}\n",
        f"## Data\n\n{_data(config, run)}\n",
        f"## Training\n\n{_training(config)}\n",
        f"## Measured\n\n{_tables(measured)}\n",
        f"## Limits\n\n{LIMITS}\n",
    ]
    return "\n".join(parts)


def measurements(config: Config, run: Path, checkpoint_sha256: str) -> Iterator[Measured]:
    """What the training run measured, and every finished test and outlier run of the same weights."""
    metrics = runs.read_metrics(run)
    own = {name: value for name, value in metrics.items() if name.startswith(VALIDATION)}
    if own:
        yield Measured("train", f"validation images of {config.dataset['name']}", _numbers(own))
    later = {name: value for name, value in metrics.items() if name not in own}  # measured by then=
    if "psnr" in later or isinstance(later.get("scores"), dict):
        against = " against " + ", ".join(later["sets"]) if isinstance(later.get("sets"), dict) else ""
        yield Measured("test", f"test images of {config.dataset['name']}{against}", _numbers(later))
    for mode in ("test", "outlier"):
        for folder in runs.runs_of(config.output_dir, mode, config.dataset["name"]):
            metrics, own = runs.read_metrics(folder), runs.read_config(folder)
            if metrics.get("status") == "finished" and own.get("checkpoint_sha256") == checkpoint_sha256:
                against = ", ".join(metrics.get("sets", {}))
                name = config.dataset["name"]
                images = f"test images of {name}" + (f" against {against}" if against else "")
                yield Measured(mode, images, _numbers(metrics))


def _numbers(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Single numbers, and the AUROC of each score with its interval."""
    told = {name: value for name, value in metrics.items() if name not in LARGE}
    numbers: dict[str, Any] = {name: value for name, value in flat(told).items() if isinstance(value, int | float)}
    scores = metrics.get("scores")
    for name, values in scores.items() if isinstance(scores, dict) else ():
        if isinstance(values.get("auroc"), float):
            numbers[f"AUROC of {name}"] = (
                f"{values['auroc']:.3f} [{values['auroc_low']:.3f}, {values['auroc_high']:.3f}]"
            )
    return numbers


def _tables(measured: Sequence[Measured]) -> str:
    from tabulate import tabulate

    tables = []
    for part in measured:
        rows = [(name, f"{v:.5g}" if isinstance(v, float) else v) for name, v in part.metrics.items()]
        table = tabulate(rows, ("metric", "value"), tablefmt="github", disable_numparse=True)
        tables.append(f"`mode={part.mode}`, {part.images}:\n\n{table}\n")
    if all(part.mode == "train" for part in measured):
        tables.append("No test or outlier run of these weights was found: numbers on unseen images are missing here.\n")
    return "\n".join(tables)


def _index(name: str, dataset: str, measured: Sequence[Measured]) -> dict[str, Any]:
    """The metrics of the test run, as the Hub lists them."""
    metrics = next((part.metrics for part in measured if part.mode == "test"), {})
    listed = [{"type": key, "value": metrics[key]} for key in ("mse", "psnr", "ssim") if key in metrics]
    result = {
        "task": {"type": "unconditional-image-generation"},
        "dataset": {"name": dataset, "type": dataset, "split": "test"},
        "metrics": listed,
    }
    return {"name": name, "results": [result] if listed else []}


def _images(config: Config) -> str:
    kind = "grey" if config.dataset["channels"] == 1 else "colour"
    return f"{kind} images of {config.side} × {config.side} px"


def _data(config: Config, run: Path) -> str:
    node = config.dataset
    lines = [f"- dataset `{node['name']}`, licence: {node.get('licence') or 'not stated'}"]
    lines += [
        f"- {name}: {node[name]}" for name in ("keep_classes", "drop_classes", "window", "resize") if node.get(name)
    ]
    lines += [
        f"- {row['set']} {row['split']}: {row['n']:,} images, checksum of the prepared files {row['sha256']}"
        for row in read_provenance(run)["data"]
    ]
    return "\n".join(lines)


def _training(config: Config) -> str:
    values = ", ".join(f"`{key}={getattr(config, key)}`" for key in KEYS)
    return f"`model={config.model['name']} loss={config.loss['name']}`, {values}. All keys are in `config.json`."
