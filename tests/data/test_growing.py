"""A user's own set that grows, shrinks or moves: no image that stays changes its split."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advvae.data import Split, load_split
from advvae.data.array import Array
from advvae.data.cuts import split_rows
from advvae.data.files import Folder
from advvae.data.source import Source
from advvae.data.window import percentile_window
from tests.data.medical_files import write_dicom

SPLITS = ("train", "val", "test")
ADDED = ["0.png", "zz.png", *(f"b{i:03d}.png" for i in range(48))]  # before, behind and between the 200


def write_images(root: Path, names: Sequence[str]) -> Folder:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), len(name), np.uint8)).save(path)
    return Folder(str(root))


def write_patients(root: Path, names: Sequence[str]) -> Folder:
    """Of each patient four images; every eighth image has none."""
    write_images(root, names)
    rows = [f"{name},{'' if i % 8 == 7 else f'patient {name[:-5]}'}" for i, name in enumerate(names)]
    (root / "table.csv").write_text("\n".join(["path,group", *rows]))
    return Folder(csv=str(root / "table.csv"))


def parts_of(source: Source, root: Path, data_dir: Path) -> dict[str, str]:
    """In which split, and in which half of val, each file is, by its path in `root`."""
    found: dict[str, str] = {}
    for name in SPLITS:
        split = load_split(source, name, name="growing", size=8, channels=1, data_dir=data_dir, max_unreadable=0.5)
        halves = zip(("select", "calibrate"), split.halves(), strict=True) if name == "val" else [("", split)]
        found |= {os.path.relpath(path, root): f"{name} {half}" for half, part in halves for path in part.paths or ()}
    return found


NAMES = [f"a{i // 2:03d}{'xy'[i % 2]}.png" for i in range(200)]


@pytest.mark.parametrize("write", [write_images, write_patients])
@pytest.mark.parametrize("n_added", [1, 50])
def test_files_that_come_or_go_move_no_other(write: Callable[..., Folder], n_added: int, tmp_path: Path) -> None:
    root = tmp_path / "scans"
    before = parts_of(write(root, NAMES), root, tmp_path)
    assert sorted(before) == NAMES
    assert set(before.values()) == {"train ", "val select", "val calibrate", "test "}
    after = parts_of(write(root, [*NAMES, *ADDED[:n_added]]), root, tmp_path)
    assert len(after) == 200 + n_added
    assert {name: after[name] for name in NAMES} == before
    kept = [name for i, name in enumerate(NAMES) if i % 5]
    for name in {*NAMES, *ADDED[:n_added]} - {*kept}:
        (root / name).unlink(missing_ok=True)
    source = write_images(root, kept) if write is write_images else Folder(csv=str(root / "table.csv"))
    assert parts_of(source, root, tmp_path) == {name: before[name] for name in kept}


@pytest.mark.parametrize("write", [write_images, write_patients])
def test_a_folder_that_moves_keeps_its_splits(
    write: Callable[..., Folder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "scans", tmp_path / "other" / "place"
    before = parts_of(write(old, NAMES), old, tmp_path)
    new.parent.mkdir()
    old.rename(new)
    moved = Folder(csv=str(new / "table.csv")) if write is write_patients else Folder(str(new))
    assert parts_of(moved, new, tmp_path) == before
    monkeypatch.chdir(new.parent)
    moved = Folder(csv="place/table.csv") if write is write_patients else Folder("place")
    assert parts_of(moved, Path("place"), tmp_path) == before


def test_a_table_names_files_as_their_folder_does(tmp_path: Path) -> None:
    root = tmp_path / "scans"
    before = parts_of(write_images(root, NAMES), root, tmp_path)
    rows = [[name, f"./{name}", str(root / name), f"../scans/{name}"][i % 3] for i, name in enumerate(NAMES)]
    (tmp_path / "table.csv").write_text("\n".join(["path", *rows]))
    assert parts_of(Folder(str(root), str(tmp_path / "table.csv")), root, tmp_path) == before


def test_names_have_forward_slashes(tmp_path: Path) -> None:
    source = write_images(tmp_path / "scans", ["a/b/1.png"])
    assert list(source.read("train", tmp_path).names or ()) == ["a/b/1.png"]


@pytest.mark.parametrize("n", range(4, 11))
def test_tiny_sets_give_every_split_an_image(n: int, tmp_path: Path) -> None:
    for start in range(3):
        root = tmp_path / str(start)
        found = parts_of(write_images(root, NAMES[20 * start : 20 * start + n]), root, tmp_path)
        assert set(found.values()) == {"train ", "val select", "val calibrate", "test "}


def test_unreadable_and_repaired_images_move_no_other(tmp_path: Path) -> None:
    root = tmp_path / "scans"
    before = parts_of(write_images(root, NAMES), root, tmp_path)
    broken = NAMES[::3]
    for name in broken:
        (root / name).write_bytes(b"no image")
    found = parts_of(Folder(str(root)), root, tmp_path)
    assert found == {name: part for name, part in before.items() if name not in broken}


def test_a_volume_among_pictures_moves_none(tmp_path: Path) -> None:
    """With it, images have groups, which they have not had before: each file is one, by the name that it had."""
    root = tmp_path / "scans"
    before = parts_of(write_images(root, NAMES), root, tmp_path)
    write_dicom(root / "b.dcm", np.zeros((3, 8, 8), np.uint8))
    after = parts_of(Folder(str(root)), root, tmp_path)
    assert {name: after[name] for name in NAMES} == before
    assert len({after[f"b.dcm#{number}"] for number in range(3)}) == 1


@pytest.mark.parametrize("kind", [int, str])
def test_groups_of_an_array_keep_their_splits(kind: type, tmp_path: Path) -> None:
    def split_of_groups(groups: np.ndarray) -> dict[str, str]:
        np.savez(tmp_path / "a.npz", images=np.zeros((len(groups), 8, 8), np.uint8), groups=groups.astype(kind))
        return {str(group): name for name in SPLITS for group in set(loaded(name).groups)}  # type: ignore[arg-type]

    def loaded(name: str) -> Split:
        source = Array(str(tmp_path / "a.npz"))
        return load_split(source, name, name="array", size=8, channels=1, data_dir=tmp_path)

    before = split_of_groups(np.arange(100, 300) // 2)
    after = split_of_groups(np.arange(320) // 2)
    assert len(before) == 100
    assert {group: after[group] for group in before} == before


def test_sets_without_names_are_divided_by_number(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((100, 8, 8), np.uint8))
    source = Array(str(tmp_path / "a.npy"))
    for name in SPLITS:
        found = load_split(source, name, name="array", size=8, channels=1, data_dir=tmp_path)
        assert found.rows.tolist() == split_rows(name, ["train"], 100).tolist()
        order = np.random.default_rng(0).permutation(len(found))
        assert found.halves()[0].rows.tolist() == sorted(found.rows[order[: (len(found) + 1) // 2]].tolist())


def test_a_window_is_taken_of_the_same_training_images(tmp_path: Path) -> None:
    root = tmp_path / "scans"
    for name, part in parts_of(write_images(root, NAMES), root, tmp_path).items():
        pixels = np.tile(np.arange(8, dtype=np.uint8), (8, 1))
        Image.fromarray(pixels if part == "train " else pixels + 99).save(root / name)
    window = percentile_window(Folder(str(root)), [0, 100], name="growing", size=8, data_dir=tmp_path)
    assert window == (0, 7)
