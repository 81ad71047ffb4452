"""provenance.json: what a run was made with."""

import json
from pathlib import Path

import numpy as np
import pytest

from advvae import provenance
from advvae.provenance import commit, read_provenance, versions
from tests.command import TINY, Command


def test_a_run_tells_versions_machine_and_the_checksums_of_its_images(advvae: Command) -> None:
    first, second = (read_provenance(advvae.train().folder) for _ in range(2))
    (start,) = first["started"]
    assert {
        "time",
        "advvae",
        "python",
        "torch",
        "numpy",
        "pillow",
        "pytorch-msssim",
        "system",
        "processor",
        "cores",
    } <= set(start)
    assert [(row["set"], row["split"], row["n"]) for row in first["data"]] == [
        ("digits", "train", 1294), ("digits", "val", 144)
    ]  # fmt: skip
    assert first["data"] == second["data"]
    assert all(len(row["sha256"]) == 64 for row in first["data"])


def test_other_pixels_have_another_checksum(advvae: Command) -> None:
    found = []
    for value in (10, 11):
        np.save(advvae.cwd / "images.npy", np.full((40, 8, 8), value, np.uint8))
        result = advvae("mode=train", "dataset=array", f"dataset.path={advvae.cwd / 'images.npy'}", *TINY)
        assert result.status == 0, result.errors
        found.append(read_provenance(result.folder)["data"][0]["sha256"])
    assert found[0] != found[1]


def test_going_on_is_another_start(advvae: Command) -> None:
    folder = advvae.train().folder
    assert advvae(f"resume={folder}", "n_epochs=2", "tracker=none").status == 0
    facts = read_provenance(folder)
    assert len(facts["started"]) == 2
    assert len(facts["data"]) == 2, "the same splits, told once"


def test_what_cannot_be_read_is_empty(tmp_path: Path) -> None:
    assert read_provenance(tmp_path) == {"started": [], "data": []}
    for text in ("{", "[]", "null", '{"started": 3}'):
        (tmp_path / "provenance.json").write_text(text)
        assert read_provenance(tmp_path) == {"started": [], "data": []}


def test_the_commit_is_that_of_our_own_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(provenance, "HERE", tmp_path / "site-packages" / "advvae")
    assert commit() is None
    assert "commit" not in versions()
    (tmp_path / "site-packages" / ".git").mkdir(parents=True)
    assert commit() is None, "no repository that git can read"


def test_where_there_is_a_gpu_its_cuda_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda number: f"GPU {number}")
    monkeypatch.setattr("torch.version.cuda", "13.0")
    assert (provenance.machine()["gpus"], provenance.machine()["cuda"]) == (["GPU 0"], "13.0")


def test_no_name_of_the_machine_is_told() -> None:
    import platform

    assert platform.node() not in json.dumps(provenance.machine()) or not platform.node()
