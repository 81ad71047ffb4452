"""Images that two sets have in common are counted, and none where there are none."""

from pathlib import Path

import numpy as np
import pytest
import torch

from advvae.audit import Audit, Overlap, audit_words, read_audit, write_audit
from advvae.data import Split
from advvae.data.duplicates import NEAR, nearest, patterns
from advvae.matrix_report import matrix_rows, write_matrix

CPU = torch.device("cpu")


def split(images: np.ndarray, name: str, groups: np.ndarray | None = None) -> Split:
    """(N, C, H, W) uint8 as a split."""
    n = len(images)
    labels = np.zeros(n, dtype=np.int64)
    return Split(name, "test", torch.from_numpy(images), torch.arange(n), "test", labels, ["all"], None, groups)


def noise(n: int, seed: int, channels: int = 1, side: int = 28) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, channels, side, side), dtype=np.uint8)


def audit(train: np.ndarray, test: np.ndarray, out: np.ndarray, **patients: str) -> Overlap:
    return Audit(split(train, "a"), split(test, "a"), patients, CPU).overlap(split(out, "b"))


def test_nothing_is_found_where_there_is_nothing() -> None:
    found = audit(noise(50, 0), noise(20, 1), noise(30, 2))
    assert (found.n_train, found.n_test, found.n_out, found.n_out_groups) == (50, 20, 30, None)
    assert (found.equal_train, found.equal_test, found.near_train, found.near_test) == (0, 0, 0, 0)
    assert (found.duplicates, found.near_duplicates, found.shared_patients) == (0, 0, "")


def test_planted_images_are_found_in_the_split_they_are_from() -> None:
    """0 and 1 equal a training image, of which 1 is in test too; 2 is a brighter one, 3 a test image's JPEG."""
    train, test, out = noise(50, 0), smooth(20, 1), noise(30, 2)
    test[4] = train[9]
    out[0], out[1] = train[8], train[9]
    out[2] = train[10] // 2 + 60
    out[3] = jpeg(test[5])
    found = audit(train, test, out)
    assert (found.equal_train, found.equal_test, found.duplicates) == (2, 1, 2)
    assert (found.near_train, found.near_test, found.near_duplicates) == (1, 1, 2)


def smooth(n: int, seed: int) -> np.ndarray:
    from torch.nn.functional import interpolate

    grid = torch.from_numpy(noise(n, seed, side=7)).float()
    return interpolate(grid, size=28, mode="bilinear").round().to(torch.uint8).numpy()


def jpeg(image: np.ndarray) -> np.ndarray:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image[0]).save(file, "JPEG", quality=75)
    stored = np.asarray(Image.open(file))[None]
    assert not np.array_equal(stored, image)
    return stored


def test_an_image_that_is_equal_to_one_and_near_to_another_counts_once() -> None:
    train, test, out = noise(5, 0), noise(5, 2), noise(5, 1)
    out[0] = test[0] = train[0]
    train[1] = test[1] // 2
    out[1] = test[1]
    found = audit(train, test, out)
    assert (found.equal_train, found.equal_test, found.near_train, found.near_test) == (1, 2, 1, 0)
    assert (found.duplicates, found.near_duplicates) == (2, 0)


def test_a_sets_own_test_images_are_compared_with_its_training_images_alone() -> None:
    """For its test images equal themselves."""
    train, test = noise(6, 0), noise(4, 1)
    test[0] = train[0]
    compared = Audit(split(train, "a"), split(test, "a"), {}, CPU)
    own = compared.overlap(split(test, "a", np.array([1, 1, 2, 3])))
    assert (own.duplicates, own.near_duplicates, own.equal_test, own.near_test) == (1, 0, 0, 0)
    assert own.n_out_groups == 3


def test_colour_is_compared_in_grey_at_28_pixels_or_fewer() -> None:
    images = noise(3, 0, channels=3, side=64)
    found = patterns(split(images, "a"), CPU)
    assert found.shape == (3, 28 * 28)
    assert patterns(split(noise(3, 0, side=8), "a"), CPU).shape == (3, 64)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(found.mean(1), torch.zeros(3), atol=1e-6, rtol=0)


