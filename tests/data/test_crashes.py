"""A process that prepares is killed at every moment that it touches a file; what a later one makes of it is right."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advvae.data import chunks
from advvae.data.writing import JOURNAL
from tests.data.given import IMAGES, Given, folders, prepared

SHALLOW, DEEP = list(IMAGES[:9, :, :, 0]), [np.full((9, 9), 1000, np.uint16)] * 3
MASKS = [np.uint8(image > 200) for image in IMAGES[:12, :, :, 0]]
TOUCHES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree")  # audit events

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a process that can be killed is forked")


class OfFile(Given):
    """8 bits that become 16 in the last of three chunks; a file makes them known by what is in it."""

    def files(self, split: str, data_dir: Path) -> list[Path]:
        return [data_dir / "file"]


def make(data_dir: Path) -> None:
    names = [f"{number}.png" for number in range(12)]
    paths = [str(data_dir / name) for name in names]
    prepared(data_dir, OfFile([*SHALLOW, *DEEP], masks=MASKS, paths=paths, names=names), channels=1)


def end_of(work: Callable[[], None]) -> int:
    """How a process of its own that does this ends: 0, or minus the number of the signal that killed it."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def make_and_die(data_dir: Path, moment: int) -> None:
    """Prepare, but die before a file below `data_dir` is touched for the time of this number."""
    touched = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal touched
        if event in TOUCHES and str(arguments[0]).startswith(str(data_dir)):
            if touched == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            touched += 1

    sys.addaudithook(watch)
    make(data_dir)


def contents(data_dir: Path) -> dict[str, bytes]:
    """All that a later process may look at in the only folder of the cache that is no leftover."""
    (entry,) = (folder for folder in folders(data_dir / "cache") if not folder.name.startswith("."))
    return {path.name: path.read_bytes() for path in entry.iterdir() if path.name != JOURNAL}


def test_a_kill_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 4)

    def new(name: str) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("content")
        return tmp_path / name

    undisturbed = new("undisturbed")
    ends: list[int] = []
    make(undisturbed)
    while 0 not in ends:
        data_dir = new(str(len(ends)))
        ends.append(end_of(partial(make_and_die, data_dir, len(ends))))
        make(data_dir)
        assert contents(data_dir) == contents(undisturbed)
        shutil.rmtree(data_dir)
    assert set(ends[:-1]) == {-signal.SIGKILL}
    assert len(ends) > 40
