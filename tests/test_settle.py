"""Which value counts: the command line's, the loaded run's, or the default."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf
from PIL import Image

from advvae.config import CONF
from tests.command import FEW, TINY, Command


def config(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "config.yaml").read_text())


@pytest.fixture
def trained(advvae: Command) -> Path:
    """A run with nothing left at its default."""
    own = ("loss=ssim", "gen_weight=0.3", "recon_weight=0.4", "kld_weight=0.5", "dataset.drop_classes=[9]")
    return advvae.train(*own, "seed=7", "num_samples=5").folder


def test_what_describes_the_network_comes_from_the_run(advvae: Command, trained: Path) -> None:
    found = config(advvae("mode=test", f"checkpoint={trained}").folder)
    ran = config(trained)
    for key in ("dataset", "model", "loss", "size", "latent_dim", "hidden_dims", "gen_weight", "recon_weight"):
        assert found[key] == ran[key]
    assert found["kld_weight"] == 0.5
    assert found["dataset"]["name"] == "digits"  # though the default is mnist
    assert found["dataset"]["drop_classes"] == [9]


def test_the_rest_does_not(advvae: Command, trained: Path) -> None:
    found = config(advvae("mode=sample", f"checkpoint={trained}").folder)
    assert (found["seed"], found["num_samples"], found["batch_size"]) == (0, 16, 128)
    assert found["tracker"]["name"] == "wandb"


def test_the_command_line_beats_the_run(advvae: Command, trained: Path) -> None:
    found = config(advvae("mode=test", f"checkpoint={trained}", "loss=mse", "kld_weight=0.25").folder)
    assert found["loss"]["name"] == "mse"
    assert (found["kld_weight"], found["gen_weight"]) == (0.25, 0.3)


def test_the_command_line_beats_the_run_with_the_default_too(advvae: Command, trained: Path) -> None:
    assert config(advvae("mode=test", f"checkpoint={trained}", "gen_weight=0.002").folder)["gen_weight"] == 0.002


def test_naming_the_runs_own_dataset_keeps_its_sub_keys(advvae: Command, trained: Path) -> None:
    same = config(advvae("mode=test", f"checkpoint={trained}", "dataset=digits").folder)
    assert same["dataset"]["drop_classes"] == [9]
    changed = advvae("mode=test", f"checkpoint={trained}", "dataset=digits", "dataset.drop_classes=[1]").folder
    assert config(changed)["dataset"]["drop_classes"] == [1]


def test_another_dataset_brings_its_own_sub_keys(advvae: Command, trained: Path) -> None:
    arguments = ("dataset=photos", "dataset.channels=1")
    found = config(advvae("mode=test", f"checkpoint={trained}", *arguments).folder)
    assert found["dataset"]["drop_classes"] is None
    assert found["size"] == 8


def test_a_sweeps_folder_means_its_job_of_lowest_validation_loss(advvae: Command) -> None:
    assert advvae("-m", "mode=train", "dataset=digits", *TINY, "lr=1e-6,1e-2").status == 0
    (sweep,) = (advvae.cwd / "outputs" / "sweeps").iterdir()
    found = config(advvae("mode=test", f"checkpoint={sweep}").folder)
    assert found["checkpoint"] == str(sweep / "1" / "checkpoints" / "best.pt")


def test_a_sweeps_jobs_are_not_the_newest_run(advvae: Command) -> None:
    single = advvae.train().folder
    assert advvae("-m", "mode=train", "dataset=digits", *TINY, "seed=1,2").status == 0
    found = config(advvae("mode=test", "dataset=digits").folder)
    assert found["checkpoint"] == str(single / "checkpoints" / "best.pt")


def test_a_file_with_a_blank_in_its_name_is_replayed(advvae: Command, trained: Path) -> None:
    (advvae.cwd / "my runs").mkdir()
    best = (trained / "checkpoints" / "best.pt").rename(advvae.cwd / "my runs" / "it's best.pt")
    first = advvae("mode=test", f'checkpoint="{best}"', "tracker=none")
    assert first.status == 0, first.errors
    overrides = yaml.safe_load((first.folder / ".hydra" / "overrides.yaml").read_text())
    assert advvae(*overrides).status == 0


def test_a_discriminator_of_another_run(advvae: Command, trained: Path) -> None:
    other = advvae.train("hidden_dims=[6,6]").folder
    arguments = ["mode=outlier", *FEW, f"checkpoint={trained}", "out_dataset=photos", "tracker=none"]
    own = advvae(*arguments)
    taken = advvae(*arguments, f"discriminator_checkpoint={other}/checkpoints/best.pt")
    assert taken.status == 0, taken.errors
    assert len(config(taken.folder)["discriminator_checkpoint_sha256"]) == 64
    first = [(result.folder / "scores.csv").read_text().splitlines()[1].split(",") for result in (own, taken)]
    assert first[0][-1] != first[1][-1]


def test_a_discriminator_alone_screens(advvae: Command) -> None:
    """Named as one, or found in a checkpoint without anything else."""
    import torch

    best = advvae.train().folder.rename(advvae.cwd / "elsewhere") / "checkpoints" / "best.pt"
    content = torch.load(best, weights_only=True)
    for part in ("encoder", "decoder"):
        del content[part]
    torch.save(content, advvae.cwd / "alone.pt")
    (advvae.cwd / "scans").mkdir()
    Image.new("L", (8, 8), 200).save(advvae.cwd / "scans" / "a.png")
    arguments = ("dataset=digits", "input=scans", "scores=[discriminator]", "baselines=false", "tracker=none")
    flags = []
    for loaded in ("discriminator_checkpoint=alone.pt", f"discriminator_checkpoint={best}", "checkpoint=alone.pt"):
        result = advvae("mode=screen", *arguments, loaded)
        assert result.status == 0, result.errors
        flags.append((result.folder / "screen.csv").read_text())
    assert flags == [flags[0]] * 3


def test_a_plain_vae_is_known_from_its_run(advvae: Command) -> None:
    plain = advvae.train("train_discriminator=false", "gen_weight=0", "recon_weight=0").folder
    assert config(advvae("mode=test", f"checkpoint={plain}").folder)["train_discriminator"] is False


def test_an_experiment_that_builds_on_another_counts_with_its_values(advvae: Command, trained: Path) -> None:
    (advvae.cwd / "mine" / "experiment").mkdir(parents=True)
    text = "# @package _global_\ndefaults:\n  - plain_vae\n  - _self_\nkld_weight: 0.125\n"
    (advvae.cwd / "mine" / "experiment" / "nested.yaml").write_text(text)
    found = config(advvae("--config-dir=mine", "mode=test", f"checkpoint={trained}", "experiment=nested").folder)
    assert (found["gen_weight"], found["kld_weight"], found["loss"]["name"]) == (0, 0.125, "ssim")


def test_several_experiments_count_as_typed(advvae: Command, trained: Path) -> None:
    (advvae.cwd / "mine" / "experiment").mkdir(parents=True)
    (advvae.cwd / "mine" / "experiment" / "own.yaml").write_text("# @package _global_\nkld_weight: 0.125\n")
    typed = ("--config-dir=mine", "mode=test", f"checkpoint={trained}", "experiment=[plain_vae,own]")
    found = config(advvae(*typed).folder)
    assert (found["gen_weight"], found["kld_weight"], found["loss"]["name"]) == (0, 0.125, "ssim")


EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiments_values_arrive(advvae: Command, experiment: str) -> None:
    content = OmegaConf.to_container(OmegaConf.load(CONF / "experiment" / f"{experiment}.yaml"), resolve=False)
    assert isinstance(content, dict)
    composed = yaml.safe_load(advvae("--cfg", "all", f"experiment={experiment}").output)
    for key, value in content.items():
        if key == "hydra":
            assert composed["hydra"]["mode"] == value["mode"]
            assert composed["hydra"]["sweeper"]["params"] == value["sweeper"]["params"]
        elif isinstance(value, dict):
            assert composed[key].items() >= value.items()
        elif key != "defaults":
            assert composed[key] == value


def test_the_command_line_beats_an_experiment(advvae: Command) -> None:
    composed = yaml.safe_load(advvae("--cfg", "job", "experiment=plain_vae", "recon_weight=0.5").output)
    assert (composed["gen_weight"], composed["recon_weight"]) == (0, 0.5)


def test_an_experiments_values_count_as_typed(advvae: Command, trained: Path) -> None:
    found = config(advvae("mode=test", f"checkpoint={trained}", "experiment=plain_vae").folder)
    assert (found["gen_weight"], found["recon_weight"], found["kld_weight"]) == (0, 0, 0.5)


@pytest.mark.slow
def test_the_weight_grid_is_nine_runs(advvae: Command) -> None:
    assert advvae("experiment=weight_grid", "dataset=digits", *TINY).status == 0
    assert len(advvae.runs()) == 9


def test_precision_is_decided_once(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from advvae import precision

    folder = advvae.train("precision=auto").folder
    decided = config(folder)["precision"]
    assert decided in ("32", "bf16")
    assert f"precision={decided}" in yaml.safe_load((folder / ".hydra" / "overrides.yaml").read_text())

    def again(*_: Any) -> str:
        raise AssertionError("a resumed run keeps its precision")

    monkeypatch.setattr(precision, "choose_precision", again)
    assert advvae(f"resume={folder}", "n_epochs=2").status == 0
    assert config(folder)["precision"] == decided
