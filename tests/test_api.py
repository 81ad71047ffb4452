"""advvae from Python."""

import copy
import gc
import json
import pickle
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pandas
import pytest
import torch
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from PIL import Image

import advvae as package
from advvae.api import Model
from advvae.errors import UserError
from advvae.overrides import as_overrides, typed
from advvae.random_state import random_state, restore_random_state
from tests.command import FEW, TINY, Command
from tests.networks import changed, snapshot

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


@pytest.fixture
def scans(here: Command) -> np.ndarray:
    """scans.npy, whose values have a unit: (60, 8, 8) int16 from -1000 to 400."""
    scans = np.random.default_rng(0).integers(-1000, 401, (60, 8, 8)).astype(np.int16)
    np.save("scans.npy", scans)
    return scans


@pytest.fixture
def windowed(here: Command, scans: np.ndarray) -> Model:
    window = ("dataset=array", "dataset.path=scans.npy", "dataset.window=[-1000,400]")
    result = here("mode=train", *TINY, *window, *FEW)
    assert result.status == 0, result.errors
    return package.load(result.folder)


def test_a_model_with_a_window_takes_the_values_of_files(windowed: Model, scans: np.ndarray, here: Command) -> None:
    result = here("mode=screen", f"checkpoint={windowed.folder}", "input=scans.npy", *FEW, "tracker=none")
    expected = pandas.read_csv(result.folder / "screen.csv")
    for images in (scans, torch.from_numpy(scans)[:, None], scans.astype(float), (scans + 1000) / 1400):
        table = windowed.score(images, scores=["loss", "discriminator"])
        for name in ("loss", "loss_p", "discriminator", "discriminator_p"):
            np.testing.assert_allclose(table[name], expected[name], rtol=1e-3, err_msg=name)


def test_what_a_model_with_a_window_gives_it_takes_again(windowed: Model, scans: np.ndarray) -> None:
    once = windowed.reconstruct(scans)
    with torch.no_grad():
        twice = (windowed.networks.reconstruct(once * 2 - 1) + 1) / 2
    np.testing.assert_allclose(windowed.reconstruct(once), twice, atol=1e-4)
    assert windowed.score(once, scores=["loss"])["loss"].std() > 0
    with pytest.raises(UserError, match=r"image 0: .*\[0, 1\]"):
        windowed.reconstruct(scans.astype(float), raw=False)


def test_its_networks_are_used_as_they_are(model: Model) -> None:
    before = snapshot(model.networks)
    model.networks.discriminate(torch.rand(4, 1, 8, 8))
    assert changed(before, model.networks, lambda name: True) == [], "nor its running statistics"
    assert not any(parameter.requires_grad for parameter in model.networks.parameters())
    model.score(digits(2), scores=["recon_mse"])
    assert not any(module.training for module in model.networks.modules())


def test_an_interruption_leaves_gradients_on(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(images: torch.Tensor) -> None:
        raise KeyboardInterrupt

    for name in ("reconstruct", "encode"):
        monkeypatch.setattr(model.networks, name, stopped)
        with pytest.raises(KeyboardInterrupt) as interrupt:
            getattr(model, name)(digits(2))
        assert torch.is_grad_enabled(), "while a notebook keeps the error, and so its frames"
        assert interrupt.value is not None


def test_it_is_loaded_within_a_program_of_hydras(model: Model) -> None:
    OmegaConf.register_new_resolver("run_dir", lambda: "the caller's", replace=True)
    ConfigStore.instance().store(name="schema", node={"of": "the caller"})
    with hydra.initialize(version_base="1.2"):
        assert torch.equal(package.load(model.folder).sample(2), model.sample(2))
        assert GlobalHydra.instance().is_initialized()
        assert str(hydra.version.getbase()) == "1.2"
        own = hydra.compose("schema", overrides=["+at=${run_dir:}"])
    assert (own.of, own.at) == ("the caller", "the caller's")
    assert not GlobalHydra.instance().is_initialized()
    OmegaConf.clear_resolver("run_dir")


def test_several_threads_load_and_use_models(model: Model) -> None:
    def sampled(_: int) -> torch.Tensor:
        return package.load(model.folder).reconstruct(digits(2))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(sampled, range(8)))
    assert all(torch.equal(one, model.reconstruct(digits(2))) for one in found)


def test_it_tells_what_it_was_trained_by(here: Command) -> None:
    keys = {**KEYS, "n_epochs": 2, "batch_size": 500, "lr": 3e-4, "scores": ["recon_mse", "kld"]}
    model = package.train(dataset="digits", tracker="none", seed=7, **keys)
    for name, value in {"n_epochs": 2, "batch_size": 500, "lr": 3e-4, "seed": 7, "size": 8}.items():
        assert getattr(model.config, name) == value, name
    assert model.config.data_dir == str(here.data_dir)
    assert list(model.score(digits(2)).columns[::3]) == ["recon_mse", "kld"]
    assert list(package.load(model.folder, scores=["loss"]).score(digits(2)).columns) == ["loss", "loss_p", "loss_flag"]


