import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from advvae.data import Split
from advvae.errors import UserError
from advvae.losses import Objective
from advvae.models import AdversarialVAE
from advvae.outlier import detector as detector_module
from advvae.outlier import detector_file
from advvae.outlier.detector import (
    Detector,
    fit_scores,
    fused,
    make_detector,
    read_detector,
    save_detector,
    score_split,
    unfitted_first,
)
from advvae.outlier.detector_file import ABSENT, recipe
from advvae.outlier.discriminator_scores import PatchDiscriminator
from advvae.outlier.evidence import Evidence, FittedScore, Score
from advvae.outlier.scores import named_scores

SplitMaker = Callable[..., Split]
IDENTITY = {"checkpoint": "abc", "seed": "0"}


def brightness(evidence: Evidence) -> Tensor:
    return evidence.images.flatten(1).mean(1)


class Distance(FittedScore):
    """How far an image's brightness is from that of the training images, to a power."""

    def __init__(self, power: int = 1) -> None:
        self.power = power

    def statistics(self, evidence: Evidence) -> Tensor:
        return brightness(evidence)[:, None]

    def fit(self, statistics: Tensor, seed: int) -> None:
        self.state = {"mean": statistics.double().mean(0), "seen": statistics, "seed": torch.tensor(seed)}

    def measure(self, statistics: Tensor) -> Tensor:
        return (statistics - self.state_like(statistics)["mean"]).abs().squeeze(1) ** self.power


def constant_images(*pixels: int) -> Split:
    """A grey image of each of these values of 255."""
    images = torch.tensor(pixels, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8).clone()
    n = len(pixels)
    return Split("grey", "val", images, torch.arange(n), "val", np.zeros(n, dtype=int), ["any"], None)


def changed(split: Split, half: int) -> Split:
    """The same, with the images of one of its halves (0: select, 1: calibrate) inverted."""
    images = split.images.clone()
    rows = split.halves()[half].rows
    images[rows] = 255 - images[rows]
    return replace(split, images=images)


def never() -> Split:
    raise AssertionError("nothing is missing, so no split is to be read")


@pytest.fixture
def score(networks: AdversarialVAE, objective: Objective) -> Callable[..., dict[str, np.ndarray]]:
    """score_split on the networks of the tests."""

    def call(split: Split, scores: Mapping[str, Score], batch_size: int = 4) -> dict[str, np.ndarray]:
        return score_split(networks, objective, split, scores=scores, batch_size=batch_size, device="cpu")

    return call


@pytest.fixture
def make(networks: AdversarialVAE, objective: Objective, make_split: SplitMaker) -> Callable[..., Detector]:
    """make_detector on the networks of the tests; 30 training and 41 validation images where no others are given."""

    def call(
        scores: Mapping[str, Score],
        train: Split | Callable[[], Split] | None = None,
        validation: Split | Callable[[], Split] | None = None,
        **arguments: Any,
    ) -> Detector:
        train = make_split(30, seed=7) if train is None else train
        validation = make_split(41, seed=8) if validation is None else validation
        settings: dict[str, Any] = {"fuse": (), "seed": 0, "known": None, "identity": IDENTITY} | arguments
        return make_detector(
            networks,
            objective,
            scores,
            train=train if callable(train) else lambda: train,
            validation=validation if callable(validation) else lambda: validation,
            device="cpu",
            **settings,
        )

    return call


@pytest.fixture
def apply(networks: AdversarialVAE, objective: Objective) -> Callable[..., dict[str, np.ndarray]]:
    """Detector.score on the networks of the tests."""

    def call(detector: Detector, split: Split, batch_size: int = 4) -> dict[str, np.ndarray]:
        return detector.score(networks, objective, split, batch_size=batch_size, device="cpu")

    return call


# One pass over a set


def test_scores_are_the_same_twice(score: Callable, make_split: SplitMaker) -> None:
    scores = named_scores(["loss", "discriminator"])
    torch.manual_seed(1)
    first = score(make_split(13), scores)
    torch.manual_seed(2)
    second = score(make_split(13), scores)
    for name in scores:
        assert (first[name] == second[name]).all()
        assert first[name].dtype == np.float64


