import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()


def make(*arguments: str, folder: Path = ROOT) -> str:
    inherited = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    done = subprocess.run(["make", *arguments], cwd=folder, env=inherited, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def set_up(tmp_path: Path) -> Path:
    """A checkout whose .venv is as new as its pyproject.toml."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".installed").touch()
    return tmp_path


def test_help_is_the_default_and_lists_every_target() -> None:
    targets = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert targets is not None
    assert {"install", "lint", "types", "test", "test-all", "docs", "demo", "clean"} <= set(targets[1].split())
    assert [line.split()[1] for line in make().splitlines()] == targets[1].split()


def test_install_does_nothing_until_pyproject_changes(set_up: Path) -> None:
    assert "pip" not in make("-n", "install", folder=set_up)
    later = (set_up / ".venv" / ".installed").stat().st_mtime + 5
    os.utime(set_up / "pyproject.toml", (later, later))
    assert "pip install" in make("-n", "install", folder=set_up)


def test_test_checks_style_then_types_then_tests(set_up: Path) -> None:
    commands = [line.split(" -m ")[1].split()[0] for line in make("-n", "test", folder=set_up).splitlines()]
    assert commands == ["ruff", "ruff", "mypy", "pytest"]


def test_every_target_sets_up_a_fresh_clone_first(set_up: Path) -> None:
    (set_up / ".venv" / ".installed").unlink()
    for target in ("install", "lint", "types", "test", "test-all", "docs", "demo"):
        first = next(line for line in make("-n", target, folder=set_up).splitlines() if ".venv/bin/python" in line)
        assert first.endswith("-m venv .venv"), target


def test_docs_are_built_and_say_how_to_read_them(set_up: Path) -> None:
    *_, build, told = make("-n", "docs", folder=set_up).splitlines()
    assert build.endswith("-m mkdocs build")
    assert "-m http.server -d outputs/site" in told


def test_ci_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert script.read_text().splitlines() == ["#!/usr/bin/env bash", "make test"]
    assert os.access(script, os.X_OK)
