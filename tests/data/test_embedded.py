from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from advvae.data.embedded import Digits, Photos, blocks_of
from tests.data.configured import stacked


def test_digits_are_scaled_to_8_bits() -> None:
    from sklearn.datasets import load_digits

    items = Digits().read("train", Path())
    assert len(items.images) == 1797
    assert stacked(items).max() == 255
    assert np.allclose(stacked(items) / 255 * 16, load_digits().images, atol=16 / 255 / 2)
    assert items.labels[:3].tolist() == [0, 1, 2]


@pytest.mark.parametrize(("split", "count"), [("train", 2112), ("val", 704), ("test", 704)])
def test_photos_counts(split: str, count: int) -> None:
    # 427 × 640 px in 4 × 5 blocks of 106 × 128: (106 − 64) // 6 + 1 = 8 by (128 − 64) // 6 + 1 = 11 patches each,
    # in 12, 4 and 4 blocks of 2 photographs.
    items = Photos().read(split, Path())
    assert len(items.images) == len(items.labels) == count
    assert {np.asarray(image).shape for image in items.images} == {(64, 64, 3)}
    assert items.classes == ["china", "flower"]


def test_photos_splits_share_no_pixel() -> None:
    photo = np.arange(427 * 640 * 3).reshape(427, 640, 3)  # every value is there once
    seen = [set(np.concatenate([block.ravel() for block in blocks_of(photo, s)])) for s in ("train", "val", "test")]
    assert [len(values) for values in seen] == [12 * 106 * 128 * 3, 4 * 106 * 128 * 3, 4 * 106 * 128 * 3]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]
