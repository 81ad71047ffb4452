import gc
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advvae.data import Split
from advvae.evaluator import evaluate, validate
from advvae.losses import Objective, mean_squared_error
from advvae.memory import ValuesOfImages
from advvae.models import conv_networks
from advvae.outlier.detector import score_split
from advvae.outlier.scores import named_scores
from tests.command import TINY, Command

FAULTS = """
import resource
from advvae.memory import keep_freed_memory
{call}
b"x" * 2**26
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    b"x" * 2**26
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that gives freed memory back")
def test_memory_that_was_freed_is_used_again_without_page_faults() -> None:
    def faults(call: str) -> int:
        command = [sys.executable, "-c", FAULTS.replace("{call}", call)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert faults("keep_freed_memory()") < faults("pass") / 3


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from advvae import memory

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", None)
    memory.keep_freed_memory()


def test_every_run_keeps_its_memory(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr("advvae.memory.keep_freed_memory", lambda: called.append(1))
    assert advvae("mode=train", "dataset=digits", *TINY).status == 0
    assert called == [1]


def test_values_are_in_the_order_of_their_images() -> None:
    values = ValuesOfImages(5)
    for batch in (torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[4.0], [5.0]])):
        values.add("loss", batch)
        values.add("is_real", batch[:, 0] > 2)
    assert values.by_name["loss"].tolist() == [[1], [2], [3], [4], [5]]
    assert values.by_name["is_real"].tolist() == [False, False, True, True, True]


@pytest.mark.parametrize("work", ["validation", "test", "scoring"])
def test_no_tensor_is_kept_for_a_batch(work: str, tmp_path: Path) -> None:
    """Small ones among large ones that are freed: with one kept for each batch, memory grew with the set."""
    networks, objective = conv_networks(1, 8, 4, [4, 8]), Objective(mean_squared_error, 1e-4, 0.002, 0.002)
    images, labels = torch.zeros(80, 1, 8, 8, dtype=torch.uint8), np.zeros(80, np.int64)
    split = Split("black", "test", images, torch.arange(80), "test", labels, ["black"], None)
    reading: dict[str, Any] = {"batch_size": 4, "device": torch.device("cpu")}
    n_tensors = []

    def count(*_: Any) -> None:
        n_tensors.append(sum(issubclass(type(kept), torch.Tensor) for kept in gc.get_objects()))

    assert networks.encoder is not None
    networks.encoder.register_forward_pre_hook(count)
    if work == "validation":
        validate(networks, objective, split, **reading)
    elif work == "test":
        evaluate(networks, objective, split, folder=tmp_path, **reading)
    else:
        score_split(networks, objective, split, scores=named_scores(["loss", "discriminator"]), **reading)
    assert len(n_tensors) >= 20
    assert n_tensors[19] <= n_tensors[4]
