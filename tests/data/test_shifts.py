from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from advvae.data.shifts import shifted
from advvae.data.splits import Split
from advvae.shift_names import SEVERITIES, SHIFTS, shift_names

ALL = shift_names("shifts")


def split_of(images: torch.Tensor, first_row: int = 0) -> Split:
    n = len(images)
    rows = torch.arange(first_row, first_row + n)
    images = torch.cat([images[:1]] * first_row + [images])
    return Split("toy", "test", images, rows, "test", np.arange(n), [str(i) for i in range(n)], None)


def random_split(n: int = 6, channels: int = 3, side: int = 10) -> Split:
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(
        torch.rand(n, channels, 3, 3, generator=generator), size=side, mode="bilinear"
    )
    return split_of((smooth * 255).to(torch.uint8))


def pixels(split: Split) -> torch.Tensor:
    """(N, C, H, W) int: what `batches` gives, on the scale of 8 bits."""
    images = torch.cat(list(split.batches(4)))
    values = (images + 1) * 127.5
    assert torch.allclose(values, values.round(), atol=1e-4), "not rounded to 8 bits"
    return values.round().int()


def after(name: str, image: torch.Tensor) -> torch.Tensor:
    """One image (H, W) after a shift."""
    return pixels(shifted(split_of(image.to(torch.uint8)[None, None]), name, seed=0))[0, 0]


def test_names() -> None:
    assert shift_names("hflip") == ["hflip"]
    assert shift_names("noise") == ["noise_1", "noise_2", "noise_3", "noise_4", "noise_5"]
    assert shift_names("jpeg_5") == ["jpeg_5"]
    assert len(ALL) == 5 + 5 * 5
    assert list(dict.fromkeys(name.split("_")[0] for name in ALL)) == list(SHIFTS)
    for name in ("mnist", "noise_0", "noise_6", "noise_", "hflip_1", ""):
        assert shift_names(name) == []


@pytest.mark.parametrize("name", ALL)
def test_an_image_does_not_depend_on_its_batch(name: str) -> None:
    split = random_split()
    whole = pixels(shifted(split, name, seed=0))
    order = torch.tensor([4, 1, 5])
    assert torch.equal(pixels(shifted(split.subset(order), name, seed=0)), whole[order])
    assert torch.equal(pixels(shifted(split, name, seed=0).subset(order[:1])), whole[4:5])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 11)])
def test_any_channels_and_side(name: str, channels: int, side: int) -> None:
    split = random_split(2, channels, side)
    moved = shifted(split, name, seed=0)
    assert next(moved.batches(2)).shape == (2, channels, side, side)
    assert next(moved.batches(2)).dtype == torch.float32
    assert (moved.name, moved.split, moved.labels.tolist()) == (name, "test", [0, 1])
    assert moved.rows is split.rows
    assert not torch.equal(pixels(moved), pixels(split))


@pytest.mark.parametrize("family", SEVERITIES)
def test_severities_rise(family: str) -> None:
    split = random_split(side=32)
    changes = [(pixels(shifted(split, name, 0)) - pixels(split)).float().abs().mean() for name in shift_names(family)]
    assert changes == sorted(changes)
    assert changes[4] > 2 * changes[0] > 0


def test_flips_and_turns() -> None:
    image = torch.arange(64).reshape(8, 8)
    assert after("hflip", image)[0].tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    assert after("vflip", image)[0].tolist() == [56, 57, 58, 59, 60, 61, 62, 63]
    assert after("rot90", image)[0].tolist() == [7, 15, 23, 31, 39, 47, 55, 63]  # counterclockwise
    assert after("invert", image)[0, :3].tolist() == [255, 254, 253]


def test_noise_has_its_spread_and_follows_seed_and_row() -> None:
    grey = torch.full((3, 1, 64, 64), 128, dtype=torch.uint8)
    noise = pixels(shifted(split_of(grey), "noise_2", seed=0)) - 128
    assert noise.float().std().item() == pytest.approx(0.08 * 255, rel=0.03)
    assert noise.float().mean().item() == pytest.approx(0, abs=0.5)
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(pixels(shifted(split_of(grey), "noise_2", seed=1)) - 128, noise)
    later = pixels(shifted(split_of(grey[:1], first_row=2), "noise_2", seed=0)) - 128
    assert torch.equal(later[0], noise[2])  # its row, not its place in the split


