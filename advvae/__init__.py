"""Adversarial variational autoencoders: train, reconstruct, sample, and find outliers.

    model = advvae.load("outputs/train/digits/<time>")      # or a sweep's folder, an exported model, a .pt file
    model = advvae.train(dataset="digits", n_epochs=20)     # the keys of the command line
    model.reconstruct(images), model.sample(16), model.encode(images), model.score(images), model.screen("scans")
    advvae.read_sweep("outputs/sweeps/<time>")              # a pandas frame
    advvae.OutlierDetector().fit(images).predict(others)    # scikit-learn's convention: -1 for outliers

Importing this package imports no torch: what needs it is loaded when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from advvae.errors import UserError

if TYPE_CHECKING:
    from advvae.api import Model, load, read_sweep, train
    from advvae.estimator import OutlierDetector

__all__ = ["Model", "OutlierDetector", "UserError", "load", "read_sweep", "train"]


def __getattr__(name: str) -> Any:
    if name == "OutlierDetector":
        return import_module("advvae.estimator").OutlierDetector
    if name in __all__:
        return getattr(import_module("advvae.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
