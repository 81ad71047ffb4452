"""What may be a patient's stays on the machine: images, names of files and folders, and all that a DICOM file tells."""

from pathlib import Path

import numpy as np
import pytest

from advvae.data.embedded import Digits
from advvae.data.source import is_private
from tests.command import FEW, TINY, Command
from tests.data.medical_files import PATIENT, write_dicom

PNG = b"\x89PNG"
ON_WANDB = tuple(argument for argument in TINY if argument != "tracker=none")


@pytest.fixture
def scans(advvae: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DICOM files in a folder called after their patient, which is not below the current one; W&B records offline."""
    root = tmp_path / "archive" / PATIENT / "scans"
    generator = np.random.default_rng(0)
    for number in range(60):
        write_dicom(root / f"slice-4711-{number}.dcm", generator.integers(0, 4096, (9, 9), dtype=np.uint16))
    rows = [
        f"slice-4711-{number}.dcm,{'normal' if number % 3 else 'effusion'},{PATIENT}-{number // 4}"
        for number in range(60)
    ]
    (root / "table.csv").write_text("\n".join(["path,label,group", *rows]))
    advvae.cwd = tmp_path / "work"
    advvae.cwd.mkdir()
    monkeypatch.setenv("WANDB_MODE", "offline")
    return root


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def recorded(folder: Path) -> dict[Path, bytes]:
    """All that W&B has written below `folder`."""
    files = {path: content for path, content in contents(folder).items() if "wandb" in path.parts}
    assert any(path.suffix == ".wandb" and b"kld_weight" in content for path, content in files.items()), "nothing sent"
    return files


def run_all(advvae: Command, root: Path, *arguments: str) -> None:
    """Train, test, find outliers and screen: every mode that looks at images."""
    own = ("dataset=folder", "out_dataset=folder", "out_dataset.drop_classes=[normal]", *arguments)
    typed = (f"dataset.root='{root}'", f"dataset.csv='{root / 'table.csv'}'", "dataset.keep_classes=[normal]")
    runs = (
        ("mode=train", *own, *typed, *ON_WANDB, "then=[test,outlier]", *FEW),
        ("mode=outlier", *own, *FEW, "maps=true"),
        ("mode=screen", *own, *FEW, f"input='{root}'"),
    )
    for run in runs:
        result = advvae(*run)
        assert result.status == 0, result.errors


@pytest.mark.usefixtures("logged_out")
def test_wandb_gets_numbers_but_no_image_no_name_and_no_folder(
    advvae: Command, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")  # after `logged_out` has removed it
    run_all(advvae, scans)
    for path, content in recorded(advvae.cwd).items():
        for secret in (PNG, b"slice-4711", PATIENT.encode(), str(scans.parent).encode(), b"archive"):
            assert secret not in content, f"{secret!r} in {path}"
        assert path.suffix != ".png", path


@pytest.mark.usefixtures("logged_out")
def test_images_are_sent_when_the_user_says_so(advvae: Command, scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run_all(advvae, scans, "tracker.images=true")
    assert any(content.startswith(PNG) for content in recorded(advvae.cwd).values())


def test_no_tag_of_a_dicom_file_reaches_any_output(advvae: Command, tmp_path: Path) -> None:
    root, data_dir = tmp_path / "scans", tmp_path / "own data"
    advvae.data_dir = data_dir
    generator = np.random.default_rng(0)
    for number in range(60):
        write_dicom(root / f"{number}.dcm", generator.integers(0, 4096, (9, 9), dtype=np.uint16))
    (root / "broken.dcm").write_bytes((root / "0.dcm").read_bytes()[:-40])
    assert PATIENT.encode() in (root / "broken.dcm").read_bytes()
    typed = ("dataset=folder", f"dataset.root={root}", "dataset.max_unreadable=0.1")
    train = advvae("mode=train", *typed, *TINY, "then=[test,outlier]", *FEW, "out_dataset=digits")
    screen = advvae("mode=screen", "dataset=folder", *FEW, f"input={root}", "tracker=none")
    for result in (train, screen):
        assert result.status == 0, result.errors
        assert PATIENT not in result.output + result.errors
    for folder in (advvae.cwd / "outputs", data_dir):
        for path, content in contents(folder).items():
            assert PATIENT.encode() not in content, path
    assert b"broken.dcm" in (screen.folder / "unreadable.csv").read_bytes()


def test_a_source_from_outside_the_package_is_private_unless_it_says_otherwise() -> None:
    class Mine(Digits):
        """Declared in this module, so outside the package."""

    class Published(Mine):
        private = False

    assert [is_private(source) for source in (Digits(), Mine(), Published())] == [False, True, False]
