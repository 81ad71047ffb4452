"""The commands of the contract, end to end: what they write, print and return."""

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from advvae import sampler
from advvae.checkpoint import read_checkpoint
from advvae.data import load_split
from advvae.data.embedded import Digits
from advvae.errors import UserError
from advvae.evaluator import validate
from advvae.losses import Objective, mean_squared_error
from advvae.models import conv_networks
from advvae.outlier.scores import BASELINES
from tests.command import FEW, TINY, Command


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


ALWAYS = {"config.yaml", ".hydra/overrides.yaml", "advvae.log", "metrics.json", "provenance.json", "report.html"}


@pytest.mark.drawn
def test_train_writes_what_the_contract_says(advvae: Command) -> None:
    result = advvae.train("n_epochs=3", "sample_and_save_frequency=2")
    assert result.folder.parent == advvae.cwd / "outputs" / "train" / "digits"
    assert files(result.folder) == ALWAYS | {
        *("metrics.csv", "curves.png"),
        *("samples/epoch-0002.png", "samples/epoch-0003.png"),
        *("reconstructions/epoch-0002.png", "reconstructions/epoch-0003.png"),
        *(f"checkpoints/{name}.pt" for name in ("last", "previous", "best", "epoch-0002", "epoch-0003")),
    }
    rows = table(result.folder / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    found = metrics(result.folder)
    assert found["status"] == "finished"
    assert found["val_loss"] == min(float(row["val_loss"]) for row in rows)
    assert found["epochs"] == 3
    assert f"run folder: {result.folder}" in result.output
    assert "epoch 3/3" in result.output


def test_test_sample_and_outlier_find_the_newest_run(advvae: Command) -> None:
    advvae.train()
    newest = advvae.train("latent_dim=5").folder
    test = advvae("mode=test", "dataset=digits")
    assert files(test.folder) == ALWAYS | {"reconstructions.png"}
    assert test.folder.parent == advvae.cwd / "outputs" / "test" / "digits"
    assert {"n", "loss", "mse", "psnr", "ssim", "kld"} <= set(metrics(test.folder))
    assert metrics(test.folder)["n"] == 359  # a fifth of 1,797
    config = yaml.safe_load((test.folder / "config.yaml").read_text())
    assert config["latent_dim"] == 5
    assert config["checkpoint"] == str(newest / "checkpoints" / "best.pt")
    assert len(config["checkpoint_sha256"]) == 64
    assert f"checkpoint={newest}/checkpoints/best.pt" in yaml.safe_load(
        (test.folder / ".hydra" / "overrides.yaml").read_text()
    )
    sample = advvae("mode=sample", "dataset=digits", "num_samples=3")
    pictures = {f"{name}.png" for name in ("samples", "interpolations", "traversals", "neighbours")}
    assert files(sample.folder) == ALWAYS | pictures | {f"samples/0000{i}.png" for i in range(3)}
    assert {"active_units", "nearest_train_mse", "nearest_train_mse_val"} <= set(metrics(sample.folder))
    outlier = advvae("mode=outlier", "dataset=digits", "out_dataset=photos")
    pictures = {f"{name}.png" for name in ("histograms", "roc", "auroc", "misses", "false_alarms")}
    tables = {f"{name}.csv" for name in ("scores", "results", "comparisons", "controls", "labels", "alarms")}
    assert files(outlier.folder) == ALWAYS | pictures | tables | {"results.md", "results.tex"}
    assert (newest / "detector.pt").is_file()
    found = metrics(outlier.folder)
    rows = table(outlier.folder / "scores.csv")
    assert len(rows) == found["n_in"] + found["n_out"]
    described = ["is_outlier", "source", "split", "index", "path", "label"]
    assert list(rows[0]) == [*described, *found["scores"]]
    assert {*config["scores"], *BASELINES} == set(found["scores"])
    assert {"auroc", "aupr_out", "aupr_in", "fpr95_out", "fpr95_in", "auroc_low"} < set(found["scores"]["loss"])


def test_replaying_the_overrides_repeats_the_run(advvae: Command) -> None:
    advvae.train("precision=auto")
    first = advvae("mode=outlier", *FEW, "dataset=digits", "out_dataset=photos", "tracker=none")
    advvae.train("seed=1")  # newer, yet the replay takes what the first took
    overrides = yaml.safe_load((first.folder / ".hydra" / "overrides.yaml").read_text())
    replay = advvae(*overrides)
    assert replay.status == 0, replay.errors
    assert metrics(replay.folder)["scores"] == metrics(first.folder)["scores"]


def test_the_same_seed_gives_the_same_losses(advvae: Command) -> None:
    first, again, other = (
        advvae.train("n_epochs=2", "deterministic=true", *extra).folder for extra in ([], ["num_workers=2"], ["seed=1"])
    )
    columns = ("recon", "kld", "discriminator_loss", "val_loss", "accuracy_real")
    losses = [[[row[c] for c in columns] for row in table(run / "metrics.csv")] for run in (first, again, other)]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
    weights = [read_checkpoint(run / "checkpoints" / "last.pt").parts for run in (first, again)]
    for part, tensors in weights[0].items():
        assert all(torch.equal(tensor, weights[1][part][name]) for name, tensor in tensors.items())


def test_gen_weight_changes_the_decoder(advvae: Command) -> None:
    without, with_weight = (advvae.train(f"gen_weight={weight}").folder for weight in (0, 1))
    decoders = [read_checkpoint(run / "checkpoints" / "last.pt").parts["decoder"] for run in (without, with_weight)]
    assert not torch.equal(decoders[0]["input.weight"], decoders[1]["input.weight"])


def test_a_plain_vae_has_no_discriminator_and_leaves_its_score_out(advvae: Command) -> None:
    arguments = ("train_discriminator=false", "gen_weight=0", "recon_weight=0", "then=[test,outlier]", *FEW)
    result = advvae.train(*arguments, "out_dataset=photos")
    assert set(read_checkpoint(result.folder / "checkpoints" / "best.pt").parts) == {"encoder", "decoder"}
    assert set(metrics(result.folder)["scores"]) == {"loss"}
    assert "score discriminator is left out" in result.output
    (row,) = table(result.folder / "metrics.csv")
    assert row["discriminator_loss"] == row["accuracy_real"] == ""


def test_both_weights_zero_is_legal(advvae: Command) -> None:
    (row,) = table(advvae.train("gen_weight=0", "recon_weight=0").folder / "metrics.csv")
    assert float(row["discriminator_loss"]) > 0


def test_then_adds_its_files_and_metrics_to_the_run(advvae: Command) -> None:
    folder = advvae.train("then=[test,sample,outlier]", *FEW, "out_dataset=photos").folder
    found = metrics(folder)
    assert {"val_loss", "mse", "scores"} <= set(found)
    assert found["n"] == found["n_in"] == 359
    assert {"reconstructions.png", "samples.png", "samples/00015.png", "scores.csv", "roc.png"} <= files(folder)
    assert len(advvae.runs()) == 1


def test_a_set_against_itself_is_chance_and_said_so(advvae: Command) -> None:
    advvae.train()
    result = advvae("mode=outlier", *FEW, "dataset=digits", "out_dataset=digits")
    scores = metrics(result.folder)["scores"]
    assert scores["loss"]["auroc"] == scores["discriminator"]["auroc"] == 0.5
    assert "same" in result.output or "identical" in result.output


def test_swapping_the_sets_gives_one_minus_auroc(advvae: Command) -> None:
    run = advvae.train().folder
    checkpoint = f"checkpoint={run}"
    there = advvae("mode=outlier", *FEW, checkpoint, "out_dataset=photos")
    back = advvae("mode=outlier", *FEW, checkpoint, "dataset=photos", "dataset.channels=1", "out_dataset=digits")
    for score in ("loss", "discriminator"):
        forward, backward = (metrics(result.folder)["scores"][score]["auroc"] for result in (there, back))
        assert forward + backward == pytest.approx(1.0, abs=1e-12)


def test_outliers_of_the_same_set_by_class(advvae: Command) -> None:
    advvae.train("dataset.drop_classes=[9]")
    result = advvae("mode=outlier", *FEW, "dataset=digits", "out_dataset=digits", "out_dataset.keep_classes=[9]")
    rows = table(result.folder / "scores.csv")
    assert {row["label"] for row in rows if row["is_outlier"] == "1"} == {"9"}
    assert "9" not in {row["label"] for row in rows if row["is_outlier"] == "0"}  # naming the set keeps its sub-keys


def test_max_minutes_ends_a_training_early_and_in_order(advvae: Command) -> None:
    result = advvae.train("n_epochs=100000", "max_minutes=0.01")
    assert metrics(result.folder)["status"] == "finished"
    assert metrics(result.folder)["train_seconds"] < 5
    assert (result.folder / "checkpoints" / "last.pt").is_file()


@pytest.mark.parametrize(("keep", "left"), [("0", []), ("1", ["0004"]), ("null", ["0001", "0002", "0003", "0004"])])
def test_keep_checkpoints(advvae: Command, keep: str, left: list[str]) -> None:
    folder = advvae.train("n_epochs=4", "sample_and_save_frequency=1", f"keep_checkpoints={keep}").folder
    assert sorted(path.stem[-4:] for path in (folder / "checkpoints").glob("epoch-*")) == left


def test_best_is_the_epoch_of_lowest_validation_loss_not_of_the_generator(advvae: Command) -> None:
    folder = advvae.train("n_epochs=6", "lr=0.02", "recon_weight=5").folder  # so unsteady that the last is not the best
    rows = table(folder / "metrics.csv")
    best = min(rows, key=lambda row: float(row["val_loss"]))
    training = read_checkpoint(folder / "checkpoints" / "best.pt").training
    assert training is not None
    assert training.epoch == int(best["epoch"])
    assert metrics(folder)["best_epoch"] == int(best["epoch"])
    assert metrics(folder)["val_mse"] == float(best["val_mse"])


def test_an_uninterrupted_log_and_no_lock_are_left(advvae: Command) -> None:
    folder = advvae.train().folder
    assert "epoch 1/1" in (folder / "advvae.log").read_text()
    assert not (folder / ".lock").exists()


def test_training_reads_no_test_split(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from advvae import data
    from advvae.data import splits

    read = []
    load = splits.load_split

    def recording(source: Any, split: str, **arguments: Any) -> Any:
        read.append(split)
        return load(source, split, **arguments)

    monkeypatch.setattr(splits, "load_split", recording)
    assert data.load_split is recording
    advvae.train()
    assert sorted(read) == ["train", "val"]


def test_hydra_sees_the_same_options_for_both_sets(advvae: Command) -> None:
    result = advvae("--cfg", "job", "dataset=octmnist", "out_dataset=octmnist")
    config = yaml.safe_load(result.output)
    of_training_alone = {"percentiles", "patients"}
    assert config["dataset"].keys() - config["out_dataset"].keys() == of_training_alone
    shared = config["dataset"].keys() - of_training_alone - {"resize"}  # that of the dataset, unless typed
    assert all(config["dataset"][key] == config["out_dataset"][key] for key in shared)


def test_completion_knows_groups_options_and_keys(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def completed(line: str) -> list[str]:
        monkeypatch.setenv("COMP_LINE", f"advvae {line}")
        monkeypatch.setenv("COMP_POINT", str(len(line) + 7))
        return advvae("-sc", "query=bash").output.split()

    assert "out_dataset=octmnist" in completed("out_dataset=oct")
    assert "gen_weight=" in completed("gen_w")[0]


@pytest.mark.parametrize("multirun_first", [True, False])
def test_m_goes_before_or_after_the_overrides(advvae: Command, multirun_first: bool) -> None:
    overrides = ["mode=train", "dataset=digits", *TINY, "gen_weight=0,0.1"]
    result = advvae("-m", *overrides) if multirun_first else advvae(*overrides[:3], "-m", *overrides[3:])
    assert result.status == 0, result.errors
    assert len(advvae.runs()) == 2


def test_each_mode_reports_to_the_tracker(advvae: Command) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = advvae.train("tracker=tensorboard", "n_epochs=2", *FEW, "then=[test,outlier]", "out_dataset=photos").folder
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    found = metrics(folder)
    assert [event.step for event in events.Scalars("val_loss")] == [1, 2]
    assert events.Scalars("scores.loss.auroc")[0].value == pytest.approx(found["scores"]["loss"]["auroc"])
    assert {"samples", "reconstructions", "histograms", "roc"} <= set(events.Tags()["images"])


def test_a_mode_that_fails_after_training_loses_no_metrics(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise UserError("no")

    monkeypatch.setattr(sampler, "sample", fail)
    result = advvae("mode=train", "dataset=digits", *TINY, "then=[sample]")
    assert result.status == 1
    assert metrics(result.folder)["status"] == "failed"
    assert metrics(result.folder)["val_loss"] > 0


def test_a_mistake_in_what_follows_is_told_before_training(advvae: Command) -> None:
    arguments = ("then=[outlier]", "out_dataset=folder", "out_dataset.root=nowhere")
    result = advvae("mode=train", "dataset=digits", *TINY, *arguments)
    assert result.status == 1
    assert "nowhere" in result.message
    assert advvae.runs() == []


def test_a_run_is_used_from_another_folder(advvae: Command) -> None:
    (advvae.cwd / "images").mkdir()
    for number in range(12):
        Image.fromarray(np.full((9, 9), 20 * number, np.uint8)).save(advvae.cwd / "images" / f"{number}.png")
    arguments = ("dataset=folder", "dataset.root=images", "data_dir=cache", "output_dir=runs", *TINY)
    assert advvae("mode=train", *arguments).status == 0
    (run,) = (advvae.cwd / "runs" / "train" / "folder").iterdir()
    (advvae.cwd / "elsewhere").mkdir()
    advvae.cwd /= "elsewhere"
    result = advvae("mode=test", f"checkpoint={run}")
    assert result.status == 0, result.errors
    assert advvae(f"resume={run}", "n_epochs=2").status == 0
    assert not (advvae.cwd / "cache").exists()


@pytest.mark.parametrize("place", ["", "checkpoints", "checkpoints/last.pt"])
def test_a_run_its_checkpoints_and_a_file_can_be_named(advvae: Command, place: str) -> None:
    run = advvae.train().folder
    result = advvae("mode=sample", f"checkpoint={run / place}")
    taken = yaml.safe_load((result.folder / "config.yaml").read_text())["checkpoint"]
    assert taken == str(run / "checkpoints" / ("last.pt" if place.endswith("last.pt") else "best.pt"))


def test_a_reader_that_leaves_does_not_fail_the_run(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    result = advvae("mode=train", "dataset=digits", *TINY)
    assert metrics(result.folder)["status"] == "finished"


def test_val_loss_is_measured_on_the_half_that_selects(advvae: Command) -> None:
    folder = advvae.train().folder
    checkpoint = read_checkpoint(folder / "checkpoints" / "best.pt")
    networks = conv_networks(1, 8, 4, [4, 8])
    checkpoint.restore(networks)
    split = load_split(Digits(), "val", name="digits", size=8, channels=1, data_dir=advvae.data_dir)
    objective = Objective(mean_squared_error, 1e-4, 0.002, 0.002)
    select, calibrate = (
        validate(networks, objective, half, batch_size=256, device="cpu")["val_loss"] for half in split.halves()
    )
    assert metrics(folder)["val_loss"] == pytest.approx(select, rel=1e-5)
    assert metrics(folder)["val_loss"] != pytest.approx(calibrate, rel=1e-4)


def test_what_follows_training_uses_the_best_epoch(advvae: Command) -> None:
    unsteady = ("n_epochs=6", "lr=0.02", "recon_weight=5")
    folder = advvae.train(*unsteady, "then=[test]").folder
    best, last = (
        metrics(advvae("mode=test", f"checkpoint={folder}/checkpoints/{name}.pt").folder)["mse"]
        for name in ("best", "last")
    )
    assert metrics(folder)["mse"] == pytest.approx(best, rel=1e-5)
    assert metrics(folder)["mse"] != pytest.approx(last, rel=1e-3)


def test_the_seed_draws_the_first_weights(advvae: Command) -> None:
    runs = [advvae.train(f"seed={seed}", "lr=1e-12").folder for seed in (0, 1)]
    first, second = (read_checkpoint(run / "checkpoints" / "last.pt").parts["encoder"]["mean.weight"] for run in runs)
    assert (first - second).abs().max() > 0.01


def test_a_mistake_in_the_scores_that_follow_is_told_before_training(advvae: Command) -> None:
    plain = ("train_discriminator=false", "gen_weight=0", "recon_weight=0")
    result = advvae("mode=train", "dataset=digits", *TINY, *plain, "then=[outlier]", "scores=[discriminator]")
    assert result.status == 1
    assert "discriminator" in result.message
    assert advvae.runs() == []


@pytest.mark.parametrize(("dataset", "private"), [("digits", False), ("folder", True)])
def test_images_that_may_be_patients_go_to_no_remote_tracker(
    advvae: Command, monkeypatch: pytest.MonkeyPatch, dataset: str, private: bool
) -> None:
    from advvae import tracking

    (advvae.cwd / "images").mkdir()
    for number in range(12):
        Image.fromarray(np.full((9, 9), 20 * number, np.uint8)).save(advvae.cwd / "images" / f"{number}.png")
    opened = []
    open_tracker = tracking.open_tracker

    def recording(settings: Any, **arguments: Any) -> Any:
        opened.append(arguments["private"])
        return open_tracker(settings, **arguments)

    monkeypatch.setattr(tracking, "open_tracker", recording)
    root = ["dataset.root=images"] if dataset == "folder" else []
    assert advvae("mode=train", f"dataset={dataset}", *root, *TINY).status == 0
    assert advvae("mode=screen", f"dataset={dataset}", *root, "input=images", *FEW, "tracker=none").status == 0
    assert opened == [private, True]  # whatever the networks were trained on, what is screened is the user's own
