import numpy as np
import torch

from advvae.data.duplicates import duplicates, image_digests
from advvae.data.shifts import shifted
from advvae.data.splits import Split


def split_of(images: torch.Tensor) -> Split:
    n = len(images)
    return Split("toy", "test", images, torch.arange(n), "test", np.zeros(n, dtype=np.int64), ["any"], None)


IMAGES = torch.randint(0, 256, (300, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_every_copy_of_an_inlier_is_counted() -> None:
    inliers = split_of(IMAGES[:280])  # more than one batch
    assert duplicates(inliers, split_of(IMAGES[[285, 279, 290, 3, 3]])) == 3
    assert duplicates(inliers, split_of(IMAGES[280:])) == 0
    assert duplicates(inliers, inliers) == 280


def test_one_level_of_one_pixel_makes_another_image() -> None:
    other = IMAGES[:1].clone()
    other[0, 2, 7, 7] ^= 1
    assert duplicates(split_of(IMAGES), split_of(other)) == 0


def test_images_are_compared_as_they_come_after_their_transform() -> None:
    symmetric = torch.cat([IMAGES, IMAGES.flip(-1)], dim=-1)[:5]
    inliers = split_of(torch.cat([symmetric, torch.cat([IMAGES, IMAGES], dim=-1)[5:8]]))
    assert duplicates(inliers, shifted(inliers, "hflip", seed=0)) == 5


def test_16_bit_copies_of_8_bit_images_are_duplicates() -> None:
    assert image_digests(split_of(IMAGES[:3])) == image_digests(split_of((IMAGES[:3].int() * 257).to(torch.uint16)))


def test_the_digests_of_the_inliers_will_do() -> None:
    known = set(image_digests(split_of(IMAGES[:280])))
    assert duplicates(known, split_of(IMAGES[[285, 279, 290, 3, 3]])) == 3
    assert duplicates(known, split_of(IMAGES[280:])) == 0


def test_one_level_of_16_bits_makes_another_image() -> None:
    deep = (IMAGES[:3].int() * 257).clamp(max=65534)
    other = deep.clone()
    other[:, 0, 0, 0] += 1  # 1 / 257 of a level of 8 bits
    deep_split, other_split = (split_of(images.to(torch.uint16)) for images in (deep, other))
    assert duplicates(deep_split, other_split) == 0
    assert duplicates(deep_split, deep_split) == 3
    assert duplicates(split_of(IMAGES[:3]), other_split) == 0


def test_all_levels_of_16_bits_are_told_apart() -> None:
    levels = torch.arange(65536).to(torch.uint16).reshape(-1, 1, 1, 1)
    assert len(set(image_digests(split_of(levels)))) == 65536