def test_an_exported_model_scores_without_the_training_images_and_stays_as_it_is(
    windowed: Model, scans: np.ndarray, here: Command
) -> None:
    scores = ("scores=[recon_mse,latent_mahalanobis,fused]", "fuse=[recon_mse,latent_mahalanobis]")
    result = here("mode=export", f"checkpoint={windowed.folder}", *scores, "tracker=none")
    assert result.status == 0, result.errors
    folder = result.folder / "model"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    Path("scans.npy").unlink()
    model = package.load(folder)
    assert list(model.score(scans).columns[::3]) == ["recon_mse", "latent_mahalanobis", "fused"]
    np.save("scans.npy", scans)
    model = package.load(folder, **{"dataset": "array", "dataset.path": "scans.npy"})
    assert model.score(scans, scores=["kld"])["kld_p"].notna().all(), "it is fitted now"
    assert model.sample(2, sampler="gmm").shape == (2, 1, 8, 8)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_fitted_scores_are_kept_and_nothing_is_written_twice(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    first = model.score(digits(3), scores=["latent_gmm"])
    kept = model.folder / "detector.pt"
    written = kept.stat().st_mtime_ns
    assert package.load(model.folder).score(digits(3), scores=["latent_gmm"]).equals(first)
    assert kept.stat().st_mtime_ns == written
    monkeypatch.setattr("advvae.jobs.checksums", None)
    assert model.score(digits(3), scores=["latent_gmm"], alpha=0.5)["latent_gmm"].equals(first["latent_gmm"])


def test_training_leaves_the_process_as_it_was(here: Command) -> None:
    def draws() -> list[float]:
        return [float(torch.rand(1)), float(np.random.rand())]  # noqa: NPY002 - it is the global one that is meant

    before = random_state()
    expected = draws()
    restore_random_state(before)
    package.train(dataset="digits", tracker="none", deterministic=True, **KEYS)
    assert draws() == expected
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_folder_that_cannot_be_written_is_a_user_error(here: Command) -> None:
    Path("outputs").write_text("no folder")
    with pytest.raises(UserError, match=r"cannot write .*outputs"):
        package.train(dataset="digits", tracker="none", **KEYS)


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
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"sampler": "none"}, "sampler"),
        ({"n": 0}, "n must be 1 or more, got 0"),
        ({"truncation": -1.0}, "truncation must be a finite number above 0"),
    ]
    for arguments, words in mistakes:
        with pytest.raises(UserError, match=words):
            model.sample(**arguments)


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
    with pytest.raises(UserError, match="leave mode out"):
        package.load(model.folder, mode="train")


def test_images_that_cannot_be_read_are_named(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    Path("scans").mkdir()
    for number, image in enumerate((digits(3) * 255).astype(np.uint8)):
        Image.fromarray(image).save(f"scans/{number}.png")
    Path("scans/1.png").write_text("no image")
    table = model.screen("scans", scores=["recon_mse"])
    assert [Path(path).name for path in table["path"]] == ["0.png", "2.png"]
    ((path, index, reason),) = table.attrs["unreadable"]
    assert (path, index) == (str(Path("scans/1.png").absolute()), 1)
    assert "cannot identify" in reason
    assert any(path in message for message in caplog.messages)
    assert table["recon_mse_flag"].dtype == model.score(digits(2), scores=["recon_mse"])["recon_mse_flag"].dtype
    assert table["recon_mse_flag"].dtype == "Int64"


def test_its_temporary_folder_goes_with_it(here: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = here.train().folder
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        model = package.load(run)
        assert list((tmp_path / "temporary").iterdir())
        for copied in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError, match=r"advvae\.load\('.*'\) makes another one"):
                copied(model)
        del model
        gc.collect()
    assert not list((tmp_path / "temporary").iterdir())


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


def test_a_frame_has_what_was_swept_as_it_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for job, (truth, name) in enumerate([("true", "batch"), ("false", "none")]):
        (tmp_path / "sweep" / f"{job}" / ".hydra").mkdir(parents=True)
        overrides = f"[adaptive_weight={truth}, model.norm={name}, precision={['32', 'bf16'][job]}]"
        (tmp_path / "sweep" / f"{job}" / ".hydra" / "overrides.yaml").write_text(overrides)
        (tmp_path / "sweep" / f"{job}" / "metrics.json").write_text(json.dumps({"status": "finished", "val_loss": job}))
    frame = package.read_sweep("~/sweep")
    assert frame["adaptive_weight"].dtype == bool
    assert frame["adaptive_weight"].tolist() == [True, False]
    assert frame["model.norm"].tolist() == ["batch", "none"]
    assert "precision" not in frame, "which the jobs took by themselves"


@pytest.mark.parametrize(
    "text",
    [
        "scans",
        r"C:\scans\new",
        "it's",
        r"\'",
        "a\\",
        'say "x"',
        "a b, c",
        "2024",
        "1e5",
        "null",
        "True",
        "nan",
        "Größe",
        "-",
    ],
)
def test_a_text_is_read_back_as_it_was(text: str) -> None:
    assert OverridesParser.create().parse_override(f"key={typed(text)}").value() == text
    assert OverridesParser.create().parse_override(f"key={typed([text, 1])}").value() == [text, 1]


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
