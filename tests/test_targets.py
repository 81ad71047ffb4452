"""What a config has called: its options' own `_target_`, and nothing that an argument or a loaded file names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.command import FEW, TINY, Command

CODE = "from pathlib import Path\n\n\ndef touch(*args, **kwargs):\n    Path('called').touch()\n    return {}\n"
WRITE = "{_target_:numpy.save,file:called,arr:[1]}"  # numpy is there for everybody, and on nobody's blocklist


def was_called(advvae: Command) -> bool:
    return any(path.name.startswith("called") for path in advvae.cwd.rglob("*"))


@pytest.fixture
def stranger(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A run on digits, and beside it a module that can be imported and leaves a file when anything in it is called."""
    (advvae.cwd / "stranger.py").write_text(CODE)
    monkeypatch.syspath_prepend(advvae.cwd)
    return advvae


@pytest.mark.parametrize(
    "typed",
    [
        f"++dataset.extra={WRITE}",
        f"++dataset.extra=[{{a:{WRITE}}}]",
        f"++model.norm={WRITE}",
        f"++loss.extra={WRITE}",
        f"scores=[{{_target_:builtins.dict,a:{WRITE}}}]",
    ],
)
def test_a_target_inside_an_argument_is_not_called(advvae: Command, typed: str) -> None:
    result = advvae(
        "mode=train", "dataset=digits", *TINY, "then=[outlier]", "out_dataset=digits", "baselines=false", typed
    )
    assert result.status == 1
    assert "holds a _target_" in result.message
    assert list(advvae.cwd.iterdir()) == []


@pytest.mark.parametrize(
    ("group", "target"), [("dataset", "os.system"), ("model", "subprocess.Popen"), ("loss", "shutil.rmtree")]
)
def test_hydras_blocklist_is_on(advvae: Command, group: str, target: str) -> None:
    result = advvae("mode=train", "dataset=digits", *TINY, f"{group}._target_={target}")
    assert result.status == 1
    assert f"{group}: cannot build {target}: Target '{target}' is blocklisted" in result.message
    assert list(advvae.cwd.iterdir()) == []


def forged(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the config inside a run's checkpoints."""
    for name in ("best", "last"):
        path = run / "checkpoints" / f"{name}.pt"
        content = torch.load(path, weights_only=True)
        change(content["config"])
        torch.save(content, path)


def test_a_checkpoint_names_no_code(stranger: Command) -> None:
    run = stranger.train().folder
    call = {"_target_": "stranger.touch"}
    for mode, group, change in [
        ("test", "dataset", {**call, "name": "digits"}),
        ("test", "model", call),
        ("test", "loss", call),
        ("test", "loss", {**call, "_partial_": True}),
        ("test", "model", {"_target_": "advvae.models.conv_networks", "norm": call}),
        ("test", "model", {"_target_": "advvae.models.conv_networks", "norm": "${oc.env:HOME}"}),
        ("test", "model", {"_target_": "${oc.decode:stranger.touch}"}),
        ("test", "model", {"_target_": "advvae.losses.ms_ssim_loss"}),  # ours, and of another group
        ("train", "out_dataset", call),
        ("train", "scores", [call]),
        ("train", "nodes", {"kmnist": {**call, "name": "kmnist"}}),
    ]:
        before = {file: file.read_bytes() for file in (run / "checkpoints").iterdir()}
        forged(run, lambda config, group=group, change=change: replace(config, group, change))  # type: ignore[misc]
        loaded = [f"resume={run}", "n_epochs=2"] if mode == "train" else [f"checkpoint={run}"]
        result = stranger(f"mode={mode}", *loaded, "tracker=none")
        assert result.status == 1, change
        assert "holds a _target_" in result.message or "and no option of yours does" in result.message
        assert len(result.message.splitlines()) == 1
        assert not was_called(stranger)
        assert stranger.runs() == [run]
        for file, content in before.items():
            file.write_bytes(content)
    assert stranger("mode=test", f"checkpoint={run}", "tracker=none").status == 0


def replace(config: dict[str, Any], group: str, change: Any) -> None:
    config[group] = {**config[group], **change} if isinstance(change, dict) else change


def test_a_discriminator_of_a_checkpoint_names_no_code(stranger: Command) -> None:
    run, other = stranger.train().folder, stranger.train("seed=1").folder
    forged(other, lambda config: replace(config, "model", {"_target_": "stranger.touch"}))
    loaded = (f"checkpoint={run}", f"discriminator_checkpoint={other}", "out_dataset=digits", *FEW)
    result = stranger("mode=outlier", "dataset=digits", "tracker=none", *loaded)
    assert result.status == 1
    assert "names stranger.touch for model, and no option of yours does" in result.message
    assert not was_called(stranger)


def test_a_loaded_name_leads_to_no_other_folder(advvae: Command) -> None:
    run = advvae.train().folder
    forged(run, lambda config: replace(config, "dataset", {"name": "../../../elsewhere"}))
    result = advvae("mode=test", f"checkpoint={run}", "tracker=none")
    assert result.status == 1
    assert "dataset=../../../elsewhere is no option" in result.message
    assert advvae.runs() == [run]
    assert not (advvae.cwd / "elsewhere").exists()


def test_a_run_of_ones_own_model_needs_its_option(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    (advvae.cwd / "mine" / "model").mkdir(parents=True)
    (advvae.cwd / "mine" / "model" / "same.yaml").write_text("_target_: my_networks.same\n")
    (advvae.cwd / "my_networks.py").write_text("from advvae.models import conv_networks as same\n")
    monkeypatch.syspath_prepend(advvae.cwd)
    run = advvae("--config-dir=mine", "mode=train", "dataset=digits", "model=same", *TINY).folder
    alone = advvae("mode=test", f"checkpoint={run}", "tracker=none")
    assert alone.status == 1
    assert (
        "names my_networks.same for model, and no option of yours does: type model=, with --config-dir" in alone.message
    )
    assert advvae("--config-dir=mine", "mode=test", f"checkpoint={run}", "tracker=none").status == 0
    assert advvae("--config-dir=mine", f"resume={run}", "n_epochs=2").status == 0
