"""A run that goes on ends where one that was never interrupted does."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml

from advvae import trainer
from advvae.checkpoint import read_checkpoint
from tests.command import TINY, Command, Result

TRAIN = ("mode=train", "dataset=digits", *TINY, "deterministic=true", "n_epochs=4")


def interrupted(advvae: Command, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    """Stop a training as Ctrl-C does, after its second epoch."""
    train_epoch = trainer._train_epoch

    def stop_in_the_third(config, players, objective, split, training, *rest):  # type: ignore[no-untyped-def]
        if training.epoch == 2:
            raise KeyboardInterrupt
        return train_epoch(config, players, objective, split, training, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_train_epoch", stop_in_the_third)
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
    whole = advvae(*TRAIN).folder
    stopped = interrupted(advvae, monkeypatch).folder
    overrides = (stopped / ".hydra" / "overrides.yaml").read_text()
    arguments = [*TRAIN, "resume=auto"] if how == "auto" else [f"resume={stopped}"]
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


@pytest.mark.parametrize("override", ["latent_dim=5", "size=16", "dataset=photos"])
def test_what_shapes_the_state_cannot_change_on_resume(advvae: Command, override: str) -> None:
    folder = advvae(*TRAIN).folder
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*") if path.name != "advvae.log"}
    result = advvae(f"resume={folder}", override)
    assert result.status == 1
    assert override.split("=")[1] in result.message
    changed = [path.name for path, time in before.items() if path.stat().st_mtime_ns != time]
    assert changed in ([], ["metrics.json"])
