from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advvae.data import Items, chunks, entries, store
from advvae.data.sealing import write_seals
from advvae.data.source import Form
from advvae.errors import UserError
from tests.data import official_files
from tests.data.configured import source_of
from tests.data.given import IMAGES, Given, folders, prepared
from tests.data.official_files import random_images


def test_images_keep_their_order_and_values(tmp_path: Path) -> None:
    images = prepared(tmp_path, size=9).images
    assert images.dtype == torch.uint8
    assert np.array_equal(images.numpy(), IMAGES.transpose(0, 3, 1, 2))
    assert prepared(tmp_path, size=9, channels=1).images.shape == (300, 1, 9, 9)


def test_entry_is_an_npy_file_of_its_own(tmp_path: Path) -> None:
    prepared(tmp_path)
    (entry,) = folders(tmp_path / "cache")
    assert entry.name.startswith("given-test-8px-3c-")
    assert np.load(entry / "images.npy").shape == (300, 3, 8, 8)


def test_prepared_once_then_read(tmp_path: Path) -> None:
    source = Given(name="once")
    first = prepared(tmp_path, source)
    again = prepared(tmp_path, Given(name="once"))
    assert Given.reads["once"] == 1
    assert torch.equal(first.images, again.images)
    assert (again.labels.tolist(), again.classes) == ([0] * 300, ["only"])


@pytest.mark.parametrize(
    "change",
    [
        {"size": 10},
        {"channels": 1},
        {"window": (0, 100)},
        {"resize": "squash"},
        {"split": "train"},
        {"name": "x"},
        {"source": Given(IMAGES[:5], name="keyed")},
    ],
)
def test_whatever_shapes_the_images_is_in_the_key(change: dict[str, Any], tmp_path: Path) -> None:
    prepared(tmp_path, Given(name="keyed"))
    prepared(tmp_path, **({"source": Given(name="keyed")} | change))
    assert len(folders(tmp_path / "cache")) == 2


def test_workers_are_not_in_the_key_nor_in_the_result(tmp_path: Path) -> None:
    alone = prepared(tmp_path / "a").images
    helped = prepared(tmp_path / "b", num_workers=2).images
    assert torch.equal(alone, helped)
    prepared(tmp_path / "a", num_workers=2)
    assert len(folders(tmp_path / "a" / "cache")) == 1


def test_a_damaged_entry_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prepared(tmp_path)
    (entry,) = folders(tmp_path / "cache")
    (entry / "images.npy").write_bytes(b"garbage")
    prepared(tmp_path)
    assert caplog.messages == [f"{entry}/images.npy is damaged: the images are prepared again"]


def test_files_that_were_touched_are_prepared_once_and_changed_ones_anew(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("content")
    os.utime(file, (1, 1))
    for content, n_reads in (("content", 1), ("content", 1), ("CONTENT", 2)):
        file.write_text(content)
        prepared(tmp_path, OfFile(name="of file"))
        assert Given.reads["of file"] == n_reads


def test_files_of_a_source_are_in_the_key(tmp_path: Path) -> None:
    folder = official_files.write_mnist(tmp_path)
    before = prepared(tmp_path, source_of("mnist"), channels=1)
    official_files.write_mnist(tmp_path, n_test=4)
    after = prepared(tmp_path, source_of("mnist"), channels=1)
    assert (len(before.images), len(after.images)) == (10, 4)
    shutil.rmtree(folder)
    assert source_of("mnist").files("test", tmp_path) == []


@pytest.mark.parametrize(
    "harm",
    [
        *("truncated", "missing", "garbage", "flipped", "no labels", "float labels"),
        *("items {}", "items null", "items []", "items }", "no seals"),
    ],
)
def test_harmed_entry_is_made_again(harm: str, tmp_path: Path) -> None:
    good = prepared(tmp_path).images
    (entry,) = folders(tmp_path / "cache")
    path = entry / ("labels.npy" if harm == "no labels" else "images.npy")
    if harm.startswith("items"):
        (entry / "items.json").write_text(harm.split()[1])
        write_seals(entry, ["items.json"])  # as if it had been written so
    elif harm == "no seals":
        (entry / "seals.json").unlink()
    elif harm == "flipped":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    elif harm == "float labels":
        np.save(entry / "labels.npy", np.zeros(300))
    elif harm in ("missing", "no labels"):
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:1000] if harm == "truncated" else b"garbage")
    entries.small_arrays.clear()
    again = prepared(tmp_path)
    assert torch.equal(again.images, good)
    assert again.labels.dtype == np.int64
    assert folders(tmp_path / "cache") == [entry]


