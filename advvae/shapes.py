"""Sizes that the networks, the losses and the checks of the config agree on. Imports no torch."""

import math

MS_SSIM_SMALLEST_SIDE = 33  # five scales, each half as large, and a window of 3 px at the last


def stage_sizes(size: int, n_stages: int) -> list[int]:
    """Sides of the maps from the image down, halved rounding up: [32, 16, 8, 4, 2] for size 32 and four stages."""
    sizes = [size]
    for _ in range(n_stages):
        sizes.append((sizes[-1] + 1) // 2)
    return sizes


def default_hidden_dims(size: int) -> list[int]:
    """32, 64, 128, … doubling to 512 at most, until the map is 2 px: [32, 64, 128, 256] at 32 px."""
    n_stages = max(1, math.ceil(math.log2(size / 2)))
    return [min(32 * 2**stage, 512) for stage in range(n_stages)]
