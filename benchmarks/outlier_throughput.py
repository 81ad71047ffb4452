"""How fast outlier scores are: python -m benchmarks.outlier_throughput

One run on this machine, with the default networks at 32 px and random images, whose content does not matter here. The
fast scores are computed together in one pass and compared with a plain pass of encoder, decoder and discriminator, in
turns; the slow ones one by one, scaled to 10,000 images.
"""

import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from advvae.data import Split
from advvae.losses import Objective, mean_squared_error
from advvae.models import conv_networks
from advvae.models.evaluation import evaluation
from advvae.outlier.detector import FIT_IMAGES, fit_scores, score_split
from advvae.outlier.evidence import FittedScore, Score
from advvae.outlier.scores import SCORES, named_scores

SLOW = {  # score -> images to time it on
    "pixel_knn": 10_000,
    "feature_knn": 10_000,
    "png_bytes": 10_000,
    "input_complexity": 10_000,
    "iwae": 1_000,
    "likelihood_regret": 32,
}
ABSENT = ("patch_discriminator", "lpath_copod")  # needs networks trained on crops; needs PyOD
IMAGES, BATCH, REPEATS = 10_000, 128, 5


def main() -> None:
    torch.manual_seed(0)
    networks = conv_networks(channels=1, size=32, latent_dim=128, hidden_dims=[32, 64, 128, 256])
    networks = networks.to(memory_format=torch.channels_last)
    objective = Objective(mean_squared_error, kld_weight=1e-4, recon_weight=0.002, gen_weight=0.002)
    scores = named_scores(name for name in SCORES if name not in ABSENT)
    fitted = {name: score for name, score in scores.items() if isinstance(score, FittedScore)}
    fit_scores(networks, objective, fitted, random_split(FIT_IMAGES), seed=0, device="cpu")
    split = random_split(IMAGES)

    def forward() -> None:
        with evaluation(networks, "cpu"):
            for images in split.batches(BATCH):
                networks.reconstruct(images)
                networks.discriminate(images)

    def scored(chosen: dict[str, Score], images: Split) -> Callable[[], object]:
        return lambda: score_split(networks, objective, images, scores=chosen, batch_size=BATCH, device="cpu")

    fast = {name: score for name, score in scores.items() if name not in SLOW}
    plain, together = in_turns(forward, scored(fast, split))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}")
    print(f"encoder + decoder + D       {spread(plain)}  {IMAGES / statistics.median(plain):,.0f} images/s")
    print(
        f"{len(fast)} fast scores together    {spread(together)}  {IMAGES / statistics.median(together):,.0f} images/s"
    )
    print(f"ratio of speeds             {statistics.median(plain) / statistics.median(together):.2f}")
    for name, n in SLOW.items():
        seconds = timed(scored({name: scores[name]}, random_split(n)))
        print(f"{name:<18} {seconds * IMAGES / n:8.1f} s per {IMAGES:,} images (timed on {n:,})")


def random_split(n: int) -> Split:
    images = torch.randint(256, (n, 1, 32, 32), generator=torch.Generator().manual_seed(n)).byte()
    return Split("random", "test", images, torch.arange(n), "test", np.zeros(n, dtype=np.int64), ["any"], None)


def in_turns(*calls: Callable[[], object]) -> list[list[float]]:
    """Seconds of each call, several times, in turns: what else the machine does hits all alike. One turn warms up."""
    turns = [[timed(call) for call in calls] for _ in range(1 + REPEATS)]
    return [list(seconds) for seconds in zip(*turns[1:], strict=True)]


def timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):6.2f} s (median of {len(seconds)}, {min(seconds):.2f} to {max(seconds):.2f})"


if __name__ == "__main__":
    main()
