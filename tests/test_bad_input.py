"""What a user can get wrong: one message that names the key or file, exit status 1, and nothing left behind."""

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from advvae.checkpoint import read_checkpoint
from tests.command import TINY, Command

OVERRIDES = [
    ("gen_wieght=1", "gen_wieght"),
    ("gen_weight=abc", "gen_weight"),
    ("gen_weight=-1", "gen_weight must be a finite number, 0 or more, got -1"),
    ("recon_weight=nan", "recon_weight must be a finite number, 0 or more, got nan"),
    ("kld_weight=inf", "kld_weight must be a finite number, 0 or more, got inf"),
    ("lr=0", "lr must be a finite number above 0"),
    ("max_minutes=0", "max_minutes must be a finite number above 0"),
    ("latent_dim=0", "latent_dim must be 1 or more, got 0"),
    ("batch_size=0", "batch_size must be 1 or more"),
    ("batch_size=1.5", "batch_size"),
    ("n_epochs=-3", "n_epochs must be 1 or more, got -3"),
    ("n_epochs=null", "n_epochs"),
    ("num_samples=0", "num_samples must be 1 or more"),
    ("sampler=normal", "sampler must be one of prior, gmm, got normal"),
    ("truncation=0", "truncation must be a finite number above 0"),
    ("save_npz=2", "save_npz"),
    ("sample_and_save_frequency=0", "sample_and_save_frequency must be 1 or more"),
    ("keep_checkpoints=-1", "keep_checkpoints must be 0 or more"),
    ("num_workers=-1", "num_workers must be 0 or more"),
    ("seed=-1", "seed must be between 0 and"),
    ("size=7", "size must be 8 px or more, got 7"),
    ("hidden_dims=[]", "hidden_dims must list widths of 1 or more"),
    ("hidden_dims=[8,0]", "hidden_dims must list widths of 1 or more, got [8,0]"),
    ("hidden_dims=[4,4,4,4,4,4]", "size=32 is too small for 6 stages (hidden_dims=[4,4,4,4,4,4]): at most 5"),
    ("precision=16", "precision must be one of auto, 32, bf16"),
    ("n_devices=0", "n_devices must be 1 or more, got 0"),
    ("compile=yes", "compile must be one of auto, none"),
    ("device=gpu", "device must be auto, cpu, cuda"),
    ("dataset=octmist", "octmnist"),  # the options are listed
    ("out_dataset=mnits", "mnist"),
    ("dataset.nme=x", "nme"),
    ("loss=l1", "ms_ssim"),
    ("loss=ms_ssim", "use loss=ssim"),
    ("mode=tset", "test"),
    ("tracker=mlflow", "tensorboard"),
    ("then=[tets]", "then takes test, sample, outlier, got tets"),
    ("then=[test,test]", "then=[test,test] names a mode twice"),
    ("then=test", "then takes a list, as in [a,b], got test"),
    ("+foo=1", "there is no key 'foo'"),
    ("~loss", "there is no ~loss"),
    ("tracker=null", "tracker=null: choose one of none, tensorboard, wandb"),
    ("checkpoint=a=b", "quote odd characters"),
    ("train", "advvae takes key=value"),
    ("device=cuda:x", "device must be auto"),
    ("dataset.keep_classes=3", "dataset.keep_classes takes a list of classes"),
    ("dataset.drop_classes=[]", "dataset.drop_classes takes a list of classes"),
    ("dataset=folder", "dataset=folder needs dataset.root="),
    ("dataset=array", "dataset=array needs dataset.path="),
    ("scores=[{foo:1}]", "scores takes names and {_target_: …} items"),
    ("objective=val_lss", "objective=val_lss is not measured by train: there is val_loss"),
    ("objective=mse", "see then="),
    ("metrics=[is]", "metrics takes mse, psnr, ssim, ms_ssim, lpips, fid, kid, precision, recall, density, coverage"),
    ("features=vgg", "features must be one of random, inception, got vgg"),
    ("features={foo:1}", "features takes random, inception or {_target_: …}, got {'foo': 1}"),
    ("scores=[losss]", "unknown score 'losss', available are loss, recon_mse"),
    ("train_discriminator=false", "train_discriminator=false needs gen_weight=0 recon_weight=0, got gen_weight=0.002"),
    ("objective=scores.loss.auroc", "objective=scores.loss.auroc is not measured by train"),
    ("checkpoint=some.pt", "resume="),
    ("resume=nowhere", "resume=nowhere holds no checkpoints/last.pt"),
    ("output_dir=''", "output_dir= is empty"),
    ("dataset.channels=2", "dataset.channels must be 1, 3 or null, got 2"),
]


