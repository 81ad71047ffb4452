"""`mode=list`, and what `advvae` says without arguments."""

from pathlib import Path
from typing import Any

import pytest

from advvae import runs
from advvae.catalogue import datasets, finished_runs, in_short
from advvae.config import CONF
from advvae.outlier.scores import SCORES
from tests.command import FEW, Command
from tests.data import official_files

OWN_SOURCE = """
class Mine:
    splits = ("train",)

    def read(self, split, data_dir):
        raise NotImplementedError
"""


def test_it_tells_datasets_models_scores_and_runs(advvae: Command) -> None:
    advvae.train()
    advvae("mode=outlier", "dataset=digits", "out_dataset=photos", *FEW)
    before = set(advvae.cwd.rglob("*"))
    result = advvae("mode=list")
    assert result.status == 0, result.errors
    for path in (CONF / "dataset").glob("*.yaml"):
        assert path.stem in result.output
    for word in (*SCORES, "conv", "resnet", "ssim", "CC BY 4.0", "present", "dataset.root=", "val_loss", "AUROC"):
        assert word in result.output
    assert set(advvae.cwd.rglob("*")) == before, "it writes nothing"


def test_present_are_sets_whose_files_are_all_there(tmp_path: Path) -> None:
    def present() -> set[str]:
        return {dataset.name for dataset in datasets([CONF], tmp_path) if dataset.present}

    assert present() == {"digits", "photos"}
    official_files.write_mnist(tmp_path)
    official_files.write_medmnist(tmp_path, "octmnist")
    assert present() == {"digits", "photos", "mnist", "octmnist"}
    next(tmp_path.rglob("t10k-images*")).unlink()
    assert "mnist" not in present()


def test_options_of_the_users_own_are_listed(advvae: Command) -> None:
    folder = advvae.cwd / "my conf" / "dataset"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# my own digits\n_target_: advvae.data.embedded.Digits\nsize: 8\nchannels: 1\n")
    result = advvae("--config-dir", str(folder.parent), "mode=list")
    assert result.status == 0, result.errors
    assert "my own digits" in result.output


def test_whether_a_source_of_the_users_own_is_here_is_not_known(advvae: Command) -> None:
    (advvae.cwd / "mine.py").write_text(OWN_SOURCE)
    folder = advvae.cwd / "my conf" / "dataset"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# my own\n_target_: mine.Mine\nsize: 8\nchannels: 1\n")
    result = advvae("--config-dir", str(folder.parent), "mode=list")
    assert result.status == 0, result.errors
    (line,) = (line for line in result.output.splitlines() if "my own" in line)
    assert line.split("│")[-2].strip() == "?"


def test_every_published_set_states_its_licence() -> None:
    for dataset in datasets([CONF], Path("nowhere")):
        assert dataset.licence or dataset.place, dataset.name
        assert dataset.splits or dataset.place, dataset.name


def test_the_newest_runs_come_first(advvae: Command) -> None:
    first, second = advvae.train().folder, advvae.train().folder
    (second / "metrics.json").write_text('{"status": "failed"}')
    third = advvae.train().folder
    assert [run.folder for run in finished_runs(advvae.cwd / "outputs")] == [third, first]


def test_a_sweep_is_told_by_its_best_job(advvae: Command) -> None:
    folder = advvae.cwd / "outputs" / "sweeps" / "2026"
    for job, loss in enumerate((0.25, 0.125)):
        (folder / str(job)).mkdir(parents=True)
        (folder / str(job) / "metrics.json").write_text(f'{{"status": "finished", "val_loss": {loss}}}')
    (folder / "summary.csv").touch()
    assert [run.measured for run in finished_runs(advvae.cwd / "outputs")] == ["2 jobs, best val_loss 0.125"]
    for file in folder.glob("*/metrics.json"):
        file.write_text('{"status": "failed"}')
    assert [run.measured for run in finished_runs(advvae.cwd / "outputs")] == ["2 jobs"]


def write_runs(output_dir: Path, n: int, dataset: str = "digits") -> None:
    for number in range(n):
        folder = output_dir / "train" / dataset / f"run-{number:03}"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(f'{{"status": "finished", "val_loss": {number}}}')


@pytest.mark.parametrize("arguments", [(), ("mode=list",)])
def test_no_more_runs_are_read_than_are_told(
    advvae: Command, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    write_runs(advvae.cwd / "outputs", 60)
    read, read_metrics = [], runs.read_metrics

    def noted(folder: Path) -> dict[str, Any]:
        read.append(folder.name)
        return read_metrics(folder)

    monkeypatch.setattr(runs, "read_metrics", noted)
    output = advvae(*arguments).output
    assert read == [f"run-{number:03}" for number in range(59, 38, -1)]
    assert "and older ones below" in output if arguments else "Runs: more than 20 finished" in output


def test_other_outliers_than_the_training_images_are_suggested(advvae: Command) -> None:
    write_runs(advvae.cwd / "outputs", 1, "photos")
    assert "advvae mode=outlier dataset=photos out_dataset=digits" in advvae().output


def test_what_hydra_is_asked_it_answers(advvae: Command) -> None:
    result = advvae("--cfg", "job", "mode=list")
    assert result.status == 0, result.errors
    assert "mode: list" in result.output
    assert "latent_dim: 128" in result.output


def test_a_run_in_short() -> None:
    scores = {"loss": {"auroc": 0.9871}}
    assert in_short({"n": 3, "scores": scores, "ranked_by": "loss"}) == "n 3, AUROC 0.987 (loss)"
    assert in_short({"val_loss": 0.0123, "epochs": 3}) == "val_loss 0.0123"


@pytest.mark.parametrize("arguments", [("-m", "mode=list"), ("mode=list", "seed=x")])
def test_mistakes_are_one_message(advvae: Command, arguments: tuple[str, ...]) -> None:
    result = advvae(*arguments)
    assert result.status == 1
    assert len(result.message.splitlines()) == 1


def test_without_arguments_it_says_what_is_here_and_what_to_type_next(advvae: Command) -> None:
    result = advvae()
    assert "Data: digits, photos; others are downloaded to" in result.output
    assert "none finished below outputs yet" in result.output
    assert "advvae mode=train dataset=digits" in result.output
    advvae.train()
    result = advvae()
    assert "Runs: 1 finished below outputs, the newest train on digits (val_loss" in result.output
    assert "advvae mode=outlier dataset=digits" in result.output
