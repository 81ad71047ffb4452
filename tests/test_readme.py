"""What the README, and the pages on parts of one's own, datasets and GenerativeZoo, show is run as it stands there."""

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
from advvae.outlier.scores import BASELINES
from tests.command import TINY, Command
from tests.test_docs import one_value

ROOT = Path(__file__).parents[1]
HOW_TO = ROOT / "docs" / "how-to"
README, OWN_PARTS = (ROOT / "README.md").read_text(), (HOW_TO / "own-parts.md").read_text()
BLOCKS = re.findall(r"```\w+\n# (\S+)\n(.*?)```", README + OWN_PARTS, re.DOTALL)  # their first line names the file


def commands(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.startswith(("    advvae", "    python -m advvae"))]


@pytest.fixture
def written(advvae: Command) -> Command:
    """The files of the examples, in the current folder."""
    for name, content in BLOCKS:
        path = advvae.cwd / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return advvae


def arguments(command: str) -> list[str]:
    return shlex.split(command)[1:]


@pytest.mark.parametrize("name", ["stripes", "small_judge", "charbonnier"])
def test_options_from_outside_the_package(written: Command, name: str) -> None:
    (command,) = [command for command in commands(OWN_PARTS) if f"={name}" in command]
    result = written(*arguments(command), *TINY)
    assert result.status == 0, result.errors
    assert (result.folder / "checkpoints" / "best.pt").is_file()


def test_a_score_from_outside_the_package(written: Command) -> None:
    written.train()
    (command,) = [command for command in commands(OWN_PARTS) if "edge_error" in command]
    result = written(*arguments(command))
    assert result.status == 0, result.errors
    assert set(json.loads((result.folder / "metrics.json").read_text())["scores"]) == {"loss", "edge_error", *BASELINES}


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
    names = {"my_data.py", "my_model.py", "my_loss.py", "edges.py", "use.py", "detector.py"}
    found = {name: content for name, content in BLOCKS if name in names}
    assert set(found) == names
    for name, content in found.items():
        assert len([line for line in content.splitlines() if line.strip()]) <= 10, name


def test_every_command_composes(written: Command) -> None:
    assert len(commands(README)) > 10
    for command in commands(README):
        # what a reader fills in has a value of its own here
        filled = re.sub(r"<[^>]*>", "x", command.replace("python -m advvae", "advvae"))
        typed = [one_value(argument) for argument in arguments(filled) if argument != "-m"]
        assert written("--cfg", "job", *typed).status == 0, command


def test_its_links_lead_somewhere() -> None:
    for place in re.findall(r"\]\(([^)#]+)[^)]*\)", README):
        assert place.startswith("https://") or (ROOT / place).is_file(), place


def test_every_flag_is_in_the_table() -> None:
    table = (HOW_TO / "generativezoo.md").read_text()
    for flag in (*FLAG_MODES, *FLAG_KEYS, "loss_type", "no_wandb"):
        assert f"`--{flag}" in table


def test_every_dataset_is_named() -> None:
    text = (HOW_TO / "datasets.md").read_text()
    for path in (CONF / "dataset").glob("*.yaml"):
        assert re.search(rf"[`\s=]{path.stem}[`\s]", text), path.stem
