from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest

from advvae.data import sealing
from advvae.data.sealing import first_broken, write_seals


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files under seals of four bytes each."""
    monkeypatch.setattr(sealing, "BLOCK", 4)
    (tmp_path / "a").write_bytes(bytes(range(10)))
    (tmp_path / "b").write_bytes(b"")
    write_seals(tmp_path, ["a", "b"])
    return tmp_path


def test_seals_are_sizes_and_checksums_of_blocks(folder: Path) -> None:
    blocks = [zlib.crc32(block) for block in (b"\0\1\2\3", b"\4\5\6\7", b"\x08\x09")]
    assert json.loads((folder / "seals.json").read_text()) == {
        "a": {"size": 10, "blocks": blocks},
        "b": {"size": 0, "blocks": []},
    }
    assert first_broken(folder) is None


@pytest.mark.parametrize("place", range(10))
def test_every_flipped_bit_is_found(folder: Path, place: int) -> None:
    content = bytearray((folder / "a").read_bytes())
    content[place] ^= 1 << place % 8
    (folder / "a").write_bytes(content)
    assert first_broken(folder) == "a"


@pytest.mark.parametrize("content", [None, b"x"])
def test_other_sizes_and_missing_files_are_found(folder: Path, content: bytes | None) -> None:
    (folder / "b").unlink() if content is None else (folder / "b").write_bytes(content)
    assert first_broken(folder) == "b"


def test_of_large_files_a_sample_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "BLOCK", 1)
    monkeypatch.setattr(sealing, "LOOKED_AT", 99)
    (tmp_path / "a").write_bytes(bytes(100))
    write_seals(tmp_path, ["a"])
    found = []
    for place in range(100):
        content = bytearray(100)
        content[place] = 1
        (tmp_path / "a").write_bytes(content)
        found += [place] if first_broken(tmp_path) else []
    assert len(found) == sealing.SAMPLE
    assert (found[0], found[-1]) == (0, 99)


def test_without_seals_nothing_is_trusted(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"seals\.json"):
        first_broken(tmp_path)
