"""Negatives keep the data's pixels, as far as their kind says, but not its structure."""

import pytest
import torch
from torch import Tensor

from advvae.config import NEGATIVES as NAMES
from advvae.negatives import NEGATIVES, cutmix, cutout, flip, jigsaw, make_negatives, mixup, rotate, swap
from tests.networks import real_images


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(n: int, size: int = 8) -> Tensor:
    """Images whose pixels all differ, within an image and between images."""
    return torch.linspace(-1, 1, n * size * size).reshape(n, 1, size, size)


def test_the_config_offers_what_there_is() -> None:
    assert tuple(NEGATIVES) == NAMES


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 13), (1, 32)])
@pytest.mark.parametrize("n", [1, 5])
def test_shape_and_range_stay(kind: str, channels: int, size: int, n: int) -> None:
    images = real_images(n, channels, size)
    before = images.clone()
    negatives = NEGATIVES[kind](images, generator())
    assert negatives.shape == images.shape
    assert negatives.abs().max() <= 1
    assert torch.equal(images, before)


@pytest.mark.parametrize("kind", NAMES)
def test_negatives_follow_from_the_generator(kind: str) -> None:
    images = real_images(16, size=16)
    first, again, other = (NEGATIVES[kind](images, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", [jigsaw, swap, rotate, flip])
def test_pixels_are_moved_and_none_is_lost(kind: object) -> None:
    images = numbered(20)
    negatives = kind(images, generator())  # type: ignore[operator]
    assert torch.equal(negatives.flatten(1).sort(1).values, images.flatten(1))
    assert (negatives != images).flatten(1).any(1).float().mean() > 0.9


def test_swap_moves_two_pairs_of_cells_at_most() -> None:
    images = numbered(50)
    moved = (swap(images, generator()) != images).flatten(1).sum(1) / 4  # cells of 2 × 2 pixels
    assert set(moved.tolist()) <= {0, 2, 3, 4}
    assert moved.max() == 4


def test_jigsaw_keeps_what_lies_inside_a_cell() -> None:
    images = numbered(1)
    cells = {tuple(cell.flatten().tolist()) for cell in images[0, 0].unfold(0, 2, 2).unfold(1, 2, 2).reshape(16, 2, 2)}
    torn = jigsaw(images, generator())[0, 0].unfold(0, 2, 2).unfold(1, 2, 2).reshape(16, 2, 2)
    assert {tuple(cell.flatten().tolist()) for cell in torn} == cells


def test_cutmix_takes_a_quarter_to_three_quarters_from_one_other_image() -> None:
    images = torch.arange(40.0).reshape(40, 1, 1, 1).expand(40, 1, 32, 32) / 20 - 1
    mixed = cutmix(images, generator())
    taken = (mixed != images).float().mean((1, 2, 3))
    assert taken.min() > 0.2
    assert taken.max() < 0.8
    assert {len(image.unique()) for image in mixed} == {2}  # its own value and one other


def test_mixup_by_hand() -> None:
    images = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 8, 8)
    mixed = mixup(images, generator())[:, 0, 0, 0]
    shares = (1 - mixed[0]) / 2, (1 + mixed[1]) / 2  # mixed = share·own + (1 - share)·other
    assert all(0.3 <= share <= 0.7 for share in shares)


def test_cutout_fills_one_box_with_the_darkest_value() -> None:
    images = torch.linspace(-0.5, 1, 30 * 256).reshape(30, 1, 16, 16)
    cut = cutout(images, generator())
    for image, before in zip(cut, images, strict=True):
        gone = image != before
        assert torch.equal(image[gone], before.min().expand(int(gone.sum())))
        rows, columns = gone[0].any(1).sum(), gone[0].any(0).sum()
        assert 4 <= rows <= 10
        assert gone.sum() >= rows * columns - 1  # a full box; the darkest pixel itself does not change


def test_rotate_and_flip_by_hand() -> None:
    images = numbered(60)
    turned = {k: images.rot90(k, (2, 3)) for k in (1, 2, 3)}
    for number, image in enumerate(rotate(images, generator())):
        assert any(torch.equal(image, turned[k][number]) for k in turned)
    for number, image in enumerate(flip(images, generator())):
        assert any(torch.equal(image, images[number].flip(axis)) for axis in (1, 2))


def test_kinds_share_the_batch() -> None:
    images = numbered(12)
    negatives = make_negatives(images, ["flip", "mixup"], generator())
    kept = negatives.flatten(1).sort(1).values  # a flipped image keeps its pixels, a mixture does not
    same = [any(torch.equal(pixels, image.flatten()) for image in images) for pixels in kept]
    assert same == [True] * 6 + [False] * 6
    assert make_negatives(images[:1], ["flip", "mixup"], generator()).shape == (1, 1, 8, 8)
