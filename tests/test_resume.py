"""A run that goes on ends where one that was never interrupted does."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from advvae.checkpoint import read_checkpoint
from advvae.progress import Bar
from advvae.trainer import Trainer
from tests.command import TINY, Command, Result

TRAIN = ("mode=train", "dataset=digits", *TINY, "deterministic=true", "n_epochs=4")

VAL_LOSS = 8  # column of `losses`


def interrupted(advvae: Command, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    """Stop a training as Ctrl-C does, after its second epoch."""
    train_epoch = Trainer._train_epoch

    def stop_in_the_third(trainer: Trainer, bar: Bar) -> dict[str, Any]:
        if trainer.training.epoch == 2:
            raise KeyboardInterrupt
        return train_epoch(trainer, bar)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_epoch", stop_in_the_third)
        result = advvae(*TRAIN, *arguments)
    assert result.status == 1
    assert json.loads((result.folder / "metrics.json").read_text())["status"] == "interrupted"
    return result


def losses(folder: Path) -> list[list[str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    timed = ("seconds", "images_per_second")
    return [[value for name, value in row.items() if name not in timed] for row in rows]


@pytest.mark.parametrize("how", ["auto", "folder"])
def test_a_resumed_run_equals_one_never_interrupted(advvae: Command, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    whole = advvae(*TRAIN, "seed=5").folder
    stopped = interrupted(advvae, monkeypatch, "seed=5").folder
    with (stopped / "metrics.csv").open("a") as file:
        file.write("3,999\n")  # written, but its checkpoint was not
    overrides = (stopped / ".hydra" / "overrides.yaml").read_text()
    arguments = [*TRAIN, "seed=5", "resume=auto"] if how == "auto" else [f"resume={stopped}"]
    resumed = advvae(*arguments)
    assert resumed.status == 0, resumed.errors
    assert len(advvae.runs()) == 2  # in the same folder
    assert losses(stopped) == losses(whole)
    one, other = (read_checkpoint(run / "checkpoints" / "last.pt") for run in (whole, stopped))
    for part, tensors in one.parts.items():
        assert all(torch.equal(tensor, other.parts[part][name]) for name, tensor in tensors.items())
    assert (stopped / ".hydra" / "overrides.yaml").read_text() == overrides
    assert json.loads((stopped / "metrics.json").read_text())["status"] == "finished"


def test_auto_starts_a_run_where_there_is_none_to_go_on_with(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert advvae(*TRAIN, "resume=auto").status == 0
    stopped = interrupted(advvae, monkeypatch, "seed=5").folder
    assert advvae(*TRAIN, "resume=auto").status == 0  # another seed is another run
    assert len(advvae.runs()) == 3
    assert json.loads((stopped / "metrics.json").read_text())["status"] == "interrupted"


def test_auto_passes_over_a_run_that_another_process_holds(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from filelock import FileLock

    stopped = interrupted(advvae, monkeypatch).folder
    with FileLock(stopped / ".lock"):
        assert advvae(*TRAIN, "resume=auto").status == 0
    assert len(advvae.runs()) == 2


def test_a_finished_run_is_extended(advvae: Command) -> None:
    folder = advvae(*TRAIN).folder
    result = advvae(f"resume={folder}", "n_epochs=6")
    assert result.status == 0, result.errors
    assert [row[0] for row in losses(folder)] == ["1", "2", "3", "4", "5", "6"]
    assert yaml.safe_load((folder / "config.yaml").read_text())["n_epochs"] == 6


def test_an_extended_run_remembers_its_best_epoch_and_takes_a_new_lr(advvae: Command) -> None:
    folder = advvae(*TRAIN, "lr=0.003").folder
    assert advvae(f"resume={folder}", "n_epochs=6", "lr=0.5").status == 0
    val_losses = [float(row[VAL_LOSS]) for row in losses(folder)]
    best = val_losses.index(min(val_losses)) + 1
    assert best <= 4  # such an lr ruins it
    assert json.loads((folder / "metrics.json").read_text())["best_epoch"] == best
    last, kept = (read_checkpoint(folder / "checkpoints" / f"{name}.pt").training for name in ("last", "best"))
    assert last is not None
    assert kept is not None
    assert kept.epoch == best
    assert last.vae_optimizer["param_groups"][0]["lr"] == last.discriminator_optimizer["param_groups"][0]["lr"] == 0.5


def test_naming_the_runs_dataset_on_resume_keeps_its_sub_keys(advvae: Command) -> None:
    folder = advvae(*TRAIN, "dataset.drop_classes=[9]").folder
    assert advvae(f"resume={folder}", "dataset=digits", "n_epochs=5").status == 0
    assert yaml.safe_load((folder / "config.yaml").read_text())["dataset"]["drop_classes"] == [9]


@pytest.mark.parametrize("other", ["dataset.drop_classes=[9]", "max_minutes=60", "keep_checkpoints=7"])
def test_auto_does_not_take_a_null_for_whatever_a_run_had(
    advvae: Command, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    interrupted(advvae, monkeypatch, other)
    assert advvae(*TRAIN, "resume=auto").status == 0
    assert len(advvae.runs()) == 2


@pytest.mark.parametrize("override", ["latent_dim=5", "size=16", "dataset=photos"])
def test_what_shapes_the_state_cannot_change_on_resume(advvae: Command, override: str) -> None:
    folder = advvae(*TRAIN).folder
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name not in ("advvae.log", ".lock")}
    result = advvae(f"resume={folder}", override)
    assert result.status == 1
    assert override.split("=")[1] in result.message
    assert [path.name for path, time in before.items() if path.is_file() and path.stat().st_mtime_ns != time] == []


def test_a_folder_that_holds_a_run_is_not_written_over(advvae: Command) -> None:
    folder = advvae(*TRAIN).folder
    before = (folder / "metrics.json").read_text()
    result = advvae(*TRAIN, "seed=3", f"hydra.run.dir={folder}")
    assert result.status == 1
    assert "holds a run already" in result.message
    assert (folder / "metrics.json").read_text() == before


def test_a_failed_run_removes_no_folder_of_the_users(advvae: Command) -> None:
    (advvae.cwd / "mine").mkdir()
    (advvae.cwd / "mine" / "config.yaml").write_text("mine")
    assert advvae(*TRAIN, "latent_dim=0", "hydra.run.dir=mine").status == 1
    assert (advvae.cwd / "mine" / "config.yaml").read_text() == "mine"


def test_training_on_drops_what_older_weights_measured(advvae: Command) -> None:
    folder = advvae(*TRAIN, "then=[test]").folder
    assert "psnr" in json.loads((folder / "metrics.json").read_text())
    assert advvae(f"resume={folder}", "n_epochs=5", "then=[]").status == 0
    metrics = json.loads((folder / "metrics.json").read_text())
    assert "psnr" not in metrics
    assert metrics["epochs"] == 5


def test_resume_says_where_it_goes_on(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "a new one begins" in advvae(*TRAIN, "resume=auto").output
    interrupted(advvae, monkeypatch, "seed=4")
    result = advvae(*TRAIN, "seed=4", "resume=auto")
    assert "last.pt, after epoch 2" in result.output
    assert "checkpoint_sha256" in (result.folder / "config.yaml").read_text()
