"""`mode=list`, and what `advvae` says without arguments."""

from pathlib import Path

import pytest

from advvae.catalogue import datasets, finished_runs, in_short
from advvae.config import CONF
from advvae.outlier.scores import SCORES
from tests.command import FEW, Command
from tests.data import official_files


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


def test_every_published_set_states_its_licence() -> None:
    for dataset in datasets([CONF], Path("nowhere")):
        assert dataset.licence or dataset.place, dataset.name
        assert dataset.splits or dataset.place, dataset.name


def test_the_newest_runs_come_first(advvae: Command) -> None:
    first, second = advvae.train().folder, advvae.train().folder
    (second / "metrics.json").write_text('{"status": "failed"}')
    third = advvae.train().folder
    assert [run.folder for run in finished_runs(advvae.cwd / "outputs")] == [third, first]


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
