"""Tables of patients as they are typed: who is in which split, normals against each finding, where a row is from."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from advvae.data import load_split
from advvae.data.files import Folder
from tests.command import FEW, TINY, Command
from tests.data.medical_files import write_dicom

SPLITS = ("train", "val", "test")


def write_images(folder: Path, n: int) -> list[str]:
    """Names of n grey images of 8 px in `folder`, each of its own noise."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    names = [f"{i:03d}.png" for i in range(n)]
    for name in names:
        Image.fromarray(random.integers(256, size=(8, 8), dtype=np.uint8)).save(folder / name)
    return names


def write_table(folder: Path, *columns: str, rows: Sequence[tuple[str, ...]]) -> Path:
    path = folder / "list.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def patients_of_splits(source: Folder, patient_of: dict[str, str], data_dir: Path) -> dict[str, set[str]]:
    """The patients of train, and of each half of val and test.

    They are looked up by the names of the files: what the splits say of groups may be wrong.
    """
    found = {}
    for split in SPLITS:
        whole = load_split(source, split, name="folder", size=8, channels=1, data_dir=data_dir)
        parts = (
            {split: whole} if split == "train" else dict(zip((f"{split} a", f"{split} b"), whole.halves(), strict=True))
        )
        for name, part in parts.items():
            assert part.paths is not None
            found[name] = {patient_of[Path(path).name.partition("#")[0]] for path in part.paths}
    return found


@pytest.mark.parametrize("official", [(), ("train", "test"), SPLITS])
def test_no_patient_is_in_two_splits(tmp_path: Path, official: tuple[str, ...]) -> None:
    names = write_images(tmp_path / "images", 300)
    for seed in range(4):
        random = np.random.default_rng(seed)
        sizes = random.integers(1, 41, size=300)
        patients = np.repeat(np.arange(300), sizes)[:300]
        patient_of = {name: f"p{patient}" for name, patient in zip(names, random.permutation(patients), strict=True)}
        order = random.permutation(np.unique(patients))
        assert len(order) > 8
        split_of = {f"p{p}": official[i % len(official)] if official else "" for i, p in enumerate(order)}
        rows = [(name, patient, split_of[patient]) for name, patient in patient_of.items()]
        source = Folder(csv=str(write_table(tmp_path / "images", "path", "group", "split", rows=rows)))
        found = patients_of_splits(source, patient_of, tmp_path)
        assert all(found.values())
        assert sum(map(len, found.values())) == len(set.union(*found.values())) == len(order)


