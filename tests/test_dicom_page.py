"""The commands of docs/how-to/dicom.md and docs/how-to/patients.md, typed as they stand there."""

import csv
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command import TINY, Command
from tests.data.medical_files import write_dicom

HOW_TO = Path(__file__).parents[1] / "docs" / "how-to"
COMMANDS, PATIENTS = (
    [shlex.split(line)[1:] for line in (HOW_TO / page).read_text().splitlines() if line.startswith("    advvae")]
    for page in ("dicom.md", "patients.md")
)
FINDINGS = ("normal", "normal", "normal", "effusion;nodule", "nodule")


@pytest.fixture
def ward(advvae: Command) -> Command:
    """scans/ with scans.csv beside it: 60 patients of four scans, the last of 15 with findings; new_scans/."""
    generator = np.random.default_rng(0)
    rows = [["path", "label", "group", "split", "mask"]]
    for number in range(240):
        patient, label = number // 4, FINDINGS[number % 5] if number >= 180 else "normal"
        path, mask = f"{patient}/{number}.dcm", f"masks/{number}.png" if label != "normal" else ""
        pixels = generator.integers(0, 4096, (10, 8), dtype=np.uint16)
        write_dicom(advvae.cwd / "scans" / path, pixels, BitsStored=12)
        if mask:
            (advvae.cwd / "scans" / "masks").mkdir(exist_ok=True)
            Image.fromarray((pixels > 3000).astype(np.uint8) * 255).save(advvae.cwd / "scans" / mask)
        rows.append([path, label, f"patient {patient}", ("train", "train", "val", "test")[number // 60], mask])
        write_dicom(advvae.cwd / "new_scans" / f"{number}.dcm", pixels, BitsStored=12)
    with (advvae.cwd / "scans.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return advvae


def test_from_a_folder_and_a_table_to_a_screened_list(ward: Command) -> None:
    train, test, outlier, screen = COMMANDS
    settings = {argument.partition("=")[0]: argument for argument in (*train, *TINY)}
    result = ward(*settings.values())
    assert result.status == 0, result.errors
    for command in (test, outlier, screen):
        result = ward(*command, "tracker=none")
        assert result.status == 0, result.errors
    metrics = {run.parts[-3]: json.loads((run / "metrics.json").read_text()) for run in ward.runs()}
    assert (metrics["test"]["n"], metrics["test"]["n_groups"]) == (36, 15)
    assert (metrics["outlier"]["n_in"], metrics["outlier"]["n_out"]) == (36, 24)
    assert (metrics["outlier"]["n_in_groups"], metrics["outlier"]["n_out_groups"]) == (15, 15)
    assert set(metrics["outlier"]["sets"]["folder"]["pixels"]) == {"difference", "smoothed"}
    with (result.folder / "screen.csv").open() as file:
        assert len(list(csv.DictReader(file))) == metrics["screen"]["n"] == 240


def test_the_command_of_the_page_on_patients_runs(ward: Command) -> None:
    (train,) = PATIENTS
    result = ward(*train, *TINY)
    assert result.status == 0, result.errors