def test_a_score_does_not_depend_on_the_other_images(score: Callable, make_split: SplitMaker) -> None:
    scores = named_scores(["loss", "discriminator"])
    inliers, outliers = make_split(20), make_split(20, seed=1, darkest=200)
    alone = {name: np.append(score(inliers, scores, 1)[name], score(outliers, scores, 1)[name]) for name in scores}
    mixed, order = shuffled_together(inliers, outliers)
    for batch_size in (3, 64):
        scored = score(mixed, scores, batch_size)
        for name in scores:
            assert alone[name].std() > 1e-3
            assert np.abs(scored[name] - alone[name][order]).max() <= 1e-3 * alone[name].std()


def shuffled_together(first: Split, second: Split) -> tuple[Split, np.ndarray]:
    """Both sets in one, in a random order, and this order."""
    n = len(first) + len(second)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    images = torch.cat([first.images[first.rows], second.images[second.rows]])[order]
    return Split("both", "test", images, torch.arange(n), "test", np.zeros(n, dtype=int), ["any"], None), order.numpy()


def test_scoring_changes_nothing(score: Callable, make_split: SplitMaker, networks: AdversarialVAE) -> None:
    before = {name: tensor.clone() for name, tensor in networks.state_dict().items()}
    random_state = torch.get_rng_state()
    score(make_split(13), named_scores(["loss", "discriminator"]))
    assert all(torch.equal(tensor, before[name]) for name, tensor in networks.state_dict().items())
    assert all(module.training for module in networks.modules())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_each_image_is_read_once_by_the_networks(
    score: Callable, make_split: SplitMaker, networks: AdversarialVAE
) -> None:
    seen = {"encoder": 0, "decoder": 0}
    for part in seen:

        def count(module: torch.nn.Module, inputs: tuple[Tensor], part: str = part) -> None:
            seen[part] += len(inputs[0])

        getattr(networks, part).register_forward_pre_hook(count)
    score(make_split(13), named_scores(["loss", "discriminator"]) | {"again": lambda evidence: evidence.mean.sum(1)})
    assert seen == {"encoder": 13, "decoder": 13}


def test_a_score_may_use_gradients(score: Callable, make_split: SplitMaker) -> None:
    def saliency(evidence: Evidence) -> Tensor:
        with torch.enable_grad():
            images = evidence.images.clone().requires_grad_()
            (slope,) = torch.autograd.grad(images.square().sum(), images)
            return slope.flatten(1).abs().mean(1) + 0 * images.sum()  # still attached to its graph

    split = make_split(6)
    expected = 2 * torch.cat(list(split.batches(6))).abs().flatten(1).mean(1)
    np.testing.assert_allclose(score(split, {"saliency": saliency})["saliency"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda evidence: evidence.images.flatten(1), r"'mine' gave shape \(4, 64\) for 4 images"),
        (lambda evidence: evidence.images.mean(), r"'mine' gave shape \(\) for 4 images"),
        (lambda evidence: [0.0] * 4, "'mine' gave list"),
        (lambda evidence: (brightness(evidence) - 2).log(), r"'mine' is nan for image 2 of toy test \(13 of 13"),
    ],
)
def test_a_score_must_be_one_finite_number_per_image(
    broken: Score, message: str, score: Callable, make_split: SplitMaker
) -> None:
    with pytest.raises(UserError, match=message):
        score(make_split(13), {"mine": broken})


def test_a_bad_image_is_named_by_its_file(score: Callable, make_split: SplitMaker) -> None:
    with pytest.raises(UserError, match=r"'mine' is -inf for a\.png of toy test \(1 of 2"):
        score(make_split(2, paths=["a.png", "b.png"]), {"mine": lambda evidence: torch.tensor([0.0, 1.0]).log()})


