"""Outlier detection as it is typed: several sets, shifts, screening, matrices, loops over classes, crops, detectors."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from advvae.checkpoint import read_checkpoint
from advvae.class_loop import N_CLASSES, class_loop
from advvae.config import CONF
from advvae.outlier.scores import BASELINES
from tests.command import FEW, TINY, Command


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_several_sets_are_scored_in_one_run(advvae: Command) -> None:
    advvae.train()
    sets = ("out_datasets=[photos]", "near=[hflip,noise]", "far=[shuffle]")
    result = advvae("mode=outlier", "dataset=digits", *sets, *FEW)
    assert result.status == 0, result.errors
    found = metrics(result.folder)
    assert list(found["sets"]) == ["photos", "hflip", *(f"noise_{n}" for n in range(1, 6)), "shuffle"]
    aurocs = {name: measured["scores"]["loss"]["auroc"] for name, measured in found["sets"].items()}
    assert found["scores"]["loss"]["auroc"] == pytest.approx(np.mean(list(aurocs.values())))
    assert found["near"]["loss"]["auroc"] == pytest.approx(np.mean(list(aurocs.values())[1:7]))
    assert found["far"]["loss"]["auroc"] == aurocs["shuffle"]
    rows = table(result.folder / "scores.csv")
    assert len(rows) == 359 + 704 + 7 * 359
    assert (result.folder / "auroc_map.png").is_file()


def test_a_set_that_is_named_twice_is_scored_once(advvae: Command) -> None:
    advvae.train()
    result = advvae("mode=outlier", "dataset=digits", "out_datasets=[noise]", "near=[noise_3]", *FEW)
    found = metrics(result.folder)
    assert list(found["sets"]) == [f"noise_{n}" for n in range(1, 6)]
    assert found["n_out"] == 5 * 359
    assert found["near"]["loss"] == found["sets"]["noise_3"]["scores"]["loss"]


def test_what_fused_goes_without_is_said(advvae: Command) -> None:
    plain = ("train_discriminator=false", "gen_weight=0", "recon_weight=0", "baselines=false", "out_datasets=[hflip]")
    result = advvae.train(*plain, "then=[outlier]", "scores=[loss,fused]", "fuse=[loss,kld,feature_knn]")
    assert "score fused goes without feature_knn" in result.output
    assert set(metrics(result.folder)["scores"]) == {"loss", "kld", "fused"}
    result = advvae("mode=outlier", "dataset=digits", "scores=[loss,fused]", "fuse=[loss]", *plain[3:])
    assert "score fused is left out" in result.output


def test_a_sweeper_may_choose_by_shifts_but_not_by_real_outliers(advvae: Command) -> None:
    objective = ("then=[outlier]", *FEW, "objective=scores.loss.auroc")
    assert advvae("mode=train", "dataset=digits", *TINY, *objective, "out_datasets=[hflip]").status == 0
    result = advvae("mode=train", "dataset=digits", *TINY, *objective, "out_datasets=[hflip,photos]")
    assert result.status == 1
    assert "measured on real outliers (photos)" in result.message


def test_a_resumed_run_takes_new_outlier_sets(advvae: Command) -> None:
    run = advvae.train("then=[outlier]", *FEW, "out_datasets=[digits]", "out_dataset=photos").folder
    resumed = advvae(f"resume={run}", "n_epochs=2", "out_datasets=[photos,vflip]", *FEW, "tracker=none")
    assert resumed.status == 0, resumed.errors
    assert list(metrics(run)["sets"]) == ["photos", "vflip"]


def test_a_detector_is_fitted_once_and_kept_with_the_run(advvae: Command) -> None:
    run = advvae.train().folder
    first = advvae("mode=outlier", "dataset=digits", "out_dataset=photos", "scores=[latent_gmm,pixel_knn,fused]")
    assert "fitted on 1,294 images of digits train" in first.output
    assert (run / "detector.pt").is_file()
    assert torch.load(run / "detector.pt", weights_only=True)
    again = advvae("mode=outlier", "dataset=digits", "out_dataset=photos", "scores=[latent_gmm,pixel_knn,fused]")
    assert "fitted on" not in again.output
    assert metrics(again.folder)["scores"] == metrics(first.folder)["scores"]
    last = advvae("mode=outlier", f"checkpoint={run}/checkpoints/last.pt", "out_dataset=photos", "scores=[latent_gmm]")
    assert "fitted on" in last.output  # other weights
    assert (run / "detector-last.pt").is_file()


def test_screening_needs_no_training_images(advvae: Command) -> None:
    run = advvae.train("then=[outlier]", "out_dataset=photos", "scores=[loss,latent_gmm,discriminator,fused]").folder
    inbox = advvae.cwd / "inbox"
    (inbox / "below").mkdir(parents=True)
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 12), dtype=np.uint8)
        Image.fromarray(pixels).save(inbox / "below" / f"{number}.png")
    (inbox / "broken.png").write_bytes(b"no image")
    advvae.data_dir = advvae.cwd / "nothing here"
    typed = ("mode=screen", f"checkpoint={run}", f"input={inbox}", "scores=[loss,latent_gmm,discriminator,fused]")
    result = advvae(*typed, "alpha=0.1")
    assert result.status == 0, result.errors
    rows = table(result.folder / "screen.csv")
    assert [Path(row["path"]).name for row in rows] == [f"{number}.png" for number in range(5)]
    assert {"loss", "loss_p", "loss_flag", "fused", "fused_p", "fused_flag", "pixel_knn"} < set(rows[0])
    assert [Path(row["path"]).name for row in table(result.folder / "unreadable.csv")] == ["broken.png"]
    assert (metrics(result.folder)["n"], metrics(result.folder)["n_unreadable"]) == (5, 1)
    assert (result.folder / "most_outlying.png").is_file()
    assert not advvae.data_dir.exists()


@pytest.mark.parametrize("table_of_labels", [True, False])
def test_a_detector_is_made_anew_when_the_images_are_others(advvae: Command, table_of_labels: bool) -> None:
    """Their files are known by size and time, and so is a table, whose path stays the same."""
    scans, csv_file = advvae.cwd / "scans", advvae.cwd / "scans.csv"
    scans.mkdir()
    for number in range(61):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(scans / f"{number}.png")
    names = [f"{number}.png,{number % 2}" for number in range(61)]
    csv_file.write_text("\n".join(["path,label", *names]))
    (scans / "60.png").rename(advvae.cwd / "60.png")
    own = ["dataset=folder", "dataset.root=scans", *(["dataset.csv=scans.csv"] if table_of_labels else [])]
    run = advvae("mode=train", *own, *TINY).folder
    typed = ("mode=outlier", f"checkpoint={run}", "out_datasets=[vflip]", "scores=[latent_gmm]", "baselines=false")
    assert "fitted on" in advvae(*typed).output
    assert "fitted on" not in advvae(*typed).output
    if table_of_labels:
        csv_file.write_text("\n".join(["path,label", *names[1:]]))
    else:
        (advvae.cwd / "60.png").rename(scans / "60.png")
    assert "fitted on" in advvae(*typed).output
    assert "fitted on" not in advvae(*typed).output


def test_screening_needs_no_images_of_ones_own_either(advvae: Command) -> None:
    scans = advvae.cwd / "scans"
    scans.mkdir()
    for number in range(60):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(scans / f"{number}.png")
    run = advvae("mode=train", "dataset=folder", "dataset.root=scans", *TINY).folder
    scores = ("scores=[latent_gmm]", "baselines=false")
    assert advvae("mode=outlier", f"checkpoint={run}", "out_datasets=[vflip]", *scores).status == 0
    scans.rename(advvae.cwd / "inbox")
    scans.mkdir()
    result = advvae("mode=screen", f"checkpoint={run}", "input=inbox", *scores)
    assert result.status == 0, result.errors
    assert "fitted on" not in result.output
    told = "folder: whether it has changed since scores were fitted cannot be told: its files are not there"
    assert told in " ".join((result.output + result.errors).split())
    assert len(table(result.folder / "screen.csv")) == 60


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["mode=screen"], "input="),
        (["mode=matrix"], "datasets=[mnist,fashionmnist]"),
        (["mode=matrix", "datasets=[digits,digits]"], "two or more different sets"),
        (["mode=matrix", "datasets=[digits,hflip]"], "hflip is no set that a network can be trained on"),
        (["mode=outlier", "out_datasets=[nonsense]"], "there is no 'nonsense'"),
        (["mode=matrix", "datasets=[digits,nonsense]"], "there is no 'nonsense'"),
        (["mode=outlier", "fuse=[losss]"], "fuse: unknown score 'losss'"),
        (["mode=outlier", "fuse=[fused]"], "not itself"),
        (["mode=outlier", "alpha=1.5"], "alpha must lie between 0 and 1, got 1.5"),
        (["mode=train", "negatives=[rotated]"], "negatives takes jigsaw"),
        (["mode=train", "crop=4"], "crop must be 8 px or more, got 4"),
        (["mode=train", "dataset=digits", "crop=64"], "crop=64 does not fit into images of size=32"),
        (["mode=train", "dataset=digits", "model.norm=layer"], "model.norm must be one of batch, group, none"),
        (
            ["mode=train", "train_discriminator=false", "gen_weight=0", "recon_weight=0", "negatives=[flip]"],
            "negatives",
        ),
    ],
)
def test_mistakes_are_one_line(advvae: Command, arguments: list[str], expected: str) -> None:
    result = advvae(*arguments, "tracker=none")
    assert result.status == 1
    assert expected in result.message
    assert len(result.message.splitlines()) == 1
    assert advvae.runs() == []


def test_an_input_that_is_not_there(advvae: Command) -> None:
    run = advvae.train().folder
    result = advvae("mode=screen", f"checkpoint={run}", "input=nowhere", *FEW)
    assert result.status == 1
    assert "nowhere" in result.message
    assert advvae.runs() == [run]


@pytest.mark.drawn
def test_a_matrix_trains_what_it_does_not_find(advvae: Command) -> None:
    digits = advvae.train().folder
    advvae.train("dataset.keep_classes=[3]")  # newer, but not of the whole set
    typed = ("mode=matrix", "datasets=[digits,photos]", *TINY, "scores=[loss,discriminator]")
    first = advvae(*typed)
    assert first.status == 0, first.errors
    folder = first.folder.parent  # the last run is one of its own
    rows = table(folder / "matrix.csv")
    pairs = {(row["dataset"], row["out_dataset"], row["score"]) for row in rows}
    names = ("loss", "discriminator", *BASELINES)
    assert pairs == {(a, b, name) for a, b in (("digits", "photos"), ("photos", "digits")) for name in names}
    assert Image.open(folder / "matrix.png").width > 300
    assert metrics(folder)["ranked_by"] == "loss"
    config = yaml.safe_load((folder / "digits" / "config.yaml").read_text())
    assert config["checkpoint"] == str(digits / "checkpoints" / "best.pt")
    (photos,) = (advvae.cwd / "outputs" / "train" / "photos").iterdir()
    assert read_checkpoint(photos / "checkpoints" / "best.pt").config["dataset"]["channels"] == 3
    again = advvae(*typed)
    assert len(list((advvae.cwd / "outputs" / "train" / "photos").iterdir())) == 1
    assert metrics(again.folder.parent)["auroc"] == metrics(folder)["auroc"]


@pytest.mark.parametrize(("experiment", "n_in"), [("one_class", 36), ("hold_out", 323)])
def test_a_loop_over_classes_ends_in_a_table(advvae: Command, experiment: str, n_in: int) -> None:
    key = {"one_class": "keep_classes", "hold_out": "drop_classes"}[experiment]
    loop = (f"experiment={experiment}", "dataset=digits", f"dataset.{key}=[3],[5]")
    result = advvae(*loop, *TINY, "scores=[recon_mse]", "baselines=false")
    assert result.status == 0, result.errors
    (sweep,) = (advvae.cwd / "outputs" / "sweeps").iterdir()
    jobs = [metrics(sweep / name) for name in "01"]
    for job in jobs:
        assert job["n_in"] + job["n_out"] >= 359  # every test image is on one side
        assert job["n_in"] == pytest.approx(n_in, abs=6)
    mean = np.mean([job["scores"]["recon_mse"]["auroc"] for job in jobs])
    assert f"{mean:.3f}" in result.output
    assert "mean" in (sweep / "summary.md").read_text()


def test_networks_of_crops_are_scored_by_patches(advvae: Command) -> None:
    run = advvae.train("size=24", "crop=12").folder
    result = advvae("mode=outlier", f"checkpoint={run}", "out_dataset=photos", "scores=[loss,patch_discriminator]")
    assert result.status == 0, result.errors
    assert next(iter(metrics(result.folder)["scores"])) == "patch_discriminator"
    assert "score loss is left out: looks at whole images" in result.output
    for mode in ("test", "sample"):
        assert advvae(f"mode={mode}", f"checkpoint={run}").status == 0
    assert Image.open(advvae.runs()[-1] / "samples" / "00000.png").size == (12, 12)


def test_the_recommended_detector_trains_and_scores(advvae: Command) -> None:
    run = advvae.train("experiment=detector").folder
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["norm"] == "none"
    assert config["negatives"] == ["jigsaw", "swap", "cutmix", "mixup"]
    result = advvae("mode=outlier", f"checkpoint={run}", "out_datasets=[hflip]", *FEW)
    assert result.status == 0, result.errors
    wrong = advvae("mode=outlier", f"checkpoint={run}", "out_datasets=[hflip]", "model.norm=batch")
    assert wrong.status == 1
    assert "model.norm is batch here" in wrong.message
    assert "trained with none" in wrong.message


def test_negatives_change_the_discriminator_and_only_it_directly(advvae: Command) -> None:
    plain, with_negatives, again = (
        read_checkpoint(advvae.train(*extra).folder / "checkpoints" / "last.pt").parts
        for extra in ([], ["negatives=[cutmix]"], ["negatives=[cutmix]"])
    )
    weight = "logit.weight"
    assert not torch.equal(plain["discriminator"][weight], with_negatives["discriminator"][weight])
    assert torch.equal(again["discriminator"][weight], with_negatives["discriminator"][weight])


def test_groups_are_drawn_together_and_counted(advvae: Command) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    arrays: dict[str, np.ndarray] = {f"{split}_images": images for split in ("train", "val", "test")}
    arrays |= {f"{split}_groups": 10 * i + np.arange(60) // 6 for i, split in enumerate(("train", "val", "test"))}
    np.savez(advvae.cwd / "scans.npz", **arrays)  # type: ignore[arg-type]
    run = advvae("mode=train", "dataset=array", "dataset.path=scans.npz", *TINY).folder
    result = advvae("mode=outlier", f"checkpoint={run}", "out_datasets=[vflip]", *FEW)
    assert result.status == 0, result.errors
    assert "60 (10 groups)" in (result.folder / "results.md").read_text()


def test_a_loop_takes_as_many_classes_as_its_set_has(advvae: Command) -> None:
    assert class_loop("octmnist") == "[0],[1],[2],[3]"
    result = advvae("experiment=one_class", "dataset=photos", *TINY, "scores=[loss]", "baselines=false")
    assert result.status == 0, result.errors
    (sweep,) = (advvae.cwd / "outputs" / "sweeps").iterdir()
    assert [row["dataset.keep_classes"] for row in table(sweep / "summary.csv")] == ["[0]", "[1]"]
    result = advvae("experiment=hold_out", "dataset=folder")
    assert result.status == 1
    assert result.message.startswith("dataset=folder: type the classes to loop over")


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "dataset").glob("*.yaml")))
def test_the_number_of_classes_is_that_of_the_set(name: str) -> None:
    from medmnist import INFO

    if name in INFO:
        assert N_CLASSES[name] == len(INFO[name]["label"])
    elif name not in ("folder", "array"):
        assert N_CLASSES[name] >= 2
