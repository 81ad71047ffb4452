"""Negatives keep the data's pixels, as far as their kind says, but not its structure."""

import pytest
import torch
from torch import Tensor

from advvae import negatives as module
from advvae.config import NEGATIVES as NAMES
from advvae.negatives import NEGATIVES, cutmix, cutout, elastic, flip, jigsaw, make_negatives, mixup, rotate, swap
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
    negatives = NEGATIVES[kind](images, images.roll(1, 0), generator())
    assert negatives.shape == images.shape
    assert negatives.abs().max() <= 1
    assert torch.equal(images, before)


@pytest.mark.parametrize("kind", NAMES)
def test_negatives_follow_from_the_generator(kind: str) -> None:
    images = real_images(16, size=16)
    first, again, other = (NEGATIVES[kind](images, images.roll(1, 0), generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", [jigsaw, swap, rotate, flip])
def test_pixels_are_moved_and_none_is_lost(kind: object) -> None:
    images = numbered(20)
    negatives = kind(images, images.roll(1, 0), generator())  # type: ignore[operator]
    assert torch.equal(negatives.flatten(1).sort(1).values, images.flatten(1))
    assert (negatives != images).flatten(1).any(1).float().mean() > 0.9


def test_swap_moves_two_pairs_of_cells_at_most() -> None:
    images = numbered(50)
    moved = (swap(images, images, generator()) != images).flatten(1).sum(1) / 4  # cells of 2 × 2 pixels
    assert set(moved.tolist()) <= {0, 2, 3, 4}
    assert moved.max() == 4


def test_jigsaw_keeps_what_lies_inside_a_cell() -> None:
    images = numbered(1)
    cells = {tuple(cell.flatten().tolist()) for cell in images[0, 0].unfold(0, 2, 2).unfold(1, 2, 2).reshape(16, 2, 2)}
    torn = jigsaw(images, images, generator())[0, 0].unfold(0, 2, 2).unfold(1, 2, 2).reshape(16, 2, 2)
    assert {tuple(cell.flatten().tolist()) for cell in torn} == cells


def test_cutmix_takes_a_quarter_to_three_quarters_from_one_other_image() -> None:
    images = torch.arange(40.0).reshape(40, 1, 1, 1).expand(40, 1, 32, 32) / 20 - 1
    mixed = cutmix(images, images.roll(1, 0), generator())
    taken = (mixed != images).float().mean((1, 2, 3))
    assert taken.min() > 0.2
    assert taken.max() < 0.8
    assert {len(image.unique()) for image in mixed} == {2}  # its own value and one other


def test_mixup_by_hand() -> None:
    images = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 8, 8)
    mixed = mixup(images, images.flip(0), generator())[:, 0, 0, 0]
    shares = (1 - mixed[0]) / 2, (1 + mixed[1]) / 2  # mixed = share·own + (1 - share)·other
    assert all(0.3 <= share <= 0.7 for share in shares)


def test_cutout_fills_one_box_with_the_darkest_value() -> None:
    images = torch.linspace(-0.5, 1, 30 * 256).reshape(30, 1, 16, 16)
    cut = cutout(images, images, generator())
    for image, before in zip(cut, images, strict=True):
        gone = image != before
        assert torch.equal(image[gone], before.min().expand(int(gone.sum())))
        rows, columns = gone[0].any(1).sum(), gone[0].any(0).sum()
        assert 4 <= rows <= 10
        assert gone.sum() >= rows * columns - 1  # a full box; the darkest pixel itself does not change


def test_rotate_and_flip_by_hand() -> None:
    images = numbered(60)
    turned = {k: images.rot90(k, (2, 3)) for k in (1, 2, 3)}
    for number, image in enumerate(rotate(images, images, generator())):
        assert any(torch.equal(image, turned[k][number]) for k in turned)
    for number, image in enumerate(flip(images, images, generator())):
        assert any(torch.equal(image, images[number].flip(axis)) for axis in (1, 2))


@pytest.mark.parametrize("size", [8, 13])
def test_elastic_continues_the_border_where_a_device_pads_with_zeros_alone(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = real_images(20, 2, size)[..., : size - 3]
    bent = elastic(images, images, generator())
    modes: list[str] = []
    real = torch.nn.functional.grid_sample

    def with_border(values: Tensor, grid: Tensor, padding_mode: str, align_corners: bool) -> Tensor:
        modes.append(padding_mode)
        return real(values, grid, padding_mode="border", align_corners=align_corners)

    monkeypatch.setattr(module.F, "grid_sample", with_border)
    monkeypatch.setattr(Tensor, "clamp", lambda grid, low, high: grid)
    torch.testing.assert_close(bent, elastic(images, images, generator()), atol=1e-5, rtol=0)
    assert modes == ["zeros"]


def made(images: Tensor, kinds: list[str], seed: int = 0) -> Tensor:
    negatives = make_negatives(images, kinds, generator(seed))
    assert negatives is not None
    return negatives


def test_kinds_share_the_batch() -> None:
    images = numbered(12)
    negatives = made(images, ["flip", "mixup"])
    kept = negatives.flatten(1).sort(1).values  # a flipped image keeps its pixels, a mixture does not
    same = [any(torch.equal(pixels, image.flatten()) for image in images) for pixels in kept]
    assert same == [True] * 6 + [False] * 6
    assert made(images[:1], ["flip", "mixup"]).shape == (1, 1, 8, 8)
    assert torch.equal(made(images, ["flip", "mixup"]), negatives)
    assert negatives.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", ["cutmix", "mixup"])
@pytest.mark.parametrize("seed", range(5))
def test_partners_are_other_images_of_the_batch_also_where_a_kind_has_one(kind: str, seed: int) -> None:
    images = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 8, 8)
    for negative in made(images, ["flip", kind], seed):  # a flipped one equals its image: both are mixtures
        assert negative.amin() < 1
        assert negative.amax() > -1


def drawn_images(n: int = 300) -> Tensor:
    """As of digits: a few bright pixels in the middle of a dark image, of which no two are alike."""
    images = torch.full((n, 1, 16, 16), -1.0)
    images[:, :, 6:10, 6:10] = real_images(n, size=4)
    return images


@pytest.mark.parametrize("kind", NAMES)
def test_no_negative_is_a_real_image(kind: str) -> None:
    """Many a box or cell of dark pixels is put in the place of dark pixels; a rectangle may hold all of the other."""
    images = drawn_images()
    negatives = made(images, [kind])
    assert len(negatives) == len(images)
    assert torch.cdist(negatives.flatten(1), images.flatten(1)).min() > 1e-3
    own = NEGATIVES[kind](images, images.roll(1, 0), generator())
    if kind in ("cutmix", "cutout"):
        assert torch.cdist(own.flatten(1), images.flatten(1)).min() < 1e-5


def test_the_next_negative_takes_the_place_of_one_that_is_a_real_image() -> None:
    symmetric = torch.ones(3, 1, 8, 8) * torch.tensor([-1.0, 0.0, 1.0]).reshape(3, 1, 1, 1)
    images = torch.cat([symmetric, numbered(2)])
    order = torch.randperm(5, generator=generator()).tolist()
    flipped = [{tuple(images[i].flip(axis).flatten().tolist()) for axis in (1, 2)} for i in range(5)]
    for place, negative in enumerate(made(images, ["flip"])):
        following = next(i for i in order[place:] + order if i >= 3)
        assert tuple(negative.flatten().tolist()) in flipped[following]


@pytest.mark.parametrize("kind", NAMES)
def test_without_a_negative_there_is_none(kind: str) -> None:
    assert make_negatives(torch.full((4, 3, 8, 8), 0.25), [kind], generator()) is None
    if kind in ("cutmix", "mixup"):
        assert make_negatives(numbered(1), [kind], generator()) is None
