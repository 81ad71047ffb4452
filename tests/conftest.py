from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from advvae import figures
from tests.command import Command

DRAWN = ("tests.test_commands", "tests.test_readme", "tests.test_demo")  # tests whose trainings draw their curves

# With a second thread, tests' small tensors mostly wait: for minutes where another test runs beside them.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared once, read by all."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def advvae(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    shared_data_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Command:
    """The command, in an empty current folder; the default tracker records nothing.

    A training's curves, which take longer to draw than a tiny one takes, are drawn where a test may look at them.
    """
    monkeypatch.setenv("WANDB_MODE", "disabled")
    if request.module.__name__ not in DRAWN:
        monkeypatch.setattr(figures, "curves", lambda table, path: path.touch())
    return Command(tmp_path, shared_data_dir, capsys)


@pytest.fixture
def logged_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A home without a W&B login, and a fresh wandb for each test."""
    import wandb

    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_DIR", "WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / ".netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "home" / "wandb"))
    wandb.teardown()
    yield
    wandb.teardown()
