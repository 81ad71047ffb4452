import platform
import subprocess
import sys

import pytest

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
