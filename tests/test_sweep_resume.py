"""A sweep that was stopped goes on in its folder when the same command is typed again."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from advvae import main
from advvae.errors import UserError
from advvae.runs import leave_claimed
from advvae.sweep_resume import mark_finished, sweep_folder
from advvae.trainer import Trainer
from tests.command import TINY, Command, Result

SWEEP = ("-m", "mode=train", "dataset=digits", *TINY, "n_epochs=2", "deterministic=true", "lr=1e-3,2e-3,3e-3")
AUTO = (*SWEEP, "resume=auto")


def sweeps(advvae: Command) -> list[Path]:
    return sorted((advvae.cwd / "outputs" / "sweeps").iterdir())


def losses(job: Path) -> list[tuple[str, str]]:
    with (job / "metrics.csv").open(newline="") as file:
        return [(row["epoch"], row["val_loss"]) for row in csv.DictReader(file)]


def statuses(sweep: Path) -> list[str]:
    with (sweep / "summary.csv").open(newline="") as file:
        return [row["status"] for row in csv.DictReader(file)]


def killed(advvae: Command, monkeypatch: pytest.MonkeyPatch, *arguments: str, epoch: int = 1) -> Path:
    """The folder of a sweep that was killed in its second of three jobs, in this epoch, counted from 0."""
    train_epoch = Trainer._train_epoch

    def stop(trainer: Trainer, bar: Any) -> dict[str, Any]:
        if trainer.config.lr == 2e-3 and trainer.training.epoch == epoch:
            raise KeyboardInterrupt
        return train_epoch(trainer, bar)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_epoch", stop)
        assert advvae(*arguments).status == 1
    sweep = sweeps(advvae)[-1]
    (sweep / "1" / "metrics.json").write_text('{"status": "running"}')  # SIGKILL leaves no time to say more,
    for folder in (sweep, sweep / "1"):
        (folder / ".lock").touch()  # and locks that nobody holds
    assert not (sweep / "2").exists()
    return sweep


@pytest.mark.parametrize("how", ["auto", "folder"])
def test_a_killed_sweep_goes_on_and_ends_as_one_that_was_not(
    advvae: Command, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    assert advvae(*SWEEP).status == 0
    (whole,) = sweeps(advvae)
    sweep = killed(advvae, monkeypatch, *SWEEP)
    first = (sweep / "0" / "metrics.json").read_bytes()
    result = advvae(*SWEEP, f"resume={'auto' if how == 'auto' else sweep}")
    assert result.status == 0, result.errors
    assert sweeps(advvae) == [whole, sweep]
    assert (sweep / "0" / "metrics.json").read_bytes() == first
    assert "job 0 is finished already: skipped" in result.output
    assert f"{sweep}/1/checkpoints/last.pt, after epoch 1" in result.output
    assert [losses(sweep / job) for job in "012"] == [losses(whole / job) for job in "012"]
    assert statuses(sweep) == ["finished"] * 3


def test_a_job_that_was_killed_in_its_first_epoch_begins_anew(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = killed(advvae, monkeypatch, *AUTO, epoch=0)
    result = advvae(*AUTO)
    assert result.status == 0, result.errors
    assert sweeps(advvae) == [sweep]
    assert [epoch for epoch, _ in losses(sweep / "1")] == ["1", "2"]


def fake_sweep(output_dir: Path, number: int, typed: list[str]) -> Path:
    """A sweep of this number, whose jobs have not all finished."""
    sweep = output_dir / "sweeps" / str(number)
    (sweep / "0").mkdir(parents=True)
    (sweep / "multirun.yaml").write_text(yaml.safe_dump({"hydra": {"overrides": {"task": typed}}}))
    return sweep


def test_auto_takes_the_newest_unfinished_sweep_of_the_same_overrides(tmp_path: Path) -> None:
    typed = ["lr=1,2", "seed=3"]
    older, newer, other = (fake_sweep(tmp_path, n, typed if n < 3 else ["lr=1,2", "seed=4"]) for n in (1, 2, 3))
    later = ["resume=auto", "lr=1,2", "device=cuda", "tracker=none", "tracker.images=true", "output_dir=x", "seed=3"]
    assert sweep_folder(str(tmp_path), "auto", later) == newer
    mark_finished(newer)
    assert sweep_folder(str(tmp_path), "auto", typed) == older
    mark_finished(older)
    new = sweep_folder(str(tmp_path), "auto", typed)
    assert new.parent == tmp_path / "sweeps"
    assert not new.exists()
    assert sweep_folder(str(tmp_path), None, ["lr=1,2", "seed=4"]) not in (older, newer, other)
    leave_claimed()


@pytest.mark.parametrize("held", [".", "0"])
def test_auto_passes_over_a_sweep_that_a_process_works_in(tmp_path: Path, held: str) -> None:
    """The one that started it, or one that a launcher gave a job to."""
    sweep = fake_sweep(tmp_path, 1, ["lr=1,2"])
    (sweep / held / ".lock").touch()  # of a process that was killed
    assert sweep_folder(str(tmp_path), "auto", ["lr=1,2"]) == sweep
    leave_claimed()
    with FileLock(sweep / held / ".lock"):
        assert sweep_folder(str(tmp_path), "auto", ["lr=1,2"]) != sweep


def test_a_sweep_whose_file_was_cut_short_is_not_taken(tmp_path: Path) -> None:
    sweep = fake_sweep(tmp_path, 1, ["lr=1,2"])
    (sweep / "multirun.yaml").write_text("hydra: {overr")
    assert sweep_folder(str(tmp_path), "auto", ["lr=1,2"]) != sweep


def test_a_sweep_with_a_failed_job_goes_on_with_that_job(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(main.MODES, "train", fail)
        assert advvae(*AUTO).status == 1
    result = advvae(*AUTO)
    assert result.status == 0, result.errors
    assert len(sweeps(advvae)) == 1


def fail(_: Any) -> dict[str, Any]:
    raise UserError("the disk is full")


def test_other_overrides_are_refused_by_name_and_leave_the_sweep_as_it_was(
    advvae: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = killed(advvae, monkeypatch, *AUTO)
    before = {path: path.read_bytes() for path in sweep.rglob("*") if path.is_file()}
    result = advvae(*SWEEP, "latent_dim=5", f"resume={sweep}")
    assert result.status == 1
    assert "latent_dim=5" in result.message
    assert "was started with nothing" in result.message
    assert len(result.message.splitlines()) == 1
    assert {path: path.read_bytes() for path in sweep.rglob("*") if path.is_file()} == before
    assert sweeps(advvae) == [sweep]


def test_the_same_overrides_in_another_order_are_told_as_such(tmp_path: Path) -> None:
    sweep = fake_sweep(tmp_path, 1, ["lr=1,2", "seed=3", "n_epochs=1"])
    with pytest.raises(UserError) as error:
        sweep_folder(str(tmp_path), str(sweep), ["n_epochs=1", "lr=1,2", "seed=3"])
    assert "was started with lr=1,2 seed=3 n_epochs=1, here stands n_epochs=1 lr=1,2 seed=3: type" in str(error.value)
    assert str(error.value).endswith("in the same order")


def test_what_is_no_sweep_is_refused(advvae: Command) -> None:
    run = advvae.train().folder
    result = advvae(*SWEEP, f"resume={run}")
    assert result.status == 1
    assert "name the folder of a sweep" in result.message
    assert len(result.message.splitlines()) == 1
    assert advvae.runs() == [run]


def test_a_sweep_under_way_is_not_joined(advvae: Command) -> None:
    sweep = fake_sweep(advvae.cwd / "outputs", 1, [text for text in SWEEP if text != "-m"])
    with FileLock(sweep / ".lock"):
        result = advvae(*SWEEP, f"resume={sweep}")
    assert result.status == 1
    assert f"another process is at work in {sweep}" in result.message
    assert not list(sweep.glob("*/metrics.json"))


def test_a_sweep_that_lacks_a_job_goes_on_and_the_others_return_their_values(
    advvae: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kill between two jobs leaves."""
    assert advvae(*AUTO).status == 0
    (sweep,) = sweeps(advvae)
    shutil.rmtree(sweep / "2")
    (sweep / ".finished").unlink()
    returned = []
    run_job = main.run_job

    def recorded(*arguments: Any) -> float | None:
        returned.append(run_job(*arguments))
        return returned[-1]

    monkeypatch.setattr(main, "run_job", recorded)
    result = advvae(*AUTO)
    assert sweeps(advvae) == [sweep]
    assert result.output.count("skipped") == 2
    assert statuses(sweep) == ["finished"] * 3
    assert returned == [json.loads((sweep / job / "metrics.json").read_text())["val_loss"] for job in "012"]
    assert (sweep / ".finished").exists()


