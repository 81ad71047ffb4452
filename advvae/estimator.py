"""The outlier detector as a scikit-learn estimator: `fit`, `score_samples`, `predict` with -1 for outliers."""

from __future__ import annotations

import math
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from advvae.checks import check
from advvae.config import Config
from advvae.data import Split
from advvae.data.images import resize
from advvae.data.source import Form
from advvae.errors import UserError
from advvae.random_state import seeded_apart

if TYPE_CHECKING:
    from advvae.outlier.detector import Detector

VALIDATION = 0.2  # share of the images given to fit that chooses the best epoch, and calibrates
SMALLEST_SET = 6  # images
SMALLEST = 8  # px, which the networks need
FLAT = (  # parameters that are flat keys
    *("alpha", "n_epochs", "batch_size", "lr", "latent_dim", "train_discriminator", "device"),
)


class OutlierDetector(OutlierMixin, BaseEstimator):
    """An adversarial VAE that learns what is normal from images, and tells which others are unlike them.

    X holds images as rows: (n, H · W) or (n, H · W · C) with `image_shape`, or arrays (n, H, W) or (n, H, W, C).
    Without `image_shape`, rows of a square number of values are square grey images; of another number, they are filled
    with zeros to the next square. Values of any range do: that of the training images becomes [-1, 1].

    Args:
        rank_by: the score: loss, recon_mse, discriminator, latent_gmm, …; see `advvae mode=list`.
        alpha: share of normal images that `predict` may flag.
        n_epochs: as the flat key, and so are the next three.
        batch_size: images per step.
        lr: learning rate.
        latent_dim: size of z.
        size: images are brought to this side; None = that of the images, 8 px at least.
        train_discriminator: False = a plain VAE, which is three times as fast.
        image_shape: (H, W) or (H, W, C) of the rows of X; None = see above.
        random_state: an int, a RandomState or a Generator of NumPy's; all that is drawn follows from it.
        device: auto, cpu, cuda, cuda:1, mps.

    Attributes:
        networks_: the trained networks. detector_: the fitted score.
        offset_: what `score_samples` gives of the last normal image: below it, `predict` gives -1.
        range_: the least and the largest value of the training images. image_shape_: their (H, W, C).
        n_features_in_: X.shape[1], as scikit-learn counts: values of an image in rows, H of arrays.
    """

    def __init__(
        self,
        rank_by: str = "loss",
        *,
        alpha: float = 0.05,
        n_epochs: int = 20,
        batch_size: int = 64,
        lr: float = 1e-3,
        latent_dim: int = 16,
        size: int | None = None,
        train_discriminator: bool = True,
        image_shape: tuple[int, ...] | None = None,
        random_state: Any = 0,
        device: str = "auto",
    ) -> None:
        self.rank_by = rank_by
        self.alpha = alpha
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.latent_dim = latent_dim
        self.size = size
        self.train_discriminator = train_discriminator
        self.image_shape = image_shape
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any = None) -> OutlierDetector:
        """Train on four fifths of normal images; half of the last chooses the best epoch, the other calibrates.

        With fewer than 1 / alpha - 1 images to calibrate with, no threshold keeps what alpha says: a warning tells so,
        and the most outlying one of them is the threshold.

        Raises:
            ValueError: X holds no images, fewer than six, or a parameter has a value that it cannot have.
        """
        X = self._validated(X, reset=True)
        if len(X) < SMALLEST_SET:
            raise ValueError(f"n_samples={len(X)}: {SMALLEST_SET} images are needed, two of them to validate with")
        self.range_ = (float(X.min()), float(X.max()))
        pictures = _as_pictures(X, self.image_shape)
        self.image_shape_ = pictures.shape[1:]
        images, seed = self._to_images(pictures), _seed(self.random_state)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        n_validation = max(2, round(VALIDATION * len(images)))
        try:
            with seeded_apart(seed):
                self._fit(images, order[n_validation:].sort().values, order[:n_validation].sort().values, seed)
        except UserError as error:
            raise ValueError(str(error)) from None
        self.offset_ = -self._threshold()
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """How normal each image is, (n,) float64: scikit-learn's sign, so larger = more normal.

        Raises:
            ValueError: X holds no images, or of another shape than those of `fit`.
        """
        check_is_fitted(self)
        pictures = _as_pictures(self._validated(X, reset=False), self.image_shape)
        if pictures.shape[1:] != self.image_shape_:
            raise ValueError(
                f"X has images of shape {pictures.shape[1:]}, but {type(self).__name__} is expecting images of shape "
                f"{self.image_shape_} as input"
            )
        images = self._to_images(pictures)
        split = self._split(images, torch.arange(len(images)))
        reading: dict[str, Any] = {"batch_size": self.batch_size, "device": self.device_}
        return -self.detector_.score(self.networks_, self.objective_, split, **reading)[self.rank_by]

    def decision_function(self, X: Any) -> np.ndarray:
        """`score_samples` less `offset_`: negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """1 for images that are normal, -1 for outliers, (n,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.non_deterministic = False
        return tags

    def _fit(self, images: torch.Tensor, train: torch.Tensor, validation: torch.Tensor, seed: int) -> None:
        """Train the networks, and fit and calibrate the score."""
        from advvae.building import build_networks, build_objective, select_device
        from advvae.checkpoint import read_checkpoint
        from advvae.outlier.detector import make_detector
        from advvae.outlier.scores import FUSED, named_scores, usable_scores
        from advvae.tracking import Tracker
        from advvae.trainer import Trainer

        config = self._config(images, seed)
        networks, objective, device = build_networks(config), build_objective(config), select_device(config.device)
        if self.rank_by == FUSED:
            raise UserError(f"rank_by={FUSED} is made of several scores: name one, such as loss")
        scores, left_out = usable_scores(named_scores([self.rank_by]), networks)
        if left_out:
            raise UserError(f"rank_by={self.rank_by} {left_out[self.rank_by]}")
        normal, held_out = self._split(images, train), self._split(images, validation)
        select, _ = held_out.halves()  # the other one calibrates, and does nothing else
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            places: dict[str, Any] = {"folder": folder, "shared_folder": folder, "device": device}
            Trainer(config, networks, objective, normal, select, tracker=Tracker(), **places).train()
            read_checkpoint(folder / "checkpoints" / "best.pt").restore(networks)
        networks.eval().requires_grad_(False)
        self.networks_, self.objective_, self.device_ = networks, objective, device
        self.n_iter_ = self.n_epochs
        self.detector_: Detector = make_detector(
            networks,
            objective,
            scores,
            fuse=(),
            train=lambda: normal,
            validation=lambda: held_out,
            seed=seed,
            device=device,
            known=None,
            identity={},
        )

    def _config(self, images: torch.Tensor, seed: int) -> Config:
        """The flat keys that the parameters stand for, all others at their defaults."""
        from advvae import composing
        from advvae.completing import complete
        from advvae.overrides import as_overrides

        keys: dict[str, Any] = {name: getattr(self, name) for name in FLAT}
        if not self.train_discriminator:
            keys |= {"gen_weight": 0, "recon_weight": 0}
        keys |= {"dataset": "array", "dataset.channels": images.shape[1], "size": images.shape[-1], "seed": seed}
        keys |= {"mode": "train", "tracker": "none", "precision": "32", "keep_checkpoints": 0}
        keys |= {"sample_and_save_frequency": self.n_epochs}
        with composing.composed(as_overrides(keys)) as composed:
            config = composing.typed_config(composed)
        check(config)
        return complete(config, checked=False)

    def _validated(self, X: Any, *, reset: bool) -> np.ndarray:
        return validate_data(self, X, reset=reset, dtype=[np.float64, np.float32], allow_nd=True)

    def _threshold(self) -> float:
        """Of the score, above which an image is an outlier."""
        threshold, scores = self.detector_.threshold(self.rank_by, self.alpha), self.detector_.calibration[self.rank_by]
        if threshold is not None:
            return threshold
        warnings.warn(
            f"alpha={self.alpha} needs {math.ceil(1 / self.alpha) - 1} images to calibrate with, and there are "
            f"{len(scores)}: predict flags what is more outlying than all of them. Fit on more images, or raise alpha",
            stacklevel=3,
        )
        return float(scores.max())

    def _to_images(self, pixels: np.ndarray) -> torch.Tensor:
        """Pictures (n, H, W, C) as (n, C, side, side) uint16: `range_` from black to white, clipped outside."""
        low, high = self.range_
        shares = ((pixels - low) / (high - low if high > low else 1)).clip(0, 1).astype(np.float32)
        side = self.size or max(SMALLEST, *pixels.shape[1:3])
        if pixels.shape[3] not in (1, 3):
            raise ValueError(f"images have 1 or 3 channels, and X has {pixels.shape[3]}")
        form = Form(side, pixels.shape[3], resize="pad")
        return torch.from_numpy(resize((shares * 65535).round().astype(np.uint16), form))

    def _split(self, images: torch.Tensor, rows: torch.Tensor) -> Split:
        return Split("X", "given", images, rows, "given", np.full(len(rows), -1), [], None)


def _seed(random_state: Any) -> int:
    """A seed of what draws, which advances it; of an int always the same one."""
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31))
    return int(check_random_state(random_state).randint(2**31))


def _as_pictures(X: np.ndarray, image_shape: tuple[int, ...] | None) -> np.ndarray:
    """X as (n, H, W, C).

    Raises:
        ValueError: it has other values than images of this shape have, or is no array of images.
    """
    if X.ndim == 2:
        n, n_values = X.shape
        if image_shape is None:
            side = max(SMALLEST, math.ceil(math.sqrt(n_values)))
            filled = np.zeros((n, side * side), X.dtype)
            filled[:, :n_values] = X
            X, image_shape = filled, (side, side)
        if len(image_shape) not in (2, 3) or math.prod(image_shape) != X.shape[1]:
            raise ValueError(
                f"image_shape={image_shape} is not (H, W) or (H, W, C) of the {n_values} values of an image"
            )
        X = X.reshape(n, *image_shape)
    if X.ndim == 3:
        X = X[..., None]
    if X.ndim != 4:
        raise ValueError(f"X holds images as (n, values), (n, H, W) or (n, H, W, C), got {X.shape}")
    return X
