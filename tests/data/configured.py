"""Sources as the files of conf/dataset make them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hydra.utils import instantiate

from advvae.config import DATASET_KEYS
from advvae.data import Items

CONF = Path(__file__).parents[2] / "conf" / "dataset"


def dataset_config(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / f"{name}.yaml").read_text())


def source_of(name: str, **changes: Any) -> Any:
    arguments = {key: value for key, value in dataset_config(name).items() if key not in DATASET_KEYS}
    return instantiate(arguments | changes, _convert_="all")


def stacked(items: Items) -> np.ndarray:
    """Images that are arrays of one shape, as one array."""
    return np.stack([np.asarray(image) for image in items.images])
