"""The card of an exported model, as the Hugging Face Hub reads it: what it is, what it is for, what it measured."""

from collections.abc import Mapping
from typing import Any

import yaml

from advvae.card_metrics import HUB, Origin, index, measurements, tables
from advvae.config import Config
from advvae.graphs import BATCHES, TOLERANCE
from advvae.onnx_usage import onnx_section
from advvae.provenance import read_provenance

KEYS = ("size", "latent_dim", "hidden_dims", "kld_weight", "recon_weight", "gen_weight", "seed")  # told of a training

USES = """\
To reconstruct and to sample images like those that it was trained on, and to rank images by how unlike them they are. A
score is larger for an image that is more outlying; thresholds in `config.json` flag at most the share `alpha` of images
that are exchangeable with the validation images they follow from."""

LICENCE = """\
Which licence the weights have is for those to say who publish them: put it in place of `unknown` at the head of this
file. That of the images is under Data."""

LIMITS = """\
- A score says that an image is unlike the training images, not what is wrong with it. **It is no medical device, and no
  ground for a diagnosis**: its errors on the images of another scanner, site, population or preparation are not known
  until they are measured there.
- Thresholds hold for images prepared as the training images were (`config.json`: `input`).
- A likelihood may be high for images that are simpler than the training images; look at the baselines of the run too.
- Samples may resemble training images; `mode=sample` shows the nearest ones.
- What advvae's scores have learnt (`detector-model.pt`, and the graph of the scorer) holds features of training images,
  and no images; a score of somebody's own holds what that keeps. Whether features may be published is for those to say
  whom the images belong to."""

UNKNOWN_TRAINING = """\
By another program, GenerativeZoo, whose file says nothing of how: neither of data nor of settings. The keys in
`config.json` are those that the weights were exported with."""


def model_card(config: Config, origin: Origin, content: Mapping[str, Any]) -> str:
    """The text of README.md.

    Args:
        config: what the weights were trained by.
        origin: where they are from; test and outlier runs below output_dir that loaded them are told too.
        content: what stands in config.json.
    """
    measured = list(measurements(config, origin))
    dataset = config.dataset["name"]
    name = f"advvae on {dataset}"
    hub = {"datasets": [HUB[dataset]]} if dataset in HUB else {}
    listed = {"model-index": found} if (found := index(name, measured)) else {}
    head: dict[str, Any] = {
        "library_name": "advvae",
        "license": "unknown",
        "tags": ["variational-autoencoder", "outlier-detection", "adversarial", "image-reconstruction"],
        **hub,
        **listed,
    }
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n",
        f"# {name}\n",
        f"An adversarial variational autoencoder for {_images(config)}: {', '.join(origin.parts)}.\n",
        '## Use\n\n```python\nimport advvae\n\nmodel = advvae.load(".")\nimages = model.sample(16, seed=0)\n'
        "table = model.score(images)\n```\n",
        f"{USES}\n\n{LICENCE}\n",
        f"## With ONNX Runtime\n\n{onnx_section(content)}\n\n{_compared(content)}\n",
        f"## Data\n\n{_data(config, origin)}\n",
        f"## Training\n\n{_training(config, origin)}\n",
        f"## Measured\n\n{tables(measured)}\n",
        f"## Limits\n\n{LIMITS}\n",
    ]
    return "\n".join(parts)


def _images(config: Config) -> str:
    kind = "grey" if config.dataset["channels"] == 1 else "colour"
    crops = f"crops of {config.crop} × {config.crop} px of " if config.crop else ""
    return f"{crops}{kind} images of {config.size} × {config.size} px"


def _compared(content: Mapping[str, Any]) -> str:
    """What is known of the graphs' numbers."""
    n_images, numbers = content["compared_on_images"], ", ".join(map(str, BATCHES))
    seen = f"{n_images} validation images" if n_images else "no image, as none was at hand"
    return (
        f"Every graph, in ONNX Runtime and in `torch.export`, was compared with PyTorch on a CPU: on {numbers} random "
        f"inputs, and on {seen}. No number differs by more than {TOLERANCE:g}, or {TOLERANCE:g} of the "
        "largest of its kind where that is above 1. Each score and each latent is a kind, and so is each other output."
    )


def _data(config: Config, origin: Origin) -> str:
    node = config.dataset
    named = "" if origin.is_ours else ", as it was named when the weights were exported"
    lines = [f"- dataset `{node['name']}`{named}, licence: {node.get('licence') or 'not stated'}"]
    lines += [
        f"- {name}: {node[name]}" for name in ("keep_classes", "drop_classes", "window", "resize") if node.get(name)
    ]
    lines += [
        f"- {row['set']} {row['split']}: {row['n']:,} images, checksum of the prepared files {row['sha256']}"
        for row in read_provenance(origin.run)["data"]
    ]
    return "\n".join(lines)


def _training(config: Config, origin: Origin) -> str:
    if not origin.is_ours:
        return UNKNOWN_TRAINING
    values = ", ".join(f"`{key}={getattr(config, key)}`" for key in KEYS)
    told = f"`model={config.model['name']} loss={config.loss['name']}`, {values}. All keys are in `config.json`."
    other = origin.checksums.get("discriminator_checkpoint_sha256")
    return told + (f" The discriminator is of another run, whose file has the SHA-256 {other}." if other else "")
