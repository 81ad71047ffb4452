"""The detector as a scikit-learn estimator."""

import pickle
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from advvae import OutlierDetector

QUICK: dict[str, Any] = {"n_epochs": 1, "latent_dim": 2, "train_discriminator": False}


@parametrize_with_checks([OutlierDetector("recon_mse", **QUICK)])
@pytest.mark.slow
def test_the_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def fitted() -> OutlierDetector:
    return OutlierDetector("recon_mse", n_epochs=6, latent_dim=8, size=8).fit(load_digits().data[:1000])


def test_it_tells_noise_from_digits(fitted: OutlierDetector) -> None:
    digits = load_digits().data[1000:]
    noise = np.random.default_rng(0).uniform(0, 16, digits.shape)
    scores = fitted.score_samples(np.concatenate([digits, noise]))
    assert roc_auc_score([1] * len(digits) + [0] * len(noise), scores) > 0.99
    assert set(fitted.predict(noise)) == {-1}
    assert (fitted.predict(digits) == -1).mean() < 0.15, "0.05 of exchangeable images"


def test_the_offset_is_where_decisions_turn(fitted: OutlierDetector) -> None:
    images = load_digits().data[1000:1100]
    np.testing.assert_allclose(fitted.decision_function(images), fitted.score_samples(images) - fitted.offset_)
    assert np.array_equal(fitted.predict(images) == -1, fitted.decision_function(images) < 0)


def test_rows_and_pictures_are_the_same_images(fitted: OutlierDetector) -> None:
    images = load_digits().images[1000:1010]
    rows = fitted.score_samples(images.reshape(10, 64))
    twin = clone(fitted).set_params(n_epochs=6).fit(load_digits().images[:1000])
    np.testing.assert_allclose(twin.score_samples(images), rows, rtol=1e-5)


def test_colour_and_oblong_images(fitted: OutlierDetector) -> None:
    images = np.random.default_rng(0).uniform(size=(40, 6, 10, 3))
    detector = OutlierDetector(image_shape=(6, 10, 3), **QUICK).fit(images.reshape(40, -1))
    assert detector.networks_.encoder is not None
    np.testing.assert_allclose(
        detector.score_samples(images.reshape(40, -1)), clone(detector).fit(images).score_samples(images), rtol=1e-5
    )


def test_it_is_pickled(fitted: OutlierDetector) -> None:
    images = load_digits().data[1000:1010]
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.score_samples(images), fitted.score_samples(images))


@pytest.mark.parametrize(
    ("parameters", "images", "words"),
    [
        ({}, np.zeros((5, 64)), "6 images"),
        ({"rank_by": "los"}, np.zeros((20, 64)), "unknown score"),
        ({"rank_by": "discriminator"}, np.zeros((20, 64)), "discriminator"),
        ({"rank_by": "fused"}, np.zeros((20, 64)), "fused is made of several scores"),
        ({"alpha": 1.5}, np.zeros((20, 64)), "alpha must lie between 0 and 1"),
        ({"image_shape": (5, 5)}, np.zeros((20, 64)), "image_shape"),
        ({"latent_dim": 0}, np.zeros((20, 64)), "latent_dim"),
        ({}, np.zeros((20, 8, 8, 2)), "1 or 3 channels"),
        ({}, np.zeros((8, 2, 2, 2, 2)), "X holds images"),
    ],
)
def test_what_cannot_be_fitted_is_a_value_error(parameters: dict[str, Any], images: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        OutlierDetector(**{**QUICK, **parameters}).fit(images)


def test_images_of_another_shape_are_told(fitted: OutlierDetector) -> None:
    images = np.random.default_rng(0).uniform(size=(20, 8, 8))
    detector = OutlierDetector("recon_mse", **QUICK).fit(images)
    assert detector.image_shape_ == (8, 8, 1)
    assert detector.n_features_in_ == 8
    with pytest.raises(ValueError, match=r"\(8, 12, 1\), but OutlierDetector is expecting images of shape \(8, 8, 1\)"):
        detector.predict(np.zeros((2, 8, 12)))
    with pytest.raises(ValueError, match="X has 32 features, but OutlierDetector is expecting 64 features"):
        fitted.predict(np.zeros((2, 32)))


def test_too_few_images_to_calibrate_with_are_told() -> None:
    images = np.random.default_rng(0).uniform(size=(20, 64))  # of which four validate, and two of these calibrate
    with pytest.warns(UserWarning, match=r"alpha=0.05 needs 19 images to calibrate with, and there are 2"):
        detector = OutlierDetector("recon_mse", **QUICK).fit(images)
    assert detector.offset_ == -detector.detector_.calibration["recon_mse"].max()


def test_its_networks_are_used_as_they_are(fitted: OutlierDetector) -> None:
    assert not any(module.training for module in fitted.networks_.modules())
    assert not any(parameter.requires_grad for parameter in fitted.networks_.parameters())


def test_generators_of_every_kind_are_taken() -> None:
    images = np.random.default_rng(0).uniform(size=(20, 64))
    for make in (np.random.default_rng, np.random.RandomState):
        first, twin = (OutlierDetector("recon_mse", random_state=make(5), **QUICK).fit(images) for _ in range(2))
        assert np.array_equal(first.score_samples(images), twin.score_samples(images))
