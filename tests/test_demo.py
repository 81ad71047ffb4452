"""`make demo` as a newcomer types it, and the wheel as a user installs it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_demos_reconstructions_are_recognisable(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    from advvae.checkpoint import read_checkpoint
    from advvae.data import load_split
    from advvae.data.embedded import Digits
    from advvae.models import conv_networks

    recipe = ["make", "--no-print-directory", "--always-make", "-n", "demo", f"ADVVAE={sys.executable} -m advvae"]
    lines = subprocess.run(recipe, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    commands = [line for line in lines if " -m advvae " in line]
    assert len(commands) == 5
    for command in commands:
        subprocess.run(command, shell=True, cwd=tmp_path, check=True, env={"PYTHONPATH": str(ROOT)})

    (best,) = tmp_path.glob("outputs/demo/train/digits/*/checkpoints/best.pt")
    checkpoint = read_checkpoint(best)
    networks = conv_networks(1, 32, checkpoint.config["latent_dim"], checkpoint.config["hidden_dims"])
    checkpoint.restore(networks)
    networks.eval()
    pixels, labels = {}, {}
    for name in ("train", "test"):
        split = load_split(
            Digits(), name, name="digits", size=32, channels=1, data_dir=tmp_path / "data", drop_classes=[9]
        )
        pixels[name], labels[name] = torch.cat(list(split.batches(256))), split.labels
    with torch.no_grad():
        reconstructions = networks.reconstruct(pixels["test"])
    classifier = LogisticRegression(max_iter=2000).fit(pixels["train"].flatten(1).numpy(), labels["train"])
    of_originals = classifier.predict(pixels["test"].flatten(1).numpy())
    of_reconstructions = classifier.predict(reconstructions.flatten(1).numpy())
    assert np.mean(of_originals == labels["test"]) > 0.9  # the classifier is worth asking
    assert np.mean(of_reconstructions == of_originals) >= 0.9
    assert set(labels["test"]) == set(range(9))


@pytest.mark.slow
def test_an_installed_wheel_works_from_another_folder(tmp_path: Path) -> None:
    def run(*command: str, **environment: str) -> str:
        process = subprocess.run(
            command,
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        return process.stdout

    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", "wheels", str(ROOT))
    (wheel,) = (tmp_path / "wheels").glob("advvae-*.whl")
    run(*pip, "install", "--quiet", "--no-deps", "--target", "installed", str(wheel))
    command = str(tmp_path / "installed" / "bin" / "advvae")
    path = {"PYTHONPATH": str(tmp_path / "installed")}
    assert str(tmp_path) in run(sys.executable, "-c", "import advvae; print(advvae.__file__)", **path)
    assert "octmnist" in run(command, "--help", **path)
    tiny = ("size=8", "hidden_dims=[4,8]", "latent_dim=4", "n_epochs=1", "precision=32", "tracker=none")
    assert "run folder" in run(command, "mode=train", "dataset=digits", *tiny, "then=[test]", **path)
    completed = run(command, "-sc", "query=bash", COMP_LINE="advvae out_dataset=oct", COMP_POINT="22", **path)
    assert completed.split() == ["out_dataset=octmnist"]
