from pathlib import Path

import pytest
import torch

from tests.command import Command

torch.set_num_threads(2)


@pytest.fixture(scope="session")
def shared_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared once, read by all."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def advvae(
    tmp_path: Path, shared_data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    """The command, in an empty current folder; the default tracker records nothing."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    return Command(tmp_path, shared_data_dir, capsys)