@pytest.mark.parametrize(("override", "expected"), OVERRIDES, ids=[override for override, _ in OVERRIDES])
def test_a_bad_override_is_one_message(advvae: Command, override: str, expected: str) -> None:
    result = advvae(override)
    assert result.status == 1
    assert expected in result.errors
    assert "Traceback" not in result.errors
    assert list(advvae.cwd.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["mode=test", "dataset=digits"], "no finished training run on digits"),
        (["mode=test", "checkpoint=nowhere"], "checkpoint=nowhere: there is nothing there"),
        (["mode=outlier", "dataset=digits"], "advvae mode=train dataset=digits"),
        (["mode=test", "resume=auto"], "resume= belongs to mode=train"),
        (["mode=test", "then=[outlier]"], "then=[outlier] follows mode=train only"),
        (["dataset=digits", "device=cuda:99", *TINY], "device=cuda:99 is not available here"),
        (["objective=scores.loss.auroc", "then=[outlier]"], "allow_outlier_selection=true"),
        (
            ["n_devices=2", "mode=matrix", "datasets=[digits,photos]"],
            "mode=matrix trains each of its sets on one",
        ),
        (["n_devices=2", "device=cuda:1"], "n_devices=2 needs device=auto, cuda or cpu, got device=cuda:1"),
        (["n_devices=2", "batch_size=3"], "batch_size=3 is of all ranks: n_devices=2 needs two images for each, 4"),
        (["deterministic=true", "precision=bf16"], "deterministic=true needs precision=32"),
        (["dataset=folder", "dataset.root=nowhere"], "nowhere: there is nothing there"),
        (["dataset=digits", "then=[outlier]", "out_dataset=array", "out_dataset.path=no.npz"], "no.npz"),
        (["dataset=digits", "dataset.keep_classes=[eleven]", *TINY], "eleven"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_found_later_is_one_message_too(advvae: Command, arguments: list[str], expected: str) -> None:
    result = advvae(*arguments)
    assert result.status == 1
    assert expected in result.message
    assert len(result.message.splitlines()) == 1
    assert list(advvae.cwd.iterdir()) == []


def test_checkpoints_that_cannot_be_used(advvae: Command) -> None:
    run = advvae.train().folder
    good = (run / "checkpoints" / "best.pt").read_bytes()
    files = {
        "truncated.pt": (good[: len(good) // 2], "damaged"),
        "text.pt": (b"not a checkpoint", "damaged"),
        "empty.pt": (b"", "damaged"),
    }
    for name, (content, expected) in files.items():
        (advvae.cwd / name).write_bytes(content)
        result = advvae("mode=test", f"checkpoint={name}")
        assert result.status == 1
        assert name in result.message
        assert expected in result.message
        assert "Traceback" not in result.errors
    torch.save({"weights": torch.zeros(3)}, advvae.cwd / "other.pt")
    assert "not a checkpoint" in advvae("mode=test", "checkpoint=other.pt").message
    (advvae.cwd / "folder").mkdir()
    assert "holds no checkpoints/best.pt" in advvae("mode=test", "checkpoint=folder").message
    assert advvae.runs() == [run]


@pytest.mark.parametrize(
    ("override", "both"),
    [
        ("latent_dim=5", ("5", "4")),
        ("size=16", ("16", "8")),
        ("hidden_dims=[4,4]", ("[4, 4]", "[4, 8]")),
        ("dataset=photos", ("3", "1")),
    ],
)
def test_a_value_that_the_trained_network_cannot_have_names_both(
    advvae: Command, override: str, both: tuple[str, str]
) -> None:
    run = advvae.train().folder
    result = advvae("mode=test", f"checkpoint={run}", override)
    assert result.status == 1
    assert f"is {both[0]} here, but" in result.message
    assert result.message.endswith(f"was trained with {both[1]}")
    assert advvae.runs() == [run]


def test_a_loss_that_is_not_finite_stops_the_run_with_its_terms(advvae: Command) -> None:
    result = advvae("mode=train", "dataset=digits", *TINY, "lr=1e30", "n_epochs=3")
    assert result.status == 1
    assert "the loss at step 2 is not finite" in result.message
    assert "recon=" in result.message
    assert "checkpoint" in result.message
    (run,) = advvae.runs()
    assert '"status": "failed"' in (run / "metrics.json").read_text()


def test_a_folder_of_runs_that_cannot_be_written(advvae: Command) -> None:
    (advvae.cwd / "file").write_text("")
    result = advvae("mode=train", "dataset=digits", *TINY, "output_dir=file/inside")
    assert result.status == 1
    assert "Traceback" not in result.errors
    assert "file/inside" in result.errors


def test_a_checkpoint_with_code_in_it_is_refused(advvae: Command) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(advvae.cwd / "executed"),)

    torch.save({"format": 1, "config": Payload()}, advvae.cwd / "evil.pt")
    result = advvae("mode=test", "checkpoint=evil.pt")
    assert result.status == 1
    assert not (advvae.cwd / "executed").exists()


def test_reading_a_run_that_is_there(advvae: Command) -> None:
    checkpoint = read_checkpoint(advvae.train().folder / "checkpoints" / "last.pt")
    assert set(checkpoint.parts) == {"encoder", "decoder", "discriminator"}


@pytest.mark.parametrize("typed", ["size=-3", "lr=0", "dataset=photos", "then=[tets]", "precision=bf16"])
def test_a_mistake_on_resume_leaves_the_run_as_it_was(advvae: Command, typed: str) -> None:
    run = advvae.train("deterministic=true").folder
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "advvae.log"}
    assert advvae(f"resume={run}", typed).status == 1
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "advvae.log"}
    assert after == before


