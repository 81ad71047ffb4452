"""The `advvae` command, run inside the test's own process: a second instead of five."""

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

FEW = ("scores=[loss,discriminator]", "baselines=false")  # outlier scores, where which ones does not matter
TINY = ("size=8", "hidden_dims=[4,8]", "latent_dim=4", "batch_size=256", "n_epochs=1", "precision=32", "tracker=none")


@dataclass
class Result:
    """How a command ended, what it printed, and the folders of its runs, newest last."""

    status: int
    output: str
    errors: str
    folder: Path

    @property
    def message(self) -> str:
        """The error without Hydra's own lines around it."""
        own = ("Error executing job", "Set the environment variable")
        return "\n".join(line for line in self.errors.splitlines() if line.strip() and not line.startswith(own))


class Command:
    """Runs `advvae` with a folder of its own as the current one, and digits prepared once for all tests."""

    def __init__(self, cwd: Path, data_dir: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.cwd = cwd
        self.data_dir = data_dir
        self._capture = capture

    def __call__(self, *arguments: str) -> Result:
        from advvae.cli import main

        before = os.getcwd(), sys.argv, list(sys.path), os.environ.get("ADVVAE_DATA")
        root = logging.getLogger()  # Hydra sets it up anew for each job
        handlers, level = root.handlers[:], root.level
        os.chdir(self.cwd)
        os.environ["ADVVAE_DATA"] = str(self.data_dir)
        sys.argv = ["advvae", *arguments]
        self._capture.readouterr()
        status, message = 0, ""
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            message = end.code if isinstance(end.code, str) else ""  # what Python prints when a process ends so
        finally:
            root.handlers[:], root.level = handlers, level
            os.chdir(before[0])
            sys.argv, sys.path[:] = before[1], before[2]
            os.environ.pop("ADVVAE_DATA") if before[3] is None else os.environ.update(ADVVAE_DATA=before[3])
        output, errors = self._capture.readouterr()
        runs = self.runs()
        return Result(status, output, errors + message, runs[-1] if runs else self.cwd / "no run")

    def train(self, *arguments: str) -> Result:
        """Train a tiny network on digits, well within a second."""
        result = self("mode=train", "dataset=digits", *TINY, *arguments)
        assert result.status == 0, result.errors
        return result

    def runs(self) -> list[Path]:
        """All run folders, in the order in which they were begun."""
        found = [path.parent.parent for path in (self.cwd / "outputs").rglob(".hydra/overrides.yaml")]
        return sorted(found, key=lambda folder: (folder / ".hydra").stat().st_ctime_ns)