def test_nothing_is_learnt_from_an_empty_set(score: Callable, make_split: SplitMaker) -> None:
    empty = make_split(3).subset(torch.tensor([], dtype=torch.int64))
    assert score(empty, {"brightness": brightness})["brightness"].shape == (0,)


def test_a_score_is_told_of_the_crops(networks: AdversarialVAE, objective: Objective, make_split: SplitMaker) -> None:
    def crop(evidence: Evidence) -> Tensor:
        return torch.full((len(evidence.images),), float(evidence.crop or 0))

    detector = Detector({"crop": crop}, (), {}, {})
    for side in (None, 6):
        scored = detector.score(networks, objective, make_split(2), batch_size=2, device="cpu", crop=side)
        assert scored["crop"].tolist() == [side or 0] * 2


# Fitting


def test_scores_are_fitted_on_the_training_images(make: Callable) -> None:
    detector = make({"distance": Distance()}, constant_images(0, 255, 51), constant_images(255, 0))
    fitted: Any = detector.scores["distance"]
    assert fitted.state["mean"].item() == pytest.approx((-1 + 1 + (51 / 127.5 - 1)) / 3)  # of [-1, 1]
    assert fitted.state["seed"] == 0
    halves = [detector.selection["distance"].item(), detector.calibration["distance"].item()]
    np.testing.assert_allclose(sorted(halves), [0.8, 1.2], rtol=1e-6)


def test_a_fit_sees_a_seeded_choice_of_training_images(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector_module, "FIT_IMAGES", 5)
    train = constant_images(*range(0, 200, 10))

    def seen(seed: int) -> list[int]:
        fitted: Any = make({"distance": Distance()}, train, seed=seed).scores["distance"]
        return ((fitted.state["seen"].squeeze(1) + 1) * 12.75).round().int().tolist()

    for seed in (0, 1):
        order = unfitted_first(20, seed).tolist()
        assert seen(seed) == sorted(order[15:])
        assert sorted(order) == list(range(20))
    assert seen(0) != seen(1)
    assert sorted(unfitted_first(3, 0)) == [0, 1, 2]  # all are fitted on


def test_all_fits_share_one_pass_in_fixed_chunks(
    make: Callable, networks: AdversarialVAE, make_split: SplitMaker
) -> None:
    class Latent(Distance):
        def statistics(self, evidence: Evidence) -> Tensor:
            return evidence.mean

        def measure(self, statistics: Tensor) -> Tensor:
            return statistics.norm(dim=1)

    chunks: list[int] = []
    assert networks.encoder is not None
    networks.encoder.register_forward_pre_hook(lambda module, inputs: chunks.append(len(inputs[0])))
    make({"one": Latent(), "other": Latent()}, make_split(300), make_split(600))
    assert chunks == [256, 44, 256, 44, 256, 44]  # training images, select, calibrate


def test_what_is_drawn_from_the_seed_alone_reads_no_training_images(
    make: Callable, networks: AdversarialVAE, objective: Objective, make_split: SplitMaker
) -> None:
    class Drawn(PatchDiscriminator):
        def __call__(self, evidence: Evidence) -> Tensor:
            return brightness(evidence)

    detector = make({"patches": Drawn(), "bright": brightness}, never, seed=3)
    expected = torch.rand(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert states(detector)["patches"] == {"positions": expected.tolist()}
    seen: list[Any] = []

    def noted(images: Tensor, rows: Tensor) -> Tensor:
        seen.append(rows)
        return images

    unread = replace(make_split(5), transform=noted)
    fit_scores(networks, objective, {"patches": Drawn()}, unread, seed=3, device="cpu")
    assert not seen
    beside = make({"patches": Drawn(), "distance": Distance()}, constant_images(0, 255), seed=3)
    assert states(beside)["patches"] == states(detector)["patches"]


def test_a_fit_leaves_the_networks_as_they_are(make: Callable, networks: AdversarialVAE) -> None:
    before = {name: tensor.clone() for name, tensor in networks.state_dict().items()}
    make(named_scores(["loss", "discriminator"]) | {"distance": Distance()}, fuse=("loss", "distance"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in networks.state_dict().items())
    assert all(module.training for module in networks.modules())


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        (lambda evidence: brightness(evidence), r"statistics of 'mine' are shape \(30,\) for 30 images"),
        (lambda evidence: 0.0, "statistics of 'mine' are float for 30 images"),
        (lambda evidence: brightness(evidence)[:, None] / 0, "'mine' cannot be fitted"),
    ],
)
def test_statistics_must_be_finite_rows(statistics: Callable, message: str, make: Callable) -> None:
    score = Distance()
    score.statistics = statistics  # type: ignore[method-assign]
    with pytest.raises(UserError, match=message):
        make({"mine": score})


