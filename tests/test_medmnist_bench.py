"""The two experiments on MedMNIST, on small files in its own format for every set; and going on after a stop."""

import csv
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from medmnist import INFO
from PIL import Image

from advvae import matrix
from advvae.config import CONF, Config
from advvae.trainer import Trainer
from tests.command import FEW, TINY, Command
from tests.data import official_files

SETS = sorted(name for name in INFO if not name.endswith("3d"))
NORMAL = ["breastmnist", "chestmnist", "dermamnist", "octmnist", "pathmnist", "pneumoniamnist", "retinamnist"]
SMALL = (*(text for text in TINY if not text.startswith("size=")), "size=28", *FEW, "model.norm=group")
MATRIX = ("experiment=medmnist_matrix", *SMALL)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def node(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / "dataset" / f"{name}.yaml").read_text())


@pytest.fixture
def medical(advvae: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command, with a small file of every set."""
    monkeypatch.setitem(official_files.COUNTS, "val", 18)  # so that each class is in both halves of it
    advvae.data_dir = tmp_path / "own data"
    for seed, name in enumerate(SETS):
        official_files.write_medmnist(advvae.data_dir, name, seed=seed)
    return advvae


def sweeps(advvae: Command) -> list[Path]:
    return sorted((advvae.cwd / "outputs" / "sweeps").iterdir())


def matrices(advvae: Command) -> list[Path]:
    return sorted(path.parent for path in (advvae.cwd / "outputs" / "matrix").glob("*/*/advvae.log"))


@pytest.mark.parametrize("name", SETS)
def test_each_set_says_which_classes_are_normal(name: str) -> None:
    from advvae.data.classes import NORMAL as NONE_OF_THE_LABELS
    from advvae.data.classes import class_number

    normal = node(name)["normal"]
    assert (normal is not None) == (name in NORMAL)
    classes = [INFO[name]["label"][str(number)] for number in range(len(INFO[name]["label"]))]
    for item in normal or []:
        assert item == NONE_OF_THE_LABELS or classes[class_number(item, classes, name)] == item


def test_the_organ_sets_share_their_patients() -> None:
    assert {name: node(name).get("patients") for name in SETS if node(name).get("patients")} == {
        "organamnist": "LiTS",
        "organcmnist": "LiTS",
        "organsmnist": "LiTS",
    }


@pytest.mark.drawn
def test_one_class_goes_through_the_sets_that_have_normal_images(medical: Command) -> None:
    result = medical("experiment=medmnist_one_class", *SMALL)
    assert result.status == 0, result.errors
    (sweep,) = sweeps(medical)
    rows = table(sweep / "summary.csv")
    assert [row["dataset"] for row in rows] == NORMAL
    assert {row["status"] for row in rows} == {"finished"}
    for job, name in enumerate(NORMAL):
        measured = metrics(sweep / str(job))
        assert measured["n_in"] + measured["n_out"] == official_files.COUNTS["test"]  # each test image is on one side
        config = yaml.safe_load((sweep / str(job) / "config.yaml").read_text())
        assert config["dataset"]["keep_classes"] == config["out_dataset"]["drop_classes"] == node(name)["normal"]
    assert (metrics(sweep / "3")["n_in"], metrics(sweep / "3")["n_out"]) == (2, 8)  # octmnist: labels 0 to 9 modulo 4
    text = (sweep / "summary.md").read_text()
    assert text in result.output
    assert text.count("AUROC") == text.count("AUPR-out") == 1
    assert Image.open(sweep / "summary.png").height > 500  # a line per set


def test_a_set_without_normal_images_says_so_alone(medical: Command) -> None:
    result = medical("experiment=medmnist_one_class", *SMALL, "dataset=tissuemnist,breastmnist")
    assert result.status == 1
    failed, finished = table(sweeps(medical)[0] / "summary.csv")
    assert (failed["status"], finished["status"]) == ("failed", "finished")
    assert "type it, as in dataset.keep_classes=[normal]" in failed["error"]
    assert len(failed["error"].splitlines()) == 1


def test_a_missing_file_fails_its_set_alone_and_comes_with_the_same_command(
    medical: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_downloads(monkeypatch)
    file = medical.data_dir / "MedMNIST" / "octmnist.npz"
    kept = file.read_bytes()
    file.unlink()
    typed = ("experiment=medmnist_one_class", *SMALL, "dataset=octmnist,breastmnist")
    result = medical(*typed)
    assert result.status == 1
    assert "octmnist.npz" in result.message
    assert [row["status"] for row in table(sweeps(medical)[0] / "summary.csv")] == ["failed", "finished"]
    file.write_bytes(kept)
    result = medical(*typed)
    assert result.status == 0, result.errors
    assert "job 1 is finished already: skipped" in result.output
    assert "job 0 is finished" not in result.output
    (sweep,) = sweeps(medical)
    assert [row["status"] for row in table(sweep / "summary.csv")] == ["finished", "finished"]


def forbid_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("medmnist.dataset.MedMNIST.download", offline)


def few(*names: str) -> tuple[str, ...]:
    return (*MATRIX, f"datasets=[{','.join(names)}]")


def check_matrix(folder: Path, names: list[str]) -> None:
    rows = table(folder / "matrix.csv")
    pairs = {(row["dataset"], row["out_dataset"]) for row in rows}
    assert pairs == {(a, b) for a in names for b in names if a != b}
    assert {row["score"] for row in rows} == {"loss", "discriminator"}
    assert {(row["n_in"], row["n_out"], row["n_in_groups"]) for row in rows} == {("10", "10", "")}
    organs = {name for name in names if name.startswith("organ")}
    for row in rows:
        assert row["shared_patients"] == ("LiTS" if {row["dataset"], row["out_dataset"]} <= organs else "")
    text = (folder / "matrix.md").read_text()
    assert text.count("‡") == len(organs) * (len(organs) - 1) + bool(organs)  # and what it means
    assert ("LiTS" in text) == ("cannot be matched" in text) == bool(organs)
    for name in ("matrix.png", "matrix/loss.png", "matrix/discriminator.png"):
        assert Image.open(folder / name).width > 100 * len(names)
    assert len(table(folder / "audit.csv")) == len(names) ** 2


@pytest.mark.drawn
def test_a_matrix_of_three_sets_keeps_each_ones_channels(medical: Command) -> None:
    names = ["organamnist", "organcmnist", "retinamnist"]
    result = medical(*few(*names))
    assert result.status == 0, result.errors
    (folder,) = matrices(medical)
    check_matrix(folder, names)
    assert (folder / "matrix.md").read_text() in result.output
    assert metrics(folder)["ranked_by"] == "loss"
    assert [channels(folder, name) for name in names] == [1, 1, 3]


def channels(folder: Path, name: str) -> int:
    return yaml.safe_load((folder / name / "config.yaml").read_text())["dataset"]["channels"]


def test_typed_channels_are_those_of_every_set_and_of_runs_that_are_taken(medical: Command) -> None:
    names = ["breastmnist", "retinamnist"]
    for number in (None, 1, 3):
        result = medical(*few(*names), *([f"dataset.channels={number}"] if number else []))
        assert result.status == 0, result.errors
        assert [channels(matrices(medical)[-1], name) for name in names] == [number or 1, number or 3]
    trained = medical.cwd / "outputs" / "train"
    assert len(list((trained / "breastmnist").iterdir())) == 2  # in grey, and in RGB
    assert len(list((trained / "retinamnist").iterdir())) == 2


def test_a_run_is_taken_if_what_matters_and_what_was_typed_are_the_same(advvae: Command) -> None:
    run = yaml.safe_load((advvae.train().folder / "config.yaml").read_text())
    wanted = Config(**{field.name: run[field.name] for field in fields(Config)})
    typed = frozenset({"lr", "model.norm", "scores", "experiment"})

    def fits(**changes: Any) -> bool:
        return matrix._fits(replace(wanted, **changes), run, typed)

    assert fits()
    assert fits(n_epochs=7, scores=["kld"], dataset={**wanted.dataset, "channels": None})  # to be decided
    for other in (
        {"size": 16},
        {"latent_dim": 5},
        {"seed": 1},
        {"dataset": {**wanted.dataset, "channels": 3}},
        {"dataset": {**wanted.dataset, "keep_classes": [3]}},
        {"dataset": {**wanted.dataset, "resize": "pad"}},
        {"lr": 0.01},
        {"model": {**wanted.model, "norm": "none"}},
    ):
        assert not fits(**other), other


def test_missing_files_are_told_before_any_training(medical: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_downloads(monkeypatch)
    for name in ("octmnist", "retinamnist"):
        (medical.data_dir / "MedMNIST" / f"{name}.npz").unlink()
    result = medical(*few("breastmnist", "octmnist", "retinamnist"))
    assert result.status == 1
    assert all(f"{name}.npz" in result.message for name in ("octmnist", "retinamnist"))
    assert len(result.message.splitlines()) == 1
    assert medical.runs() == []


@pytest.mark.drawn
def test_an_interrupted_matrix_goes_on_with_the_same_command(medical: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the second epoch of the second set's training."""
    names = ["breastmnist", "octmnist", "retinamnist"]
    typed = (*few(*names), "n_epochs=2")
    train_epoch = Trainer._train_epoch

    def stop(trainer: Trainer, bar: Any) -> dict[str, Any]:
        if trainer.config.dataset["name"] == "octmnist" and trainer.training.epoch == 1:
            raise KeyboardInterrupt
        return train_epoch(trainer, bar)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_epoch", stop)
        assert medical(*typed).status == 1
    (folder,) = matrices(medical)
    first = (folder / "breastmnist" / "metrics.json").read_bytes()
    (unfinished,) = (medical.cwd / "outputs" / "train" / "octmnist").iterdir()
    as_if_killed(folder)
    as_if_killed(unfinished)
    result = medical(*typed)
    assert result.status == 0, result.errors
    assert matrices(medical) == [folder]
    assert (folder / "breastmnist" / "metrics.json").read_bytes() == first
    assert "breastmnist: has been scored" in result.output
    assert f"octmnist: goes on in {unfinished}" in result.output
    assert [row["epoch"] for row in table(unfinished / "metrics.csv")] == ["1", "2"]
    check_matrix(folder, names)
    again = medical(*typed)  # there is nothing left to do, so it is a new one, of the networks that are there
    assert len(matrices(medical)) == 2
    assert "one is trained" not in again.output


def as_if_killed(folder: Path) -> None:
    """What SIGKILL leaves: a run that says it is running, and a lock that nobody holds."""
    (folder / "metrics.json").write_text('{"status": "running"}')
    (folder / ".lock").touch()


def test_a_set_is_scored_again_with_other_weights(medical: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = few("breastmnist", "octmnist")
    score = matrix._score

    def stop(job: Any, config: Any, trained: Path) -> None:
        if config.dataset["name"] == "octmnist":
            raise KeyboardInterrupt
        score(job, config, trained)

    with monkeypatch.context() as patch:
        patch.setattr(matrix, "_score", stop)
        assert medical(*typed).status == 1
    (folder,) = matrices(medical)
    assert medical("mode=train", "dataset=breastmnist", *typed[:-1], "resume=null", "kld_weight=0.5").status == 0
    result = medical(*typed[:-1], f"resume={folder}", typed[-1])
    assert result.status == 0, result.errors
    assert "has been scored" not in result.output
    newest = sorted((medical.cwd / "outputs" / "train" / "breastmnist").iterdir())[-1]
    config = yaml.safe_load((folder / "breastmnist" / "config.yaml").read_text())
    assert config["checkpoint"] == str(newest / "checkpoints" / "best.pt")


def test_a_matrix_of_other_settings_is_refused_by_name(medical: Command) -> None:
    assert medical(*few("breastmnist", "octmnist")).status == 0
    (folder,) = matrices(medical)
    result = medical(*few("breastmnist", "octmnist"), "alpha=0.2", f"resume={folder}")
    assert result.status == 1
    assert "alpha is 0.2 here, but 0.05 in" in result.message
    result = medical(*few("breastmnist", "octmnist"), f"resume={medical.data_dir}")
    assert "name the folder of a matrix" in result.message


def test_two_launches_do_not_share_a_matrix(medical: Command) -> None:
    from filelock import FileLock

    typed = few("breastmnist", "octmnist")
    assert medical(*typed).status == 0
    (folder,) = matrices(medical)
    as_if_killed(folder)
    with FileLock(folder / ".lock"):
        assert medical(*typed).status == 0
    assert len(matrices(medical)) == 2


@pytest.mark.slow
@pytest.mark.drawn
def test_the_matrix_of_all_twelve_sets(medical: Command) -> None:
    result = medical(*MATRIX)
    assert result.status == 0, result.errors
    check_matrix(matrices(medical)[0], SETS)


def test_planted_duplicates_stand_in_the_matrix(medical: Command) -> None:
    """Two test images of OCTMNIST are BreastMNIST's: one from its training split, one from its test split, brighter."""
    folder = medical.data_dir / "MedMNIST"
    breast, oct_ = (dict(np.load(folder / f"{name}.npz")) for name in ("breastmnist", "octmnist"))
    oct_["test_images"][3] = breast["train_images"][7]
    oct_["test_images"][5] = breast["test_images"][2] // 2 + 60
    np.savez(folder / "octmnist.npz", **oct_)
    result = medical(*few("breastmnist", "octmnist", "retinamnist"))
    assert result.status == 0, result.errors
    (matrix_folder,) = matrices(medical)
    pairs = {(row["dataset"], row["out_dataset"]): row for row in table(matrix_folder / "audit.csv")}
    found = {pair: (row["duplicates"], row["near_duplicates"]) for pair, row in pairs.items()}
    assert found.pop(("breastmnist", "octmnist")) == ("1", "1")
    assert found.pop(("octmnist", "breastmnist")) == ("0", "1")  # whose train split is not copied from
    assert set(found.values()) == {("0", "0")}
    assert (matrix_folder / "matrix.md").read_text().count("§") == 3
