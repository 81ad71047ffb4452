from __future__ import annotations

import os
from pathlib import Path

import pytest

from advvae.data import contents
from advvae.data.contents import contents_digest


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The names of the files that are read from now on."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    names: list[str] = []
    sha256_of = contents.sha256_of

    def noted(path: Path) -> str:
        names.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(contents, "sha256_of", noted)
    return names


def three_files(folder: Path) -> list[Path]:
    files = [folder / name for name in ("a", "b", "c")]
    for path in files:
        path.write_text(path.name)
    return files


def test_files_are_read_once(tmp_path: Path, read: list[str]) -> None:
    files = three_files(tmp_path)
    first = contents_digest(files, tmp_path, tmp_path)
    assert contents_digest(files, tmp_path, tmp_path) == first
    assert read == ["a", "b", "c"]


def test_a_touched_file_is_read_again_and_gives_the_same(tmp_path: Path, read: list[str]) -> None:
    files = three_files(tmp_path)
    first = contents_digest(files, tmp_path, tmp_path)
    os.utime(files[1], (1, 1))
    assert contents_digest(files, tmp_path, tmp_path) == first
    assert len(read) == 6


@pytest.mark.parametrize("change", ["content", "name", "order", "more", "gone"])
def test_names_and_contents_count(tmp_path: Path, read: list[str], change: str) -> None:
    files = three_files(tmp_path)
    first = contents_digest(files, tmp_path, tmp_path)
    if change == "content":
        files[1].write_text("x")  # of the same size
    elif change == "name":
        files[1] = files[1].rename(tmp_path / "x")
    elif change == "order":
        files = [*files[1:], files[0]]
    elif change == "more":
        files = [*files, files[0]]
    else:
        files[1].unlink()  # a link to nowhere
    assert contents_digest(files, tmp_path, tmp_path) != first


def test_nothing_is_needed_of_a_folder_that_cannot_be_written(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a"))  # a file
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "cache").write_text("a file too")
    files = three_files(tmp_path)
    assert contents_digest(files, tmp_path, data_dir) == contents_digest(files, tmp_path, data_dir)
    assert len(read) == 6


def test_more_files_than_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = three_files(tmp_path)
    together = contents.digest_of(files, tmp_path)
    monkeypatch.setattr(contents, "TOGETHER", 2)
    assert contents.digest_of(files, tmp_path) == together


def test_where_the_files_lie_does_not_count(tmp_path: Path, read: list[str]) -> None:
    digests = []
    for name in ("here", "there"):
        home = tmp_path / name
        home.mkdir()
        digests.append(contents_digest(three_files(home), home, tmp_path))
    assert digests[0] == digests[1]
    assert len(read) == 6
    assert contents_digest(three_files(tmp_path), tmp_path / "here", tmp_path) != digests[0]  # not in it


def test_of_a_folder_the_names_and_sizes_of_its_files_count(tmp_path: Path) -> None:
    folder, digests = tmp_path / "folder", []
    (folder / "below").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path / "nowhere")
    for name, content in (("a", "1"), ("a", "12"), ("below/b", "1"), ("below/c", "1")):
        (folder / name).write_text(content)
        digests.append(contents.digest_of([folder], tmp_path))
        assert contents.digest_of([folder], tmp_path) == digests[-1]
    assert len(set(digests)) == 4


def test_a_file_whose_time_was_set_back_is_read_again(tmp_path: Path, read: list[str]) -> None:
    files = three_files(tmp_path)
    first, time = contents_digest(files, tmp_path, tmp_path), files[0].stat().st_mtime_ns
    files[0].write_text("x")
    os.utime(files[0], ns=(time, time))
    assert contents_digest(files, tmp_path, tmp_path) != first
