"""Images that two sets have in common."""

from collections.abc import Set
from hashlib import blake2b

import numpy as np

from advvae.data.splits import Split


def duplicates(inliers: Split | Set[bytes], outliers: Split) -> int:
    """How many of the outlier images are, pixel by pixel, equal to some image of the inliers.

    inliers: a split or, where it is compared with several, the set of its `image_digests`.
    """
    known = set(image_digests(inliers)) if isinstance(inliers, Split) else inliers
    return sum(digest in known for digest in image_digests(outliers))


def image_digests(split: Split) -> list[bytes]:
    """A digest of each image, equal for equal pixels of 16 bits, after the split's transform.

    8-bit images are taken with 16 bits too: v of 255 is 257 · v of 65,535.
    """
    digests = []
    for images in split.batches(256):
        levels = ((images + 1) * 32767.5).round().clamp(0, 65535).numpy()  # exact: float32 tells all of them apart
        digests += [blake2b(image.tobytes(), digest_size=16).digest() for image in levels.astype(np.uint16)]
    return digests
