from __future__ import annotations

import ctypes
import mmap
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from advvae.data import Split, entries, reading
from advvae.data.entries import load_array
from advvae.data.reading import AHEAD, copies, copy_on, gathered, read_ahead, taken
from advvae.data.splits import to_floats

CPU = torch.device("cpu")
ROWS = list(torch.randperm(400, generator=torch.Generator().manual_seed(0)).split(16))


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("reader")]


def numbered(dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    return torch.arange(400 * 12).reshape(400, 3, 2, 2).to(dtype)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
@pytest.mark.parametrize("n_readers", [0, 1, 3])
def test_what_is_read_ahead_is_what_was_asked_for(
    dtype: torch.dtype, n_readers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = numbered(dtype)
    in_memory = list(gathered(images, ROWS, CPU))
    monkeypatch.setattr(reading, "IN_MEMORY", 0)
    mapped = list(gathered(images, ROWS, CPU, n_readers))
    assert len(mapped) == len(ROWS)
    for batch, same, rows in zip(mapped, in_memory, ROWS, strict=True):
        assert batch.dtype == dtype
        assert torch.equal(batch.int(), numbered(dtype).int()[rows])
        assert torch.equal(batch, same)
    assert not readers()


def test_batches_are_read_before_they_are_asked_for_and_no_more_than_ahead() -> None:
    done = []

    def read(rows: torch.Tensor) -> torch.Tensor:
        done.append(rows)
        return rows

    batches = read_ahead(partial(read), ROWS, 1)
    assert not readers()  # nothing starts before the first is asked for
    next(batches)
    deadline = time.monotonic() + 10
    while len(done) < 1 + AHEAD and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert len(done) == 1 + AHEAD
    assert all(torch.equal(batch, rows) for batch, rows in zip(batches, ROWS[1:], strict=True))


def test_readers_work_at_the_same_time() -> None:
    """Each waits for the others: one alone would wait for ever."""
    together = threading.Barrier(3, timeout=30)

    def read(rows: torch.Tensor) -> torch.Tensor:
        together.wait()
        return rows

    assert len(list(read_ahead(partial(read), ROWS[:6], 3))) == 6


def test_readers_stop_with_the_loop() -> None:
    done = []

    def read(rows: torch.Tensor) -> torch.Tensor:
        done.append(rows)
        time.sleep(0.02)
        return rows

    for _ in read_ahead(partial(read), ROWS, 1):
        break
    assert not readers()
    assert len(done) < 1 + AHEAD  # what waited was given up


def test_an_error_of_a_reader_is_raised_where_its_batch_is_asked_for() -> None:
    def read(rows: torch.Tensor) -> torch.Tensor:
        if rows is ROWS[2]:
            raise OSError("the disk is gone")
        return rows

    batches = read_ahead(partial(read), ROWS, 2)
    assert [torch.equal(next(batches), rows) for rows in ROWS[:2]] == [True, True]
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    assert not readers()


def test_a_mapped_split_gives_the_same_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "images.npy", numbered().repeat(1, 1, 4, 4).numpy())
    shape = [400, 3, 8, 8]
    labels = np.zeros(400, np.int64)

    def batches() -> list[torch.Tensor]:
        images = load_array(tmp_path / "images.npy", shape)
        split = Split("set", "train", images, torch.arange(399), "train", labels[:399], ["any"], None, crop=4)
        return list(split.batches(16, shuffle=torch.Generator().manual_seed(1)))

    in_memory = batches()
    for module in (entries, reading):
        monkeypatch.setattr(module, "IN_MEMORY", 0)
    assert all(torch.equal(one, other) for one, other in zip(batches(), in_memory, strict=True))


@pytest.mark.skipif(not hasattr(mmap, "MADV_WILLNEED"), reason="there is no such system call here")
def test_the_pages_of_a_batch_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Libc:
        def madvise(self, start: ctypes.c_void_p, length: ctypes.c_size_t, advice: int) -> None:
            assert advice == mmap.MADV_WILLNEED
            asked.append(range(start.value or 0, (start.value or 0) + length.value))

    monkeypatch.setattr(reading.ctypes, "CDLL", lambda _: Libc())
    images = torch.zeros(50, 3, 40, 40, dtype=torch.uint16)
    reading.ask_for(images, torch.tensor([7, 0]))
    for pages, image in zip(asked, (images[7], images[0]), strict=True):
        assert pages.start % mmap.PAGESIZE == 0
        assert image.data_ptr() - mmap.PAGESIZE < pages.start <= image.data_ptr()
        assert pages.stop == image.data_ptr() + 3 * 40 * 40 * 2


def test_small_sets_are_read_once_for_all_jobs_of_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", numbered().numpy())

    def place(name: str) -> int:
        return load_array(tmp_path / f"{name}.npy", [400, 3, 2, 2]).data_ptr()

    monkeypatch.setattr(entries, "kept", [])
    first = place("a")
    assert place("a") == first  # though nobody holds it any more
    monkeypatch.setattr(entries, "IN_MEMORY", 5000)  # room for one
    place("b")
    assert [array.nbytes for array in entries.kept] == [4800]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_a_copy_on_the_device_is_made_once(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**6, 10**6))
    copies.clear()
    images = numbered(dtype)
    copy = copy_on(CPU, images)  # which stands for a GPU
    assert copy is not None
    assert copy_on(CPU, images) is copy
    assert torch.equal(to_floats(copy[ROWS[0]], CPU), to_floats(images[ROWS[0]], CPU))
    copies.clear()


def test_copies_make_room_for_another_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0 if copies else 10**6, 10**6))
    copies.clear()
    first, second = numbered(), numbered()
    assert copy_on(CPU, first) is not None
    assert copy_on(CPU, second) is not None
    assert list(copies) == [(id(second), CPU)]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * first.nbytes - 1, 10**6))
    assert copy_on(CPU, first) is None
    copies.clear()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("in_memory", [True, False])
def test_batches_on_a_gpu_are_those_on_the_cpu(in_memory: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, images = torch.device("cuda"), numbered()
    expected = [to_floats(batch, CPU) for batch in gathered(images, ROWS, CPU)]
    monkeypatch.setattr(reading, "IN_MEMORY", images.nbytes if in_memory else 0)
    found = [to_floats(batch, gpu).cpu() for batch in gathered(images, ROWS, gpu)]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert taken(images, ROWS[0], pinned=True).is_pinned()
