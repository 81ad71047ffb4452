"""Image files of every odd kind in one folder: each is read as a viewer shows it, or left out and named."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advvae.data.files import Folder
from advvae.data.source import Form
from advvae.data.store import prepare

RED, GREEN = (254, 0, 0), (0, 255, 1)  # JPEG's own shades of them
SIZE = (8, 8)


def plain(color: tuple[int, ...] = RED, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, SIZE, color)


def palette(transparent: bool) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        image = Image.new("P", SIZE, 1)
        image.putpalette([0, 0, 0, *RED])
        if transparent:
            image.info["transparency"] = 0
        image.save(path)

    return write


def upside_down(path: Path) -> None:
    image = Image.fromarray(np.repeat(np.array([[RED], [GREEN]], np.uint8), 4, 0).repeat(8, 1))
    exif = Image.Exif()
    exif[0x0112] = 3  # to be turned by 180°
    image.save(path, exif=exif)


def animated(path: Path) -> None:
    plain().save(path, save_all=True, append_images=[plain(GREEN), plain(GREEN)], lossless=True)


def deep(path: Path) -> None:
    Image.fromarray(np.full(SIZE, 254 * 257, np.uint16)).save(path)


def cut(suffix: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path, suffix)
        path.write_bytes(path.read_bytes()[:-500])

    return write


def text(path: Path) -> None:
    path.write_text("hello")


def bomb(path: Path) -> None:
    """Larger than twice the size that Pillow warns of, and a kilobyte on disk."""
    Image.new("1", (20_000, 20_000)).save(path)


READ: dict[str, tuple[Callable[[Path], None], tuple[int, ...]]] = {  # name: how it is written, its first pixel
    "palette.png": (palette(transparent=False), RED),
    "transparent_palette.png": (palette(transparent=True), RED),
    "palette.gif": (palette(transparent=False), RED),
    "cmyk.jpg": (lambda path: plain((0, 255, 255, 0), "CMYK").save(path), RED),
    "grey16.png": (deep, (254, 254, 254)),
    "grey16.tiff": (deep, (254, 254, 254)),
    "alpha.png": (lambda path: plain((*RED, 255), "RGBA").save(path), RED),
    "grey_alpha.png": (lambda path: plain((254, 255), "LA").save(path), (254, 254, 254)),
    "turned.jpg": (upside_down, GREEN),
    "animated.gif": (animated, RED),  # the first frame alone, which is told
    "animated.webp": (animated, RED),
    "animated.png": (animated, RED),
    "png_by_another_name.jpg": (lambda path: plain().save(path, "PNG"), RED),
    "jpeg_by_another_name.png": (lambda path: plain().save(path, "JPEG"), RED),
}
NAMED: dict[str, tuple[Callable[[Path], None], str]] = {  # name: how it is written, what is said of it
    "empty.png": (Path.touch, "cannot identify image file"),
    "text.png": (text, "cannot identify image file"),
    "cut.jpg": (cut("JPEG"), "image file is truncated"),
    "cut.png": (cut("PNG"), "truncated"),
    "bomb.png": (bomb, "decompression bomb"),
}


def written(folder: Path) -> Path:
    folder.mkdir()
    for name, (write, _) in (READ | NAMED).items():
        write(folder / name)
    return folder


def test_each_is_read_or_named(tmp_path: Path) -> None:
    folder = written(tmp_path / "images")
    prepared = prepare(Folder(str(folder)), "train", name="odd", form=Form(8, 3), data_dir=tmp_path, max_unreadable=0.5)
    assert prepared.paths is not None
    names = [Path(path).name for path in prepared.paths]
    assert names == sorted(READ)
    assert str(prepared.images.dtype) == "torch.uint16"  # as two of them have 16 bits
    first_pixels = prepared.images.numpy()[:, :, 0, 0] // 257
    for name, pixel in zip(names, first_pixels.tolist(), strict=True):
        assert pixel == pytest.approx(READ[name][1], abs=2), name
    with prepared.left_out.file.open(newline="") as file:
        reasons = {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}
    assert sorted(reasons) == sorted(NAMED)
    for name, (_, reason) in NAMED.items():
        assert reason in reasons[name]
