from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advvae.data import chunks, told, writing
from advvae.data.chunks import Tally
from advvae.data.entries import Prepared
from advvae.errors import UserError
from tests.data.given import IMAGES, Given, folders, prepared

SHALLOW = list(IMAGES[:60, :, :, 0])
DEEP = np.full((9, 9), 1000, np.uint16)
BROKEN = np.zeros((9, 9, 7), np.uint8)  # no image has 7 channels
MIXED = [*SHALLOW[:3], BROKEN, *SHALLOW[4:45], DEEP, *SHALLOW[46:]]
MASKS = [np.uint8(image > 200) if number % 3 else None for number, image in enumerate(SHALLOW)]
CHUNK = 10
KILLED_AT = 35  # a number of MIXED, in its fourth chunk


class Noted(Sequence[Any]):
    """Images that note in $NOTES how often each is asked for.

    folder: where a file may lie, whose name is the number of an image that ends the process, as soon as two chunks are
        in the journal: `<number>.kill` for the process whose number it holds, `<number>.interrupt` for any.
    """

    def __init__(self, images: Sequence[Any], folder: Path) -> None:
        self.images = images
        self.folder = folder

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: Any) -> Any:
        with open(os.environ["NOTES"], "a") as file:
            file.write(f"{number}\n")
        if (victim := self.folder / f"{number}.kill").exists():
            while len(journal(self.folder).splitlines()) < 2:
                time.sleep(0.01)
            os.kill(int(victim.read_text()), signal.SIGKILL)
            time.sleep(60)
        if (self.folder / f"{number}.interrupt").exists():
            raise KeyboardInterrupt
        return self.images[number]


def journal(data_dir: Path) -> str:
    paths = list(data_dir.glob("cache/.partial-*/journal.jsonl"))
    return paths[0].read_text() if paths else ""


def n_done(data_dir: Path) -> int:
    """How many images are in the journal, by its whole lines."""
    return sum(json.loads(line)["n_images"] for line in journal(data_dir).splitlines())


def make(data_dir: Path, num_workers: int = 0) -> Prepared:
    chunks.CHUNK = CHUNK
    source = Given(Noted(MIXED, data_dir), name="noted", masks=MASKS)
    return prepared(data_dir, source, channels=1, num_workers=num_workers, max_unreadable=0.1)


def make_and_die(data_dir: Path, num_workers: int) -> None:
    (data_dir / f"{KILLED_AT}.kill").write_text(str(os.getpid()))
    make(data_dir, num_workers)


def contents(data_dir: Path) -> dict[str, bytes]:
    """All files of the only entry."""
    (entry,) = folders(data_dir / "cache")
    return {path.name: path.read_bytes() for path in entry.iterdir()}


def noted() -> Counter[int]:
    return Counter(map(int, Path(os.environ["NOTES"]).read_text().split()))


@pytest.fixture(autouse=True)
def _notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", CHUNK)  # so that it is set back
    monkeypatch.setenv("NOTES", str(tmp_path / "notes.txt"))


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, bytes]:
    (tmp_path / "undisturbed").mkdir()
    make(tmp_path / "undisturbed")
    Path(os.environ["NOTES"]).unlink()
    return contents(tmp_path / "undisturbed")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def check_goes_on(data_dir: Path, undisturbed: dict[str, bytes], num_workers: int = 0) -> None:
    """Prepare what was left: each image that is missing once, and the unreadable one to see whether it still is."""
    done = n_done(data_dir)
    assert done >= 2 * CHUNK
    Path(os.environ["NOTES"]).unlink()
    found = make(data_dir, num_workers)
    assert noted() == Counter([3, *range(done, len(MIXED))])
    assert contents(data_dir) == undisturbed
    assert found.images.shape == (59, 1, 8, 8)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_goes_on_after_a_kill(
    num_workers: int, data_dir: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=make_and_die, args=(data_dir, num_workers))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL
    (data_dir / f"{KILLED_AT}.kill").unlink()
    monkeypatch.setenv("NOTES", os.environ["NOTES"] + ".2")  # the killed one's workers may write into the first
    Path(os.environ["NOTES"]).touch()
    check_goes_on(data_dir, undisturbed, num_workers)


def interrupt(data_dir: Path, number: int = KILLED_AT) -> None:
    (data_dir / f"{number}.interrupt").touch()
    with pytest.raises(KeyboardInterrupt):
        make(data_dir)
    (data_dir / f"{number}.interrupt").unlink()


