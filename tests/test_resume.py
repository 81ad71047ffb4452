"""A run that goes on ends where one that was never interrupted does."""

import csv
import json
import os
import random
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import yaml

from advvae import runs, trainer
from advvae.checkpoint import Training, read_checkpoint
from advvae.checkpoint_folder import write_checkpoints
from advvae.stopping import stops_noted
from tests.command import TINY, Command, Result
from tests.steps import terminate_in_step

TRAIN = ("mode=train", "dataset=digits", *TINY, "deterministic=true", "n_epochs=4")

VAL_LOSS = 10  # column of `losses`
STEPS = 6  # of an epoch

Whole = Callable[[str], Path]
WHOLE: dict[str, Path] = {}


def interrupted(
    advvae: Command,
    monkeypatch: pytest.MonkeyPatch,
    *arguments: str,
    step: int = 2 * STEPS,
    flags: tuple[str, ...] = (),
) -> Result:
    """Stop a training as a scheduler does, in the middle of a step."""
    with monkeypatch.context() as patch:
        steps = terminate_in_step(patch, step)
        result = advvae(*flags, *TRAIN, *arguments)
    assert result.status == 1
    assert steps[-1] == step
    assert json.loads((result.folder / "metrics.json").read_text())["status"] == "interrupted"
    return result


