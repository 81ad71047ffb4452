"""What a detector says of images, as pandas frames."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from advvae.data import Split
from advvae.outlier.detector import Detector
from advvae.outlier.screen import none_readable, tell_unreadable, tell_window, unreadable_rows
from advvae.outlier.screen_input import ScreenInput
from advvae.progress import watched

if TYPE_CHECKING:
    import pandas


def score_frame(detector: Detector, scored: Mapping[str, np.ndarray], alpha: float) -> "pandas.DataFrame":
    """Of each score, what images score (n,), their conformal p-values, and flags: 1, 0; missing without a threshold."""
    import pandas

    columns: dict[str, Any] = {}
    for name, values in scored.items():
        threshold = detector.threshold(name, alpha)
        flags = [pandas.NA] * len(values) if threshold is None else (values > threshold).astype(int)
        columns |= {name: values, f"{name}_p": detector.p_values(name, values)}
        columns[f"{name}_flag"] = pandas.array(flags, dtype="Int64")
    return pandas.DataFrame(columns)


def screen_frame(images: ScreenInput, judge: "Callable[[Split], pandas.DataFrame]") -> "pandas.DataFrame":
    """The rows of screen.csv, and in `.attrs["unreadable"]` those of unreadable.csv, which are told too.

    Args:
        judge: the `score_frame` of some of the images.

    Raises:
        UserError: no image can be read.
    """
    import pandas

    frames = []
    for places, chunk in watched(images.chunks(), f"screening {images.path.name}", images.n_chunks):
        named = {"path": [place.path for place in places], "index": [place.index for place in places]}
        frames.append(pandas.concat([pandas.DataFrame(named), judge(chunk)], axis=1))
    if not frames:
        raise none_readable(images)
    tell_window(images)
    if images.unreadable:
        tell_unreadable(images, "the table's attrs['unreadable']")
    frame = pandas.concat(frames, ignore_index=True)
    frame.attrs["unreadable"] = unreadable_rows(images)
    return frame
