"""How a reader of an exported model without advvae prepares images, runs the scorer and decides: for the model card."""

from collections.abc import Mapping, Sequence
from typing import Any

SQUARES = {  # what makes a square of `values` (H, W) or (H, W, 3)
    "crop": """\
    side = min(values.shape[:2])
    top, left = (values.shape[0] - side) // 2, (values.shape[1] - side) // 2
    values = values[top : top + side, left : left + side]
""",
    "pad": """\
    side = max(values.shape[:2])
    top, left = (side - values.shape[0]) // 2, (side - values.shape[1]) // 2
    bottom, right = side - values.shape[0] - top, side - values.shape[1] - left
    values = np.pad(values, [(top, bottom), (left, right), (0, 0)][: values.ndim])
""",
    "squash": "",
}

CODE = '''\
import json

import numpy as np
import onnxruntime
from PIL import Image

about = json.load(open("config.json"))
scorer = onnxruntime.InferenceSession("onnx/scorer.onnx")


def prepare(pixels):
    """An image (H, W) or (H, W, 3) -> (1, {channels}, {size}, {size}) float32 in [-1, 1]."""
{values}{square}{planes}    planes = [Image.fromarray(np.float32(plane)) for plane in planes]
    planes = [plane.resize(({size}, {size}), Image.Resampling.BILINEAR) for plane in planes]  # antialiased
    return np.float32(np.round(np.stack(planes) * largest) / largest * 2 - 1)[None]


images = prepare(np.asarray(Image.open("image.png")))  # several: np.concatenate([prepare(...), ...])
reconstructions, scores = scorer.run(None, {{"images": images}})
for name, score in zip(about["scorer"], scores[0]):
    threshold = about["thresholds"][name]
    flag = "no threshold" if threshold is None else "outlier" if score > threshold else "normal"
    print(name, score, flag)
'''

NO_SCORER = """\
There is no `onnx/scorer.onnx`: no score here is a graph that takes images of {size}. The networks by themselves
are there; `config.json` (`input`) says what they take."""


def onnx_section(content: Mapping[str, Any]) -> str:
    """Words and a program that reads an image and prints its scores.

    Args:
        content: what stands in config.json.
    """
    given, names = content["input"], content["scorer"]
    parts = [_input_words(given)]
    if not names:
        return "\n\n".join([*parts, NO_SCORER.format(size=_sized(given["image_size"])), *_left_out(content)])
    parts += [
        f"`onnx/scorer.onnx` gives reconstructions and {len(names)} scores, one in each column: "
        f"{_quoted(names)}. **An image is flagged where `score > threshold`**; thresholds are in `config.json`, null "
        f"where there were too few validation images, and flag at most {content['alpha']:.3g} of normal ones.",
        *_left_out(content),
        f"```python\n{_code(given)}```",
    ]
    return "\n\n".join(parts)


def _input_words(given: Mapping[str, Any]) -> str:
    """What is done to an image, in the order in which it is."""
    kind, resize = ("grey", "colour")[given["channels"] == 3], given["resize"]
    squares = {"crop": "the centred square is cut out", "pad": "black makes it square", "squash": "it is squashed"}
    colours = (
        "colour becomes luma, {:g} R + {:g} G + {:g} B".format(*given["luma"]) if kind == "grey" else "grey is repeated"
    )
    words = (
        f"An image is brought to {_sized(given['image_size'])}, {kind}: {squares[resize or 'crop']}, {colours}, and "
        f"the side is changed by a {given['filter']} filter. Values: {given['scaling']}"
        + (f"; here [{given['window'][0]:g}, {given['window'][1]:g}]." if given["window"] else ".")
    )
    if given["image_size"] != given["size"]:
        words += f" **The networks take crops of that**, {_sized(given['size'])}."
    return words


def _left_out(content: Mapping[str, Any]) -> list[str]:
    """Which scores the scorer does not give, and why."""
    reasons: dict[str, list[str]] = {}
    for name, reason in content["not_in_scorer"].items():
        reasons.setdefault(reason, []).append(name)
    if not reasons:
        return []
    told = "; ".join(f"{_quoted(names)} ({reason})" for reason, names in reasons.items())
    return [f"Scores that advvae alone gives, with their thresholds in `other_thresholds`: {told}."]


def _code(given: Mapping[str, Any]) -> str:
    if given["window"]:
        low, high = given["window"]
        values = f"    largest = 65535\n    values = np.clip((np.float64(pixels) - {low!r}) / {high - low!r}, 0, 1)\n"
    else:
        values = (
            "    largest = 255 if pixels.dtype == np.uint8 else 65535  # 8 or 16 bits\n    values = pixels / largest\n"
        )
    if given["channels"] == 1:
        planes = f"    planes = [values @ {list(given['luma'])} if values.ndim == 3 else values]\n"
    else:
        planes = "    planes = [values] * 3 if values.ndim == 2 else np.moveaxis(values, 2, 0)\n"
    square = SQUARES[given["resize"] or "crop"]
    return CODE.format(channels=given["channels"], size=given["size"], values=values, square=square, planes=planes)


def _sized(side: int) -> str:
    return f"{side} × {side} px"


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
