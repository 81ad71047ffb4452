"""The training images that samples are nearest to."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from advvae.data import Split
from advvae.nearest_images import draw_neighbours, nearest, squared_distances


def random_split(n: int, seed: int = 0, crop: int | None = None) -> Split:
    """Images (n, 3, 8, 8) of noise."""
    pixels = torch.randint(256, (n, 3, 8, 8), generator=torch.Generator().manual_seed(seed)).byte()
    labels = np.zeros(n, np.int64)
    return Split("noise", "train", pixels, torch.arange(n), "train", labels, ["any"], None, crop=crop)


def constant_split(*values: int) -> Split:
    """An image (1, 8, 8) for each value, all of whose pixels have it."""
    pixels = torch.tensor(values).byte().reshape(-1, 1, 1, 1).repeat(1, 1, 8, 8)
    n = len(values)
    return Split("shades", "train", pixels, torch.arange(n), "train", np.zeros(n, np.int64), ["any"], None)


def images_of(split: Split) -> torch.Tensor:
    return torch.cat(list(split.batches(1000)))


@pytest.mark.parametrize("crop", [None, 4])
def test_the_nearest_are_those_that_comparing_all_finds(crop: int | None) -> None:
    """Over several batches, 513 = 256 + 257: a single one that is left over joins the batch before it."""
    train, queries = random_split(513, crop=crop), images_of(random_split(20, seed=1, crop=crop))
    found = nearest(queries, train, 5, device="cpu")
    differences = queries[:, None].double() - images_of(train)[None].double()
    distances = differences.square().mean(dim=(2, 3, 4))
    expected, order = distances.sort(dim=1)
    assert torch.equal(found, order[:, :5])
    measured = squared_distances(queries, train, found[:, 0], device="cpu")
    torch.testing.assert_close(measured, expected[:, 0], rtol=1e-5, atol=0)


def test_a_copy_is_at_no_distance_at_all() -> None:
    train = random_split(300)
    queries = images_of(train)[[7, 290]]
    found = nearest(queries, train, 2, device="cpu")
    assert found[:, 0].tolist() == [7, 290]
    assert squared_distances(queries, train, found[:, 0], device="cpu").tolist() == [0, 0]


def test_samples_are_measured_beside_as_many_validation_images(tmp_path: Path) -> None:
    """Shades 0, 100 and 200; a step of 1 is 2/255. Of three validation images the first and the last are taken."""
    train, validation = constant_split(0, 100, 200), constant_split(110, 150, 200)
    samples = images_of(constant_split(20, 203))
    path = tmp_path / "nearest_images.png"
    found = draw_neighbours(samples, validation, train, device="cpu", path=path)
    assert found["nearest_train_mse"] == pytest.approx((20**2 + 3**2) / 2 * (2 / 255) ** 2, rel=1e-5)
    assert found["nearest_train_mse_val"] == pytest.approx(10**2 / 2 * (2 / 255) ** 2, rel=1e-5)
    pixels = np.asarray(Image.open(path).convert("L"))
    rows = pixels[len(pixels) - 2 * 68 + 8 :: 68]  # through the tiles, above the letters beside them
    assert [list(dict.fromkeys(row[row != 255].tolist())) for row in rows] == [[20, 0, 100, 200], [203, 200, 100, 0]]
