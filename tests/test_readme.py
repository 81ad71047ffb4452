"""What the README shows is run as it stands there."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from advvae.cli import FLAG_KEYS, FLAG_MODES
from advvae.config import CONF
from tests.command import TINY, Command

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```\w+\n# (\S+)\n(.*?)```", README, re.DOTALL)  # their first line names the file
COMMANDS = [line.strip() for line in README.splitlines() if line.startswith(("    advvae", "    python -m advvae"))]


@pytest.fixture
def written(advvae: Command) -> Command:
    """The files of the README's examples, in the current folder."""
    for name, content in BLOCKS:
        path = advvae.cwd / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return advvae


def arguments(command: str) -> list[str]:
    return shlex.split(command)[1:]


@pytest.mark.parametrize("name", ["stripes", "small_judge", "charbonnier"])
def test_options_from_outside_the_package(written: Command, name: str) -> None:
    (command,) = [command for command in COMMANDS if f"={name}" in command]
    result = written(*arguments(command), *TINY)
    assert result.status == 0, result.errors
    assert (result.folder / "checkpoints" / "best.pt").is_file()


def test_a_score_from_outside_the_package(written: Command) -> None:
    written.train()
    (command,) = [command for command in COMMANDS if "my_score" in command]
    result = written(*arguments(command))
    assert result.status == 0, result.errors
    assert set(json.loads((result.folder / "metrics.json").read_text())["scores"]) == {"loss", "spread"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["use.py", "detector.py"])
def test_examples_in_python_run_as_they_stand(written: Command, name: str) -> None:
    (written.cwd / "scans").mkdir()
    Image.new("L", (20, 20), 99).save(written.cwd / "scans" / "grey.png")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ADVVAE_DATA": str(written.data_dir)}
    command = [sys.executable, name]
    ended = subprocess.run(command, cwd=written.cwd, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip()


def test_examples_are_ten_lines_at_most() -> None:
    assert {name for name, _ in BLOCKS} >= {
        "my_data.py",
        "my_model.py",
        "my_loss.py",
        "my_score.py",
        "use.py",
        "detector.py",
    }
    for name, content in BLOCKS:
        assert len([line for line in content.splitlines() if line.strip()]) <= 10, name


def test_every_command_composes(written: Command) -> None:
    assert len(COMMANDS) > 10
    for command in COMMANDS:
        # what a reader fills in has a value of its own here
        filled = re.sub(r"<[^>]*>", "x", command.replace("python -m advvae", "advvae"))
        typed = [argument for argument in arguments(filled) if argument != "-m" and not re.search("=.*,", argument)]
        assert written("--cfg", "job", *typed).status == 0, command


def test_every_flag_is_in_the_table() -> None:
    table = README[README.index("| flag |") : README.index("## What is computed")]
    for flag in (*FLAG_MODES, *FLAG_KEYS, "loss_type", "no_wandb"):
        assert f"`--{flag}" in table


def test_every_dataset_is_named() -> None:
    for path in (CONF / "dataset").glob("*.yaml"):
        assert re.search(rf"[`\s=]{path.stem}[`\s]", README), path.stem
