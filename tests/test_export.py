"""`mode=export`: a folder that other programs read, with the numbers that advvae gives."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

import advvae as package
from advvae import exporting, graphs
from advvae.errors import UserError
from advvae.outlier.evidence import FittedScore
from advvae.outlier.scorer import NO_GRAPH
from tests.command import TINY, Command
from tests.exported import command_in, export, printed_by_card, some_images

SCORES = (
    "scores=[loss,recon_ssim,kld,elbo,input_complexity,latent_mahalanobis,latent_gmm,lpath,discriminator,feature_knn,"
    "feature_mahalanobis,fused]"
)
OWN_SCORE = """
import numpy as np
import torch

def brightness(evidence):
    return evidence.images.mean((1, 2, 3))

def by_numpy(evidence):
    return torch.from_numpy(np.abs(evidence.images.numpy()).mean((1, 2, 3)))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, shared_data_dir: Path) -> Path:
    """A current folder in which a network was trained, tested and exported, for tests that leave it as it is."""
    advvae = command_in(tmp_path_factory.mktemp("place"), shared_data_dir)
    advvae.train("then=[test]", "n_epochs=2")
    export(advvae, "dataset=digits", SCORES)
    return advvae.cwd


@pytest.fixture
def exported(place: Path, shared_data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the exported model."""
    monkeypatch.setenv("ADVVAE_DATA", str(shared_data_dir))
    monkeypatch.chdir(place)
    (model,) = place.glob("outputs/export/digits/*/model")
    return model


def test_the_folder_holds_what_it_says(exported: Path) -> None:
    metrics = json.loads((exported.parent / "metrics.json").read_text())
    names = {"encoder", "decoder", "discriminator", "scorer"}
    assert set(metrics["onnx"]) == set(metrics["torch_export"]) == names
    assert max(*metrics["onnx"].values(), *metrics["torch_export"].values()) <= graphs.TOLERANCE
    files = {str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()}
    assert files == {
        *("model.safetensors", "config.json", "README.md", "detector-model.pt"),
        *(f"onnx/{name}.onnx" for name in names),
        *(f"torch_export/{name}.pt2" for name in names),
    }
    content = json.loads((exported / "config.json").read_text())
    assert content["input"] == {
        "channels": 1,
        "size": 8,
        "image_size": 8,
        "range": [-1, 1],
        "window": None,
        "resize": "crop",
        "scaling": "8 bits: value / 127.5 - 1; 16 bits: value / 32767.5 - 1",
        "filter": "bilinear, antialiased",
        "luma": [0.299, 0.587, 0.114],
    }
    assert content["scorer"] == metrics["scorer"]
    assert not set(metrics["scorer"]) & {*NO_GRAPH, "fused"}
    assert set(content["thresholds"]) == set(metrics["scorer"])
    assert set(content["other_thresholds"]) == set(content["not_in_scorer"]) == {"input_complexity", "fused"}
    assert content["compared_on_images"] == 5


def test_onnx_gives_the_scores_of_the_command_for_any_number_of_images(exported: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(exported / "onnx" / "scorer.onnx"))
    names = json.loads((exported / "config.json").read_text())["scorer"]
    model = package.load(exported)
    for n in (1, 7, 130):
        reconstruction, scores = session.run(None, {"images": (some_images(n) * 2 - 1).numpy()})
        np.testing.assert_allclose((reconstruction + 1) / 2, model.reconstruct(some_images(n)), atol=1e-4)
        table = model.score(some_images(n), scores=names)
        for column, name in enumerate(names):
            scale = np.abs(table[name]).max()
            np.testing.assert_allclose(scores[:, column] / scale, table[name] / scale, atol=1e-4, err_msg=name)


def test_it_is_read_back_with_identical_outputs(exported: Path) -> None:
    (run,) = (exported.parents[3] / "train" / "digits").iterdir()
    original, again = package.load(run), package.load(exported)
    for part in ("encoder", "decoder", "discriminator"):
        states = [getattr(model.networks, part).state_dict() for model in (original, again)]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert torch.equal(original.sample(4, seed=3), again.sample(4, seed=3))
    names = ["loss", "latent_gmm", "fused"]
    assert original.score(some_images(5), scores=names).equals(again.score(some_images(5), scores=names))


def test_its_scores_are_not_fitted_again(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("it is fitted")

    for kind in FittedScore.__subclasses__():
        monkeypatch.setattr(kind, "fit", fail)
    monkeypatch.setenv("ADVVAE_DATA", str(exported / "nothing here"))
    assert package.load(exported).score(some_images(2), scores=["elbo", "lpath"]).shape == (2, 6)


def test_commands_take_it(exported: Path, advvae: Command) -> None:
    for folder in (exported, exported.parent):  # the model, and the run that wrote it
        result = advvae("mode=sample", "dataset=digits", f"checkpoint={folder}", "tracker=none")
        assert result.status == 0, result.errors
        assert "checkpoint_sha256" in (result.folder / "config.yaml").read_text()


def test_an_exported_model_is_exported_again(exported: Path, advvae: Command) -> None:
    model = export(advvae, "dataset=digits", f"checkpoint={exported}", "scores=[loss]")
    assert (model / "model.safetensors").read_bytes() == (exported / "model.safetensors").read_bytes()


@pytest.mark.parametrize("damage", ["weights", "config", "format"])
def test_a_damaged_export_is_told(exported: Path, tmp_path: Path, damage: str) -> None:
    exported = shutil.copytree(exported, tmp_path / "model")
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
    folder = advvae.train().folder
    monkeypatch.setattr(graphs, "TOLERANCE", -1.0)
    result = advvae("mode=export", "dataset=digits", "scores=[loss]", "tracker=none")
    assert result.status == 1
    assert "encoder gives other numbers in torch.export than in PyTorch, by" in result.errors
    assert advvae.runs() == [folder], "nothing half-written stays"


def test_a_score_with_other_numbers_is_left_out(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    difference = graphs.difference

    def found(wanted: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        return difference(wanted, given) + torch.tensor([0.0, 1.0] if wanted.shape[1:] == (2,) else 0.0)

    advvae.train("train_discriminator=false", "gen_weight=0", "recon_weight=0")
    monkeypatch.setattr(graphs, "difference", found)
    result = advvae("mode=export", "dataset=digits", "scores=[loss,kld]", "tracker=none")
    assert result.status == 0, result.errors
    assert "scores that stay with advvae: kld: its numbers differ" in result.output
    content = json.loads((result.folder / "model" / "config.json").read_text())
    assert (content["scorer"], set(content["thresholds"])) == (["loss"], {"loss"})
    names = sorted(path.stem for path in (result.folder / "model" / "onnx").iterdir())
    assert names == ["decoder", "encoder", "scorer"], "a plain VAE has no discriminator"


def test_a_scorer_that_onnx_alone_gives_other_numbers_of_leaves_no_file(
    advvae: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_onnx = graphs.write_onnx

    def refused(path: Path, graph: graphs.Graph, program: torch.export.ExportedProgram) -> float:
        if graph.name == "scorer":
            raise graphs.OtherNumbers("other numbers", [0])
        return write_onnx(path, graph, program)

    advvae.train("train_discriminator=false", "gen_weight=0", "recon_weight=0")
    monkeypatch.setattr(graphs, "write_onnx", refused)
    result = advvae("mode=export", "dataset=digits", "scores=[loss]", "tracker=none")
    assert result.status == 0, result.errors
    assert list((result.folder / "model").rglob("scorer*")) == []


def test_a_difference_is_a_share_of_the_largest_number_of_its_kind() -> None:
    wanted = torch.tensor([[100.0, 0.5], [-200.0, 0.01]])
    apart = graphs.difference(wanted, wanted + torch.tensor([[2.0, 0.0], [0.0, 0.03]]))
    assert apart.tolist() == pytest.approx([0.01, 0.03])  # of 200, and as it is
    assert graphs.difference(wanted[..., None], wanted[..., None] + 2).item() == pytest.approx(0.01)
    assert graphs.difference(torch.tensor([1.0]), torch.tensor([torch.nan])) == float("inf")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "size"),
    [
        (("dataset=photos", "size=12", "model=resnet", "dataset.resize=squash"), 12),
        (("dataset=photos", "size=28", "loss=ssim", "hidden_dims=[4,8,8]"), 28),
        (("experiment=detector", "dataset=digits", "dataset.resize=pad"), 8),
    ],
)
def test_other_networks_are_exported_too(
    advvae: Command, monkeypatch: pytest.MonkeyPatch, training: tuple[str, ...], size: int
) -> None:
    """Each graph is compared by the export itself; the program in the card gives what advvae gives."""
    monkeypatch.setenv("ADVVAE_DATA", str(advvae.data_dir))
    result = advvae("mode=train", *TINY, *training)
    assert result.status == 0, result.errors
    name = result.folder.parent.name
    model = export(advvae, f"dataset={name}", "scores=[loss,recon_ssim,lpath,feature_knn]")
    assert {path.stem for path in (model / "onnx").iterdir()} == {"encoder", "decoder", "discriminator", "scorer"}
    image = np.random.default_rng(0).integers(0, 256, (2 * size, 3 * size, 3), dtype=np.uint8)
    check_card(model, image)


def test_images_with_a_window_are_prepared_by_it(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(advvae.cwd)
    scans = np.random.default_rng(0).integers(0, 4096, (60, 9, 8), dtype=np.uint16)
    np.save(advvae.cwd / "scans.npy", scans)
    own = ("dataset=array", f"dataset.path={advvae.cwd / 'scans.npy'}", "dataset.window=[100,3000]")
    assert advvae("mode=train", *own, *TINY).status == 0
    model = export(advvae, "dataset=array", "scores=[loss,kld]")
    check_card(model, scans[0])
    words = (model / "README.md").read_text()
    assert "clip((value - low) / (high - low), 0, 1) * 2 - 1" in words
    assert "[100, 3000]" in words


def check_card(model: Path, image: np.ndarray) -> None:
    """Compare what the program in a model's card prints with advvae's scores and flags."""
    printed = printed_by_card(model, image)
    table = package.load(model).score([image], scores=list(printed), alpha=0.05)
    assert len(printed) > 1
    for name, (score, flag) in printed.items():
        assert score == pytest.approx(table[name][0], rel=1e-2), name
        flagged = table[f"{name}_flag"][0]
        assert flag == ("no threshold" if pandas.isna(flagged) else ("normal", "outlier")[flagged]), name


def test_a_score_that_is_no_graph_is_left_out_by_name(advvae: Command) -> None:
    (advvae.cwd / "own_scores.py").write_text(OWN_SCORE)
    advvae.train()
    own = ",".join(f"{{_target_:own_scores.{name},_partial_:true}}" for name in ("brightness", "by_numpy"))
    result = advvae("mode=export", "dataset=digits", "tracker=none", f"scores=[loss,input_complexity,{own}]")
    assert result.status == 0, result.errors
    content = json.loads((result.folder / "model" / "config.json").read_text())
    assert content["scorer"] == ["loss", "brightness"], result.output
    assert set(content["not_in_scorer"]) == {"input_complexity", "by_numpy"}
    assert "score by_numpy: mode=export cannot make a graph of scorer" in result.output
    assert "scores that stay with advvae: input_complexity, by_numpy" in result.output
    for words in ("constant folding", "unused", "Warning"):  # of the writers of graphs
        assert words not in result.output + result.errors
    assert "Scores that advvae alone gives" in (result.folder / "model" / "README.md").read_text()


def test_a_network_of_crops_has_no_scorer_and_says_so(advvae: Command) -> None:
    advvae.train("size=16", "crop=8")
    result = advvae("mode=export", "dataset=digits", "tracker=none", "scores=[patch_discriminator]")
    assert result.status == 0, result.errors
    model = result.folder / "model"
    assert {path.stem for path in (model / "onnx").iterdir()} == {"encoder", "decoder", "discriminator"}
    content = json.loads((model / "config.json").read_text())
    assert (content["input"]["size"], content["input"]["image_size"], content["scorer"]) == (8, 16, [])
    assert "patch_discriminator: a scorer takes whole images of 16 px, and the networks crops of 8 px" in result.output
    words = (model / "README.md").read_text()
    assert "There is no `onnx/scorer.onnx`" in words
    assert "**The networks take crops of that**, 8 × 8 px." in words


def test_a_missing_package_is_named(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    advvae.train()
    monkeypatch.setattr(exporting, "PACKAGES", ("safetensors", "no_such_package"))
    result = advvae("mode=export", "dataset=digits", "tracker=none")
    assert result.status == 1
    assert "mode=export needs no_such_package: pip install 'advvae[export]'" in result.errors
