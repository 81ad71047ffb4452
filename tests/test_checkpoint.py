import hashlib
import os
from pathlib import Path

import pytest
import torch

from advvae.checkpoint import Training, read_checkpoint, save_checkpoint, sha256
from advvae.errors import UserError
from tests.networks import changed, small_networks, snapshot

CONFIG = {"latent_dim": 3, "dataset": {"name": "digits"}}


def test_a_checkpoint_reads_with_plain_torch(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "run" / "a.pt", small_networks(), CONFIG, Training(epoch=2, step=7))
    content = torch.load(tmp_path / "run" / "a.pt", weights_only=True)
    assert set(content) == {"format", "config", "encoder", "decoder", "discriminator", "training"}
    assert content["config"] == CONFIG
    assert content["encoder"]["stages.0.0.weight"].shape == (4, 1, 3, 3)
    assert content["training"]["step"] == 7


def test_weights_come_back(tmp_path: Path) -> None:
    networks, other = small_networks(seed=0), small_networks(seed=1)
    save_checkpoint(tmp_path / "a.pt", networks, CONFIG, Training())
    assert changed(snapshot(networks), other, lambda name: name.endswith("0.0.weight"))
    read_checkpoint(tmp_path / "a.pt").restore(other)
    assert changed(snapshot(networks), other, lambda _: True) == []


def test_a_part_that_is_not_there_is_not_written(tmp_path: Path) -> None:
    networks = small_networks()
    networks.discriminator = None
    save_checkpoint(tmp_path / "a.pt", networks, CONFIG, Training())
    assert set(read_checkpoint(tmp_path / "a.pt").parts) == {"encoder", "decoder"}


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", small_networks(latent_dim=3), CONFIG, Training())
    with pytest.raises(UserError, match="does not fit the encoder"):
        read_checkpoint(tmp_path / "a.pt").restore(small_networks(latent_dim=4))


def test_the_previous_file_stays_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path / "a.pt", small_networks(), CONFIG, Training(epoch=1))

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UserError, match=r"cannot write .*a\.pt.*No space left"):
        save_checkpoint(tmp_path / "a.pt", small_networks(), CONFIG, Training(epoch=2))
    checkpoint = read_checkpoint(tmp_path / "a.pt")
    assert checkpoint.training is not None
    assert checkpoint.training.epoch == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 10**6)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 10**6).hexdigest()
