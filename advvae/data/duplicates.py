"""Images that two sets have in common."""

from hashlib import blake2b

import torch

from advvae.data.splits import Split


def duplicates(inliers: Split, outliers: Split) -> int:
    """How many of the outlier images are, pixel by pixel, equal to some image of the inliers."""
    known = set(image_digests(inliers))
    return sum(digest in known for digest in image_digests(outliers))


def image_digests(split: Split) -> list[bytes]:
    """A digest of each image, equal for equal pixels of 8 bits, after the split's transform."""
    digests = []
    for images in split.batches(256):
        pixels = ((images + 1) * 127.5).round().to(torch.uint8).numpy()
        digests += [blake2b(image.tobytes(), digest_size=16).digest() for image in pixels]
    return digests