def test_noise_is_clipped_at_black_and_white() -> None:
    black, white = after("noise_5", torch.zeros(64, 64)), after("noise_5", torch.full((64, 64), 255))
    assert (black == 0).float().mean().item() == pytest.approx(0.5, abs=0.03)  # the normal deviates below 0
    assert (white == 255).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert black.float().mean().item() < 60  # 255 · 0.38 / √(2π) = 38.7, and not some that wrapped around


def test_blur_spreads_a_point_as_a_gaussian() -> None:
    image = torch.zeros(16, 16)
    image[8, 8] = 255
    weights = torch.exp(-(torch.arange(-4, 5) ** 2) / (2 * 1**2))
    weights /= weights.sum()
    blurred = after("blur_3", image)  # of 1 px
    assert blurred[8, 4:13].tolist() == (255 * weights[4] * weights).round().int().tolist()
    assert torch.equal(blurred, blurred.T)


def test_blur_grows_with_large_images() -> None:
    image = torch.zeros(64, 64)
    image[32, 32] = 255
    assert after("blur_1", image)[32, 32] == round(255 / (2 * torch.pi * 0.8**2))  # the density of 0.8 px at 0


def test_contrast_shrinks_towards_the_mean() -> None:
    image = torch.tensor([0, 200]).repeat(8, 4)
    assert after("contrast_2", image)[0, :2].tolist() == [50, 150]
    assert after("contrast_5", image)[0, :2].tolist() == [95, 105]


def test_pixels_become_means_of_blocks() -> None:
    image = torch.arange(64).reshape(8, 8)
    coarse = after("pixelate_5", image)  # a quarter of the side: 2 × 2
    assert torch.unique(coarse).tolist() == [14, 18, 46, 50]  # 13.5, 17.5, 45.5, 49.5, halves to even
    assert (coarse[:4, :4] == 14).all()


def test_jpeg_is_that_of_a_file_in_grey_and_in_colour() -> None:
    for channels in (1, 3):
        image = random_split(1, channels, side=16)
        file = io.BytesIO()
        Image.fromarray(image.images[0].permute(1, 2, 0).squeeze().numpy()).save(file, "jpeg", quality=15)
        expected = np.asarray(Image.open(file)).reshape(16, 16, channels)
        assert np.array_equal(pixels(shifted(image, "jpeg_4", 0))[0].permute(1, 2, 0), expected)


def test_shuffle_moves_whole_patches_and_leaves_the_border() -> None:
    image = torch.arange(100).reshape(10, 10)
    shuffled = after("shuffle", image)  # patches of 2 × 2 in the centre of 8 × 8
    patches = [shuffled[top : top + 2, left : left + 2] for top in range(1, 9, 2) for left in range(1, 9, 2)]
    corners = [int(patch[0, 0]) for patch in patches]
    expected = [10 * top + left for top in range(1, 9, 2) for left in range(1, 9, 2)]
    assert sorted(corners) == expected
    assert corners != expected
    assert all((patch - patch[0, 0]).tolist() == [[0, 1], [10, 11]] for patch in patches)
    assert torch.equal(shuffled[[0, -1]], image[[0, -1]].int())
    assert torch.equal(shuffled[:, [0, -1]], image[:, [0, -1]].int())


def test_shuffle_draws_an_order_for_each_image() -> None:
    same = torch.arange(64).reshape(1, 1, 8, 8).to(torch.uint8).expand(5, 1, 8, 8)
    assert len(torch.unique(pixels(shifted(split_of(same), "shuffle", seed=0)), dim=0)) == 5


def test_16_bit_images_keep_their_bits() -> None:
    images = (torch.arange(64) * 1000).reshape(1, 1, 8, 8).to(torch.uint16)
    moved = next(shifted(split_of(images), "hflip", seed=0).batches(1))
    assert torch.equal(moved, next(split_of(images).batches(1)).flip(-1))
    noisy = (next(shifted(split_of(images), "noise_1", seed=0).batches(1)) + 1) * 127.5
    assert not torch.allclose(noisy, noisy.round(), atol=1e-3)  # finer than 8 bits


def test_a_shift_is_one_by_its_name() -> None:
    with pytest.raises(AssertionError, match="noise is not one shift"):
        shifted(random_split(), "noise", seed=0)
