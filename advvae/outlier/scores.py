"""The outlier scores by name. Imports no torch, so that a misspelt name is told at once.

from the VAE            vae_scores.py
from the latent         latent_scores.py
from the discriminator  discriminator_scores.py
from the pixels alone   baselines.py
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from advvae.errors import UserError

if TYPE_CHECKING:
    from advvae.models import AdversarialVAE
    from advvae.outlier.evidence import Score

SCORES = {  # name -> the function, or the FittedScore class
    "loss": "advvae.outlier.vae_scores.loss",
    "recon_mse": "advvae.outlier.vae_scores.recon_mse",
    "recon_l1": "advvae.outlier.vae_scores.recon_l1",
    "recon_nmse": "advvae.outlier.vae_scores.recon_nmse",
    "recon_ssim": "advvae.outlier.vae_scores.recon_ssim",
    "kld": "advvae.outlier.vae_scores.kld",
    "elbo": "advvae.outlier.vae_scores.Elbo",
    "iwae": "advvae.outlier.vae_scores.Iwae",
    "typicality": "advvae.outlier.vae_scores.Typicality",
    "input_complexity": "advvae.outlier.vae_scores.InputComplexity",
    "likelihood_regret": "advvae.outlier.vae_scores.LikelihoodRegret",
    "latent_mahalanobis": "advvae.outlier.latent_scores.LatentMahalanobis",
    "latent_gmm": "advvae.outlier.latent_scores.LatentGmm",
    "lpath": "advvae.outlier.latent_scores.LPath",
    "lpath_copod": "advvae.outlier.latent_scores.LPathCopod",
    "discriminator": "advvae.outlier.discriminator_scores.discriminator",
    "discriminator_recon": "advvae.outlier.discriminator_scores.discriminator_recon",
    "feature_distance": "advvae.outlier.discriminator_scores.feature_distance",
    "feature_knn": "advvae.outlier.discriminator_scores.FeatureKnn",
    "feature_mahalanobis": "advvae.outlier.discriminator_scores.FeatureMahalanobis",
    "patch_discriminator": "advvae.outlier.discriminator_scores.PatchDiscriminator",
    "mean_brightness": "advvae.outlier.baselines.MeanBrightness",
    "contrast": "advvae.outlier.baselines.Contrast",
    "png_bytes": "advvae.outlier.baselines.png_bytes",
    "pixel_knn": "advvae.outlier.baselines.PixelKnn",
}
BASELINES = ("mean_brightness", "contrast", "png_bytes", "pixel_knn")
FUSED = "fused"  # made of other scores by the detector


def check_names(names: Iterable[str], key: str = "scores") -> None:
    """Raises UserError, with the list, for a name that is no score; `key` is what names it."""
    for name in names:
        if name not in SCORES and name != FUSED:
            raise UserError(f"{key}: unknown score '{name}', available are {', '.join(SCORES)}, {FUSED}")


def named_scores(items: Iterable[str | Score]) -> dict[str, Score]:
    """The scores of a list of names and callables, by name; a callable goes by its own (or its class's) name.

    Classes that are named are instantiated anew. `fused` is skipped.

    Raises:
        UserError: an unknown name, or two callables of one name.
    """
    scores: dict[str, Score] = {}
    for item in items:
        if isinstance(item, str):
            check_names([item])
            if item != FUSED:
                score = resolve_name(SCORES[item])
                scores[item] = score() if isinstance(score, type) else score
        else:
            plain = item.func if isinstance(item, partial) else item
            name = getattr(plain, "__name__", type(plain).__name__)
            if name in scores:
                raise UserError(f"scores: two are called '{name}': give one of them another class or function name")
            scores[name] = item
    return scores


def usable_scores(
    scores: Mapping[str, Score], networks: AdversarialVAE, crop: int | None = None
) -> tuple[dict[str, Score], dict[str, str]]:
    """Split scores into those that the networks can give, and the names of the others with the reason.

    crop: side of the crops that the networks were trained on; None = on whole images.

    Raises:
        UserError: none is left.
    """
    from advvae.outlier.evidence import CROPS

    missing = _missing(networks, crop)
    left_out: dict[str, str] = {}
    for name, score in scores.items():
        needed = getattr(score, "needs", ())
        if lacking := [part for part in needed if part in missing]:
            left_out[name] = f"needs {' and '.join(lacking)}, which no checkpoint gave"
        elif crop is not None and needed and CROPS not in needed:
            left_out[name] = f"looks at whole images, and the networks were trained on crops of {crop} px"
    usable = {name: score for name, score in scores.items() if name not in left_out}
    if not usable.keys() - (BASELINES if left_out else ()):
        reasons = "; ".join(f"{name} {reason}" for name, reason in left_out.items())
        raise UserError(f"scores: none can be computed ({reasons or 'the list is empty'})")
    return usable, left_out


def _missing(networks: AdversarialVAE, crop: int | None) -> set[str]:
    """What a score may need and does not find here."""
    from advvae.outlier.evidence import CROPS, DISCRIMINATOR, FEATURES, VAE

    found = {
        VAE: networks.has_vae,
        DISCRIMINATOR: networks.discriminator is not None,
        FEATURES: hasattr(networks.discriminator, "features"),
        CROPS: crop is not None,
    }
    return {part for part, is_there in found.items() if not is_there}