def test_no_volume_is_in_two_splits(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    volumes = {f"{i:02d}.dcm": random.integers(256, size=(1 + i % 7, 8, 8), dtype=np.uint8) for i in range(20)}
    for name, frames in volumes.items():
        write_dicom(tmp_path / "images" / name, frames)
    found = patients_of_splits(Folder(str(tmp_path / "images")), {name: name for name in volumes}, tmp_path)
    assert sum(map(len, found.values())) == len(set.union(*found.values())) == 20


FINDINGS = ("normal", "normal", "normal", "edema", "mass")


@pytest.mark.parametrize("both", ["edema;mass", ""])
def test_normals_are_trained_on_and_each_finding_is_scored(advvae: Command, tmp_path: Path, both: str) -> None:
    """both: what images with two labels are called; without such, a set has single labels, of which normal is one."""
    names = write_images(tmp_path / "images", 240)
    labels = [both or "edema" if i % 20 == 19 else FINDINGS[i % 5] for i in range(240)]
    rows = [(name, label, f"p{i // 4}") for i, (name, label) in enumerate(zip(names, labels, strict=True))]
    csv_file = write_table(tmp_path / "images", "path", "label", "group", rows=rows)
    own = ("dataset=folder", "dataset.csv=images/list.csv", "dataset.keep_classes=[normal]")
    result = advvae("mode=train", *own, *TINY)
    assert result.status == 0, result.errors
    result = advvae("mode=outlier", "dataset=folder", "out_dataset=folder", "out_dataset.drop_classes=[normal]", *FEW)
    assert result.status == 0, result.errors

    label_of = {str(tmp_path / "images" / name): label for name, label in zip(names, labels, strict=True)}
    scored = table(result.folder / "scores.csv")
    assert {row["label"] for row in scored if row["is_outlier"] == "0"} == {"normal"}
    assert all(row["label"] == label_of[row["path"]] for row in scored)
    source = Folder(csv=str(csv_file))
    whole = load_split(source, "test", name="folder", size=8, channels=1, data_dir=tmp_path)
    assert whole.paths is not None
    assert sorted(row["path"] for row in scored) == sorted(whole.paths)  # normals and others are the whole test split
    found = json.loads((result.folder / "metrics.json").read_text())
    assert found["n_in"] == sum(label_of[path] == "normal" for path in whole.paths)

    by_label = {row["label"]: row for row in table(result.folder / "labels.csv") if row["score"] == "loss"}
    counts = {name: sum(name in label_of[path].split(";") for path in whole.paths) for name in ("edema", "mass")}
    assert {name: int(row["n"]) for name, row in by_label.items()} == counts
    assert all(0 <= float(row["auroc"]) <= 1 for row in by_label.values())


def test_rows_of_frames_say_which(advvae: Command, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for split, n in (("train", 12), ("test", 4)):
        for i in range(n):
            frames = random.integers(256, size=(3, 8, 8), dtype=np.uint8)
            write_dicom(tmp_path / f"images/{split}/{'odd' if i % 2 else 'normal'}/{i:02d}.dcm", frames)
    own = ("dataset=folder", "dataset.root=images", "dataset.keep_classes=[normal]")
    assert advvae("mode=train", *own, *TINY).status == 0
    result = advvae("mode=outlier", "dataset=folder", "out_dataset=folder", "out_dataset.drop_classes=[normal]", *FEW)
    assert result.status == 0, result.errors
    expected = [
        str(tmp_path / f"images/test/{name}/{i:02d}.dcm#{k}")
        for name, numbers in (("normal", (0, 2)), ("odd", (1, 3)))
        for i in numbers
        for k in range(3)
    ]
    assert [row["path"] for row in table(result.folder / "scores.csv")] == expected


@pytest.fixture
def deep_scans(advvae: Command) -> Command:
    """160 DICOM files whose values lie between 1000 and 1200, in the folder images; every fourth is called odd."""
    random = np.random.default_rng(0)
    for number in range(160):
        pixels = random.integers(1000, 1200, (9, 9), dtype=np.uint16)
        write_dicom(advvae.cwd / "images" / ("odd" if number % 4 == 0 else "normal") / f"{number}.dcm", pixels)
    return advvae


WINDOWED = ("dataset=folder", "dataset.root=images", "dataset.keep_classes=[normal]", "dataset.percentiles=[1,99]")


def test_the_window_of_the_training_images_maps_all_other_files_of_the_users_own(deep_scans: Command) -> None:
    """A published set has values of another unit, and keeps its whole range."""
    train = deep_scans("mode=train", *WINDOWED, *TINY)
    assert train.status == 0, train.errors
    low, high = yaml.safe_load((train.folder / "config.yaml").read_text())["dataset"]["window"]
    assert 1000 <= low <= 1004
    assert 1195 <= high < 1200
    own = ("dataset=folder", "out_dataset=folder", "out_dataset.drop_classes=[normal]", "tracker=none")
    result = deep_scans("mode=outlier", *own, "out_datasets=[folder,digits]", "scores=[recon_mse]")
    assert result.status == 0, result.errors
    sets = json.loads((result.folder / "metrics.json").read_text())["sets"]
    assert abs(sets["folder"]["scores"]["mean_brightness"]["auroc"] - 0.5) < 0.3  # as bright as the inliers
    with (result.folder / "scores.csv").open() as file:
        distance = [float(row["mean_brightness"]) for row in csv.DictReader(file) if row["source"] == "digits"]
    assert np.std(distance) > 0.5  # by the window of the scans all digits would be black, and equally far


def test_a_run_whose_window_was_taken_from_percentiles_goes_on(deep_scans: Command) -> None:
    train = deep_scans("mode=train", *WINDOWED, *TINY, "n_epochs=2", "resume=auto")
    metrics = train.folder / "metrics.json"
    metrics.write_text(json.dumps(json.loads(metrics.read_text()) | {"status": "interrupted"}))
    again = deep_scans("mode=train", *WINDOWED, *TINY, "n_epochs=2", "resume=auto")
    assert (again.status, again.folder, len(deep_scans.runs())) == (0, train.folder, 1)
    other = deep_scans("mode=train", *WINDOWED[:-1], "dataset.window=[1000,1200]", *TINY, "n_epochs=2", "resume=auto")
    assert (other.status, len(deep_scans.runs())) == (0, 2)


def test_screened_files_of_another_unit_are_told(deep_scans: Command) -> None:
    train = deep_scans("mode=train", *WINDOWED, *TINY)
    assert train.status == 0, train.errors
    Image.fromarray(np.full((9, 9), 200, np.uint8)).save(deep_scans.cwd / "export.png")
    screen = ("mode=screen", "dataset=folder", "tracker=none", *FEW)
    result = deep_scans(*screen, "input=export.png")
    assert "100 % of the values of input=" in result.output + result.errors
    result = deep_scans(*screen, "input=images")
    assert "of the values of input=" not in result.output + result.errors


def test_what_a_trained_network_was_shown_cannot_be_typed_anew(deep_scans: Command) -> None:
    train = deep_scans("mode=train", *WINDOWED, *TINY)
    result = deep_scans("mode=test", "dataset=folder", "dataset.percentiles=[40,60]", "tracker=none")
    assert result.status == 1
    assert "dataset.percentiles is [40, 60] here, but the run was trained with [1, 99]" in result.message
    window = ("dataset.window=[0,4095]", "n_epochs=2", "tracker=none")
    result = deep_scans("mode=train", f"resume={train.folder}", "dataset=folder", *window)
    assert result.status == 1
    assert "dataset.window is [0, 4095] here" in result.message


@pytest.mark.parametrize("out_dataset", ["", "out_dataset=folder"])
def test_classes_of_a_set_among_several_count_or_are_refused(deep_scans: Command, out_dataset: str) -> None:
    deep_scans("mode=train", *WINDOWED, *TINY)
    typed = ("out_datasets=[folder,digits]", "out_dataset.drop_classes=[normal]", *filter(None, [out_dataset]))
    result = deep_scans("mode=outlier", "dataset=folder", *typed, "tracker=none", *FEW)
    assert result.status == (0 if out_dataset else 1)
    if not out_dataset:
        assert "out_dataset.drop_classes is of out_dataset=fashionmnist" in result.message
        return
    assert json.loads((result.folder / "metrics.json").read_text())["sets"]["folder"]["duplicates"] == 0


@pytest.mark.parametrize("typed", ["keep_classes=[1]", "drop_classes=[1]", "window=[0,1]", "max_unreadable=0.5"])
def test_a_matrix_of_other_images_than_its_sets_is_refused(typed: str, advvae: Command) -> None:
    result = advvae("mode=matrix", "datasets=[digits,photos]", f"dataset.{typed}", "dataset.channels=1", *TINY)
    assert (result.status, advvae.runs()) == (1, [])
    assert "mode=matrix takes its sets as they are, but for dataset.channels, dataset.size" in result.message
    assert f"leave out dataset.{typed.split('=')[0]}" in result.message