def test_goes_on_after_an_interrupt(
    data_dir: Path, undisturbed: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    interrupt(data_dir)
    with caplog.at_level(logging.INFO):
        check_goes_on(data_dir, undisturbed)
    assert any(message.endswith(", going on after the 30 of before") for message in caplog.messages)


def test_what_a_kill_left_half_written_is_cut_off(data_dir: Path, undisturbed: dict[str, bytes]) -> None:
    interrupt(data_dir)
    (partial,) = folders(data_dir / "cache")
    for name in ("images.npy", "masks.npy", "journal.jsonl"):
        with (partial / name).open("ab") as file:
            file.write(b'{"n_images": 10, "half a')
    Path(os.environ["NOTES"]).unlink()
    interrupt(data_dir, 55)  # and once more, so that what follows a half line must be right too
    assert noted() == Counter([3, *range(30, 56)])
    check_goes_on(data_dir, undisturbed)


def test_a_kill_between_the_arrays_and_the_journal(
    data_dir: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images of the fifth chunk, which make 16 bits of all, are there, but the journal knows of four chunks."""
    lines = iter(range(100))
    to_json = Tally.to_json

    def fifth_fails(tally: Tally) -> str:
        if next(lines) == 4:
            raise KeyboardInterrupt
        return to_json(tally)

    monkeypatch.setattr(Tally, "to_json", fifth_fails)
    with pytest.raises(KeyboardInterrupt):
        make(data_dir)
    (partial,) = folders(data_dir / "cache")
    assert writing.dtype_of(partial / "images.npy") == np.uint16
    assert n_done(data_dir) == 40
    check_goes_on(data_dir, undisturbed)


@pytest.mark.parametrize("harm", ["images.npy", "masks.npy", "journal.jsonl", "short", "unlike"])
def test_what_is_not_whole_is_made_anew(harm: str, data_dir: Path, undisturbed: dict[str, bytes]) -> None:
    interrupt(data_dir)
    (partial,) = folders(data_dir / "cache")
    if harm == "short":  # as after a power cut
        os.truncate(partial / "images.npy", 500)
    elif harm == "unlike":
        (partial / "journal.jsonl").write_text("[1, 2]\n")
    else:
        (partial / harm).unlink()
    Path(os.environ["NOTES"]).unlink()
    make(data_dir)
    assert noted() - Counter([3]) == Counter(range(60)) - Counter([3])
    assert contents(data_dir) == undisturbed


def test_16_bits_after_8_decode_nothing_twice(data_dir: Path) -> None:
    found = make(data_dir)
    assert set(noted().values()) == {1}
    assert set((found.images[0].numpy() % 257).ravel()) == {0}
    assert set(found.images[44].numpy().ravel()) == {1000}


class Late(Noted):
    """Cannot be read before a package is there."""

    def __getitem__(self, number: Any) -> Any:
        super().__getitem__(number)
        if not (self.folder / "package").exists():
            raise ImportError("pip install package")
        return self.images[number]


def test_images_that_can_be_read_by_now_are(data_dir: Path) -> None:
    source = Given(Late(SHALLOW, data_dir), name="late")
    reason = r"given test: image 0 is unreadable \(pip install package\), and so are 59 more of its 60 images: 100.0%"
    with pytest.raises(UserError, match=reason):
        prepared(data_dir, source, channels=1)
    with pytest.raises(UserError, match=reason):
        prepared(data_dir, source, channels=1)
    (data_dir / "package").touch()
    found = prepared(data_dir, source, channels=1)
    assert len(found.images) == 60
    assert not found.left_out.unreadable


def test_a_window_that_does_not_fit_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = np.zeros((20, 9, 9), np.int16)
    images[:, :4] = 500  # 36 of 81 values
    mixed = images.copy()
    mixed[:15, 4] = 500  # 45 of 81; of all values, 765 of 1620 are 0
    message = "given test: 5 of its 20 images have more than half of their values outside the window [1,1000], black or"
    for _ in range(2):
        prepared(tmp_path, Given(mixed), channels=1, window=(1, 1000))
        assert caplog.messages == [f"{message} white then (47% of all): check dataset.window"]
    caplog.clear()
    prepared(tmp_path, Given(images), channels=1, window=(0, 1000))  # many values are black, but none outside
    prepared(tmp_path, Given(images), channels=1, window=(-1000, 400))
    assert not caplog.messages


def test_files_of_8_and_more_bits_under_one_window_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [*SHALLOW[:15], *[DEEP] * 5]
    message = "given test: 15 of its 20 images have 8 bits and the others more: the window takes their values for the "
    for _ in range(2):  # prepared, and then loaded by another process
        prepared(tmp_path, Given(images), channels=1, window=(0, 4095))
        assert caplog.messages == [f"{message}same unit: bring the files to equal bits"]
        caplog.clear()
        monkeypatch.setattr(told, "told", set())
    prepared(tmp_path, Given(images), channels=1)
    prepared(tmp_path, Given(SHALLOW), channels=1, window=(0, 255))
    prepared(tmp_path, Given([DEEP] * 3), channels=1, window=(0, 4095))
    assert not caplog.messages


@pytest.mark.parametrize(
    ("resize", "message"),
    [
        ("crop", "3 images are not square; of these, the centred square is used (resize=crop)"),
        ("pad", "3 images are not square; these get black edges (resize=pad)"),
        ("squash", "1 images change their aspect ratio by more than 10 % (resize=squash; crop and pad keep it)"),
    ],
)
def test_what_resizing_does_is_told(
    resize: str, message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shapes = [(10, 10), (11, 10), (20, 22), (10, 12)]  # the second and third by 10 %, not more
    with caplog.at_level(logging.INFO):
        prepared(tmp_path, Given([np.zeros(shape, np.uint8) for shape in shapes]), channels=1, resize=resize)
    assert f"given test: {message}" in caplog.messages
    start = f"given test: 4 images to 8 px ({writing.FILTER}, resize={resize})"
    assert f"preparing {start}" in caplog.messages
