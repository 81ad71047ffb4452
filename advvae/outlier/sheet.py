"""Sheets of images: several pictures of each below one another, captioned, pixel by pixel as they are."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from advvae.figures import GAP, tiles, to_pillow

if TYPE_CHECKING:
    from PIL import Image, ImageFont

    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

PER_ROW = 8  # images beside each other
SIDE = 144  # pixels: smaller images are enlarged by a whole factor, so that captions fit above them
LETTERS = 18  # pixels: height of letters
LEADING = LETTERS + 4  # pixels from one line of text to the next
PIECES = re.compile(r"[^\s_/]{0,12}[\s_/]?")  # of a caption, between which a line may end


def sheet(parts: Sequence[torch.Tensor], names: Sequence[str], captions: Sequence[str], title: str) -> Image.Image:
    """Each image as a column: its caption, then its tile of every part; PER_ROW columns, the others in blocks below.

    parts: (B, C, H, W) uint8, with as many channels in each. names: of the parts, for the left margin.
    captions: B texts, of one or more lines.
    """
    from PIL import Image, ImageDraw, ImageFont

    blocks = [
        _block([part[start : start + PER_ROW] for part in parts], names, captions[start : start + PER_ROW])
        for start in range(0, len(captions), PER_ROW)
    ]
    font = ImageFont.load_default(size=LEADING)
    tops = np.cumsum([2 * LEADING, *(block.height + LEADING for block in blocks)]).tolist()
    width = max(2 * GAP + math.ceil(font.getlength(title)), *(block.width for block in blocks))
    canvas = Image.new("RGB", (width, tops[-1]), "white")
    ImageDraw.Draw(canvas).text((GAP, LEADING), title, fill="black", font=font, anchor="lm")
    for top, block in zip(tops, blocks, strict=False):
        canvas.paste(block, (0, top))
    return canvas


def _block(parts: Sequence[torch.Tensor], names: Sequence[str], captions: Sequence[str]) -> Image.Image:
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=LETTERS)
    strips = [to_pillow(tiles(part, len(captions), SIDE)) for part in parts]
    width, height = strips[0].size
    pitch = (width - GAP) // len(captions)
    texts = [wrapped(caption, font, pitch - 2 * GAP) for caption in captions]
    head = GAP + LEADING * max(text.count("\n") + 1 for text in texts)
    margin = 2 * GAP + math.ceil(max(font.getlength(line) for name in names for line in name.split("\n")))
    canvas = Image.new("RGB", (margin + width, head + len(strips) * (height - GAP) + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for column, text in enumerate(texts):
        draw.text((margin + GAP + column * pitch, head - GAP), text, fill="black", font=font, anchor="ld")
    for row, (name, strip) in enumerate(zip(names, strips, strict=True)):
        top = head + row * (height - GAP)  # neighbours share one gap
        canvas.paste(strip, (margin, top))
        draw.text((margin - GAP, top + height // 2), name, fill="black", font=font, anchor="rm", align="right")
    return canvas


def wrapped(text: str, font: Font, width: int) -> str:
    """The text with its own line breaks and those that keep each line within `width` pixels."""
    lines: list[str] = []
    for line in text.split("\n"):
        lines.append("")
        for piece in PIECES.findall(line):
            if lines[-1] and font.getlength(f"{lines[-1]}{piece}".rstrip()) > width:
                lines.append("")
            lines[-1] += piece
    return "\n".join(lines)
