"""Any dataset that torchvision reads, described by a file of conf/dataset."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from advvae.data.download import fetch, first_broken, reason
from advvae.data.readers import open_image
from advvae.data.source import Items
from advvae.data.torchvision_files import (
    archives_of,
    broken_idx_file,
    builds_on_its_files,
    checked_files_of,
    unpack_by_hand,
)
from advvae.errors import UserError

if TYPE_CHECKING:
    from PIL import Image


class TorchvisionSource:
    """One class of torchvision.datasets.

    dataset: the name of the class.
    arguments: for each official split, what the class is called with to get it.
    files: for each official split, patterns of the files that it is read from, under `folder`. When one of them matches
        nothing, the split is downloaded.
    folder: the one given to the class, under data_dir.
    labels, classes, paths: attributes of the class's object that hold them. classes null: the labels are numbers and
        nothing else; paths null: the images are not in files of their own.
    """

    def __init__(
        self,
        dataset: str,
        arguments: Mapping[str, Mapping[str, Any]],
        files: Mapping[str, Sequence[str]],
        folder: str = ".",
        labels: str = "targets",
        classes: str | None = "classes",
        paths: str | None = None,
    ) -> None:
        self.dataset = dataset
        self.arguments = {split: dict(values) for split, values in arguments.items()}
        self.patterns = {split: list(patterns) for split, patterns in files.items()}
        self.folder = folder
        self.labels = labels
        self.classes = classes
        self.paths = paths

    @property
    def splits(self) -> Sequence[str]:
        return list(self.arguments)

    def is_present(self, split: str, data_dir: Path) -> bool:
        """Whether there is something for each of the split's patterns."""
        return all(any((data_dir / self.folder).glob(pattern)) for pattern in self.patterns[split])

    def files(self, split: str, data_dir: Path) -> list[Path]:
        root = data_dir / self.folder
        return sorted(path for pattern in self.patterns[split] for path in root.glob(pattern))

    def read(self, split: str, data_dir: Path) -> Items:
        dataset = self.open(split, data_dir)
        if dataset is None:
            self.download(split, data_dir)
            dataset = self.open(split, data_dir)
        if dataset is None:
            raise UserError(f"{self.dataset}: {data_dir / self.folder} lacks files of its {split} split")
        labels = np.asarray(getattr(dataset, self.labels), dtype=np.int64)
        paths = self.image_paths(dataset, self.files(split, data_dir)) if self.paths else None
        return Items(FirstOfPairs(dataset), labels, self.class_names(dataset, labels), paths)

    def open(self, split: str, data_dir: Path) -> Any:
        """The class's object, or None when files are missing. Raises UserError for broken ones."""
        root = data_dir / self.folder
        if not self.is_present(split, data_dir):
            return None
        kind = self.kind()
        try:
            return kind(str(root), **self.arguments[split], **loader_of(kind))
        except Exception as error:  # unpickling, parsing and checksums fail in many ways
            files = self.files(split, data_dir)
            broken = first_broken(root, [*checked_files_of(kind), *archives_of(kind, self.arguments[split])])
            broken = broken or broken_idx_file(files)
            named = str(broken) if broken else ", ".join(map(str, files))
            remedy = "remove it, and it is downloaded again"
            raise UserError(f"{self.dataset}: {named} is broken ({reason(error)}): {remedy}") from error

    def download(self, split: str, data_dir: Path) -> None:
        kind = self.kind()

        def into(folder: Path) -> None:
            unpack_by_hand(kind, folder)
            downloads = {"download": True} if "download" in inspect.signature(kind).parameters else {}
            kind(str(folder), **self.arguments[split], **downloads)

        fetch(
            self.dataset,
            data_dir / self.folder,
            archives_of(kind, self.arguments[split]),
            present=lambda: self.open(split, data_dir) is not None,
            kept=self.patterns[split] if builds_on_its_files(kind) else (),
            download=into,
        )

    def kind(self) -> type:
        import torchvision.datasets

        if self.dataset not in torchvision.datasets.__all__:
            raise UserError(f"dataset.dataset={self.dataset}: torchvision.datasets has no class of this name")
        return getattr(torchvision.datasets, self.dataset)

    def image_paths(self, dataset: Any, files: Sequence[Path]) -> list[str]:
        """The file of each image. Some classes list (path, label), and CelebA the bare names in its folder."""
        listed = [path[0] if isinstance(path, tuple) else path for path in getattr(dataset, self.paths or "")]
        folder = next((path for path in files if path.is_dir()), Path())
        return [str(folder / path if Path(path).name == str(path) else path) for path in listed]

    def class_names(self, dataset: Any, labels: np.ndarray) -> list[str]:
        if self.classes is None:
            return [str(number) for number in range(labels.max() + 1)]
        names = getattr(dataset, self.classes)
        if isinstance(names, dict):
            names = sorted(names, key=names.__getitem__)
        joined = [name if isinstance(name, str) else ", ".join(name) for name in names]  # ImageNet's are synonyms
        return [re.sub("^/[a-z]/", "", name) for name in joined if name]  # Places365: /a/airfield; CelebA's last: ""


def loader_of(kind: type) -> dict[str, Any]:
    """Where a class lets others open its files, images keep their own channels and bits, and are decoded later."""
    from torchvision.datasets import DatasetFolder

    takes_loader = issubclass(kind, DatasetFolder) or "loader" in inspect.signature(kind).parameters
    return {"loader": open_image} if takes_loader else {}


class FirstOfPairs(Sequence["Image.Image"]):
    """The images of a torchvision dataset, without their labels."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[index][0]
