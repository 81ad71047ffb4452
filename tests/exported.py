"""What tests of exported models share."""

import contextlib
import io
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.command import Command


class Unheard:
    """In place of pytest's capture, which is of one test."""

    def readouterr(self) -> tuple[str, str]:
        return "", ""


def command_in(cwd: Path, data_dir: Path) -> Command:
    """The command for what several tests share; what it prints is not kept."""
    unheard: Any = Unheard()
    return Command(cwd, data_dir, unheard)


def export(advvae: Command, *arguments: str) -> Path:
    """`mode=export`; the folder of the model."""
    result = advvae("mode=export", "tracker=none", *arguments)
    assert result.status == 0, result.errors
    return result.folder / "model"


def some_images(n: int, channels: int = 1, size: int = 8) -> torch.Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(1))


def write_images(folder: Path, n: int = 60, brightest: int = 256) -> Path:
    """Grey PNG files of 8 px."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for number in range(n):
        Image.fromarray(generator.integers(0, brightest, (8, 8), dtype=np.uint8)).save(folder / f"{number:03}.png")
    return folder


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The name and the bytes of every file below a folder, and of every member of those that are archives."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield path.name, path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield from ((f"{path.name}/{name}", archive.read(name)) for name in archive.namelist())


def printed_by_card(folder: Path, image: np.ndarray) -> dict[str, tuple[float, str]]:
    """What the program in a model's card prints of an image: score -> its value, and whether it is flagged."""
    Image.fromarray(image).save(folder / "image.png")
    _, section = (folder / "README.md").read_text().split("## With ONNX Runtime\n")
    program = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert program is not None
    before, printed = os.getcwd(), io.StringIO()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(printed):
            exec(program[1], {})
    finally:
        os.chdir(before)
        (folder / "image.png").unlink()
    lines = (line.split(" ", 2) for line in printed.getvalue().splitlines())
    return {name: (float(value), flag) for name, value, flag in lines}
