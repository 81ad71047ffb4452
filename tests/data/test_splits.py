from __future__ import annotations

import hashlib
import itertools
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from advvae.data import Items, Split, load_split, reading
from advvae.data.cuts import place, within
from advvae.data.splits import divide, official_split, split_rows, to_floats
from advvae.errors import UserError


class Numbered:
    """Image i of a split is filled with the value i, and has the class i mod 10."""

    def __init__(self, dtype: str = "uint8", per_group: int | None = None, **counts: int) -> None:
        self.dtype = dtype
        self.per_group = per_group
        self.counts = counts

    @property
    def splits(self) -> Sequence[str]:
        return list(self.counts)

    def read(self, split: str, data_dir: Path) -> Items:
        numbers = np.arange(self.counts[split])
        images = np.broadcast_to(numbers[:, None, None].astype(self.dtype), (len(numbers), 8, 8))
        groups = None if self.per_group is None else numbers // self.per_group
        return Items(list(images), numbers % 10, [f"c{i}" for i in range(10)], [f"{i}.png" for i in numbers], groups)


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def load(split: str = "test", dtype: str = "uint8", counts: dict[str, int] | None = None, **options: Any) -> Split:
        source = Numbered(dtype, **(counts or {"train": 100, "test": 50}))
        return load_split(source, split, name="numbered", size=8, channels=1, data_dir=tmp_path, **options)

    return load


