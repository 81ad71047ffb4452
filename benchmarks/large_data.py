"""What large sets cost: memory while they are prepared and trained on, and images/s while they are read from disk.

    python -m benchmarks.large_data [folder]      # 5 GB of room there; 20 minutes on two cores

1. A prepared store of 1.7 million images of 64 px (21 GB, sparse on disk: it takes no room), with a path and a name for
   each, trained on by the `advvae` command.
2. A folder of 200,000 PNG files of 32 px: its preparation is killed half-way, started again, and trained on.
3. Random batches of 3 GB that are not in the system's cache, read with and without reading ahead of a step that leaves
   the processor alone, as one on a GPU does.

Memory is that of the command and its workers together, looked at every 20 ms: RssAnon, what they hold, and apart from
it RssFile, the pages of mapped files, which the system takes back when it needs them. Linux alone tells them apart.
"""

import io
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from advvae.data import Items
from advvae.data.chunks import Tally
from advvae.data.entries import load_array, write_facts
from advvae.data.reading import gathered, taken
from advvae.data.source import Form
from advvae.data.store import FORMAT, digest
from advvae.data.writing import JOURNAL, npy_header

N_SPARSE, N_FILES, N_ON_DISK = 1_700_000, 200_000, 250_000
SIDE = 64  # of sparse images and those on disk
TINY = ("hidden_dims=[8,16,32]", "latent_dim=16", "tracker=none", "n_epochs=1", "precision=32")
BATCH, STEPS, ROUNDS = 128, 200, 5
STEP = 0.005  # seconds


class Sparse:
    """Images that nobody reads: their prepared copy is there."""

    splits = ("train", "test")

    def read(self, split: str, data_dir: Path) -> Items:
        raise AssertionError("the prepared copy was not found")


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as scratch:
        folder = Path(scratch)
        train_on_sparse_store(folder)
        prepare_and_train_on_files(folder)
        read_from_disk(folder)


def train_on_sparse_store(folder: Path) -> None:
    data_dir, conf = folder / "data", folder / "conf" / "dataset"
    conf.mkdir(parents=True)
    (conf / "sparse.yaml").write_text(f"_target_: benchmarks.large_data.Sparse\nsize: {SIDE}\nchannels: 3\n")
    write_sparse_store(data_dir)
    overrides = ("dataset=sparse", "max_minutes=0.5", f"data_dir={data_dir}", f"output_dir={folder}/out", *TINY)
    print("sparse store:", tell(watched(["--config-dir", str(conf.parent), *overrides])), flush=True)
    shutil.rmtree(data_dir)


def write_sparse_store(data_dir: Path) -> None:
    """What preparing would write for N_SPARSE black images, but with a hole in place of the pixels."""
    source = import_module("benchmarks.large_data").Sparse()  # as the command calls it, which this module is not
    key = digest(source, "train", Form(SIDE, 3), data_dir)
    entry = data_dir / "cache" / f"sparse-train-{SIDE}px-3c-{key}"
    entry.mkdir(parents=True)
    shape = (N_SPARSE, 3, SIDE, SIDE)
    header = npy_header(np.dtype(np.uint8), shape)
    (entry / "images.npy").write_bytes(header)
    os.truncate(entry / "images.npy", len(header) + int(np.prod(shape)))
    names = [f"n{number // 1300:08d}/n{number // 1300:08d}_{number}.JPEG" for number in range(N_SPARSE)]
    labels = np.arange(N_SPARSE) // 1300
    paths = [f"/a/folder/of/images/train/{name}" for name in names]
    items = Items(names, labels, [str(number) for number in range(labels[-1] + 1)], paths=paths, names=names)  # type: ignore[arg-type]
    write_facts(entry, items, Tally(n_images=N_SPARSE), shape, [])
    print(f"sparse store, format {FORMAT}: {(entry / 'images.npy').stat().st_size / 1e9:.1f} GB")


def prepare_and_train_on_files(folder: Path) -> None:
    root, data_dir = folder / "files", folder / "data"
    write_files(root)
    overrides = (
        *("dataset=folder", f"dataset.root={root}", "size=32", "num_workers=2", "max_minutes=0.5"),
        *(f"data_dir={data_dir}", f"output_dir={folder}/out", *TINY),
    )
    print("files, killed:", tell(watched(overrides, until=lambda: n_prepared(data_dir) >= N_FILES // 2)))
    print("files, again:", tell(watched(overrides)), flush=True)
    for path in (root, data_dir):
        shutil.rmtree(path)


def write_files(root: Path) -> None:
    generator = np.random.default_rng(0)
    for number in range(N_FILES):
        path = root / f"{number // 2000:03d}" / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), np.uint8)).save(content, "PNG", compress_level=1)
        path.write_bytes(content.getvalue())