def test_sweeps_of_other_modes_go_on_too(advvae: Command) -> None:
    advvae.train()
    typed = ("-m", "mode=sample", "dataset=digits", "num_samples=4", "seed=1,2", "tracker=none", "resume=auto")
    assert advvae(*typed).status == 0
    (sweep,) = sweeps(advvae)
    (sweep / ".finished").unlink()
    (sweep / "1" / "metrics.json").write_text('{"status": "running"}')
    result: Result = advvae(*typed)
    assert result.status == 0, result.errors
    assert sweeps(advvae) == [sweep]
    assert result.output.count("skipped") == 1


@pytest.mark.slow
def test_a_sweep_that_sigkill_stops_goes_on(advvae: Command) -> None:
    """Killed once its second job has a checkpoint; the first is finished then, the third has not begun."""
    typed = [*AUTO, "n_epochs=6"]
    environment = {**os.environ, "ADVVAE_DATA": str(advvae.data_dir), "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-m", "advvae", *typed], cwd=advvae.cwd, env=environment)
    deadline = time.monotonic() + 120
    while not list((advvae.cwd / "outputs").glob("sweeps/*/1/checkpoints/last.pt")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (sweep,) = sweeps(advvae)
    assert json.loads((sweep / "1" / "metrics.json").read_text())["status"] == "running"
    result = advvae(*typed)
    assert result.status == 0, result.errors
    assert sweeps(advvae) == [sweep]
    assert "job 0 is finished already: skipped" in result.output
    assert "last.pt, after epoch" in result.output
    assert statuses(sweep) == ["finished"] * 3
