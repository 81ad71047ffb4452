"""advvae from Python."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

import advvae as package
from advvae.api import Model
from advvae.errors import UserError
from advvae.overrides import as_overrides, typed
from tests.command import FEW, TINY, Command

KEYS: dict[str, Any] = {
    "size": 8,
    "hidden_dims": [4, 8],
    "latent_dim": 4,
    "batch_size": 256,
    "n_epochs": 1,
    "precision": 32,
}


@pytest.fixture
def here(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command's folders, for Python code too."""
    monkeypatch.setenv("ADVVAE_DATA", str(advvae.data_dir))
    monkeypatch.chdir(advvae.cwd)
    return advvae


@pytest.fixture
def model(here: Command) -> Model:
    return package.load(here.train().folder)


def digits(n: int) -> np.ndarray:
    from sklearn.datasets import load_digits

    return (load_digits().images[:n] / 16).astype(np.float32)


def test_training_is_the_commands(here: Command) -> None:
    model = package.train(dataset="digits", tracker="none", **KEYS)
    twin = package.load(here.train().folder)
    assert torch.equal(model.sample(4), twin.sample(4))
    names = ("metrics.json", "config.yaml", "advvae.log", "report.html", ".hydra/overrides.yaml", "curves.png")
    assert all((model.folder / name).is_file() for name in names)
    assert "epoch 1/1" in (model.folder / "advvae.log").read_text()
    assert here("mode=test", "dataset=digits", f"checkpoint={model.folder}").status == 0


def test_a_mistake_is_a_user_error_and_leaves_nothing(here: Command) -> None:
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"latent_dim": -1}, "latent_dim must be 1 or more"),
        ({"latent_dims": 3}, "latent_dims"),
        ({"dataset": "nothing"}, "nothing"),
        ({"mode": "test"}, "leave mode out"),
    ]
    for keys, words in mistakes:
        with pytest.raises(UserError, match=words):
            package.train(**{"dataset": "digits", "tracker": "none", **keys})
    assert not (here.cwd / "outputs").exists()


def test_images_of_every_kind_are_the_same(model: Model) -> None:
    pixels = (digits(5) * 255).round().astype(np.uint8)
    expected = model.reconstruct(pixels)
    assert expected.shape == (5, 1, 8, 8)
    assert expected.dtype == torch.float32
    assert 0 <= expected.min() <= expected.max() <= 1
    kinds = {
        "float": pixels / 255,
        "channels last": pixels[..., None],
        "tensor": torch.from_numpy(pixels)[:, None],
        "float tensor": torch.from_numpy(pixels)[:, None] / 255,
        "16 bits": pixels.astype(np.uint16) * 257,
        "Pillow": [Image.fromarray(image) for image in pixels],
        "list": list(pixels),
        "colour": [Image.fromarray(image).convert("RGB") for image in pixels],
    }
    for kind, images in kinds.items():
        np.testing.assert_allclose(model.reconstruct(images), expected, atol=1e-5, err_msg=kind)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(2, 8, 8), r"a tensor of images is \(n, C, H, W\), got \(2, 8, 8\)"),
        (np.zeros((8, 8)), r"an array of images is"),
        (np.full((2, 8, 8), -1.0), r"image 0: .*floats are in \[0, 1\]"),
        (np.full((2, 8, 8), np.nan), "NaN"),
        (np.zeros((2, 8, 8), np.int64), "uint8"),
        ([], "there are no images"),
        (3, "got int"),
        (["a.png"], "image 0"),
    ],
)
def test_what_is_no_image_is_told(model: Model, images: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        model.reconstruct(images)  # type: ignore[arg-type]


def test_codes_are_the_posteriors(model: Model) -> None:
    posterior = model.encode(digits(6))
    assert posterior.mean.shape == posterior.logvar.shape == (6, 4)
    with torch.no_grad():
        model.networks.eval()
        decoded = (model.networks.decode(posterior.mean) + 1) / 2
    np.testing.assert_allclose(decoded, model.reconstruct(digits(6)), atol=1e-5)


def test_samples_follow_from_the_seed(model: Model) -> None:
    assert torch.equal(model.sample(3, seed=1), model.sample(3, seed=1))
    assert not torch.equal(model.sample(3, seed=1), model.sample(3, seed=2))
    assert model.sample(3, sampler="gmm").shape == (3, 1, 8, 8)
    assert model.sample(2, truncation=1e-6).std(0).max() < 1e-3
    with pytest.raises(UserError, match="sampler"):
        model.sample(3, sampler="none")


def test_scores_are_those_of_the_command(model: Model, here: Command) -> None:
    np.save("some.npy", (digits(40) * 255).round().astype(np.uint8))
    result = here("mode=screen", "dataset=digits", "input=some.npy", *FEW, "tracker=none")
    expected = pandas.read_csv(result.folder / "screen.csv")
    images = np.load("some.npy")
    for table in (
        model.score(images, scores=["loss", "discriminator"]),
        model.screen("some.npy", scores=["loss", "discriminator"]),
    ):
        for name in ("loss", "discriminator"):
            for end in ("", "_p", "_flag"):
                np.testing.assert_allclose(
                    table[name + end].astype(float), expected[name + end].astype(float), rtol=1e-5
                )
    assert model.score(images[:3], scores=["loss"])["loss"].tolist() == pytest.approx(expected["loss"][:3].tolist())


def test_an_unknown_score_and_a_missing_folder_are_told(model: Model) -> None:
    with pytest.raises(UserError, match="unknown score 'los'"):
        model.score(digits(2), scores=["los"])
    with pytest.raises(UserError, match="there is nothing there"):
        model.screen("nowhere")
    with pytest.raises(UserError, match="there is nothing there"):
        package.load("nowhere")


def test_nothing_is_written_by_using_a_model(model: Model, here: Command) -> None:
    before = set(here.cwd.rglob("*"))
    model.reconstruct(digits(2))
    model.sample(2)
    model.score(digits(2), scores=["recon_mse"])
    new = {path.name for path in here.cwd.rglob("*") if path not in before}
    assert new <= {"detector.pt", ".detector.pt.lock"}, "what scores have learnt is kept in the run's folder"


def test_a_sweep_is_read_into_a_frame(here: Command) -> None:
    here("-m", "mode=train", "dataset=digits", *TINY, "gen_weight=0,0.5", "model.norm=batch,none")
    (folder,) = (here.cwd / "outputs" / "sweeps").iterdir()
    frame = package.read_sweep(folder)
    assert frame["gen_weight"].tolist() == [0, 0, 0.5, 0.5]
    assert frame["model.norm"].tolist() == ["batch", "none"] * 2
    assert set(frame["status"]) == {"finished"}
    assert frame["val_loss"].dtype == float
    assert isinstance(package.load(folder), Model), "its best job"


def test_values_are_typed_as_hydra_reads_them() -> None:
    keys = {"a": None, "b": True, "c": [1, "x"], "d": {"e": 0.5}, "f": "a b,c", "g": Path("x y"), "h": 1e-5}
    assert as_overrides(keys) == ["a=null", "b=true", "c=[1,x]", "d={e:0.5}", "f='a b,c'", "g='x y'", "h=1e-05"]
    assert typed("it's") == "'it\\'s'"


def test_importing_the_package_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import advvae, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert set(package.__all__) >= {"load", "train", "read_sweep", "OutlierDetector", "UserError"}
    with pytest.raises(AttributeError):
        package.nothing  # noqa: B018