# What is learnt from validation


def test_thresholds_and_p_values_by_hand() -> None:
    detector = Detector({"score": brightness}, (), {}, {"score": np.arange(1.0, 20.0)})
    assert detector.threshold("score", alpha=0.05) == 19  # the 19th of 19: ⌈20 · 0.95⌉
    assert detector.threshold("score", alpha=0.1) == 18
    assert detector.threshold("score", alpha=0.04) is None  # ⌈20 · 0.96⌉ = 20
    p_values = detector.p_values("score", np.array([19.5, 19.0, 10.5, 0.0]))
    np.testing.assert_allclose(p_values, [1 / 20, 2 / 20, 10 / 20, 20 / 20])


def test_thresholds_and_p_values_count_each_patient_once() -> None:
    """Nine patients of one image, and one of ten, who holds the ten highest scores: 1 of 10 groups, not 10 of 19."""
    groups = np.array([*range(9), *[9] * 10])
    detector = Detector({"score": brightness}, (), {}, {"score": np.arange(1.0, 20.0)}, groups=groups)
    assert detector.n_calibrate_groups == 10
    assert detector.threshold("score", alpha=0.1) == 18  # above which p is 1.1 / 11
    assert detector.threshold("score", alpha=0.05) is None  # with ten groups p is 1 / 11 at least
    assert detector.p_values("score", np.array([20.0, 10, 9])) == pytest.approx([1 / 11, 2 / 11, 3 / 11])


def test_the_groups_of_the_calibrate_half_come_with_the_detector(make: Callable, make_split: SplitMaker) -> None:
    validation = replace(make_split(40, seed=8), groups=np.array([f"Jane Doe {i // 4}" for i in range(40)]))
    calibrate = validation.halves()[1]
    detector = make({"bright": brightness}, None, validation)
    assert calibrate.groups is not None
    assert detector.groups.tolist() == np.unique(calibrate.groups, return_inverse=True)[1].tolist()
    assert detector.n_calibrate_groups == 5
    assert detector.threshold("bright", 0.1) is None  # five patients are too few, though 20 images are not
    assert make({"bright": brightness}).n_calibrate_groups is None


def test_fused_by_hand() -> None:
    normal = {"one": np.array([1.0, 2.0, 3.0]), "other": np.array([10.0, 20.0, 30.0])}
    scored = {"one": np.array([2.5, 0.0]), "other": np.array([99.0, 30.0]), "third": np.array([1.0, 1.0])}
    expected = [-2 * math.log(2 / 4 * 1 / 4), -2 * math.log(4 / 4 * 2 / 4)]
    np.testing.assert_allclose(fused(("one", "other"), normal, scored), expected)


def test_the_fused_score_comes_last_and_has_its_own_calibration(make: Callable, apply: Callable) -> None:
    detector = make({"bright": brightness, "distance": Distance()}, fuse=("distance", "bright"))
    assert detector.names == ["bright", "distance", "fused"]
    assert detector.headline == "fused"
    assert {name: len(values) for name, values in detector.selection.items()} == {"bright": 21, "distance": 21}
    assert {name: len(values) for name, values in detector.calibration.items()} == dict.fromkeys(detector.names, 20)
    expected = fused(("distance", "bright"), detector.selection, detector.calibration)
    assert (detector.calibration["fused"] == expected).all()
    assert detector.threshold("fused", 0.05) == expected.max()
    assert list(apply(detector, constant_images(3))) == detector.names
    plain = make({"bright": brightness, "distance": Distance()})
    assert plain.names == ["bright", "distance"]
    assert plain.headline == "bright"


