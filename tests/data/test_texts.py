from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from advvae.data import Items, load_split
from advvae.data.cuts import ordered, place
from advvae.data.texts import Texts, packed, read_texts, take, write_texts

ODD = ["a/1.png", "", "Ü\nb", "\udcff.png", "日本", "a/1.png"]  # a line end, and a name that is no UTF-8


@pytest.fixture(params=["on disk", "in memory"])
def texts(request: pytest.FixtureRequest, tmp_path: Path) -> Texts:
    if request.param == "in memory":
        return packed(iter(ODD))
    write_texts(tmp_path / "odd.txt", iter(ODD))
    return read_texts(tmp_path / "odd.txt")


def test_strings_come_back_as_they_were(texts: Texts) -> None:
    assert list(texts) == ODD
    assert texts[-1] == "a/1.png"
    assert list(texts[1:4:2]) == ["", "\udcff.png"]
    with pytest.raises(IndexError):
        texts[6]
    assert list(pickle.loads(pickle.dumps(texts))) == ODD  # what another process is given


def test_some_are_taken_in_any_order(texts: Texts) -> None:
    for some in (texts, ODD):
        few = take(some, np.array([4, 0, 2]))
        assert few is not None
        assert list(few) == ["日本", "a/1.png", "Ü\nb"]
        assert list(take(few, np.array([2, 2])) or ()) == ["Ü\nb", "Ü\nb"]
    assert take(None, np.array([0])) is None


def test_what_is_cut_short_is_not_read(tmp_path: Path) -> None:
    write_texts(tmp_path / "odd.txt", ODD)
    path = tmp_path / "odd.txt"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"odd.txt is not whole"):
        read_texts(path)


def test_names_are_in_the_order_of_their_places() -> None:
    """Told by Python's own sorting: which image is in which split must never change."""
    names = [f"{number % 700}/Ü.png" for number in range(1000)]
    ranks, places = ordered(1000, None, names, "split")
    expected = sorted(set(names), key=lambda name: place(name, "split"))
    assert [expected[rank] for rank in ranks] == names
    assert places is not None
    assert places.tolist() == [place(name, "split") for name in expected]


@pytest.mark.parametrize("kind", [int, str])
def test_groups_are_in_the_order_of_their_places(kind: type) -> None:
    groups = np.arange(300).astype(kind) if kind is str else np.arange(300) // 3
    ranks, places = ordered(300, groups, None, "halves")
    assert places is not None
    assert [places[rank] for rank in ranks] == [place(str(group), "halves") for group in groups.tolist()]
    assert len(places) == len(set(groups.tolist()))


class Named:
    """One image for each of many names."""

    splits = ("train",)
    n = 20_000

    def read(self, split: str, data_dir: Path) -> Items:
        names = [f"a folder with a long name/{number:08d}.png" for number in range(self.n)]
        images = list(np.zeros((self.n, 8, 8), np.uint8))
        return Items(images, np.zeros(self.n, np.int64), ["any"], paths=names, names=names)


def test_names_and_paths_take_no_memory(tmp_path: Path) -> None:
    """As strings they take 100 bytes each, for the official split, for the split and for its halves."""

    def load() -> None:
        split = load_split(Named(), "train", name="named", size=8, channels=1, data_dir=tmp_path)
        assert split.halves()[0].paths is not None

    load()
    tracemalloc.start()
    load()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 250 * Named.n  # 64 for the pixels, and a few numbers; with strings it was 470
