"""The five commands that the README opens with, on small files in MedMNIST's and MNIST's own formats."""

import csv
from pathlib import Path

import pytest

from tests.command import FEW, TINY, Command
from tests.data import official_files

SMALL = TINY[1:]  # the sets' own size, 32 px


@pytest.fixture
def medical(advvae: Command, tmp_path: Path) -> Command:
    advvae.data_dir = tmp_path / "own data"
    official_files.write_medmnist(advvae.data_dir, "octmnist")
    official_files.write_mnist(advvae.data_dir)
    return advvae


def test_train_test_sample_and_outlier(medical: Command) -> None:
    train = medical("mode=train", "dataset=octmnist", *SMALL)
    assert train.status == 0, train.errors
    assert medical("mode=test", "dataset=octmnist").status == 0
    for place in (train.folder, train.folder / "checkpoints" / "epoch-0001.pt"):
        sample = medical("mode=sample", "dataset=octmnist", f"checkpoint={place}")
        assert len(list((sample.folder / "samples").iterdir())) == 16
    discriminator = train.folder / "checkpoints" / "last.pt"
    outlier = medical(
        "mode=outlier", *FEW, "dataset=octmnist", "out_dataset=mnist", f"discriminator_checkpoint={discriminator}"
    )
    assert outlier.status == 0, outlier.errors
    with (outlier.folder / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["source"] for row in rows} == {"octmnist", "mnist"}
    assert {"loss", "discriminator"} < set(rows[0])


def test_a_set_with_its_own_folder_is_read_from_data_dir(medical: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    official_files.write_svhn(medical.data_dir, monkeypatch)
    train = medical("mode=train", "dataset=svhn", *SMALL)
    assert train.status == 0, train.errors
    assert {path.name for path in medical.cwd.iterdir()} == {medical.data_dir.name, "outputs"}


def test_the_sweep_of_nine(medical: Command) -> None:
    weights = ("gen_weight=0,0.002,0.02", "recon_weight=0,0.002,0.02")
    result = medical("-m", "mode=train", "dataset=octmnist", *weights, *SMALL)
    assert result.status == 0, result.errors
    (sweep,) = (medical.cwd / "outputs" / "sweeps").iterdir()
    with (sweep / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    pairs = {(row["gen_weight"], row["recon_weight"]) for row in rows}
    assert pairs == {(g, r) for g in ("0", "0.002", "0.02") for r in ("0", "0.002", "0.02")}
    assert {row["status"] for row in rows} == {"finished"}
    assert (sweep / "summary.png").is_file()


def test_a_discriminator_without_any_vae(medical: Command) -> None:
    train = medical("mode=train", "dataset=octmnist", *SMALL)
    discriminator = (train.folder / "checkpoints" / "best.pt").rename(medical.cwd / "discriminator.pt")
    (train.folder / "metrics.json").unlink()  # as if there were no finished run
    result = medical(
        "mode=outlier", *FEW, "dataset=octmnist", "out_dataset=mnist", f"discriminator_checkpoint={discriminator}"
    )
    assert result.status == 0, result.errors
    assert "score loss is left out" in result.output