def test_the_fused_score_takes_computed_scores_only(make: Callable) -> None:
    with pytest.raises(UserError, match="'fused' combines bright, lpath, but lpath is not computed"):
        make({"bright": brightness}, fuse=("bright", "lpath"))


def test_calibration_images_shape_thresholds_alone(make: Callable, apply: Callable, make_split: SplitMaker) -> None:
    validation, images = make_split(41, seed=8, darkest=150), make_split(9)
    first, second = (
        make({"bright": brightness, "distance": Distance()}, None, split, fuse=("bright", "distance"))
        for split in (validation, changed(validation, half=1))
    )
    assert states(first) == states(second)
    assert all((first.selection[name] == second.selection[name]).all() for name in first.selection)
    scores = [apply(detector, images) for detector in (first, second)]
    assert all((scores[0][name] == scores[1][name]).all() for name in first.names)
    assert all(first.threshold(name, 0.1) != second.threshold(name, 0.1) for name in ("bright", "distance"))


def test_selection_images_shape_the_fused_score_alone(make: Callable, apply: Callable, make_split: SplitMaker) -> None:
    validation, images = make_split(41, seed=8, darkest=150), make_split(9)
    first, second = (
        make({"bright": brightness, "distance": Distance()}, None, split, fuse=("bright", "distance"))
        for split in (validation, changed(validation, half=0))
    )
    assert states(first) == states(second)
    scores = [apply(detector, images) for detector in (first, second)]
    for name in ("bright", "distance"):
        assert first.threshold(name, 0.1) == second.threshold(name, 0.1)
        assert (scores[0][name] == scores[1][name]).all()
    assert (scores[0]["fused"] != scores[1]["fused"]).any()


def states(detector: Detector) -> dict[str, dict[str, list]]:
    return {
        name: {part: tensor.tolist() for part, tensor in score.state.items()}
        for name, score in detector.scores.items()
        if isinstance(score, FittedScore)
    }


def test_a_fused_score_does_not_depend_on_the_other_images(
    make: Callable, apply: Callable, make_split: SplitMaker
) -> None:
    """In 99 % of images: p-values are steps, and rounding may put a score on the other side of one."""
    names = ["loss", "discriminator"]
    detector = make(named_scores(names), None, make_split(200, seed=8), fuse=names)
    inliers, outliers = make_split(60), make_split(60, seed=1, darkest=100)
    alone = np.concatenate([apply(detector, inliers, 1)["fused"], apply(detector, outliers, 1)["fused"]])
    assert len(np.unique(alone)) > 50
    mixed, order = shuffled_together(inliers, outliers)
    for batch_size in (64, 7):
        equal = np.isclose(apply(detector, mixed, batch_size)["fused"], alone[order])
        assert equal.mean() >= 0.99


def test_one_validation_image_leaves_nothing_to_calibrate_with(make: Callable, make_split: SplitMaker) -> None:
    detector = make({"bright": brightness}, None, make_split(1), fuse=("bright",))
    for name in ("bright", "fused"):
        assert detector.threshold(name, 0.5) is None
        assert detector.p_values(name, np.array([9.0])).tolist() == [1]


# The file


def both() -> dict[str, Score]:
    return {"bright": brightness, "distance": Distance()}


def test_a_detector_read_back_is_the_same_and_reads_no_split(
    make: Callable, apply: Callable, make_split: SplitMaker, tmp_path: Path
) -> None:
    path, fuse = tmp_path / "new folder" / "detector.pt", ("bright", "distance")
    made = make(both(), fuse=fuse)
    save_detector(path, made, IDENTITY)
    back = make(both(), never, never, fuse=fuse, known=path)
    assert back.names == made.names
    assert all((back.calibration[name] == made.calibration[name]).all() for name in made.names)
    images = make_split(9)
    scores = [apply(detector, images) for detector in (made, back)]
    assert all((scores[0][name] == scores[1][name]).all() for name in made.names)
    assert make(both(), never, never, fuse=("bright",), known=path).names == made.names  # any fusion of what is there


