"""What a page holds of other files, as text inside it: pictures, and the library that draws its charts."""

import base64
import gzip
import io
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from PIL import Image

WIDEST = 1400  # pixels: larger pictures are scaled down
LOSSLESS = 150_000  # bytes of a PNG file up to which it is kept as it is
QUALITY = 85  # of WebP, for the others
BUDGET = 4_500_000  # characters that the pictures of a page may take
MOST_SMALL = 24  # pictures of a series, such as epochs


class Picture(NamedTuple):
    """An image inside a page. `data`: its bytes as a data: URI. `width`, `height` in pixels."""

    data: str
    width: int
    height: int
    caption: str


class Budget:
    """Room for pictures: what comes after it is spent is left out, and counted."""

    def __init__(self, characters: int = BUDGET) -> None:
        self._left = characters
        self.n_left_out = 0

    def embed(self, path: Path, caption: str) -> Picture | None:
        """The picture of a file; None where there is no such file, it is damaged, or no room is left."""
        picture = _picture(path, caption)
        if picture is None:
            return None
        if len(picture.data) > self._left:
            self.n_left_out += 1
            return None
        self._left -= len(picture.data)
        return picture

    def embed_series(self, paths: Sequence[Path], captions: Sequence[str], share: float) -> list[Picture]:
        """The pictures of a series, evenly chosen where all do not fit into this share of what room is left."""
        n = min(len(paths), MOST_SMALL)
        room = self._left * share
        while n > 0:
            chosen = [round(i * (len(paths) - 1) / max(1, n - 1)) for i in range(n)] if n > 1 else [len(paths) - 1]
            found = [_picture(paths[i], captions[i]) for i in chosen]
            pictures = [picture for picture in found if picture is not None]
            size = sum(len(picture.data) for picture in pictures)
            if size <= room:
                self._left -= size
                return pictures
            n = min(n - 1, int(n * room / size))
        self.n_left_out += len(paths)
        return []


def _picture(path: Path, caption: str) -> Picture | None:
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            kind, (width, height) = "png", image.size
            if width > WIDEST or len(content) > LOSSLESS:
                shown = image.convert("RGB")
                shown.thumbnail((WIDEST, 16_000))  # WebP has no longer sides
                file = io.BytesIO()
                shown.save(file, "WEBP", quality=QUALITY)
                kind, content, (width, height) = "webp", file.getvalue(), shown.size
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    return Picture(f"data:image/{kind};base64,{base64.b64encode(content).decode()}", width, height, caption)


@cache
def chart_library() -> str:
    """plotly.js as it is packaged with plotly, compressed: a third of its size, which browsers unpack by themselves."""
    script = files("plotly").joinpath("package_data/plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(script, mtime=0)).decode()
