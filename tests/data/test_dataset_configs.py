"""The files of conf/dataset."""

from __future__ import annotations

import pytest

from advvae.config import PLACES
from tests.data.configured import CONF, dataset_config, source_of

NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))
MEDMNIST = {"pathmnist", "chestmnist", "dermamnist", "octmnist", "pneumoniamnist", "retinamnist", "breastmnist",
            "bloodmnist", "tissuemnist", "organamnist", "organcmnist", "organsmnist"}  # fmt: skip
SIZES = {"tinyimagenet": 64, "dtd": 128, "places365": 128, "imagenet": 128, "celeba": 256, "folder": 64, "array": 64}


def test_all_are_there() -> None:
    others = {"mnist", "fashionmnist", "kmnist", "cifar10", "cifar100", "svhn", "digits", "photos"}
    assert set(NAMES) == MEDMNIST | SIZES.keys() | others


@pytest.mark.parametrize("name", NAMES)
def test_each_makes_a_source(name: str) -> None:
    config = dataset_config(name)
    assert config["size"] == SIZES.get(name, 32)
    assert config["channels"] in ((None,) if name in ("folder", "array") else (1, 3))
    assert (CONF / f"{name}.yaml").read_text().startswith("# ")
    source = source_of(name)
    assert getattr(source, "private", False) == (name in ("folder", "array"))
    if name not in ("folder", "array"):
        assert "train" in source.splits
        assert not set(PLACES) & config.keys(), "these are taken from the current folder, published sets from data_dir"