def test_leftovers_of_killed_processes_are_cleared_away(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for leftover in ("given-test-8px-3c-0123", "given-test-16px-3c-0123"):
        (cache / f".partial-{leftover}").mkdir(parents=True)
    prepared(tmp_path)
    assert [path.name[:18] for path in folders(cache)] == [".partial-given-tes", "given-test-8px-3c-"]
    assert folders(cache)[0].name == ".partial-given-test-16px-3c-0123"  # another process may be at work on it


@pytest.mark.parametrize(("largest", "told"), [(4095, True), (32768, False)])
def test_unused_range_of_16_bits_is_told(
    largest: int, told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deep = np.full((3, 9, 9), 1000, dtype=np.uint16)
    deep[1] = largest
    prepared(tmp_path, Given(deep), channels=1)
    message = (
        "given test: no value of its 16-bit images is above 4095 of 65535: the networks see [-1, -0.875]; "
        "set dataset.window=[low,high], or dataset.percentiles=[0.5,99.5]"
    )
    assert (message in caplog.messages) == told
    caplog.clear()
    prepared(tmp_path, Given(deep), channels=1, window=(0, 65535))  # as asked for
    assert not caplog.messages


def test_colour_that_is_lost_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        prepared(tmp_path, Given([*IMAGES[:2], *IMAGES[:3, :, :, 0]]), channels=1)
    assert "given test: 2 images are in colour and become grey, as channels=1" in caplog.messages
    caplog.clear()
    prepared(tmp_path, Given(IMAGES[:5]), channels=3)
    assert not any("grey" in message for message in caplog.messages)


def test_large_images_come_in_smaller_chunks() -> None:
    items = Given(IMAGES).read("test", Path())
    large = chunks.Chunks(items, Form(512, 3))
    assert large.step == 21  # 21 of 786,432 values, of 2**24
    assert len(large) == 15
    assert len(chunks.Chunks(items, Form(8, 3))) == 2


def test_failure_leaves_no_folders(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for data_dir in (tmp_path / "data", tmp_path / "new" / "data"):
        with pytest.raises(UserError, match="holds no images"):
            prepared(data_dir, Given(IMAGES[:0]))
    assert list(tmp_path.rglob("*")) == [tmp_path / "data"]


def test_16_bit_images_are_stored_as_such(tmp_path: Path) -> None:
    deep = IMAGES[:, :, :, 0].astype(np.uint16) * 200
    images = prepared(tmp_path, Given(deep), size=9, channels=1).images
    assert images.dtype == torch.uint16
    assert np.array_equal(images.numpy()[:, 0], deep)


def test_one_16_bit_image_makes_16_bits_of_all(tmp_path: Path) -> None:
    mixed = [*IMAGES[:280, :, :, 0], np.full((9, 9), 1000, dtype=np.uint16)]
    images = prepared(tmp_path, Given(mixed), size=9, channels=1).images.numpy()
    assert images.dtype == np.uint16
    assert np.array_equal(images[:280, 0], IMAGES[:280, :, :, 0].astype(np.uint16) * 257)  # 255 becomes 65535
    assert np.unique(images[280]).tolist() == [1000]


def test_large_splits_stay_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory = prepared(tmp_path).images
    monkeypatch.setattr(entries, "IN_MEMORY", in_memory.nbytes - 1)
    mapped = prepared(tmp_path).images
    assert torch.equal(mapped, in_memory)
    assert mapped is not in_memory
    (entry,) = folders(tmp_path / "cache")
    with (entry / "images.npy").open("r+b") as file:  # what is mapped follows the file
        file.seek(-1, 2)
        file.write(bytes([255 - int(in_memory[-1, -1, -1, -1])]))
    assert mapped[-1, -1, -1, -1] == 255 - in_memory[-1, -1, -1, -1]


def test_train_and_its_val_share_memory(tmp_path: Path) -> None:
    assert prepared(tmp_path).images is prepared(tmp_path).images


def test_full_disk_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"given test: .*/cache cannot be written \(0\.0 GB are needed, 0\.0 are free"):
        prepared(tmp_path)
    assert folders(tmp_path / "cache") == []


def test_disk_that_fills_up_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UserError, match=r"given test: .*/cache cannot be written \(No space left on device\)"):
        prepared(tmp_path)
    assert folders(tmp_path / "cache") == []


def test_data_dir_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "cache").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        prepared(data_dir, Given(name="fallback"))
    assert caplog.messages == [f"data_dir={data_dir} cannot be written: prepared images go to {tmp_path}/home/advvae"]
    assert len(folders(tmp_path / "home" / "advvae")) == 1
    prepared(data_dir, Given(name="fallback"))
    assert Given.reads["fallback"] == 1
    other = tmp_path / "other"
    other.mkdir()
    (other / "cache").write_text("a file here too")
    prepared(other, Given(name="fallback"))
    assert Given.reads["fallback"] == 2  # a source may read from data_dir


