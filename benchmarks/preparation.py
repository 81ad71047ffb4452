"""How fast a folder of medical files is prepared: decoded, mapped by a window, and brought to the size of the networks.

    python -m benchmarks.preparation [number of files] [folder]

12-bit images of 512 px as uncompressed DICOM files and as 16-bit PNG files; 200 different ones, linked under as many
names as asked for, so that they fit a small disk (and its cache: this measures processors, not disks). The floor is
what the libraries need for it on one core: decoding (pydicom, Pillow) and torch's antialiased resize to 64 px. Needs
`pip install 'advvae[dicom]'`. Five minutes for 20,000 files on two cores.
"""

import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from advvae.data.files import Folder
from advvae.data.splits import load_split
from benchmarks.twelve_bits import write_dicom

SIDE, SIZE, DIFFERENT = 512, 64, 200
WINDOW = (800.0, 1200.0)


def write_files(folder: Path, suffix: str, count: int) -> None:
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows = np.arange(SIDE)[:, None]
    for number in range(count):
        path = folder / f"{number:06d}{suffix}"
        if number >= DIFFERENT:
            path.hardlink_to(folder / f"{number % DIFFERENT:06d}{suffix}")
            continue
        pixels = (1000 + 0.2 * rows + generator.normal(0, 20, (SIDE, SIDE))).round().astype(np.uint16)
        if suffix == ".dcm":
            write_dicom(pixels, path)
        else:
            Image.fromarray(pixels).save(path)


def floor(read: Callable[[Path], np.ndarray], files: list[Path]) -> float:
    """Images per second of decoding and resizing alone, on one core."""
    start = time.perf_counter()
    for path in files:
        image = torch.from_numpy(read(path).astype(np.float32))[None, None]
        F.interpolate(image, size=(SIZE, SIZE), mode="bilinear", antialias=True)
    return len(files) / (time.perf_counter() - start)


def prepare(folder: Path, data_dir: Path, num_workers: int, count: int) -> float:
    """Images per second."""
    shutil.rmtree(data_dir, ignore_errors=True)
    start = time.perf_counter()
    load_split(
        Folder(str(folder)),
        "train",
        name="folder",
        size=SIZE,
        channels=1,
        window=WINDOW,
        data_dir=data_dir,
        num_workers=num_workers,
    )
    return count / (time.perf_counter() - start)


def main() -> None:
    import pydicom

    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    readers: dict[str, Callable[[Path], np.ndarray]] = {
        ".dcm": lambda path: pydicom.dcmread(path).pixel_array,
        ".png": lambda path: np.asarray(Image.open(path)),
    }
    print(f"{platform.machine()}, torch {torch.__version__}, {count:,} files of {SIDE} px to {SIZE} px, images/s")
    print("| files | floor, one core (median of 3) | num_workers=0 | num_workers=2 |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as scratch:
        for suffix, read in readers.items():
            folder = Path(scratch) / suffix[1:]
            write_files(folder, suffix, count)
            least = statistics.median(floor(read, sorted(folder.iterdir())[:DIFFERENT]) for _ in range(3))
            rates = [prepare(folder, Path(scratch) / "data", workers, count) for workers in (0, 2)]
            print(f"| {suffix} | {least:.0f} | {rates[0]:.0f} | {rates[1]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