def test_resume_takes_a_runs_folder_only(advvae: Command) -> None:
    run = advvae.train().folder
    result = advvae(f"resume={run}/checkpoints/best.pt", "n_epochs=4")
    assert result.status == 1
    assert "name the folder of a training run" in result.message
    (advvae.cwd / "last.pt").write_bytes((run / "checkpoints" / "last.pt").read_bytes())
    assert advvae("resume=last.pt").status == 1
    assert sorted(path.name for path in advvae.cwd.iterdir()) == ["last.pt", "outputs"]


def test_plug_ins_with_a_mistake(advvae: Command) -> None:
    options = advvae.cwd / "mine" / "dataset"
    options.mkdir(parents=True)
    (options / "bare.yaml").write_text("size: 8\nchannels: 1\n")
    (options / "broken.yaml").write_text("size: [8\n")
    (options / "absent.yaml").write_text("_target_: no_such_module.Source\nsize: 8\n")
    (options / "scans.yaml").write_text("_target_: advvae.data.files.Folder\nsize: 8\nchannels: 1\n")
    result = advvae("--config-dir", "mine", "dataset=scans", *TINY)
    assert result.message == "dataset=scans needs dataset.root=<where the images are>"
    for name, expected in (("bare", "has no _target_"), ("absent", "no_such_module"), ("broken", "broken.yaml")):
        result = advvae("--config-dir", "mine", f"dataset={name}", *TINY)
        assert result.status == 1
        assert expected in result.errors
        assert "Traceback" not in result.errors
        assert advvae.runs() == []


def test_a_full_disk_names_the_file_and_keeps_what_was_there(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    save = torch.save

    def full(content: dict[str, Any], file: Any) -> None:
        if content["training"]["epoch"] == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(content, file)

    monkeypatch.setattr(torch, "save", full)
    result = advvae("mode=train", "dataset=digits", *TINY, "n_epochs=3")
    assert result.status == 1
    assert "best.pt: No space left on device" in result.message
    (run,) = advvae.runs()
    training = read_checkpoint(run / "checkpoints" / "last.pt").training
    assert training is not None
    assert training.epoch == 1