def test_the_file_holds_plain_tensors(make: Callable, tmp_path: Path) -> None:
    save_detector(tmp_path / "detector.pt", make(both(), fuse=("bright",)), IDENTITY)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".detector.pt.lock", "detector.pt"]
    content = torch.load(tmp_path / "detector.pt", weights_only=True)
    assert content["format"] == 3
    (detector,) = content["detectors"]
    assert detector["identity"] == IDENTITY
    assert list(detector["scores"]) == ["bright", "distance"]
    distance = detector["scores"]["distance"]
    assert list(distance["state"]) == ["mean", "seen", "seed"]
    assert distance["selection"].shape == (21,)
    assert distance["calibration"].dtype == torch.float64
    assert detector["scores"]["bright"]["state"] == {}


def test_the_file_holds_groups_and_no_names(make: Callable, make_split: SplitMaker, tmp_path: Path) -> None:
    path = tmp_path / "detector.pt"
    validation = replace(make_split(40, seed=8), groups=np.array([f"Jane Doe {i // 2}" for i in range(40)]))
    made = make(both(), None, validation)
    save_detector(path, made, IDENTITY)
    assert b"Jane" not in path.read_bytes()
    back = make(both(), never, never, known=path)
    assert (back.groups == made.groups).all()
    assert back.groups.dtype == np.int64
    assert back.threshold("bright", 0.1) == made.threshold("bright", 0.1) is not None
    grown = make({"bright": brightness, "squared": Distance(power=2)}, None, validation, known=path)
    assert (grown.groups == made.groups).all()
    save_detector(path, grown, IDENTITY)
    assert (make(both(), never, never, known=path).groups == made.groups).all()


def test_a_file_of_other_networks_is_not_used(make: Callable, tmp_path: Path) -> None:
    path = tmp_path / "detector.pt"
    save_detector(path, make(both(), constant_images(0, 0)), IDENTITY)
    other = IDENTITY | {"seed": "1"}
    again = make(both(), constant_images(255, 255), known=path, identity=other)
    assert states(again)["distance"]["mean"] == [1]
    save_detector(path, again, other)
    for identity, mean in ((IDENTITY, -1), (other, 1)):  # neither has taken the other's place
        back = make(both(), never, never, known=path, identity=identity)
        assert states(back)["distance"]["mean"] == [mean]


def test_where_the_images_are_not_at_hand_the_newest_scores_of_any_are_taken(make: Callable, tmp_path: Path) -> None:
    path = tmp_path / "detector.pt"
    for images, value in (("old", 0), ("new", 255)):
        identity = IDENTITY | {"images": images}
        save_detector(path, make(both(), constant_images(value, value), known=path, identity=identity), identity)
    asked = IDENTITY | {"images": ABSENT}
    back = make(both(), never, never, known=path, identity=asked)
    assert states(back)["distance"]["mean"] == [1]
    save_detector(path, back, asked)
    old = make(both(), never, never, known=path, identity=IDENTITY | {"images": "old"})
    assert states(old)["distance"]["mean"] == [-1]
    for other in ({"images": "third"}, {"images": ABSENT, "seed": "1"}):
        made = make(both(), constant_images(0, 0), known=path, identity=IDENTITY | other)
        assert states(made)["distance"]["mean"] == [-1]


def test_the_newest_four_identities_are_kept(make: Callable, tmp_path: Path) -> None:
    path, detector = tmp_path / "detector.pt", make(both())
    for seed in (0, 1, 2, 3, 1, 4, 5):
        save_detector(path, detector, {"seed": str(seed)})
    kept = [seed for seed in range(6) if read_detector(path, {"seed": str(seed)}).scores]
    assert kept == [1, 3, 4, 5]