def losses(folder: Path) -> list[list[str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    timed = ("seconds", "images_per_second")
    return [[value for name, value in row.items() if name not in timed] for row in rows]


def assert_same_end(one: Path, other: Path) -> None:
    """That two runs have the same table, and the same weights, optimisers and generators in the same checkpoints."""
    assert losses(one) == losses(other)
    for name in ("last", "best", "epoch-0004"):
        first, second = (torch.load(run / "checkpoints" / f"{name}.pt", weights_only=True) for run in (one, other))
        for content in (first, second):
            del content["training"]["seconds"], content["config"]
            for row in content["training"]["rows"]:
                del row["seconds"], row["images_per_second"]
        torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.fixture
def whole(advvae: Command, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]) -> Whole:
    """Runs that were never interrupted, by their loss; trained once for all tests."""

    def train(loss: str) -> Path:
        if loss not in WHOLE:
            run = Command(tmp_path_factory.mktemp(loss), advvae.data_dir, capsys)(*TRAIN, f"loss={loss}")
            assert run.status == 0, run.errors
            WHOLE[loss] = run.folder
        return WHOLE[loss]

    return train


IN_THE_MIDDLE, AT_THE_END = 2 * STEPS + 3, 3 * STEPS  # of the third epoch


@pytest.mark.parametrize(
    ("loss", "num_workers", "step"),
    [
        *product(("mse", "ssim"), (0, 2), (IN_THE_MIDDLE, AT_THE_END)),
        *(("mse", 0, 1), ("mse", 0, STEPS), ("mse", 0, AT_THE_END - 1)),
    ],
)
def test_a_resumed_run_equals_one_never_interrupted(
    advvae: Command,
    whole: Whole,
    monkeypatch: pytest.MonkeyPatch,
    loss: str,
    num_workers: int,
    step: int,
) -> None:
    arguments = (f"loss={loss}", f"num_workers={num_workers}")
    stopped = interrupted(advvae, monkeypatch, *arguments, step=step).folder
    random.random(), torch.rand(())  # other work of the process
    with (stopped / "metrics.csv").open("a") as file:
        file.write("3,999\n")  # written, but its checkpoint was not
    overrides = (stopped / ".hydra" / "overrides.yaml").read_text()
    resumed = advvae(*TRAIN, *arguments, "resume=auto") if step % 2 else advvae(f"resume={stopped}", "tracker=none")
    assert resumed.status == 0, resumed.errors
    assert advvae.runs() == [stopped]  # in the same folder
    assert_same_end(whole(loss), stopped)
    assert (stopped / ".hydra" / "overrides.yaml").read_text() == overrides
    assert json.loads((stopped / "metrics.json").read_text())["status"] == "finished"


MEANS = (
    *("adversarial=relativistic", "model.norm=group", "feature_weight=0.1", "augment=[colour,translation,cutout]"),
    *("discriminator_steps=2", "lr_discriminator=1e-4", "betas=[0.5,0.9]", "clip_gradient=1", "ema=0.9"),
    *("adaptive_weight=true", "adversarial_start=1", "adversarial_ramp=1.5", "kld_schedule=cyclic", "kld_epochs=1.5"),
    *("free_bits=0.1", "lr_schedule=cosine", "lr_warmup=1.5"),
)


@pytest.mark.parametrize("step", [STEPS - 1, IN_THE_MIDDLE, AT_THE_END])
def test_a_resumed_run_with_all_means_equals_one_never_interrupted(
    advvae: Command, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    expected = advvae(*TRAIN, *MEANS)
    assert expected.status == 0, expected.errors
    stopped = interrupted(advvae, monkeypatch, *MEANS, step=step).folder
    assert advvae(f"resume={stopped}", "tracker=none").status == 0
    assert_same_end(expected.folder, stopped)
    last = torch.load(stopped / "checkpoints" / "last.pt", weights_only=True)
    trained, kept = (part["decoder"]["input.weight"] for part in (last["training"]["weights"], last))
    assert not torch.equal(trained, kept)  # what is kept for use is the average
    torch.testing.assert_close(trained, kept, rtol=0, atol=0.1)
    best = json.loads((stopped / "metrics.json").read_text())["best_epoch"]
    rows = {row[0]: row for row in losses(stopped)}
    assert str(best) == min("234", key=lambda epoch: float(rows[epoch][VAL_LOSS]))  # of the game's epochs
    assert rows["1"][VAL_LOSS + 3] == ""  # nor is anything told of a discriminator that has not learnt yet
    assert float(rows["2"][VAL_LOSS + 3]) >= 0
    assert rows["1"][5] == ""  # no term of the VAE's looks at the discriminator before its epoch
    assert float(rows["2"][5]) > 0


def test_an_average_that_a_run_did_not_have_begins_with_its_weights(advvae: Command) -> None:
    folder = advvae(*TRAIN, "n_epochs=1").folder
    before = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    assert advvae(f"resume={folder}", "tracker=none", "n_epochs=2", "ema=0.99999", "lr=1e-9").status == 0
    after = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    name = "input.weight"
    torch.testing.assert_close(after["decoder"][name], before["decoder"][name], rtol=0, atol=1e-7)
    assert advvae(f"resume={folder}", "tracker=none", "n_epochs=3", "ema=null").status == 0
    last = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    torch.testing.assert_close(last["decoder"][name], after["training"]["weights"]["decoder"][name], rtol=0, atol=1e-7)
    assert last["training"]["weights"] is None
    assert after["training"]["average_steps"] == STEPS  # of those that it has followed


def test_a_run_interrupted_again_and_again_equals_one_never_interrupted(
    advvae: Command, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (2, STEPS, 1, 1, 7):
        stopped = interrupted(advvae, monkeypatch, "resume=auto", step=step)
    assert advvae(*TRAIN, "resume=auto").status == 0
    assert advvae.runs() == [stopped.folder]
    assert_same_end(whole("mse"), stopped.folder)


def test_an_interrupted_run_names_the_command_that_goes_on(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    result = interrupted(advvae, monkeypatch, "device=cpu")
    folder = result.folder
    expected = f"stopped by SIGTERM; this goes on: advvae tracker=none device=cpu resume={folder}"
    assert result.message.splitlines()[-1] == expected
    assert advvae(*shlex.split(expected.partition("advvae ")[2])).status == 0
    assert len(losses(folder)) == 4


def test_what_was_typed_on_resume_is_kept_in_the_command_that_goes_on(
    advvae: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until a checkpoint is written, nothing else knows of it."""
    folder = advvae(*TRAIN, "n_epochs=1").folder
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "make_players", Mock(side_effect=KeyboardInterrupt))
        result = advvae(f"resume={folder}", "n_epochs=3", "lr=0.002", "tracker=none")
    command = result.message.partition("this goes on: advvae ")[2]
    assert command == f"n_epochs=3 lr=0.002 tracker=none resume={folder}"
    assert advvae(*shlex.split(command)).status == 0
    assert len(losses(folder)) == 3


@pytest.mark.parametrize("name", ["SIGINT", "SIGUSR1", "SIGUSR2"])
def test_each_of_the_signals_ends_a_training_after_its_step(name: str) -> None:
    number, before = getattr(signal, name), signal.getsignal(getattr(signal, name))
    with stops_noted() as stop:
        os.kill(os.getpid(), number)
        assert stop.signal == name
        os.kill(os.getpid(), signal.SIGTERM)  # the same request again
        assert stop.signal == name
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_launchers_own_signal_stays_its_own(number: signal.Signals) -> None:
    """submitit requeues its job by one of them, for which it has a handler before a training begins."""
    received = Mock()
    before = signal.signal(number, received)
    try:
        with stops_noted() as stop:
            os.kill(os.getpid(), number)
            assert stop.signal is None
        received.assert_called_once()
        assert signal.getsignal(number) is received
    finally:
        signal.signal(number, before)


def test_a_checkpoint_is_written_every_so_many_minutes(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, int]] = []

    def write(folder: Path, names: Sequence[str], networks: Any, config: Any, training: Training) -> None:
        written.extend((name, training.steps_done) for name in names)
        write_checkpoints(folder, names, networks, config, training)

    monkeypatch.setattr(trainer, "write_checkpoints", write)
    advvae(*TRAIN, "n_epochs=1", "checkpoint_every_minutes=1e-9")
    steps = [("last", step) for step in range(STEPS + 1)]
    assert written == [*steps, ("epoch-0001", STEPS), ("best", STEPS), ("last", STEPS)]
    written.clear()
    advvae(*TRAIN, "n_epochs=1", "checkpoint_every_minutes=null")
    assert written == [("last", 0), ("epoch-0001", STEPS), ("best", STEPS), ("last", STEPS)]


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    advvae: Command, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = interrupted(advvae, monkeypatch, step=3 * STEPS + 2).folder
    last = stopped / "checkpoints" / "last.pt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    resumed = advvae(*TRAIN, "resume=auto")
    assert resumed.status == 0, resumed.errors
    assert f"{last} is damaged: its checksum is wrong; the one before it is looked for" in resumed.output
    assert "previous.pt, after epoch 3\n" in resumed.output
    for name in ("last.pt", "previous.pt"):  # the damaged one does not become the one before
        read_checkpoint(last.with_name(name))
    assert last.with_name("damaged.pt").is_file()
    assert_same_end(whole("mse"), stopped)


def test_without_any_whole_checkpoint_nothing_is_begun(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = interrupted(advvae, monkeypatch).folder
    for path in (stopped / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    result = advvae(f"resume={stopped}")
    assert result.status == 1
    assert "holds no checkpoint that training can go on from (last.pt, previous.pt, best.pt damaged)" in result.message


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew_in_its_folder(
    advvae: Command, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "write_checkpoints", Mock(side_effect=KeyboardInterrupt))
        killed = advvae(*TRAIN).folder
    (killed / "metrics.json").write_text('{"status": "running"}')
    assert advvae(*TRAIN, "resume=auto").status == 0
    assert advvae.runs() == [killed]
    assert_same_end(whole("mse"), killed)


def test_an_epoch_under_way_is_validated_when_the_time_is_up(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = interrupted(advvae, monkeypatch, step=2).folder
    result = advvae(f"resume={stopped}", "tracker=none", "max_minutes=1e-9")
    assert result.status == 0, result.errors
    assert len(losses(stopped)) == 1
    assert (stopped / "checkpoints" / "best.pt").is_file()


def test_what_a_kill_left_half_written_is_removed(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = interrupted(advvae, monkeypatch).folder
    unfinished = stopped / "checkpoints" / ".last.pt.4711", stopped / ".metrics.json.4711"
    for path in unfinished:
        path.write_text("half")
    assert advvae(*TRAIN, "resume=auto").status == 0
    assert not any(path.exists() for path in unfinished)


def test_a_folder_without_a_run_to_go_on_with_is_left_alone(advvae: Command) -> None:
    folder = advvae.cwd / "mine"
    contents = {
        "metrics.json": '{"status": "finished"}',
        ".hydra/overrides.yaml": "[mode=train]",
        "checkpoints/notes": "mine",
        "below/.notes.1": "mine",
        ".notes.1": "mine",
    }
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    result = advvae(f"resume={folder}", "tracker=none")
    assert result.status == 1
    assert result.message.startswith(f"resume={folder} holds no checkpoints/last.pt")
    found = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert found == contents


def test_networks_that_a_checkpoint_lacks_are_not_made_anew(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    last = interrupted(advvae, monkeypatch).folder / "checkpoints" / "last.pt"
    content = torch.load(last, weights_only=True)
    del content["encoder"]
    torch.save(content, last)
    result = advvae(f"resume={last.parents[1]}", "tracker=none")
    assert result.status == 1
    assert result.message.endswith(f"{last} holds no encoder to go on with")


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["training"].update(random_state={"x": 1}),
        lambda content: content["training"].update(epoch="seven"),
        lambda content: content["training"].update(vae_optimizer={}),
        lambda content: content["training"].update(under_way={"a": 1}),
        lambda content: content["config"].pop("dataset"),
        lambda content: content["config"].update(hidden_dims="abc"),
    ],
)
def test_a_checkpoint_of_odd_content_is_named(
    advvae: Command, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], object]
) -> None:
    folder = interrupted(advvae, monkeypatch).folder
    for path in (folder / "checkpoints").iterdir():
        rewritten(path, change)
    result = advvae(f"resume={folder}", "tracker=none")
    assert result.status == 1
    assert "not whole" in result.output + result.message
    assert "Traceback" not in result.errors
    assert str(folder / "checkpoints") in result.message


def test_a_checkpoint_of_a_later_version_is_not_passed_over(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    last = interrupted(advvae, monkeypatch, step=STEPS + 1).folder / "checkpoints" / "last.pt"
    rewritten(last, lambda content: content.update(format=99))
    result = advvae(*TRAIN, "resume=auto")
    assert result.status == 1
    assert result.message == f"{last} has format 99; this version of advvae reads 1 to 2"
    assert torch.load(last, weights_only=True)["format"] == 99


def test_a_harmed_table_is_made_anew_from_the_checkpoint(
    advvae: Command, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = interrupted(advvae, monkeypatch, step=2 * STEPS + 1).folder
    (folder / "metrics.csv").write_bytes(b"\xff\x00")
    assert advvae(*TRAIN, "resume=auto").status == 0
    assert losses(folder) == losses(whole("mse"))


def test_a_checkpoint_without_the_table_goes_on_with_that_of_the_folder(
    advvae: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = interrupted(advvae, monkeypatch, step=2 * STEPS + 1).folder
    rewritten(folder / "checkpoints" / "last.pt", lambda content: content["training"].pop("rows"))
    table = (folder / "metrics.csv").read_text()
    assert advvae(f"resume={folder}", "tracker=none", "n_epochs=3").status == 0
    assert (folder / "metrics.csv").read_text().startswith(table)
    rewritten(folder / "checkpoints" / "last.pt", lambda content: content["training"].pop("rows"))
    (folder / "metrics.csv").write_text(table)  # without the third epoch
    result = advvae(f"resume={folder}", "tracker=none", "n_epochs=4")
    assert "metrics.csv does not hold the epochs 1 to 3: it begins anew at the next" in result.output
    assert [row[0] for row in losses(folder)] == ["4"]


def test_values_of_another_loss_are_not_compared(advvae: Command) -> None:
    folder = advvae(*TRAIN, "n_epochs=2").folder
    result = advvae(f"resume={folder}", "tracker=none", "kld_weight=9", "n_epochs=3")
    assert "val_loss is another one from here on; the next epoch counts as the best" in result.output
    assert json.loads((folder / "metrics.json").read_text())["best_epoch"] == 3


def test_fewer_epochs_than_are_begun_are_refused(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = interrupted(advvae, monkeypatch, step=STEPS + 1).folder
    result = advvae(f"resume={folder / 'checkpoints' / 'last.pt'}", "tracker=none", "n_epochs=1")
    assert result.status == 1
    assert result.message.startswith("n_epochs is 1 here, but ")
    assert result.message.endswith("last.pt is after epoch 1 and 1 steps of the next")


@pytest.mark.parametrize(("name", "goes_on"), [("config.yaml", False), ("metrics.json", True)])
def test_files_that_a_crash_has_emptied(
    advvae: Command, monkeypatch: pytest.MonkeyPatch, name: str, goes_on: bool
) -> None:
    """Whose config is not known is not taken for the same; whose status is not known may have something left to do."""
    folder = interrupted(advvae, monkeypatch).folder
    (folder / name).write_text("")
    assert advvae(*TRAIN, "resume=auto").status == 0
    assert (len(advvae.runs()) == 1) is goes_on


def test_a_folder_is_chosen_by_one_process_alone(tmp_path: Path) -> None:
    """Another one that looks at the same moment passes it over, and so does one that comes when it has finished."""
    assert runs.claim(tmp_path, lambda folder: True)
    assert runs.claim(tmp_path, lambda folder: True)  # it is ours
    looks = "from pathlib import Path; from advvae import runs; print(runs.claim(Path('.'), lambda folder: True))"
    other = [sys.executable, "-c", looks]
    assert subprocess.run(other, cwd=tmp_path, capture_output=True, text=True, check=True).stdout == "False\n"
    runs.release(runs.hold(tmp_path))
    assert subprocess.run(other, cwd=tmp_path, capture_output=True, text=True, check=True).stdout == "True\n"
    answers = iter((True, False))
    assert not runs.claim(tmp_path, lambda folder: next(answers))  # it finished meanwhile
    assert runs.claim(tmp_path, lambda folder: True)
    runs.leave_claimed()
    assert not runs.is_locked(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = interrupted(advvae, monkeypatch).folder
    (folder / "advvae.log").unlink()
    (folder / "advvae.log").mkdir()  # as root, to whom no file is read-only, meets it too
    result = advvae(f"resume={folder}", "tracker=none")
    assert result.status == 1
    assert result.message == f"cannot write {folder / 'advvae.log'}: Is a directory"


def test_the_command_that_goes_on_finds_the_users_own_options(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    (advvae.cwd / "own_difference.py").write_text("def mean(a, b):\n    return (a - b).abs().mean(dim=(1, 2, 3))\n")
    (advvae.cwd / "my conf" / "loss").mkdir(parents=True)
    (advvae.cwd / "my conf" / "loss" / "mine.yaml").write_text("_target_: own_difference.mean\n_partial_: true\n")
    result = interrupted(advvae, monkeypatch, "loss=mine", flags=("--config-dir=my conf",))
    command = result.message.partition("this goes on: advvae ")[2]
    assert advvae(*shlex.split(command)).status == 0
    assert len(losses(result.folder)) == 4


@pytest.mark.parametrize(("step", "way_on"), [(trainer.Trainer.train, True), (trainer.Trainer.__init__, False)])
def test_a_stop_outside_the_training_names_a_way_on_where_there_is_one(
    advvae: Command, monkeypatch: pytest.MonkeyPatch, step: Any, way_on: bool
) -> None:
    def stop(*arguments: Any, **keywords: Any) -> None:
        step(*arguments, **keywords)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(trainer.Trainer, step.__name__, stop)
    result = advvae(*TRAIN)
    assert result.status == 1
    told = f"interrupted; this goes on: advvae tracker=none resume={result.folder}" if way_on else "interrupted"
    assert result.message == told


def test_best_pt_stays_the_best_when_a_run_goes_on_from_before_it(advvae: Command) -> None:
    """A kill between the writing of best.pt and of last.pt leaves the first newer."""
    folder = advvae(*TRAIN, "n_epochs=3").folder
    checkpoints = folder / "checkpoints"
    (checkpoints / "previous.pt").replace(checkpoints / "last.pt")  # of the 2nd epoch; best.pt is of the 3rd
    best = read_checkpoint(checkpoints / "best.pt").training
    assert best is not None
    assert advvae(f"resume={folder}", "lr=0.5").status == 0  # which will not be better
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["best_epoch"] == best.epoch == 3
    assert metrics["val_loss"] == best.best_metrics["val_loss"]


def test_a_changed_seed_begins_the_epoch_anew(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = interrupted(advvae, monkeypatch, step=STEPS + 2).folder
    result = advvae(f"resume={stopped}", "seed=8", "dataset.max_unreadable=0.5")
    assert "the seed or the number of training images has changed: the epoch begins anew" in result.output
    assert "seed is 8 from here on, and was 0\n" in result.output
    assert "dataset.max_unreadable is 0.5 from here on, and was 0.01\n" in result.output
    assert result.output.count("from here on") == 2
    assert json.loads((stopped / "metrics.json").read_text())["steps"] == 4 * STEPS


def test_another_batch_size_goes_on_with_the_images_that_are_left(
    advvae: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = interrupted(advvae, monkeypatch, step=2).folder  # 512 of 1,294 images
    assert advvae(f"resume={stopped}", "batch_size=391", "n_epochs=1").status == 0
    assert json.loads((stopped / "metrics.json").read_text())["steps"] == 2 + 2


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


def test_a_discriminator_cannot_leave_on_resume(advvae: Command) -> None:
    folder = advvae(*TRAIN, "gen_weight=0", "recon_weight=0").folder
    result = advvae(f"resume={folder}", "train_discriminator=false", "gen_weight=0", "recon_weight=0")
    assert result.status == 1
    assert result.message.startswith("train_discriminator is False here, but ")
    assert result.message.endswith("was trained with True")


def test_two_launches_at_one_moment_have_two_folders(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = [datetime(2026, 1, 1, 0, 0, 0, microsecond) for microsecond in (0, 0, 1)]
    monkeypatch.setattr(runs, "datetime", Mock(now=Mock(side_effect=moments)))
    folders = []
    for _ in range(2):
        folders.append(runs.new_folder(str(advvae.cwd), "train", "digits"))
        folders[-1].mkdir(parents=True)
    assert [folder.name for folder in folders] == ["2026-01-01_00-00-00-000000", "2026-01-01_00-00-00-000001"]


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
    assert "last.pt, after epoch 1 and 6 steps of the next" in result.output
    assert "checkpoint_sha256" in (result.folder / "config.yaml").read_text()


@pytest.mark.parametrize(
    "changes", [("sample_and_save_frequency=1",), ("num_workers=2",), ("tracker=tensorboard",), ("a bar",)]
)
def test_results_do_not_depend_on_what_is_shown_or_read_ahead(
    advvae: Command, whole: Whole, monkeypatch: pytest.MonkeyPatch, changes: tuple[str]
) -> None:
    expected = whole("mse")
    arguments = () if changes == ("a bar",) else changes
    with monkeypatch.context() as patch:
        if not arguments:
            patch.setattr(type(sys.stdout), "isatty", lambda stream: True)
        folder = advvae(*TRAIN, *arguments).folder
    assert_same_end(expected, folder)
