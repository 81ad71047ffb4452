import hashlib
import os
import resource
import zipfile
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from advvae.checkpoint import Training, copy_checkpoint, read_checkpoint, save_checkpoint, sha256
from advvae.errors import UserError
from tests.networks import changed, small_networks, snapshot

CONFIG = {"latent_dim": 3, **{group: {"name": "any"} for group in ("dataset", "model", "loss")}}


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


def test_a_disk_that_takes_no_more_is_told_in_its_own_words(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", small_networks(), CONFIG, Training(epoch=1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(UserError, match=r"^cannot write .*a\.pt: File too large$"):
            save_checkpoint(tmp_path / "a.pt", small_networks(), CONFIG, Training(epoch=2), tmp_path / "previous.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
    checkpoint = read_checkpoint(tmp_path / "a.pt")
    assert checkpoint.training is not None
    assert checkpoint.training.epoch == 1


def test_a_disk_that_is_full_at_the_end_leaves_both_files_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, previous = tmp_path / "last.pt", tmp_path / "previous.pt"
    for epoch in (1, 2):
        save_checkpoint(last, small_networks(), CONFIG, Training(epoch=epoch), previous)
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(28, "No space left on device")))
    for write in (
        lambda: save_checkpoint(last, small_networks(), CONFIG, Training(epoch=3), previous),
        lambda: copy_checkpoint(previous, last, previous),
    ):
        with pytest.raises(UserError, match="No space left"):
            write()
        trainings = [read_checkpoint(path).training for path in (previous, last)]
        assert [training.epoch for training in trainings if training] == [1, 2]


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 10**6)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 10**6).hexdigest()


def test_a_checkpoint_ends_in_its_checksum(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", small_networks(), CONFIG, Training())
    content, checksum = (tmp_path / "a.pt").read_bytes().split(b"sha256:")
    assert checksum.decode() == hashlib.sha256(content).hexdigest()
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:  # a comment, which is part of the format
        assert archive.comment == b"sha256:" + checksum
        assert archive.testzip() is None


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9, 0.999])
def test_a_flipped_bit_is_noticed(tmp_path: Path, place: float) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, small_networks(), CONFIG, Training())
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.pt is damaged: its checksum is wrong"):
        read_checkpoint(path)


@pytest.mark.parametrize("n_kept", [0, 1, 100, 5000, -100])
def test_a_truncated_file_is_noticed(tmp_path: Path, n_kept: int) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, small_networks(), CONFIG, Training())
    path.write_bytes(path.read_bytes()[:n_kept])
    with pytest.raises(UserError, match=r"a\.pt is damaged"):
        read_checkpoint(path)


def test_a_file_that_a_user_has_saved_anew_is_read(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", small_networks(), CONFIG, Training())
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    torch.save({**content, "format": 1, "training": {"epoch": 3}}, tmp_path / "old.pt")  # of an older version
    training = read_checkpoint(tmp_path / "old.pt").training
    assert training is not None
    assert (training.epoch, training.under_way) == (3, None)


def test_the_file_that_is_replaced_becomes_the_previous_one(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path / "last.pt", small_networks(), CONFIG, Training(step=step), tmp_path / "previous.pt")
    steps = {path.stem: torch.load(path, weights_only=True)["training"]["step"] for path in tmp_path.iterdir()}
    assert steps == {"last": 3, "previous": 2}


@pytest.mark.parametrize(("key", "value"), [("encoder", 5), ("config", 5), ("model", None), ("dataset", "digits")])
def test_what_is_no_checkpoint_of_ours_inside_is_told(tmp_path: Path, key: str, value: object) -> None:
    save_checkpoint(tmp_path / "a.pt", small_networks(), CONFIG, Training())
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    (content if key in content else content["config"])[key] = value
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"a\.pt is damaged, or not a checkpoint"):
        read_checkpoint(tmp_path / "a.pt")