def test_nowhere_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"neither .* nor .* can be written: set data_dir"):
        prepared(tmp_path / "file")


def test_source_that_gives_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="given test: holds no images"):
        prepared(tmp_path, Given(IMAGES[:0]))
    with pytest.raises(UserError, match=r"its source gives .*'labels': 2"):
        prepared(tmp_path, Given(labels=np.array([0, 0])))


def test_images_that_are_none_are_named_by_their_number(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"given test: image 0 is unreadable \(shape .* 299 more of its 300"):
        prepared(tmp_path, Given(np.zeros((300, 9, 9, 7), np.uint8)))
    with pytest.raises(UserError, match=r"given test: 300 of its 300 images .* such as image 0 \(values of type int64"):
        prepared(tmp_path, Given(IMAGES.astype(np.int64)))


def test_images_that_are_not_square_are_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        prepared(tmp_path, Given(random_images(3, 9, 12)))
    assert "given test: 3 images are not square; of these, the centred square is used (resize=crop)" in caplog.messages


class Slow(Given):
    """Waits, while it reads, for another process to find that there is nothing yet."""

    def read(self, split: str, data_dir: Path) -> Items:
        deadline = time.monotonic() + 30
        while len(list(data_dir.glob("started-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.5)  # from its start to the lock
        return super().read(split, data_dir)


def count_reads(data_dir: Path, number: int, results: Any) -> None:
    Given.reads.clear()
    (data_dir / f"started-{number}").touch()
    prepared(data_dir, Slow(name="raced"))
    results.put(Given.reads["raced"])


@pytest.mark.slow
def test_two_processes_prepare_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")  # a fork of a process that used torch's threads may hang
    results: Any = context.Queue()
    processes = [context.Process(target=count_reads, args=(tmp_path, number, results)) for number in range(2)]
    for process in processes:
        process.start()
    counts = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert counts == [0, 1]


class OfFile(Given):
    """Read from a file."""

    def files(self, split: str, data_dir: Path) -> list[Path]:
        return [data_dir / "file"]


class Downloading(Given):
    """Its file is there only once it was read."""

    def files(self, split: str, data_dir: Path) -> list[Path]:
        return list(data_dir.glob("file"))

    def read(self, split: str, data_dir: Path) -> Items:
        (data_dir / "file").write_text("content")
        return super().read(split, data_dir)


def test_what_a_download_made_is_in_the_key(tmp_path: Path) -> None:
    for _ in range(2):
        prepared(tmp_path, Downloading(name="downloaded"))
    assert Given.reads["downloaded"] == 1


def test_code_is_in_the_key_of_a_users_source_alone() -> None:
    assert store.code_of(Given) == Path(__file__).with_name("given.py").read_text()
    assert store.code_of(type(source_of("mnist"))) == ""


@pytest.mark.parametrize("groups", [np.arange(5) // 2, np.array(["a", "a", "b", "b", "ü"])])
def test_groups_survive(groups: np.ndarray, tmp_path: Path) -> None:
    for _ in range(2):  # made, then read
        found = prepared(tmp_path, Given(IMAGES[:5], name="grouped", groups=groups))
        assert found.groups is not None
        assert found.groups.tolist() == groups.tolist()
    assert len(folders(tmp_path / "cache")) == 1


def test_entry_from_before_there_were_groups_is_made_again(tmp_path: Path) -> None:
    source = Given(IMAGES[:4], name="old", groups=np.array([0, 0, 1, 1]))
    prepared(tmp_path, source)
    (entry,) = folders(tmp_path / "cache")
    facts = json.loads((entry / "items.json").read_text())
    del facts["groups"]
    (entry / "items.json").write_text(json.dumps(facts))
    write_seals(entry, ["items.json"])
    for _ in range(2):
        found = prepared(tmp_path, source).groups
        assert found is not None
        assert found.tolist() == [0, 0, 1, 1]
    assert Given.reads["old"] == 2
    assert folders(tmp_path / "cache") == [entry]


def test_names_and_paths_survive(tmp_path: Path) -> None:
    official_files.write_dtd(tmp_path)
    found = prepared(tmp_path, source_of("dtd"), split="val")
    assert list(found.classes) == ["banded", "woven"]
    assert found.paths is not None
    assert [Path(path).name for path in found.paths] == ["banded_0002.jpg", "woven_0002.jpg"]
    (entry,) = folders(tmp_path / "cache")
    assert json.loads((entry / "items.json").read_text())["shape"] == [2, 3, 8, 8]
