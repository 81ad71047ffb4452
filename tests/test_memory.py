import platform
import subprocess
import sys

import pytest
import torch

from advvae.memory import ValuesOfImages
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


GROWTH = """
import re
import numpy as np, torch
from pathlib import Path
from advvae.data import Split
from advvae.evaluator import validate
from advvae.losses import Objective, mean_squared_error
from advvae.memory import keep_freed_memory
from advvae.models import conv_networks

keep_freed_memory()
networks = conv_networks(3, 64, 8, [8, 16]).to(memory_format=torch.channels_last)
objective = Objective(mean_squared_error, 1e-4, 0.002, 0.002)
for n in (2560, 10240):
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8).expand(n, 3, 64, 64)
    split = Split("black", "val", images, torch.arange(n), "val", np.zeros(n, np.int64), ["black"], None)
    validate(networks, objective, split, batch_size=128, device=torch.device("cpu"))
    print(int(re.search(r"RssAnon:\\s+([0-9]+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.system() != "Linux", reason="only Linux tells what a process holds")
def test_memory_does_not_grow_with_the_number_of_validation_images() -> None:
    process = subprocess.run([sys.executable, "-c", GROWTH], check=True, capture_output=True, text=True)
    before, after = map(int, process.stdout.split())
    assert after < before + 150  # MB, where small tensors kept batch after batch made it 700