def test_the_largest_cosine_is_that_of_a_slow_loop() -> None:
    """More rows than a block has, and an image without any pattern."""
    flat = np.full((1, 1, 8, 8), 77, dtype=np.uint8)
    images, known = np.concatenate([noise(1100, 0, side=8), flat]), noise(9000, 1, side=8)
    found = nearest(patterns(split(images, "a"), CPU), patterns(split(known, "b"), CPU))
    assert found.shape == (1101,)
    rows = known[:, 0].reshape(9000, 64).astype(np.float64)
    rows -= rows.mean(1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for place in (0, 1023, 1024, 1099):
        pixels = images[place, 0].ravel().astype(np.float64)
        pixels -= pixels.mean()
        assert found[place] == pytest.approx((rows @ pixels / np.linalg.norm(pixels)).max(), abs=1e-6)
    assert found[1100] == 0 < NEAR


def test_shared_patients_are_those_of_one_cohort() -> None:
    images = noise(3, 0), noise(3, 1), noise(3, 2)
    assert audit(*images, a="LiTS", b="LiTS").shared_patients == "LiTS"
    assert audit(*images, a="LiTS", b="NLST").shared_patients == ""
    assert audit(*images, a="LiTS").shared_patients == ""


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    overlaps = [
        Overlap("a", "a", 9, 8, 8, None, 1, 0, 2, 0, 1, 2, ""),
        Overlap("a", "b", 9, 8, 7, 3, 0, 0, 0, 0, 0, 0, "LiTS"),
    ]
    write_audit(tmp_path / "audit.csv", overlaps)
    assert read_audit(tmp_path / "audit.csv") == overlaps


def test_words_name_the_pairs_and_the_comparison() -> None:
    own, other = (
        Overlap("a", "a", 9, 8, 8, None, 1, 0, 2, 0, 1, 2, ""),
        Overlap("a", "b", 9, 8, 7, 3, 0, 0, 0, 0, 0, 0, "LiTS"),
    )
    text = audit_words([own, other])
    assert text.splitlines() == [
        "a, b are of the same patients (LiTS). The files of these sets carry no patient numbers: their patients are "
        "known to be the same, but cannot be matched image by image.",
        "For comparison: of the 8 test images of a, 1 equal one of its own training images, 2 more nearly do.",
    ]
    nothing = [Overlap("a", name, 9, 8, 8, None, 0, 0, 0, 0, 0, 0, "") for name in "ab"]
    assert audit_words(nothing).splitlines() == [
        "No set has an image, or known patients, in common with another.",
        "For comparison: of the 8 test images of a, 0 equal one of its own training images, 0 more nearly do.",
    ]


def test_the_groups_of_a_matrix_are_those_of_inliers_and_outliers(tmp_path: Path) -> None:
    """Set a has 8 test images of 3 patients, set b 7 of 2; each row has those of its inliers first."""
    values = {"auroc": 0.9, "auroc_low": 0.8, "auroc_high": 1.0}
    measured = {
        inliers: {"ranked_by": "loss", "sets": {outliers: {"n_in": n_in, "n_out": n_out, "scores": {"loss": values}}}}
        for inliers, outliers, n_in, n_out in (("a", "b", 8, 7), ("b", "a", 7, 8))
    }
    sizes = {"a": (8, 3), "b": (7, 2)}
    pairs = {(i, o): Overlap(i, o, 9, sizes[i][0], *sizes[o], 0, 0, 0, 0, 0, 0, "") for i in sizes for o in sizes}
    rows = matrix_rows(measured, pairs)
    assert [(row["n_in_groups"], row["n_out_groups"]) for row in rows] == [(3, 2), (2, 3)]
    write_matrix(tmp_path, measured, list(pairs.values()))
    lines = (tmp_path / "matrix.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:7]]
    assert cells[0] == ["inliers \\ outliers", "n_in", "a", "b", "mean"]
    assert cells[2:] == [
        ["a", "8 (3 groups)", "–", "0.900", "0.900"],
        ["b", "7 (2 groups)", "0.900", "–", "0.900"],
        ["n_out", "", "8 (3 groups)", "7 (2 groups)", ""],
    ]
