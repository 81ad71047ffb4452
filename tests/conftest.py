from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from advvae.report import page
from tests.command import Command

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

    Plots, which take longer to draw than tiny networks to train, are drawn for tests that are marked `drawn` alone.
    """
    monkeypatch.setenv("WANDB_MODE", "disabled")
    if request.node.get_closest_marker("drawn") is None:
        monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: Image.new("L", (1, 1)).save(path))
        monkeypatch.setattr(page, "chart_library", lambda: "")  # two megabytes in the page of each run
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
