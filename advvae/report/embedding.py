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

from advvae.report.charts import thinned

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
    """Room for pictures: what comes after it is spent is left out. `left_out`: the captions of these."""

    def __init__(self, characters: int = BUDGET) -> None:
        self._left = characters
        self.left_out: list[str] = []

    def embed(self, path: Path, caption: str) -> Picture | None:
        """The picture of a file; None where there is no such file, it is damaged, or no room is left."""
        picture = _picture(path, caption)
        if picture is None:
            return None
        if len(picture.data) > self._left:
            self.left_out.append(caption)
            return None
        self._left -= len(picture.data)
        return picture

    def embed_series(self, paths: Sequence[Path], captions: Sequence[str], share: float) -> list[Picture]:
        """The pictures of a series, evenly chosen where all do not fit into this share of what room is left."""
        found = [_picture(paths[i], captions[i]) for i in thinned(len(paths), MOST_SMALL)]
        pictures = [picture for picture in found if picture is not None]
        room = self._left * share
        for n in range(len(pictures), 0, -1):
            kept = [pictures[-1 - i] for i in reversed(thinned(len(pictures), n))]  # of one, the last
            size = sum(len(picture.data) for picture in kept)
            if size <= room:
                self._left -= size
                return kept
        self.left_out += [picture.caption for picture in pictures]
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
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # the second: a PNG that ends early
        return None
    return Picture(f"data:image/{kind};base64,{base64.b64encode(content).decode()}", width, height, caption)


@cache
def chart_library() -> str:
    """plotly.js as it is packaged with plotly, compressed: a third of its size, which browsers unpack by themselves."""
    return base64.b64encode(gzip.compress(chart_script(), compresslevel=6, mtime=0)).decode()


@cache
def chart_script() -> bytes:
    """plotly.js."""
    return files("plotly").joinpath("package_data/plotly.min.js").read_bytes()
