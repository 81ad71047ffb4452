"""What is answered before Hydra starts, and that it is answered at once."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from advvae.cli import check_words, config_dirs, help_text, overrides_among, overrides_for_flags, prepare_arguments
from advvae.config import CONF, FLAT_KEYS, GROUPS
from tests.command import Command


def test_help_tells_every_key_with_its_default_and_meaning(advvae: Command) -> None:
    result = advvae("--help")
    assert result.status == 0
    words = " ".join(result.output.split())
    defaults = yaml.safe_load((CONF / "config.yaml").read_text())
    for name, metadata in FLAT_KEYS.items():
        assert f" {name}=" in words
        assert metadata["meaning"] in words
        if defaults[name] is None:
            assert f" {name}=null " in words
    for group in GROUPS:
        assert f" {group}=" in words
    assert "octmnist" in words
    assert "ms_ssim, mse, ssim" in words


def test_the_comments_of_the_config_are_the_meanings_of_the_schema() -> None:
    text = (CONF / "config.yaml").read_text()
    comments = dict(re.findall(r"^(\w+): .*? # (.*)$", text, re.MULTILINE))
    assert comments == {name: metadata["meaning"] for name, metadata in FLAT_KEYS.items()}


def test_without_arguments_it_says_what_to_type_first(advvae: Command) -> None:
    result = advvae()
    assert result.status == 0
    assert "mode=train dataset=digits" in result.output
    assert list(advvae.cwd.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "overrides"),
    [
        ("--train --dataset octmnist", "mode=train dataset=octmnist"),
        ("--test --checkpoint a.pt", "mode=test checkpoint=a.pt"),
        ("--sample --num_samples 9 --latent_dim=64", "mode=sample num_samples=9 latent_dim=64"),
        (
            "--outlier_detection --out_dataset mnist --discriminator_checkpoint d.pt",
            "mode=outlier out_dataset=mnist discriminator_checkpoint=d.pt",
        ),
        ("--train --hidden_dims 32 64 --loss_type ssim", "mode=train hidden_dims=[32,64] loss=ssim"),
        (
            "--train --no_wandb --gen_weight 0.1 --recon_weight 0",
            "mode=train no_wandb=true gen_weight=0.1 recon_weight=0",
        ),
        (
            "--batch_size 8 --n_epochs 2 --lr 1e-3 --kld_weight 0 --sample_and_save_frequency 1 --num_workers 2 "
            "--size 64",
            "batch_size=8 n_epochs=2 lr=1e-3 kld_weight=0 sample_and_save_frequency=1 num_workers=2 size=64",
        ),
        ("--train seed=3", "mode=train seed=3"),
    ],
)
def test_flags_are_answered_with_the_equivalent_overrides(flags: str, overrides: str) -> None:
    assert overrides_for_flags(flags.split()) == overrides.split()


def test_a_command_typed_with_flags_ends_with_the_one_to_type(advvae: Command) -> None:
    result = advvae("--train", "--dataset", "octmnist", "--no_wandb")
    assert result.status == 1
    assert "advvae mode=train dataset=octmnist no_wandb=true" in result.errors


def test_an_unknown_flag_is_one_message(advvae: Command) -> None:
    result = advvae("--latent-dim", "3")
    assert result.status == 1
    assert "there is no --latent-dim" in result.errors


def test_m_is_moved_to_the_front() -> None:
    assert prepare_arguments(["a=1,2", "-m", "b=1"]) == ["-m", "a=1,2", "b=1"]
    assert prepare_arguments(["a=1"]) == ["a=1"]


def test_config_dirs_are_read_off_the_arguments() -> None:
    assert config_dirs(["--config-dir", "one", "a=1", "-cd=two"]) == [Path("one"), Path("two")]


def test_help_names_only_keys_that_exist() -> None:
    named = re.findall(r"^  (\w+)=", help_text(), re.MULTILINE)
    assert named == [*GROUPS, *FLAT_KEYS]


@pytest.mark.parametrize("arguments", [["--help"], ["gen_weight=-1"], ["scores=[x]"], ["dataset=x"], []])
def test_what_the_overrides_alone_show_is_answered_without_torch(arguments: list[str], tmp_path: Path) -> None:
    script = "import sys; sys.argv[0] = 'advvae'\ntry:\n from advvae.cli import main; main()\nfinally:\n"
    script += " assert not {'torch', 'torchvision', 'wandb', 'matplotlib', 'sklearn', 'medmnist'} & set(sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "AssertionError" not in process.stderr
    assert process.returncode == (1 if arguments and "=" in arguments[0] else 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gen_wieght=1"], "there is no key 'gen_wieght'; did you mean gen_weight?"),
        (["-m", "loss=msee"], "there is no loss=msee: choose one of ms_ssim, mse, ssim"),
        (["latent_dim=-3"], "latent_dim must be 1 or more, got -3"),
        (["lr=0.0"], "lr must be a finite number above 0, got 0.0"),
    ],
)
def test_a_wrong_name_or_number_is_answered_before_hydra_is_loaded(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=re.escape(message)):
        check_words(arguments)


@pytest.mark.parametrize(
    "argument",
    [
        "dataset=mnist,photos",
        "experiment=null",
        "experiment=[one_class]",
        "hydra.mode=RUN",
        "dataset.root=x",
        "lr=0,1",
        "size=null",
    ],
)
def test_what_hydra_knows_better_is_left_to_it(argument: str) -> None:
    check_words([argument])


def test_options_of_ones_own_are_left_to_hydra() -> None:
    check_words(["--config-dir", "mine", "dataset=mine", "my_group=mine"])
    check_words(["-sc", "query=bash"])
    check_words(["hydra.searchpath=[file:///mine]", "dataset=mine"])
    check_words(["hydra/launcher=mine", "my_group=mine"])


def test_help_tells_the_keys_of_groups() -> None:
    words = " ".join(help_text().split())
    for key in ("dataset.root", "dataset.keep_classes", "out_dataset.window", "model.spectral_norm", "tracker.images"):
        assert f" {key}=" in words
    assert "data_dir=data where" in words


def test_what_follows_a_flag_is_no_override() -> None:
    flags = ("--config-name", "config", "--config-dir", "my conf", "-cp", "elsewhere", "-p", "dataset", "--cfg=job")
    assert overrides_among([*flags, "mode=list", "-m", "seed=1"]) == ["mode=list", "seed=1"]
