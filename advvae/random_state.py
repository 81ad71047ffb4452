"""The generators that a user's own network or loss may draw from; advvae draws from generators of its own."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Let what Python, NumPy and torch draw follow from the seed."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - it is the global one that a user's code may use
    torch.manual_seed(seed)


@contextmanager
def seeded_apart(seed: int) -> Iterator[None]:
    """In here, draws follow from this seed; afterwards, from where they were before."""
    before = random_state()
    seed_all(seed)
    try:
        yield
    finally:
        restore_random_state(before)


def random_state() -> dict[str, Any]:
    """The states of these generators, as tensors and plain values; of torch those of each device."""
    version, python, gauss = random.getstate()
    numpy: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    twister = numpy["state"]
    return {
        "python": (version, torch.tensor(python), gauss),
        "numpy": (
            torch.from_numpy(twister["key"].astype(np.int64)),
            twister["pos"],
            numpy["has_gauss"],
            numpy["gauss"],
        ),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put the generators back to where `random_state` found them. Devices that one of the two lacks are left alone."""
    version, python, gauss = state["python"]
    random.setstate((version, tuple(python.tolist()), gauss))
    key, position, has_gauss, cached_gauss = state["numpy"]
    np.random.set_state(("MT19937", key.numpy().astype(np.uint32), position, has_gauss, cached_gauss))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for number, of_device in enumerate(state["cuda"][:n_gpus]):
        torch.cuda.set_rng_state(of_device, number)
    if state["mps"] is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])