def numbers(batch: torch.Tensor) -> list[int]:
    """The numbers of the images in a batch."""
    return ((batch[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


ALL = ("train", "val", "test")


@pytest.mark.parametrize(
    ("official", "lengths", "sources"),
    [
        (ALL, [100, 100, 100], ["train", "val", "test"]),
        (("train", "test"), [90, 10, 100], ["train", "train", "test"]),
        (("train", "val"), [90, 10, 100], ["train", "train", "val"]),
        (("train",), [72, 8, 20], ["train", "train", "train"]),  # 20 of 100, then 10 % of 80
    ],
)
def test_split_rules(official: Sequence[str], lengths: list[int], sources: list[str]) -> None:
    rows = {split: split_rows(split, official, 100) for split in ALL}
    assert [len(rows[split]) for split in ALL] == lengths
    assert [official_split(split, official, "set") for split in ALL] == sources
    cut = torch.cat([rows[split] for split in ALL if official_split(split, official, "set") == "train"])
    assert sorted(cut.tolist()) == list(range(100))  # what is cut from train shares no image, and loses none


def test_cuts_are_always_the_same() -> None:
    """On another machine, or years later, a run tests on the same images: these numbers must never change."""
    assert split_rows("test", ["train"], 20).tolist() == [2, 4, 6, 19]
    assert split_rows("val", ["train"], 20).tolist() == [13, 16]


@pytest.mark.parametrize("official", [("train",), ("train", "test"), ("train", "val")])
def test_without_groups_shares_are_exact(official: Sequence[str]) -> None:
    for n in range(1, 60):
        order = np.random.default_rng(0).permutation(n)
        n_test = max(1, round(0.2 * n)) if official == ("train",) else 0
        n_val = max(1, round(0.1 * (n - n_test)))
        expected = {"val": order[n_test : n_test + n_val], "train": order[n_test + n_val :]}
        expected |= {"test": order[:n_test]} if official == ("train",) else {}
        for split, rows in expected.items():
            assert split_rows(split, official, n).tolist() == sorted(rows)


@pytest.mark.parametrize("sizes", [[5] * 20, [1, 2, 3, 4, 30, 5, 5, 6, 14, 30], [1] * 100])
@pytest.mark.parametrize("kind", [int, str])
def test_no_group_is_in_two_splits(sizes: list[int], kind: type) -> None:
    groups: np.ndarray = np.random.default_rng(1).permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(kind)
    rows = {split: split_rows(split, ["train"], 100, groups) for split in ALL}
    assert sorted(torch.cat(list(rows.values())).tolist()) == list(range(100))
    found = [set(groups[rows[split].numpy()]) for split in ALL]
    assert sum(map(len, found)) == len(sizes)
    assert all(found)
    expected = [{name for name in set(groups) if split_of(str(name)) == split} for split in ALL]
    if len(sizes) == 20:  # one of them is to validate by its name, and a second for its halves
        assert (len(expected[1]), len(found[1]), found[2]) == (1, 2, expected[2])
    if len(sizes) == 100:
        assert found == expected


def split_of(name: str) -> str:
    number = place(name, "split")
    return "test" if number < 0.2 else "val" if number < 0.28 else "train"  # 10 % of the other 80 % are 8 %


def test_the_place_of_a_name_never_changes() -> None:
    """`printf split/a/1.png | sha256sum` begins with e022b56f0474, and 0xe022b56f0474 / 2^48 is 0.8755…"""
    assert place("a/1.png", "split") == int.from_bytes(hashlib.sha256(b"split/a/1.png").digest()[:6], "big") / 2**48
    assert place("a/1.png", "split") == pytest.approx(0.8755296131, abs=1e-9)
    assert place("\udcff.png", "split") != place("a/1.png", "halves")  # a file's name need not be UTF-8


@pytest.mark.parametrize("official", [("train",), ("train", "test")])
def test_shares_of_names_are_those_of_chance(official: Sequence[str]) -> None:
    names = [f"{i:04d}.png" for i in range(2000)]
    for split, share in {"test": 0.2, "val": 0.08}.items() if official == ("train",) else [("val", 0.1)]:
        n = len(split_rows(split, official, 2000, names=names))
        assert abs(n - 2000 * share) < 3 * math.sqrt(2000 * share * (1 - share))


def test_few_groups_still_give_every_split_one() -> None:
    def counts(n_groups: int, official: Sequence[str] = ("train",)) -> list[int]:
        groups = np.arange(40 * n_groups) % n_groups
        return [len(split_rows(split, official, len(groups), groups)) // 40 for split in ALL]

    assert counts(3) == [1, 1, 1]
    assert counts(4) == [1, 2, 1]  # two to validate, for its halves
    for n_groups in range(4, 60):
        assert np.all(np.array(counts(n_groups)) >= [1, 2, 1])
    assert counts(2, ("train", "test"))[:2] == [1, 1]
    for sizes in itertools.permutations([1, 4, 25]):
        groups = np.repeat(np.arange(3), sizes)
        assert sorted(len(split_rows(split, ["train"], 30, groups)) for split in ALL) == [1, 4, 25]


@pytest.mark.parametrize(
    ("wanted", "n", "left", "least", "expected"),
    [
        (3, 9, 2, 1, 3),
        (0, 9, 2, 1, 1),
        (9, 9, 2, 1, 7),
        (0, 9, 1, 2, 2),
        (0, 2, 1, 2, 1),
        (0, 1, 2, 1, 1),
        (5, 0, 1, 1, 0),
    ],
)
def test_as_many_as_wanted_within_what_there_is(wanted: int, n: int, left: int, least: int, expected: int) -> None:
    assert within(wanted, n, left=left, least=least) == expected


def test_prepared_groups_stay_whole(tmp_path: Path) -> None:
    def groups(split: str) -> set[int]:
        source = Numbered(per_group=7, train=140)
        found = load_split(source, split, name="numbered", size=8, channels=1, data_dir=tmp_path).groups
        assert found is not None
        return set(found.tolist())

    train, val, test = map(groups, ALL)
    assert train | val | test == set(range(20))
    assert len(train) + len(val) + len(test) == 20
    assert test == {group for group in range(20) if split_of(str(group)) == "test"}


def test_split_that_is_not_there() -> None:
    with pytest.raises(UserError, match="set: has no images for train: it has only test"):
        official_split("train", ["test"], "set")


def test_rows_and_paths_are_of_the_official_split(load: Any) -> None:
    val = load("val")
    assert val.official_split == "train"
    assert len(val) == 10
    assert list(val.paths) == [f"{row}.png" for row in val.rows.tolist()]
    assert val.labels.tolist() == [row % 10 for row in val.rows.tolist()]
    assert numbers(next(val.batches(16))) == val.rows.tolist()


def test_only_the_needed_split_is_read(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    read = Numbered.read

    def watched(self: Numbered, split: str, data_dir: Path) -> Items:
        asked.append(split)
        return read(self, split, data_dir)

    monkeypatch.setattr(Numbered, "read", watched)
    load("train")
    load("val")
    assert asked == ["train"]


def test_kept_classes_do_not_move_images_between_splits(load: Any) -> None:
    train, kept, dropped = load("train"), load("train", keep_classes=["c3", 4]), load("train", drop_classes=["c3"])
    assert set(kept.labels.tolist()) == {3, 4}
    assert kept.rows.tolist() == [row for row in train.rows.tolist() if row % 10 in (3, 4)]
    assert dropped.rows.tolist() == [row for row in train.rows.tolist() if row % 10 != 3]
    assert kept.label_names()[:2] == [f"c{row % 10}" for row in kept.rows.tolist()[:2]]


def test_nothing_left(load: Any) -> None:
    with pytest.raises(UserError, match="numbered: no image is left in its test split"):
        load("test", keep_classes=[])
    with pytest.raises(UserError, match="no image is left in its train split"):
        load("train", counts={"train": 1})


def test_too_small_a_size(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="size=7: the networks need images of at least 8 px"):
        load_split(Numbered(test=5), "test", name="numbered", size=7, channels=1, data_dir=tmp_path)


def test_subset_keeps_the_given_order(load: Any) -> None:
    subset = load("test").subset(torch.tensor([7, 2]))
    assert subset.rows.tolist() == [7, 2]
    assert subset.labels.tolist() == [7, 2]
    assert list(subset.paths) == ["7.png", "2.png"]
    assert numbers(next(subset.batches(2))) == [7, 2]
    assert len(load("test").subset(torch.tensor([3]))) == 1


def test_subset_and_halves_keep_groups_transform_and_crop(load: Any) -> None:
    split = replace(load("test"), groups=np.arange(50) // 2, transform=lambda images, rows: -images, crop=4)
    subset, (select, calibrate) = split.subset(torch.tensor([7, 2])), split.halves()
    assert subset.groups is not None
    assert subset.groups.tolist() == [3, 1]
    for part in (subset, select, calibrate):
        assert part.groups is not None
        assert part.groups.tolist() == [row // 2 for row in part.rows.tolist()]
        assert (part.transform, part.crop) == (split.transform, 4)
    assert load("test").subset(torch.tensor([7, 2])).groups is None


def test_halves_are_disjoint_and_always_the_same(load: Any) -> None:
    select, calibrate = load("test").halves()
    assert (len(select), len(calibrate)) == (25, 25)
    assert sorted(select.rows.tolist() + calibrate.rows.tolist()) == list(range(50))
    assert load("test").halves()[0].rows.tolist() == select.rows.tolist()
    assert [len(half) for half in load("test", counts={"test": 5}).halves()] == [3, 2]


def test_no_group_is_in_both_halves(load: Any) -> None:
    split = load("test")
    for groups in (np.arange(50) % 7, np.minimum(np.arange(50), 30)):  # groups of 7 or 8; one of 20 and 30 of 1
        select, calibrate = (half.groups for half in replace(split, groups=groups).halves())
        assert set(select) == {group for group in set(groups) if place(str(group), "halves") < 0.5}
        assert not set(select) & set(calibrate)
        assert len(select) + len(calibrate) == 50
    alone = replace(split, groups=np.arange(50)).halves()[0]
    named = replace(split, names=[str(number) for number in range(50)]).halves()[0]
    assert alone.rows.tolist() == named.rows.tolist()
    assert named.names == [str(row) for row in named.rows.tolist()]
    for n in range(2, 12):
        assert all(map(len, replace(split, groups=np.arange(50) % n).halves()))
    assert [len(half) for half in replace(split, groups=np.zeros(50)).halves()] == [50, 0]


@pytest.mark.parametrize(("count", "sizes"), [(8, [4, 4]), (9, [4, 5]), (10, [4, 4, 2]), (1, [1]), (4, [4])])
def test_a_single_left_over_joins_the_batch_before_it(count: int, sizes: list[int]) -> None:
    batches = divide(torch.arange(count), 4)
    assert [len(batch) for batch in batches] == sizes
    assert torch.cat(batches).tolist() == list(range(count))
    assert [len(batch) for batch in divide(torch.arange(3), 1)] == [1, 2]


def test_batches_hold_every_image_once_in_order(load: Any) -> None:
    batches = list(load("test").batches(16))
    assert [len(batch) for batch in batches] == [16, 16, 16, 2]
    assert [number for batch in batches for number in numbers(batch)] == list(range(50))


def test_batches_are_floats_in_minus_1_to_1(load: Any) -> None:
    batch = next(load("test", counts={"test": 256}).batches(256))
    assert batch.dtype == torch.float32
    assert batch.shape == (256, 1, 8, 8)
    assert (batch.min().item(), batch.max().item()) == (-1, 1)
    assert torch.allclose(batch[:, 0, 3, 3], torch.arange(256) / 255 * 2 - 1, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_channels_are_last_in_memory(dtype: torch.dtype) -> None:
    batch = to_floats(torch.zeros(2, 3, 8, 8, dtype=dtype), torch.device("cpu"))
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert not batch.is_contiguous()


@pytest.mark.parametrize("shuffle", [None, torch.Generator().manual_seed(0)])
@pytest.mark.parametrize("count", [50, 49])  # of 49 images, the last joins the batch before it
def test_transform_gets_each_batch_with_its_rows(shuffle: torch.Generator | None, count: int, load: Any) -> None:
    def transform(images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        assert numbers(images) == rows.tolist()
        return images - rows.view(-1, 1, 1, 1)

    split = load("test", counts={"test": 50}).subset(torch.arange(50 - count, 50))
    plain = {number: number / 127.5 - 1 - number for number in range(50 - count, 50)}
    batches = list(replace(split, transform=transform).batches(16, shuffle=shuffle))
    found = torch.cat(batches)[:, 0, 0, 0]
    assert sorted(found.tolist()) == pytest.approx(sorted(plain.values()), abs=1e-5)


def counted(side: int, n: int = 9) -> Split:
    """Images of which each pixel tells its place: row · side + column; image i has i more."""
    pixels = torch.arange(side * side).reshape(1, 1, side, side) + torch.arange(n).view(-1, 1, 1, 1)
    images = torch.cat([pixels, pixels], dim=1).to(torch.uint8)
    return Split("counted", "test", images, torch.arange(n), "test", np.zeros(n, dtype=np.int64), ["any"], None)


def test_crops_are_centred_without_a_generator() -> None:
    split = replace(counted(9), crop=4)
    batch = next(split.batches(9))
    expected = [[20, 21, 22, 23], [29, 30, 31, 32], [38, 39, 40, 41], [47, 48, 49, 50]]  # from row 2, column 2
    assert ((batch[0, 1] + 1) * 127.5).round().int().tolist() == expected
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(next(replace(split, crop=9).batches(9)), next(counted(9).batches(9)))


def test_random_crops_reach_every_place_and_keep_the_order() -> None:
    def crops(seed: int, batch_size: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.cat(list(replace(counted(9, n=101), crop=7).batches(batch_size, shuffle=generator)))

    pixels = ((crops(0, 10) + 1) * 127.5).round().int()
    order = torch.randperm(101, generator=torch.Generator().manual_seed(0))  # as without crops
    corners = pixels[:, 0, 0, 0] - order
    assert set(corners.tolist()) == {9 * top + left for top in range(3) for left in range(3)}
    assert torch.equal(pixels[:, 0, 1, 2] - pixels[:, 0, 0, 0], torch.full((101,), 11))  # one square, not torn
    assert torch.equal(crops(0, 100), crops(0, 10))  # the last single image joins its batch with its own corner
    assert not torch.equal(crops(1, 10), crops(0, 10))


def test_crops_are_cut_after_the_transform() -> None:
    seen = []

    def transform(images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        seen.append(images.shape[-1])
        return images.flip(-1)

    batch = next(replace(counted(9), transform=transform, crop=4).batches(9))
    assert seen == [9]
    assert ((batch[0, 0, 0] + 1) * 127.5).round().int().tolist() == [24, 23, 22, 21]


def test_crops_larger_than_the_images() -> None:
    with pytest.raises(UserError, match="crop=10: the images of counted have 9 px, which is less"):
        replace(counted(9), crop=10).batches(4)


class Moves(TorchDispatchMode):
    """Notes the type of what is moved to another device."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: list[torch.dtype] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (kwargs or {}).get("device") is not None:
            self.moved.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


def test_16_bit_images_are_moved_as_they_are() -> None:
    """Not converted before: the memory that a loader has pinned is what the device reads."""
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint16)
    with Moves() as moves:
        to_floats(images, torch.device("meta"))
    assert moves.moved == [torch.int16]


def test_16_bits_use_their_whole_range(load: Any) -> None:
    batch = next(load("test", dtype="uint16", counts={"test": 300}).batches(300))
    assert torch.allclose(batch[:, 0, 0, 0], torch.arange(300) / 65535 * 2 - 1, atol=1e-6)
    ends = to_floats(torch.tensor([0, 65535], dtype=torch.uint16).view(2, 1, 1, 1), torch.device("cpu"))
    assert ends.flatten().tolist() == [-1, 1]


def test_order_follows_the_generator_alone(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "IN_MEMORY", 0)

    def order(seed: int, num_workers: int = 0) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        batches = load("test").batches(16, shuffle=generator, num_workers=num_workers)
        return [number for batch in batches for number in numbers(batch)]

    torch.manual_seed(1)
    first = order(0)
    torch.manual_seed(2)
    assert order(0) == first
    assert sorted(first) == list(range(50))
    assert first != list(range(50))
    assert order(1) != first
    assert order(0, num_workers=2) == first


def test_a_generator_gives_another_order_each_epoch(load: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (next(load("test").batches(50, shuffle=generator)) for _ in range(2))
    assert numbers(first) != numbers(second)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_global_random_states_are_left_alone(num_workers: int, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "IN_MEMORY", 0)
    import random

    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]  # noqa: NPY002
    list(load("train", num_workers=num_workers).batches(16, shuffle=torch.Generator(), num_workers=num_workers))
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


SOURCES = ("array", "embedded", "files", "medmnist_source", "shifts", "tiny_imagenet", "torchvision_source")


def test_importing_the_sources_and_the_names_of_shifts_imports_no_torch() -> None:
    modules = ", ".join(f"advvae.data.{name}" for name in SOURCES)
    code = f"import sys, {modules}; sys.exit(sum(name in sys.modules for name in ('torch', 'sklearn', 'medmnist')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


@pytest.mark.parametrize(("window", "colour"), [((100, 200), "black"), ((99, 200), "black"), ((-9, 0), "white")])
def test_training_images_that_a_window_makes_black_or_white_are_refused(
    window: tuple[int, int], colour: str, load: Any
) -> None:
    """The images have the values from 0 to 99."""
    told = rf"dataset.window=\[{window[0]},{window[1]}\] makes all training images of numbered {colour}: give it in"
    with pytest.raises(UserError, match=told):
        load("train", window=window)
    assert len(load("test", window=window)) == 50  # which may be outliers
    assert len(load("train", window=(98, 200))) == 90  # one image has another value
    with pytest.raises(UserError, match=r"\[98,200\] makes all training images of numbered black"):
        load("train", window=(98, 200), drop_classes=["c9"])
