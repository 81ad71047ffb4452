"""Image files as they turn up among others: each is read as it is meant, or left out and named."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from advvae.data.files import Folder
from advvae.errors import UserError
from tests.data.given import prepared

SIDE = 16
RED, BLUE, GREY, BLACK, WHITE = (255, 0, 0), (0, 0, 255), (100, 100, 100), (0, 0, 0), (255, 255, 255)


def halves(left: Sequence[int], right: Sequence[int]) -> np.ndarray:
    """16×16×C pixels: 8 columns of each, which are blocks of their own in a JPEG file."""
    return np.repeat(np.array([[left, right]] * SIDE), SIDE // 2, axis=1)


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def of(left: Sequence[int], right: Sequence[int], mode: str = "RGB") -> Image.Image:
    """Both halves, in a mode of 8 bits."""
    pixels = halves(left, right).astype(np.uint8)
    return Image.frombytes(mode, (SIDE, SIDE), pixels.tobytes())


def palette() -> Image.Image:
    image = of([0], [1], "P")
    image.putpalette([*RED, *BLUE])
    return image


def frames(kind: str, **options: Any) -> bytes:
    """An animation whose first frame alone is red and blue."""
    return file_of(of(RED, BLUE), kind, save_all=True, append_images=[of(BLACK, GREY)] * 2, **options)


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # its left is up
    return exif


def deep(left: int, right: int) -> Image.Image:
    return Image.fromarray(halves([left], [right])[:, :, 0].astype(np.uint16))


def png_claiming(width: int, height: int) -> bytes:
    """A PNG file whose header claims this size, and which holds no more than a few bytes."""
    content = bytearray(file_of(of(RED, BLUE), "PNG"))
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


PNG, JPEG = file_of(of(RED, BLUE), "PNG"), file_of(of(GREY, WHITE), "JPEG", quality=100)
COLOURS = halves(RED, BLUE)

READ: dict[str, tuple[bytes, np.ndarray]] = {
    "palette.png": (file_of(palette(), "PNG"), COLOURS),
    "palette and transparency.png": (file_of(palette(), "PNG", transparency=1), halves(RED, BLACK)),
    "palette and alpha.png": (file_of(palette(), "PNG", transparency=bytes([255, 51])), halves(RED, (0, 0, 51))),
    "palette.gif": (file_of(palette(), "GIF"), COLOURS),
    "transparent.gif": (file_of(palette(), "GIF", transparency=1), halves(RED, BLACK)),
    "one bit.png": (file_of(of([0], [255], "L").convert("1"), "PNG"), halves(BLACK, WHITE)),
    "cmyk.jpg": (file_of(of((0, 255, 255, 0), (0, 0, 0, 155), "CMYK"), "JPEG", quality=100), halves(RED, GREY)),
    "cmyk.tif": (file_of(of((0, 255, 255, 0), (0, 0, 0, 155), "CMYK"), "TIFF"), halves(RED, GREY)),
    "alpha.png": (file_of(of((*RED, 255), (*WHITE, 51), "RGBA"), "PNG"), halves(RED, (51, 51, 51))),
    "alpha.webp": (file_of(of((*RED, 255), (*WHITE, 51), "RGBA"), "WEBP", lossless=True), halves(RED, (51,) * 3)),
    "grey and alpha.png": (file_of(of((100, 255), (255, 51), "LA"), "PNG"), halves(GREY, (51, 51, 51))),
    "turned.jpg": (file_of(of(GREY, WHITE), "JPEG", quality=100, exif=turned()), np.rot90(halves(GREY, WHITE), -1)),
    "turned.png": (file_of(of(RED, BLUE), "PNG", exif=turned()), np.rot90(COLOURS, -1)),
    "turned.webp": (file_of(of(RED, BLUE), "WEBP", lossless=True, exif=turned()), np.rot90(COLOURS, -1)),
    "animated.gif": (frames("GIF"), COLOURS),
    "animated.webp": (frames("WEBP", lossless=True), COLOURS),
    "animated.png": (frames("PNG"), COLOURS),
    "pages.tif": (frames("TIFF"), COLOURS),
    "a png.jpg": (PNG, COLOURS),
    "a jpeg.png": (JPEG, halves(GREY, WHITE)),
    "a jpeg.gif": (JPEG, halves(GREY, WHITE)),
}
DEEP: dict[str, bytes] = {
    "deep.png": file_of(deep(1, 65535), "PNG"),
    "deep.tif": file_of(deep(1, 65535), "TIFF"),
    "compressed deep.tif": file_of(deep(1, 65535), "TIFF", compression="tiff_deflate"),
    "a deep png.jpg": file_of(deep(1, 65535), "PNG"),
}
UNKNOWN, BOMB = "cannot identify image file '.*'", "Image size .* exceeds limit of .* decompression bomb DOS attack."
TRUNCATED = ".*[Tt]runcated.*"
UNREADABLE: dict[str, tuple[bytes, str]] = {
    "empty.png": (b"", UNKNOWN),
    "empty.jpg": (b"", UNKNOWN),
    "a text.png": (b"no image", UNKNOWN),
    "a text.tif": (b"no image", UNKNOWN),
    "a page.jpg": (b"<!DOCTYPE html><html>404</html>", UNKNOWN),
    "a picture.dcm": (PNG, ".*(DICM|pydicom).*"),
    "cut.png": (PNG[:-30], TRUNCATED),
    "cut.jpg": (JPEG[:-30], TRUNCATED),
    "cut a little.jpg": (JPEG[:-2], TRUNCATED),
    "cut header.jpg": (JPEG[:20], f"{UNKNOWN}|{TRUNCATED}"),
    "cut.gif": (file_of(palette(), "GIF")[:-10], TRUNCATED),
    "cut.tif": (file_of(of(RED, BLUE), "TIFF")[:-10], TRUNCATED),
    "cut.webp": (file_of(of(RED, BLUE), "WEBP")[:-10], "could not create decoder object"),
    "bomb.png": (png_claiming(20_000, 20_000), BOMB),
    "a bomb.jpg": (png_claiming(20_000, 20_000), BOMB),
}


def written(root: Path, name: str, content: bytes) -> Path:
    path = root / "test" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", READ)
def test_what_an_odd_file_shows(name: str, tmp_path: Path) -> None:
    content, expected = READ[name]
    written(tmp_path / "set", name, content)
    images = prepared(tmp_path, Folder(str(tmp_path / "set")), size=SIDE).images.numpy()
    most = 2 if b"JFIF" in content or b"Adobe" in content else 0  # what a JPEG file loses
    assert images.dtype == np.uint8
    assert np.abs(images[0].transpose(1, 2, 0).astype(int) - expected).max() <= most


@pytest.mark.parametrize("name", DEEP)
def test_16_bits_stay(name: str, tmp_path: Path) -> None:
    written(tmp_path / "set", name, DEEP[name])
    images = prepared(tmp_path, Folder(str(tmp_path / "set")), size=SIDE, channels=1).images.numpy()
    assert images.dtype == np.uint16
    assert np.array_equal(images[0, 0], halves([1], [65535])[:, :, 0])


@pytest.mark.filterwarnings("ignore:.*EXIF|Truncated")  # Pillow's
@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    content, reason = UNREADABLE[name]
    path = written(tmp_path / "set", name, content)
    with pytest.raises(UserError, match=rf"^given test: {path} is unreadable \(({reason})\): 100\.0% of all") as error:
        prepared(tmp_path, Folder(str(tmp_path / "set")))
    assert "\n" not in str(error.value)
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(path.with_name("good.png"))
    found = prepared(tmp_path, Folder(str(tmp_path / "set")), max_unreadable=0.5)
    assert [Path(good).name for good in found.paths or ()] == ["good.png"]
    assert [Path(bad) for _, bad, _ in found.left_out.unreadable] == [path]


def test_pillows_limit_is_its_own(tmp_path: Path) -> None:
    """What Pillow refuses are images of more than twice this many pixels; nothing here moves it."""
    assert Image.MAX_IMAGE_PIXELS == 2**30 // 4 // 3
    sources = Path(__file__).parents[2].glob("advvae/**/*.py")
    assert not [path for path in sources if "MAX_IMAGE_PIXELS" in path.read_text()]
    assert not [path for path in sources if "LOAD_TRUNCATED_IMAGES" in path.read_text()]
