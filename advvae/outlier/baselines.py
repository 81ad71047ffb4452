"""Trivial scores that need no network. Where one of them does as well as a model, the model shows nothing."""

from torch import Tensor, cdist
from torch.nn.functional import adaptive_avg_pool2d

from advvae.outlier.evidence import Evidence, FittedScore
from advvae.outlier.fitting import NearestNeighbours, centre_and_scale

COARSEST = 16  # pixels; the side that images are averaged to before they are compared


class MeanBrightness(FittedScore):
    """|b - m| / s: how far an image's mean value b is from the training images', with mean m and deviation s."""

    def statistics(self, evidence: Evidence) -> Tensor:
        return evidence.images.flatten(1).mean(1, keepdim=True)

    def fit(self, statistics: Tensor, seed: int) -> None:
        centre, scale = centre_and_scale(statistics)
        self.state = {"mean": centre, "deviation": scale}

    def measure(self, statistics: Tensor) -> Tensor:
        state = self.state_like(statistics)
        return ((statistics - state["mean"]) / state["deviation"]).abs().squeeze(1)


class Contrast(MeanBrightness):
    """The same for the standard deviation of an image's values."""

    def statistics(self, evidence: Evidence) -> Tensor:
        return evidence.images.flatten(1).std(1, correction=0, keepdim=True)


def png_bytes(evidence: Evidence) -> Tensor:
    """Size of the image as an 8-bit PNG file: how complex it is to a lossless codec."""
    return evidence.png_bytes


class PixelKnn(NearestNeighbours):
    """Euclidean distance to the k-th nearest training image, on pixels averaged to at most 16 × 16.

    Training images are kept in float32. Distances are taken in float64, since they are taken as |a|² + |b|² - 2ab, in
    which float32 loses what sets near images apart.
    """

    def statistics(self, evidence: Evidence) -> Tensor:
        height, width = (min(side, COARSEST) for side in evidence.images.shape[-2:])
        return adaptive_avg_pool2d(evidence.images, (height, width)).flatten(1).cpu().double()

    def distances(self, statistics: Tensor, bank: Tensor) -> Tensor:
        return cdist(statistics, bank)