def n_prepared(data_dir: Path) -> int:
    """How many images the journal of the entry in the making tells of."""
    journals = list(data_dir.glob(f"cache/.partial-*/{JOURNAL}"))
    found = re.findall(r'"n_images": (\d+)', journals[0].read_text()) if journals else []
    return sum(map(int, found))


class Peaks:
    """Of RssAnon and RssFile, in GB, of a process and its children together."""

    def __init__(self) -> None:
        self.anonymous = self.file = 0.0

    def look(self, pid: int) -> None:
        sums = {"RssAnon": 0, "RssFile": 0}
        for process in (pid, *children(pid)):
            for name, kilobytes in re.findall(r"(RssAnon|RssFile):\s+(\d+)", read(f"/proc/{process}/status")):
                sums[name] += int(kilobytes)
        self.anonymous = max(self.anonymous, sums["RssAnon"] / 2**20)
        self.file = max(self.file, sums["RssFile"] / 2**20)


def children(pid: int) -> list[int]:
    return [int(child) for child in read(f"/proc/{pid}/task/{pid}/children").split()]


def read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:  # the process has ended
        return ""


def watched(
    overrides: list[str] | tuple[str, ...], until: Callable[[], bool] | None = None
) -> tuple[Peaks, float, list[str]]:
    """Run `advvae mode=train`, or kill it when `until` says so: its peaks, seconds, and what it said."""
    peaks, started = Peaks(), time.perf_counter()
    command = [sys.executable, "-m", "advvae", *overrides, "mode=train"]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        looked = started
        while process.poll() is None:
            peaks.look(process.pid)
            if until and time.perf_counter() - looked > 1:
                looked = time.perf_counter()
                if until():
                    workers = children(process.pid)
                    for pid in (process.pid, *workers):  # as a machine that goes down
                        os.kill(pid, 9)
            time.sleep(0.02)
        output.seek(0)
        return peaks, time.perf_counter() - started, output.read().splitlines()


def tell(result: tuple[Peaks, float, list[str]]) -> str:
    peaks, seconds, lines = result
    told = [line.strip() for line in lines if re.search(r"preparing|images/s|unreadable|rror", line)]
    memory = f"RssAnon {peaks.anonymous:.2f} GB, RssFile {peaks.file:.2f} GB at the most, {seconds:.0f} s"
    return "; ".join([memory, *told])


def read_from_disk(folder: Path) -> None:
    """Images/s of a step on batches of a file that is on disk alone, and of the step by itself."""
    path, shape = folder / "images.npy", (N_ON_DISK, 3, SIDE, SIDE)
    generator = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(npy_header(np.dtype(np.uint8), shape))
        for _ in range(N_ON_DISK // 1000):
            file.write(generator.bytes(int(np.prod(shape[1:])) * 1000))
        os.fsync(file.fileno())
    images = load_array(path, list(shape))
    contenders: dict[str, Callable[[list[torch.Tensor]], Iterator[torch.Tensor]]] = {
        "step alone": lambda rows: iter(rows),
        "pages read when they are touched": lambda rows: (images[batch] for batch in rows),
        "batches read when they are asked for": lambda rows: (taken(images, batch, pinned=False) for batch in rows),
        "batches read ahead": lambda rows: gathered(images, rows, torch.device("cpu")),
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    order = torch.Generator().manual_seed(0)
    for _ in range(ROUNDS):
        for name, batches in contenders.items():
            forget(path)
            rows = torch.randperm(N_ON_DISK, generator=order)[: STEPS * BATCH].split(BATCH)
            rates[name].append(steps_per_second(batches(list(rows))) * BATCH)
    for name, found in rates.items():
        print(f"{name}: {statistics.median(found):,.0f} images/s ({min(found):,.0f} to {max(found):,.0f})", flush=True)


def forget(path: Path) -> None:
    """Take a file out of the system's cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def steps_per_second(batches: Iterator[torch.Tensor]) -> float:
    started = time.perf_counter()
    for _ in batches:
        time.sleep(STEP)
    return STEPS / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
