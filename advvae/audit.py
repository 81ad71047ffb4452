"""What two sets have in common: images, nearly equal images, patients. It is asked before their AUROC is believed."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advvae.data import Split
from advvae.data.duplicates import NEAR, image_digests, nearest, patterns
from advvae.files import write_csv

WITHOUT_NUMBERS = (
    "The files of these sets carry no patient numbers: their patients are known to be the same, but cannot be matched "
    "image by image."
)


@dataclass(frozen=True)
class Overlap:
    """What the test images of one set have in common with the images of another, as its networks see both.

    Attributes:
        n_train, n_test, n_out: images compared; n_out_groups: of how many groups these last are, None = not known.
        equal_train, equal_test: of the n_out, how many equal an inlier of that split, pixel by pixel.
        near_train, near_test: how many more have a cosine of `duplicates.NEAR` or more with one.
        duplicates, near_duplicates: the same for both splits together.
        shared_patients: the cohort that the patients of both sets are of; "" = none is known.

    Where `out_dataset` is `dataset` itself, its test images are compared with its own training images alone: how often
    images are alike that are of one set, but should not be the same.
    """

    dataset: str
    out_dataset: str
    n_train: int
    n_test: int
    n_out: int
    n_out_groups: int | None
    equal_train: int
    equal_test: int
    near_train: int
    near_test: int
    duplicates: int
    near_duplicates: int
    shared_patients: str


class Audit:
    """The inliers' splits, read once, to be compared with one outlier set after the other.

    train, test: of the inliers. patients: set -> the cohort that its patients are of, None = one of its own.
    """

    def __init__(self, train: Split, test: Split, patients: Mapping[str, str | None], device: torch.device) -> None:
        self.splits = {"train": train, "test": test}
        self.patients = patients
        self.device = device
        self._digests = {name: set(image_digests(split)) for name, split in self.splits.items()}
        self._patterns = {name: patterns(split, device) for name, split in self.splits.items()}

    def overlap(self, outliers: Split) -> Overlap:
        """What a test split has in common with the inliers."""
        inliers = self.splits["test"].name
        is_own = outliers.name == inliers
        digests, own_patterns = image_digests(outliers), patterns(outliers, self.device)
        nobody = np.zeros(len(outliers), dtype=bool)
        equal, near = {"test": nobody}, {"test": nobody}
        for name in ("train",) if is_own else ("train", "test"):
            equal[name] = np.array([digest in self._digests[name] for digest in digests])
            near[name] = (nearest(own_patterns, self._patterns[name]) >= NEAR) & ~equal[name]
        any_equal = equal["train"] | equal["test"]
        cohort = self.patients.get(inliers)
        return Overlap(
            dataset=inliers,
            out_dataset=outliers.name,
            n_train=len(self.splits["train"]),
            n_test=len(self.splits["test"]),
            n_out=len(outliers),
            n_out_groups=outliers.n_groups,
            **{f"equal_{name}": int(found.sum()) for name, found in equal.items()},
            **{f"near_{name}": int(found.sum()) for name, found in near.items()},
            duplicates=int(any_equal.sum()),
            near_duplicates=int(((near["train"] | near["test"]) & ~any_equal).sum()),
            shared_patients=cohort if cohort and cohort == self.patients.get(outliers.name) else "",
        )


def write_audit(path: Path, overlaps: Sequence[Overlap]) -> None:
    """Write audit.csv, a row per pair of sets."""
    write_csv(path, [field.name for field in fields(Overlap)], map(astuple, overlaps))


def read_audit(path: Path) -> list[Overlap]:
    """The rows that `write_audit` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return [Overlap(**{name: _value(name, text) for name, text in row.items()}) for row in csv.DictReader(file)]


def audit_words(overlaps: Sequence[Overlap]) -> str:
    """What a reader of the AUROCs has to know, in sentences."""
    others = [overlap for overlap in overlaps if overlap.dataset != overlap.out_dataset]
    cohorts: dict[str, list[str]] = {}
    for overlap in others:
        if overlap.shared_patients:
            cohorts.setdefault(overlap.shared_patients, []).extend([overlap.dataset, overlap.out_dataset])
    lines = [
        f"{', '.join(dict.fromkeys(sets))} are of the same patients ({cohort}). {WITHOUT_NUMBERS}"
        for cohort, sets in cohorts.items()
    ]
    for overlap in others:
        if overlap.duplicates or overlap.near_duplicates:
            lines.append(
                f"Of the {overlap.n_out:,} test images of {overlap.out_dataset}, {overlap.duplicates:,} equal an image "
                f"of {overlap.dataset}, {overlap.near_duplicates:,} more nearly do (cosine {NEAR:g} or more)."
            )
    comparisons = [
        f"For comparison: of the {own.n_out:,} test images of {own.dataset}, {own.duplicates:,} "
        f"equal one of its own training images, {own.near_duplicates:,} more nearly do."
        for own in overlaps
        if own.dataset == own.out_dataset
    ]
    return "\n".join([*(lines or ["No set has an image, or known patients, in common with another."]), *comparisons])


def _value(name: str, text: str) -> Any:
    if name in ("dataset", "out_dataset", "shared_patients"):
        return text
    return int(text) if text else None
