"""An exported model holds no image and no place of the machine that it is from, and takes none of its reader's."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import advvae as package
from advvae.errors import UserError
from advvae.exporting import without_places
from tests.command import TINY, Command
from tests.exported import command_in, contents, export, some_images, write_images

SCORES = ["loss", "elbo", "lpath"]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, shared_data_dir: Path) -> Path:
    """A model of the images in `images`, below a folder that its reader does not have."""
    advvae = command_in(tmp_path_factory.mktemp("theirs"), shared_data_dir)
    root = write_images(advvae.cwd / "hospital" / "images")
    assert advvae("mode=train", "dataset=folder", f"dataset.root={root}", *TINY).status == 0
    return export(advvae, "dataset=folder", f"scores=[{','.join(SCORES)}]")


@pytest.fixture
def theirs(published: Path, advvae: Command, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as its reader has it."""
    monkeypatch.chdir(advvae.cwd)
    monkeypatch.setenv("ADVVAE_DATA", str(advvae.data_dir))
    return shutil.copytree(published, advvae.cwd / "model")


def test_a_folder_of_the_same_name_is_nobody_s_training_images(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = package.load(theirs).score(some_images(5), scores=SCORES)
    reader = tmp_path / "reader"
    own = write_images(reader / "images", brightest=40)
    monkeypatch.chdir(reader)
    kept = dict(contents(theirs))
    model = package.load(theirs)
    assert model.score(some_images(5), scores=SCORES).equals(before)
    assert dict(contents(theirs)) == kept, "nothing is written to it"
    with pytest.raises(UserError, match=r"dataset\.root .* is not set"):
        model.score(some_images(5), scores=["latent_gmm"])
    typed = package.load(theirs, dataset="folder", **{"dataset.root": str(own)}).score(some_images(5), scores=SCORES)
    assert not typed["lpath"].equals(before["lpath"]), "fitted on what was typed"


def test_what_needs_the_images_asks_for_them(theirs: Path, advvae: Command) -> None:
    result = advvae("mode=test", f"checkpoint={theirs}", "dataset=folder", "tracker=none")
    assert result.status == 1
    assert "dataset=folder needs dataset.root=<where the images are>" in result.errors


def test_a_model_of_ones_own_images_scores_without_them(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(advvae.cwd)
    np.save(advvae.cwd / "scans.npy", np.random.default_rng(0).integers(0, 255, (60, 8, 8), dtype=np.uint8))
    assert advvae("mode=train", "dataset=array", f"dataset.path={advvae.cwd / 'scans.npy'}", *TINY).status == 0
    model = export(advvae, "dataset=array", "scores=[loss,elbo]")
    before = package.load(advvae.runs()[0]).score(some_images(3), scores=["loss", "elbo"])
    (advvae.cwd / "scans.npy").unlink()
    assert package.load(model).score(some_images(3), scores=["loss", "elbo"]).equals(before)
    config = (model / "config.json").read_text()
    assert "scans.npy" in config
    assert str(advvae.cwd) not in config


def test_a_snapshot_of_links_is_a_model(theirs: Path, tmp_path: Path) -> None:
    """As the Hugging Face Hub's client keeps it: each file is a link to one that is named by its checksum."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, path in enumerate(path for path in theirs.iterdir() if path.is_file()):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(blobs / str(number))
    expected = package.load(theirs).score(some_images(3), scores=SCORES)
    assert package.load(snapshot).score(some_images(3), scores=SCORES).equals(expected)
    assert all(path.is_symlink() for path in snapshot.iterdir())


def test_the_score_that_keeps_images_is_left_out(advvae: Command) -> None:
    advvae.train()
    own = "{_target_:advvae.outlier.baselines.PixelKnn}"
    typed = (f"scores=[loss,kld,pixel_knn,fused,{own}]", "fuse=[loss,kld,pixel_knn]")
    result = advvae("mode=export", "dataset=digits", "tracker=none", *typed)
    assert result.status == 0, result.errors
    assert "score pixel_knn is left out: it keeps training images" in result.output
    model = result.folder / "model"
    (detector,) = torch.load(model / "detector-model.pt", weights_only=True)["detectors"]
    assert set(detector["scores"]) == {"loss", "kld"}
    assert json.loads((model / "config.json").read_text())["scorer"] == ["loss", "kld"]


def test_no_place_of_this_machine_is_in_it(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(advvae.cwd)
    (advvae.cwd / "mine.py").write_text(
        "class Bright:\n"
        "    def __init__(self, place):\n        self.place = place\n"
        "    def __call__(self, evidence):\n        return evidence.images.mean((1, 2, 3))\n"
    )
    root, masks = (write_images(advvae.cwd / "hospital" / name, brightest=2) for name in ("images", "lesions"))
    own = ("dataset=folder", f"dataset.root={root}", f"dataset.masks={masks}", f"out_dataset.root={root}")
    run = advvae("mode=train", *own, "out_dataset=folder", *TINY).folder
    assert advvae(f"resume={run}", "n_epochs=2", "tracker=none").status == 0
    scores = f"scores=[loss,recon_ssim,lpath,{{_target_:mine.Bright,place:{advvae.cwd / 'notes'}}}]"
    model = export(advvae, "dataset=folder", scores)
    config = json.loads((model / "config.json").read_text())["config"]
    assert (config["resume"], config["tracker"], config["dataset"]["masks"]) == (None, {"name": "none"}, "lesions")
    assert config["scores"][-1]["place"] == "notes"
    places = (str(advvae.cwd), str(Path(package.__file__).parent), str(Path(torch.__file__).parent), sys.prefix)
    named = [(name, place) for name, content in contents(model) for place in places if place.encode() in content]
    assert named == []


def test_of_a_place_the_last_name_stays() -> None:
    value = {"a": "/srv/hospital/scans", "b": ["~/scans", "scans/old"], "c": {"d": "file:///srv/x", "e": 1, "f": None}}
    assert without_places(value) == {"a": "scans", "b": ["scans", "scans/old"], "c": {"d": "x", "e": 1, "f": None}}
