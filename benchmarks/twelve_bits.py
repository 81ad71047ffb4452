"""What windows and 16 bits are for: faint blobs in 12-bit scans, found or lost by how the files are read.

    python -m benchmarks.twelve_bits [folder]

The scans are synthetic: smooth backgrounds that fill a small part of the 12-bit range, as soft tissue does, with noise.
Outliers have a blob whose contrast is 2 % of that range besides. The same images are read four ways: as DICOM files
by percentiles of the training images, and as 8-bit files made from them in three ways that are in use. One plain VAE is
trained on each, with the same settings; needs `pip install 'advvae[dicom]'`. Six minutes on two cores.
"""

import csv
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32  # pixels
COUNTS = {("train", "normal"): 2000, ("val", "normal"): 300, ("test", "normal"): 300, ("test", "blob"): 300}
CONTRAST = 82  # levels: 2 % of 4096
NOISE = 8  # levels, standard deviation
PERCENTILES = (0.5, 99.5)
SEEDS = (0, 1, 2)
SCORES = ("recon_mse", "elbo", "input_complexity", "latent_gmm", "contrast", "pixel_knn")
SETTINGS = (
    *("experiment=plain_vae", f"size={SIDE}", "latent_dim=8", "kld_weight=1e-5", "lr=1e-3", "batch_size=64"),
    *("n_epochs=8", "precision=32", "tracker=none", "then=[outlier]", "out_dataset=folder"),
    f"scores=[{','.join(score for score in SCORES if score not in ('contrast', 'pixel_knn'))}]",
)

Reading = Callable[[np.ndarray], np.ndarray]


def scans() -> Iterator[tuple[str, str, np.ndarray]]:
    """Split, label and pixels (SIDE, SIDE) uint16 in [0, 4095] of every image."""
    generator = np.random.default_rng(0)
    for (split, label), count in COUNTS.items():
        for _ in range(count):
            yield split, label, scan(generator, label == "blob")


def scan(generator: np.random.Generator, has_blob: bool) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    across, down, level, bowl = generator.uniform(-1, 1, 4)
    image = 1000 + 100 * (across * x + down * y) + 60 * level + 60 * bowl * (x**2 + y**2)
    if has_blob:
        row, column = generator.uniform(-0.25, 0.25, 2)
        image = image + CONTRAST * np.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * 0.1**2))
    return np.rint(image + generator.normal(0, NOISE, image.shape)).clip(0, 4095).astype(np.uint16)


def write_dicom(pixels: np.ndarray, path: Path) -> None:
    """A CT slice of 12 bits, as it is stored."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)


def write_all(root: Path) -> dict[str, list[str]]:
    """Write the scans in each form; name of the form -> what tells advvae to read it."""
    images = list(scans())
    training = np.stack([pixels for split, _, pixels in images if split == "train"])
    low, high = np.percentile(training, PERCENTILES)
    readings: dict[str, Reading] = {
        "8 bits: high byte of the 16 that a value takes": lambda pixels: pixels >> 8,
        "8 bits: the 12-bit range": lambda pixels: pixels >> 4,
        "8 bits: the same window": lambda pixels: np.rint(((pixels - low) / (high - low)).clip(0, 1) * 255),
    }
    forms = {f"DICOM, dataset.percentiles=[{PERCENTILES[0]},{PERCENTILES[1]}]": root / "dicom"}
    forms |= {name: root / f"png-{number}" for number, name in enumerate(readings)}
    for name, folder in forms.items():
        folder.mkdir(parents=True)
        with (folder / "scans.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["path", "label", "split"])
            for number, (split, label, pixels) in enumerate(images):
                path = f"{number:05d}.{'png' if name in readings else 'dcm'}"
                table.writerow([path, label, split])
                if name in readings:
                    Image.fromarray(readings[name](pixels).astype(np.uint8)).save(folder / path)
                else:
                    write_dicom(pixels, folder / path)
    percentiles = f"dataset.percentiles=[{PERCENTILES[0]},{PERCENTILES[1]}]"
    return {
        name: [f"dataset.csv={folder}/scans.csv", percentiles][: 1 + (name not in readings)]
        for name, folder in forms.items()
    }


def measure(form: list[str], seed: int, output_dir: Path) -> dict[str, float]:
    """AUROC of each score, after a training of its own."""
    command = [sys.executable, "-m", "advvae", "mode=train", "dataset=folder", *form, "dataset.keep_classes=[normal]"]
    command += ["out_dataset.drop_classes=[normal]", *SETTINGS, f"seed={seed}", f"output_dir={output_dir}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (metrics,) = output_dir.rglob("metrics.json")
    return {score: json.loads(metrics.read_text())["scores"][score]["auroc"] for score in SCORES}


def main() -> None:
    import torch

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch)
        forms = write_all(root / "scans")
        machine = platform.processor() or platform.machine()
        print(f"{machine}, torch {torch.__version__}; AUROC, mean over seeds {SEEDS} (least to most)")
        print(f"| read as | {' | '.join(SCORES)} |\n|{'---|' * (1 + len(SCORES))}")
        for number, (name, form) in enumerate(forms.items()):
            runs = [measure(form, seed, root / f"outputs-{number}-{seed}") for seed in SEEDS]
            cells = [[run[score] for run in runs] for score in SCORES]
            shown = [f"{np.mean(cell):.3f} ({min(cell):.3f} to {max(cell):.3f})" for cell in cells]
            print(f"| {name} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
