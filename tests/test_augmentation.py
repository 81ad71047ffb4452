"""What the discriminator sees images through: which pixels change, and that gradients find their way back."""

import pytest
import torch
from torch import Tensor

from advvae.augmentation import AUGMENTATIONS, augmented
from advvae.config import AUGMENTATIONS as NAMES
from tests.networks import real_images


def test_the_names_are_those_of_the_config() -> None:
    assert tuple(AUGMENTATIONS) == NAMES


def seen(name: str, images: Tensor) -> Tensor:
    torch.manual_seed(3)
    return augmented(images, [name])


def test_nothing_is_changed_or_drawn_without_a_name() -> None:
    images, state = real_images(), torch.get_rng_state()
    assert augmented(images, []) is images
    assert torch.equal(torch.get_rng_state(), state)


def test_translation_moves_each_image_by_up_to_an_eighth_of_the_side_and_fills_with_grey() -> None:
    images = torch.zeros(200, 1, 16, 16)
    images[:, :, 8, 8] = 1
    moved = seen("translation", images).flatten(1)
    assert moved.sum(1).eq(1).all()
    places = moved.argmax(1)
    for offsets in (places // 16 - 8, places % 16 - 8):
        assert sorted(set(offsets.tolist())) == [-2, -1, 0, 1, 2]


def test_cutout_clears_at_most_a_square_of_half_the_side() -> None:
    kept = seen("cutout", torch.ones(200, 3, 16, 16))
    holes = kept.eq(0)
    assert torch.equal(holes[:, 0], holes[:, 1])  # of all channels
    heights, widths = holes[:, 0].any(2).sum(1), holes[:, 0].any(1).sum(1)
    assert torch.equal(holes[:, 0].sum((1, 2)), heights * widths)  # a rectangle: a square, or what of it lies inside
    assert heights.max() == widths.max() == 8
    assert heights.min() >= 4
    assert heights.float().mean() < 8


def test_colour_keeps_what_is_relative_within_an_image() -> None:
    images = real_images(50, channels=3)
    changed = seen("colour", images)
    grey, grey_before = changed.mean(1), images.mean(1)
    means, means_before = (tensor.mean((1, 2), keepdim=True) for tensor in (grey, grey_before))
    assert (means - means_before).abs().max() <= 0.5
    contrast = ((grey - means) * (grey_before - means_before)).sum((1, 2)) / (grey_before - means_before).square().sum(
        (1, 2)
    )
    assert contrast.min() >= 0.5
    assert contrast.max() <= 1.5
    torch.testing.assert_close(grey - means, contrast[:, None, None] * (grey_before - means_before), rtol=0, atol=1e-5)
    of_hue = (changed - grey[:, None]) / (images - grey_before[:, None])
    saturation = of_hue.flatten(1).median(1).values / contrast
    assert saturation.min() >= 0
    assert saturation.max() <= 2


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_gradients_find_their_way_back_and_images_differ_in_their_draws(name: str) -> None:
    images = torch.ones(2, 3, 16, 16, requires_grad=True)
    torch.manual_seed(0)
    changed = augmented(images * torch.linspace(-1, 1, 16), [name])
    changed.square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert not torch.equal(changed[0], changed[1])
