from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from advvae.data import Items, window
from advvae.data.cuts import split_rows
from advvae.data.window import percentile_window, spread
from advvae.errors import UserError

N = 100


class Scans:
    """100 images of 12 bits, signed, of ten classes and of groups of five; `changed` ones are far brighter."""

    reads: ClassVar[list[str]] = []

    def __init__(
        self, changed: Sequence[int] = (), splits: Sequence[str] = ("train",), broken: int | None = None
    ) -> None:
        self.changed = list(changed)
        self.splits = splits
        self.broken = broken

    def read(self, split: str, data_dir: Path) -> Items:
        Scans.reads.append(split)
        images: list[Any] = list(pixels())
        for number in self.changed:
            images[number] = images[number] + 9000
        if self.broken is not None:
            images[self.broken] = "no image"
        return Items(images, np.arange(N) % 10, [f"c{i}" for i in range(10)], groups=np.arange(N) // 5)


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(-1024, 3072, (N, 6, 7), dtype=np.int16)


def members(split: str) -> list[int]:
    return split_rows(split, ["train"], N, np.arange(N) // 5).tolist()


def taken(data_dir: Path, source: Any, percentiles: Sequence[float] = (0.5, 99.5), **options: Any) -> Any:
    return percentile_window(source, percentiles, name="scans", size=8, data_dir=data_dir, **options)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_percentiles_of_the_training_images(num_workers: int, tmp_path: Path) -> None:
    expected = np.percentile(pixels()[members("train")].astype(np.float64), [0.5, 99.5])
    assert taken(tmp_path, Scans(), num_workers=num_workers) == tuple(expected)
    assert isinstance(taken(tmp_path, Scans())[0], float)


def test_images_that_are_not_trained_on_do_not_move_it(tmp_path: Path) -> None:
    before = taken(tmp_path, Scans())
    assert taken(tmp_path, Scans([*members("val"), *members("test")])) == before
    assert taken(tmp_path, Scans(members("train")[:20])) != before
    third = [number for number in range(N) if number % 10 == 3]
    assert taken(tmp_path, Scans(third), drop_classes=["c3"]) == taken(tmp_path, Scans(), drop_classes=["c3"])
    assert taken(tmp_path, Scans(third), keep_classes=["c1", 2]) == taken(tmp_path, Scans(), keep_classes=["c1", 2])
    assert taken(tmp_path, Scans(), keep_classes=["c1", 2]) != before


def test_an_official_split_is_taken_whole(tmp_path: Path) -> None:
    expected = np.percentile(pixels().astype(np.float64), [1, 50])
    assert taken(tmp_path, Scans(splits=("train", "val", "test")), [1, 50]) == tuple(expected)


def test_taken_once(tmp_path: Path) -> None:
    Scans.reads.clear()
    first = taken(tmp_path, Scans())
    assert taken(tmp_path, Scans()) == first
    assert Scans.reads == ["train"]
    for path in (tmp_path / "cache").glob("scans-window-*.json"):
        path.write_text("[1")
    assert taken(tmp_path, Scans()) == first
    taken(tmp_path, Scans(), [1, 99])
    taken(tmp_path, Scans(), drop_classes=["c3"])
    assert Scans.reads == ["train"] * 4


def test_unreadable_images_are_skipped(tmp_path: Path) -> None:
    broken = members("train")[3]
    left = [number for number in members("train") if number != broken]
    expected = np.percentile(pixels()[left].astype(np.float64), [0.5, 99.5])
    assert taken(tmp_path, Scans(broken=broken)) == tuple(expected)


def test_nothing_to_take_it_of(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset.percentiles=\[50,50\.0001\]: both are .* of scans: set them further"):
        taken(tmp_path, Constant(5.0), [50, 50.0001])
    with pytest.raises(UserError, match=r"the window of scans: none of its 72 images can be read \(some of its values"):
        taken(tmp_path, Constant(np.nan))
    with pytest.raises(UserError, match="the window of scans: no image is left to train on"):
        taken(tmp_path, Scans(), keep_classes=["c1"], drop_classes=["c1"])


class Constant:
    splits = ("train",)

    def __init__(self, value: float) -> None:
        self.value = value

    def read(self, split: str, data_dir: Path) -> Items:
        return Items([np.full((4, 4), self.value)] * N, np.zeros(N, dtype=np.int64), ["any"])


def test_large_sets_are_sampled_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n_train = len(members("train"))
    monkeypatch.setattr(window, "AT_MOST", n_train * 10 + n_train - 1)
    lengths = []
    values_of = window.values_of

    def counted(*arguments: Any) -> np.ndarray:
        lengths.append(len(values := values_of(*arguments)))
        return values

    monkeypatch.setattr(window, "values_of", counted)
    low, high = taken(tmp_path, Scans(), [10, 90])
    assert lengths == [n_train * 10]  # of 42 values that each image has
    assert low == pytest.approx(-1024 + 409.6, abs=150)
    assert high == pytest.approx(-1024 + 3686.4, abs=150)


def test_a_sample_has_values_of_every_part_and_column() -> None:
    """A fixed step of 64 values would read but 8 columns of 512, and one of 512 the left edge alone."""
    values = np.arange(512 * 512)
    sample = spread(values, 4096, np.random.default_rng(0))
    assert (sample // 64).tolist() == list(range(4096))
    assert len(np.unique(sample % 512)) == 512
    assert spread(values[:50], 50, np.random.default_rng(0)).tolist() == list(range(50))
