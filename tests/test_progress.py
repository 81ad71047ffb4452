"""A bar on a terminal, one line per epoch elsewhere."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from advvae.progress import training_bar, transfer_bar, watched
from tests.command import TINY, Command


def test_without_a_terminal_there_are_lines_alone(advvae: Command) -> None:
    output = advvae.train("n_epochs=2").output
    assert [line.split()[1] for line in output.splitlines() if line.startswith("epoch")] == ["1/2", "2/2"]
    assert "\x1b" not in output


def test_items_pass_through_a_bar_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(watched(iter([1, 2, 3]), "counting", 3)) == [1, 2, 3]
    with training_bar(2, 10) as bar:
        bar.advance(5)
        bar.describe(1, "recon 0.1")
    assert capsys.readouterr().out == ""


def test_a_file_on_its_way(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with transfer_bar("set.zip", 2000, 500) as bar:
        bar.advance(500)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    for total, shown in ((2000, "1.0/2.0 kB"), (None, "1.0/? kB")):
        with transfer_bar("set.zip", total, 500) as bar:
            bar.advance(500)
        output = capsys.readouterr().out
        assert "set.zip" in output
        assert shown in output


def test_what_is_worked_on_may_be_called_anything(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    assert list(watched([1, 2], "scans [old] [/x]", 2)) == [1, 2]
    assert "scans [old] [/x]" in capsys.readouterr().out
    with transfer_bar("set [old].zip", 2000, 500):
        pass
    assert "set [old].zip" in capsys.readouterr().out


def test_a_terminal_shows_a_bar_and_the_lines_above_it(shared_data_dir: Path, tmp_path: Path) -> None:
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "advvae", "mode=train", "dataset=digits", *TINY, "n_epochs=2"]
    environment = {**os.environ, "ADVVAE_DATA": str(shared_data_dir), "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(command, stdout=end, stderr=end, stdin=subprocess.DEVNULL, env=environment, cwd=tmp_path)
    os.close(end)
    shown = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # how a terminal says that its program has ended
            break
        if not part:
            break
        shown += part
    os.close(terminal)
    assert process.wait() == 0
    text = shown.decode()
    assert "images/s" in text
    assert "epoch 1/2  recon" in text
    assert "━" in text  # the bar, and the frame of the table
    assert "\x1b[?25l" in text  # the cursor is hidden while the bar moves
    assert "\x1b[?25h" in text
