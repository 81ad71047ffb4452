"""`mode=export`: a folder that other programs read, with the numbers that advvae gives."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import advvae as package
from advvae import exporting
from advvae.errors import UserError
from advvae.outlier.evidence import FittedScore
from advvae.outlier.scorer import NO_GRAPH
from tests.command import TINY, Command

SCORES = (
    "scores=[loss,recon_ssim,kld,elbo,input_complexity,latent_mahalanobis,latent_gmm,lpath,discriminator,feature_knn,"
    "feature_mahalanobis,fused]"
)


@pytest.fixture
def exported(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADVVAE_DATA", str(advvae.data_dir))
    monkeypatch.chdir(advvae.cwd)
    advvae.train("then=[test]", "n_epochs=2")
    result = advvae("mode=export", "dataset=digits", "tracker=none", SCORES)
    assert result.status == 0, result.errors
    assert "stay with advvae: input_complexity" in result.output
    return result.folder


def images(n: int) -> torch.Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_the_folder_holds_what_it_says(exported: Path) -> None:
    metrics = json.loads((exported / "metrics.json").read_text())
    graphs = {"encoder", "decoder", "discriminator", "scorer"}
    assert set(metrics["onnx"]) == set(metrics["torch_export"]) == graphs
    assert max(*metrics["onnx"].values(), *metrics["torch_export"].values()) <= exporting.TOLERANCE
    for graph in graphs:
        assert (exported / "onnx" / f"{graph}.onnx").is_file()
        assert (exported / "torch_export" / f"{graph}.pt2").is_file()
    content = json.loads((exported / "config.json").read_text())
    assert content["input"] == {"channels": 1, "size": 8, "range": [-1, 1], "window": None, "resize": "crop"}
    assert content["scorer"] == metrics["scorer"]
    assert not set(metrics["scorer"]) & {*NO_GRAPH, "fused"}
    assert set(content["thresholds"]) == {*metrics["scorer"], "input_complexity", "fused"}


def test_no_place_of_this_machine_is_in_it(exported: Path) -> None:
    for name in ("config.json", "README.md"):
        assert str(exported.parents[3]) not in (exported / name).read_text()


def test_onnx_gives_the_scores_of_the_command_for_any_number_of_images(exported: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(exported / "onnx" / "scorer.onnx"))
    names = json.loads((exported / "config.json").read_text())["scorer"]
    model = package.load(exported)
    for n in (1, 7, 130):
        reconstruction, scores = session.run(None, {"images": (images(n) * 2 - 1).numpy()})
        np.testing.assert_allclose((reconstruction + 1) / 2, model.reconstruct(images(n)), atol=1e-4)
        table = model.score(images(n), scores=names)
        for column, name in enumerate(names):
            scale = np.abs(table[name]).max()
            np.testing.assert_allclose(scores[:, column] / scale, table[name] / scale, atol=1e-4, err_msg=name)


def test_it_is_read_back_with_identical_outputs(exported: Path) -> None:
    (run,) = (exported.parents[2] / "train" / "digits").iterdir()
    original, again = package.load(run), package.load(exported)
    for part in ("encoder", "decoder", "discriminator"):
        states = [getattr(model.networks, part).state_dict() for model in (original, again)]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert torch.equal(original.sample(4, seed=3), again.sample(4, seed=3))
    names = ["loss", "latent_gmm", "fused"]
    assert original.score(images(5), scores=names).equals(again.score(images(5), scores=names))


def test_its_scores_are_not_fitted_again(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("it is fitted")

    for kind in FittedScore.__subclasses__():
        monkeypatch.setattr(kind, "fit", fail)
    monkeypatch.setenv("ADVVAE_DATA", str(exported / "nothing here"))
    assert package.load(exported).score(images(2), scores=["elbo", "lpath"]).shape == (2, 6)


def test_commands_take_it(exported: Path, advvae: Command) -> None:
    result = advvae("mode=sample", "dataset=digits", f"checkpoint={exported}", "tracker=none")
    assert result.status == 0, result.errors
    assert "checkpoint_sha256" in (result.folder / "config.yaml").read_text()


def test_the_card_states_data_metrics_use_and_limits(exported: Path) -> None:
    text = (exported / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    facts = yaml.safe_load(head)
    assert facts["library_name"] == "advvae"
    (result,) = facts["model-index"][0]["results"] or [None]
    assert result is None or result["metrics"]
    for words in (
        "## Data",
        "CC BY 4.0",
        "1,294 images",
        "## Measured",
        "val_loss",
        "psnr",
        "## Limits",
        "no medical device",
    ):
        assert words in body


def test_a_later_test_run_joins_the_card(exported: Path, advvae: Command) -> None:
    assert advvae("mode=test", "dataset=digits", "tracker=none").status == 0
    assert advvae("mode=outlier", "dataset=digits", "out_dataset=photos", "scores=[loss]", "tracker=none").status == 0
    text = (advvae("mode=export", "dataset=digits", "scores=[loss]", "tracker=none").folder / "README.md").read_text()
    assert "`mode=test`, test images of digits:" in text
    assert "AUROC of loss" in text


def test_a_plain_vae_has_no_discriminator_to_export(advvae: Command) -> None:
    advvae.train("train_discriminator=false", "gen_weight=0", "recon_weight=0")
    result = advvae("mode=export", "dataset=digits", "scores=[loss,kld]", "tracker=none")
    assert result.status == 0, result.errors
    assert sorted(path.stem for path in (result.folder / "onnx").iterdir()) == ["decoder", "encoder", "scorer"]


def test_a_model_of_ones_own_images_scores_without_them(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(advvae.cwd)
    np.save(advvae.cwd / "scans.npy", np.random.default_rng(0).integers(0, 255, (60, 8, 8), dtype=np.uint8))
    assert advvae("mode=train", "dataset=array", f"dataset.path={advvae.cwd / 'scans.npy'}", *TINY).status == 0
    result = advvae("mode=export", "dataset=array", "scores=[loss,elbo]", "tracker=none")
    assert result.status == 0, result.errors
    before = package.load(advvae.runs()[0]).score(images(3), scores=["loss", "elbo"])
    (advvae.cwd / "scans.npy").unlink()
    assert package.load(result.folder).score(images(3), scores=["loss", "elbo"]).equals(before)
    assert "scans.npy" in (result.folder / "config.json").read_text()
    assert str(advvae.cwd) not in (result.folder / "config.json").read_text()


@pytest.mark.parametrize("damage", ["weights", "config", "format"])
def test_a_damaged_export_is_told(exported: Path, damage: str) -> None:
    if damage == "weights":
        (exported / "model.safetensors").write_bytes(b"nothing")
    elif damage == "config":
        (exported / "config.json").unlink()
    else:
        content = json.loads((exported / "config.json").read_text())
        (exported / "config.json").write_text(json.dumps(content | {"format": 99}))
    with pytest.raises(UserError, match="format 99" if damage == "format" else "damaged"):
        package.load(exported)


def test_a_graph_with_other_numbers_is_refused(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    advvae.train()
    monkeypatch.setattr(exporting, "TOLERANCE", 0.0)
    monkeypatch.setattr(exporting, "_listed", lambda outputs: [torch.rand(3, 2)])
    result = advvae("mode=export", "dataset=digits", "scores=[loss]", "tracker=none")
    assert result.status == 1
    assert "gives other numbers in" in result.errors


def test_a_missing_package_is_named(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    advvae.train()
    monkeypatch.setattr(exporting, "PACKAGES", ("safetensors", "no_such_package"))
    result = advvae("mode=export", "dataset=digits", "tracker=none")
    assert result.status == 1
    assert "mode=export needs no_such_package: pip install 'advvae[export]'" in result.errors