def test_two_processes_write_one_after_the_other(
    make: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each saves a score of its own; the second waits for the first, whose score stays."""
    path, started = tmp_path / "detector.pt", threading.Event()
    first, second = make({"bright": brightness}), make({"distance": Distance()})
    replacing = detector_file.replacing

    def slow(path: Path) -> Any:
        if not started.is_set():
            started.set()
            time.sleep(0.3)
        return replacing(path)

    monkeypatch.setattr(detector_file, "replacing", slow)
    thread = threading.Thread(target=save_detector, args=(path, first, IDENTITY))
    thread.start()
    assert started.wait(5)
    save_detector(path, second, IDENTITY)
    thread.join()
    assert set(read_detector(path, IDENTITY).scores) == {"bright", "distance"}


def test_only_missing_scores_are_made(make: Callable, tmp_path: Path) -> None:
    path = tmp_path / "detector.pt"
    save_detector(path, make({"distance": Distance()}, constant_images(0, 0)), IDENTITY)
    wanted = {"distance": Distance(), "squared": Distance(power=2)}
    grown = make(wanted, constant_images(255, 255), known=path)
    assert states(grown)["distance"]["mean"] == [-1]  # as saved
    assert states(grown)["squared"]["mean"] == [1]
    assert list(grown.scores) == list(wanted)
    assert make({"bright": brightness, "distance": Distance()}, never, known=path).names == ["bright", "distance"]
    save_detector(path, grown, IDENTITY)
    save_detector(path, make({"bright": brightness}), IDENTITY)
    assert sorted(read_detector(path, IDENTITY).scores) == ["bright", "distance", "squared"]


def test_a_score_with_other_arguments_is_another_score(make: Callable, tmp_path: Path) -> None:
    path = tmp_path / "detector.pt"
    save_detector(path, make({"distance": Distance()}, constant_images(0, 0)), IDENTITY)
    assert states(make({"distance": Distance(power=2)}, constant_images(255, 255), known=path)) != states(
        make({"distance": Distance()}, never, never, known=path)
    )


def test_a_fit_does_not_change_what_a_score_is(make: Callable) -> None:
    scores = {**both(), **named_scores(["loss", "discriminator"])}
    before = {name: recipe(score) for name, score in scores.items()}
    make(scores)
    assert {name: recipe(score) for name, score in scores.items()} == before
    assert len(set(before.values())) == len(scores)


class Compared:
    """What an image lacks of a reference, which is kept in a private attribute."""

    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def __call__(self, evidence: Evidence) -> Tensor:
        return brightness(evidence)


def power(exponent: Any) -> Score:
    def score(evidence: Evidence) -> Tensor:
        return brightness(evidence) ** exponent

    return score


def compare(evidence: Evidence, reference: Any) -> Tensor:
    return brightness(evidence)


def long_array(last: float) -> np.ndarray:
    """Longer than what its repr shows."""
    array = np.zeros(5000)
    array[2500] = last
    return array


@pytest.mark.parametrize("reference", [long_array, lambda last: torch.tensor([0, last]), lambda last: nn_layer(last)])
def test_all_that_shapes_a_score_is_in_its_recipe(reference: Callable[[float], Any]) -> None:
    kinds: list[Callable[[Any], Score]] = [
        Compared,
        power,
        lambda value: partial(compare, reference=value),
        lambda value: Compared(value).__call__,
    ]
    for kind in kinds:
        assert recipe(kind(reference(1))) == recipe(kind(reference(1)))  # another object, which holds the same
        assert recipe(kind(reference(1))) != recipe(kind(reference(2)))


def nn_layer(weight: float) -> torch.nn.Module:
    layer = torch.nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(weight)
    return layer


def test_what_cannot_be_compared_is_never_the_same() -> None:
    assert recipe(Compared(lambda: 1)) != recipe(Compared(lambda: 1))


def test_an_upgrade_changes_no_recipe_but_of_a_changed_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = named_scores(["loss", "lpath", "feature_knn"])
    before = {name: recipe(score) for name, score in scores.items()}
    monkeypatch.setattr("importlib.metadata.version", lambda package: "99.0")
    assert {name: recipe(score) for name, score in scores.items()} == before
    monkeypatch.setitem(detector_file.FORMULAS, "advvae.outlier.latent_scores.LPath", 2)
    assert [name for name, score in scores.items() if recipe(score) != before[name]] == ["lpath"]
    monkeypatch.setattr(detector_file, "EVIDENCE", 2)
    assert all(recipe(score) != before[name] for name, score in scores.items())


def test_recipes_are_those_that_files_hold() -> None:
    """Where one of these changes, the scores of every exported model are made anew, or cannot be."""
    digests = {"loss": "303d9f8e", "lpath": "c5026efc", "feature_knn": "5683fd35"}
    assert {name: recipe(score).split()[1][:8] for name, score in named_scores(digests).items()} == digests


def test_a_file_that_holds_all_of_it_is_left_as_it_is(make: Callable, tmp_path: Path) -> None:
    path = tmp_path / "detector.pt"
    save_detector(path, make(both()), IDENTITY)
    before = path.stat()
    save_detector(path, make(both(), never, never, known=path), IDENTITY)
    assert path.stat() == before
    save_detector(path, make({"squared": Distance(power=2)}), IDENTITY)
    assert path.stat().st_ino != before.st_ino


def test_what_a_score_notes_while_it_scores_is_not_in_its_recipe(make: Callable, tmp_path: Path) -> None:
    class Counting(Compared):
        def __call__(self, evidence: Evidence) -> Tensor:
            self._reference += 1
            return brightness(evidence)

    path = tmp_path / "detector.pt"
    save_detector(path, make({"counting": Counting(0)}), IDENTITY)
    assert make({"counting": Counting(0)}, never, never, known=path).names == ["counting"]


def write_text(path: Path) -> None:
    path.write_text("not a detector")


def write_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_weights(path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, path)


def write_later_format(path: Path) -> None:
    torch.save(torch.load(path) | {"format": 99}, path)


@pytest.mark.parametrize("damage", [write_text, write_half, write_weights, write_later_format])
def test_a_file_that_cannot_be_used_counts_as_absent(
    damage: Callable[[Path], None], make: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "detector.pt"
    save_detector(path, make(both()), IDENTITY)
    damage(path)
    with caplog.at_level(logging.WARNING):
        detector = make(both(), constant_images(0, 0), known=path)
        save_detector(path, detector, IDENTITY)
    assert states(detector)["distance"]["mean"] == [-1]
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"{path} is damaged, or no detector file")
    assert set(read_detector(path, IDENTITY).scores) == {"bright", "distance"}


def test_a_file_of_an_older_version_counts_as_absent(
    make: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "detector.pt"
    torch.save({"format": 2, "detectors": [{"identity": IDENTITY, "scores": {}}]}, path)
    with caplog.at_level(logging.WARNING):
        save_detector(path, make(both(), known=path), IDENTITY)
    assert not caplog.messages
    assert set(read_detector(path, IDENTITY).scores) == {"bright", "distance"}


def test_no_file_is_nothing_to_speak_of(make: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        make(both(), known=tmp_path / "detector.pt")
    assert not caplog.messages


def test_a_file_that_cannot_be_written_is_an_error_of_the_user(make: Callable, tmp_path: Path) -> None:
    (tmp_path / "detector.pt").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*detector\.pt"):
        save_detector(tmp_path / "detector.pt", make(both()), IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == ["detector.pt"]


def test_names_of_user_scores_may_be_anything(make: Callable, tmp_path: Path) -> None:
    names: Sequence[str] = ("My Score", "ü.1")
    path = tmp_path / "detector.pt"
    save_detector(path, make({name: Distance() for name in names}), IDENTITY)
    assert make({name: Distance() for name in names}, never, never, known=path).names == list(names)
