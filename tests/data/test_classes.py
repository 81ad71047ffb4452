from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from advvae.data.classes import chosen_rows, label_names
from advvae.errors import UserError

LABELS = np.array([0, 1, 2, 1, -1])
CLASSES = ["cat", "Dog", "7"]


def chosen(
    keep: Sequence[str | int] | None = None, drop: Sequence[str | int] | None = None, classes: Sequence[str] = CLASSES
) -> list[int]:
    rows = chosen_rows(LABELS, classes, name="pets", keep_classes=keep, drop_classes=drop)
    return np.flatnonzero(rows).tolist()


def test_keep_and_drop() -> None:
    assert chosen() == [0, 1, 2, 3, 4]
    assert chosen(keep=["cat"]) == [0]
    assert chosen(keep=["dog", 0]) == [0, 1, 3]
    assert chosen(drop=["DOG"]) == [0, 2, 4]
    assert chosen(keep=["cat", "dog"], drop=[1]) == [0]
    assert chosen(keep=[]) == []


def test_a_name_goes_before_a_number() -> None:
    assert chosen(keep=[7]) == chosen(keep=[2]) == [2]


def test_capitals_count_where_nothing_else_differs() -> None:
    assert chosen(keep=["A"], classes=["a", "A", "b"]) == [1, 3]
    assert chosen(keep=["a"], classes=["a", "A", "b"]) == [0]
    assert chosen(keep=["B"], classes=["a", "A", "b"]) == [2]


@pytest.mark.parametrize("classes", [["crane", "crane", "b"], ["crane", "Crane", "b"], ["a, crane", "crane, c", "b"]])
def test_a_name_of_several_classes_is_refused(classes: list[str]) -> None:
    with pytest.raises(UserError, match="'CRANE' may be each of the classes 0, 1: give the number"):
        chosen(keep=["CRANE"], classes=classes)


def test_synonyms() -> None:
    names = ["goldfish, Carassius auratus", "1 - one", "left-handed"]
    assert chosen(keep=["goldfish"], classes=names) == chosen(keep=["carassius auratus"], classes=names) == [0]
    assert chosen(keep=["One"], classes=names) == chosen(keep=[1], classes=names) == [1, 3]
    assert chosen(keep=["goldfish, carassius auratus"], classes=names) == [0]
    with pytest.raises(UserError, match="'left' is not a class"):
        chosen(keep=["left"], classes=names)


@pytest.mark.parametrize("unknown", ["bird", 3, -1, 1.5])
def test_unknown_class_lists_the_classes(unknown: str) -> None:
    with pytest.raises(UserError, match=r"keep_classes of pets: .* is not a class; .* 0 \(cat\), 1 \(Dog\), 2 \(7\)$"):
        chosen(keep=[unknown])


def test_unlabelled_set_has_no_classes() -> None:
    with pytest.raises(UserError, match="drop_classes of pets: the set has no classes"):
        chosen(drop=[0], classes=[])


def test_a_single_class_is_no_list() -> None:
    with pytest.raises(UserError, match=r"write \[cat\]"):
        chosen(keep="cat")


def test_many_classes_are_not_all_listed() -> None:
    with pytest.raises(UserError, match=r"49 \(c49\) and 950 more$"):
        chosen(keep=["x"], classes=[f"c{i}" for i in range(1000)])


def test_several_labels_per_image() -> None:
    labels = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])

    def rows(keep: list[str | int] | None = None, drop: list[str | int] | None = None) -> list[int]:
        chosen = chosen_rows(labels, ["mass", "edema"], name="chest", keep_classes=keep, drop_classes=drop)
        return np.flatnonzero(chosen).tolist()

    assert rows(keep=["mass"]) == [0, 2]
    assert rows(keep=[0, 1]) == [0, 1, 2]
    assert rows(keep=["normal"]) == [3]
    assert rows(drop=["edema"]) == [0, 3]
    assert rows(keep=["normal", "mass"], drop=["edema"]) == [0, 3]
    assert label_names(labels, ["mass", "edema"]) == ["mass", "edema", "mass;edema", "normal"]


def test_label_names() -> None:
    assert label_names(LABELS, CLASSES) == ["cat", "Dog", "7", "Dog", ""]
