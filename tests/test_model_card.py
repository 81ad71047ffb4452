"""The card of an exported model tells what was measured of these weights on these images, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from advvae import exporting
from advvae.card_metrics import Measured, index, tables
from tests.command import FEW, Command
from tests.exported import export
from tests.models.test_reference import PlainVAE, with_random_statistics


@pytest.fixture(autouse=True)
def no_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card says what was measured; its graphs, which take most of an export's time, are test_export's."""
    monkeypatch.setattr(exporting, "write_graph", lambda *_: {"torch_export": 0.0, "onnx": 0.0})


def head(model: Path) -> dict[str, Any]:
    """What the Hub reads."""
    return yaml.safe_load((model / "README.md").read_text().split("---\n", 2)[1])


def body(model: Path) -> str:
    return (model / "README.md").read_text().split("---\n", 2)[2]


def results(model: Path) -> list[tuple[str, str, dict[str, float]]]:
    """Of each result in the index: its task, what was measured on, and the values."""
    (entry,) = head(model)["model-index"]
    return [
        (result["task"]["name"], result["dataset"]["name"], {m["name"]: m["value"] for m in result["metrics"]})
        for result in entry["results"]
    ]


def metrics(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text())


def test_it_states_data_metrics_use_and_limits(advvae: Command) -> None:
    trained = metrics(advvae.train("then=[test]").folder)
    model = export(advvae, "dataset=digits", "scores=[loss]")
    facts = head(model)
    assert (facts["library_name"], facts["license"]) == ("advvae", "unknown")
    assert "datasets" not in facts, "digits is no dataset of the Hub's"
    assert results(model) == [
        ("Reconstruction", "validation images of digits", {"val_mse": trained["val_mse"]}),
        ("Reconstruction", "test images of digits", {name: trained[name] for name in ("mse", "psnr", "ssim")}),
    ]
    for words in (
        "CC BY 4.0",
        "1,294 images",
        "val_loss",
        "no medical device",
        "No number differs by more than 0.0001",
    ):
        assert words in body(model)
    assert [line for line in body(model).splitlines() if line.startswith("## ")] == [
        *("## Use", "## With ONNX Runtime", "## Data", "## Training", "## Measured", "## Limits"),
    ]


def test_all_that_was_measured_of_the_weights_is_in_it(advvae: Command) -> None:
    """By what followed the training in its job, and by later runs of either mode."""
    trained = metrics(advvae.train("then=[outlier]", "out_dataset=photos", *FEW).folder)
    tested = metrics(advvae("mode=test", "dataset=digits", "tracker=none").folder)
    found = metrics(
        advvae("mode=outlier", "dataset=digits", "out_dataset=photos", *FEW, "seed=3", "tracker=none").folder
    )
    model = export(advvae, "dataset=digits", "scores=[loss]")
    against = "test images of digits against photos"
    assert results(model)[1:] == [
        ("Outlier detection", against, {f"AUROC of {s}": v["auroc"] for s, v in trained["scores"].items()}),
        ("Reconstruction", "test images of digits", {name: tested[name] for name in ("mse", "psnr", "ssim")}),
        ("Outlier detection", against, {f"AUROC of {s}": v["auroc"] for s, v in found["scores"].items()}),
    ]
    assert "`mode=test`, test images of digits:" in body(model)
    assert body(model).count(f"`mode=outlier`, {against}:") == 2


def test_what_was_measured_of_others_is_not(advvae: Command) -> None:
    other, own = advvae.train("seed=1").folder, advvae.train().folder
    for typed in (
        (f"checkpoint={own}", "dataset.keep_classes=[0,1]"),
        (f"checkpoint={own}", f"discriminator_checkpoint={other}"),
        (f"checkpoint={own}", "loss=ssim"),
        (f"checkpoint={other}",),
    ):
        assert advvae("mode=test", "dataset=digits", "tracker=none", *typed).status == 0
    model = export(advvae, "dataset=digits", "scores=[loss]")
    assert [task for task, images, _ in results(model) if images != "validation images of digits"] == []
    assert "No test or outlier run of these weights was found" in body(model)
    last = export(advvae, "dataset=digits", "scores=[loss]", f"checkpoint={own / 'checkpoints' / 'last.pt'}")
    assert "model-index" not in head(last), "the metrics of a training are those of its best epoch"


def test_where_no_interval_is_defined_the_value_stands_alone() -> None:
    undefined = {"auroc_low": "undefined", "auroc_high": "undefined"}
    scores = {"loss": {"auroc": 0.9, **undefined}, "kld": {"auroc": "undefined", **undefined}}
    measured = [Measured("outlier", "mnist", "test", {"n_in": 9, "scores": scores, "sets": {"kmnist": {}}})]
    rows = {tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in tables(measured).splitlines()}
    assert {("n_in", "9"), ("AUROC of loss", "0.900"), ("AUROC of kld", "undefined")} <= rows
    (result,) = index("x", measured)[0]["results"]
    assert result["metrics"] == [{"type": "roc_auc", "name": "AUROC of loss", "value": 0.9}]
    assert result["dataset"] == {"name": "test images of mnist against kmnist", "type": "ylecun/mnist", "split": "test"}


def test_weights_of_another_program_claim_no_training_of_ours(advvae: Command, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(with_random_statistics(PlainVAE(16)).state_dict(), tmp_path / "VAE.pt")
    typed = ("dataset=digits", "size=16", f"checkpoint={tmp_path / 'VAE.pt'}", "scores=[loss,kld]")
    words = body(export(advvae, *typed))
    training = words.split("## Training\n")[1].split("## Measured\n")[0]
    assert "GenerativeZoo" in training
    assert "seed=" not in training
    assert "as it was named when the weights were exported" in words
