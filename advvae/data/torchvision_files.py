"""The files behind torchvision's classes, read off the classes' own tables of addresses, names and checksums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from advvae.data.download import OfficialFile


def archives_of(kind: type, arguments: Mapping[str, Any]) -> Sequence[OfficialFile]:
    """What a split is published as, with paths under the class's root; nothing for classes not listed here."""
    from torchvision import datasets
    from torchvision.datasets.imagenet import ARCHIVE_META

    cls: Any = kind
    if issubclass(kind, datasets.MNIST):
        first, *others = cls.mirrors
        return [
            OfficialFile(first + file, f"{kind.__name__}/raw/{file}", md5, tuple(mirror + file for mirror in others))
            for file, md5 in cls.resources
        ]
    if issubclass(kind, datasets.CIFAR10):
        return [OfficialFile(cls.url, cls.filename, cls.tgz_md5)]
    if issubclass(kind, datasets.SVHN):
        return [OfficialFile(*cls.split_list[arguments["split"]])]
    if issubclass(kind, datasets.DTD):
        return [OfficialFile(cls._URL, f"dtd/{Path(cls._URL).name}", cls._MD5)]
    if issubclass(kind, datasets.Places365):
        return places365_archives(cls, **arguments)
    if issubclass(kind, datasets.CelebA):
        page = "https://drive.google.com/file/d"
        return [
            OfficialFile(f"{page}/{key}", f"{cls.base_folder}/{file}", md5, page=True)
            for key, md5, file in cls.file_list
        ]
    if issubclass(kind, datasets.ImageNet):
        page = "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php (with your own account)"
        archives = [ARCHIVE_META[part] for part in ("devkit", arguments["split"])]
        return [OfficialFile(page, file, md5, page=True) for file, md5 in archives]
    return []


def places365_archives(cls: Any, split: str, small: bool = False) -> Sequence[OfficialFile]:
    """Its tables and its images: a split that is asked for later finds the tables of an earlier one."""
    side, variant = "256" if small else "large", "challenge" if "challenge" in split else "standard"
    folder = f"data_{side}_{variant}" if split.startswith("train") else f"{split}_{side}"
    tables = cls._CATEGORIES_META[0], cls._FILE_LIST_META[split][0]
    archives = [(*cls._DEVKIT_META[variant], tables), (*cls._IMAGES_META[split, small], (folder,))]
    return [OfficialFile(urljoin(cls._BASE_URL, file), file, md5, holds=holds) for file, md5, holds in archives]


def checked_files_of(kind: type) -> Sequence[OfficialFile]:
    """Unpacked files that have a checksum of their own, with paths under the class's root."""
    from torchvision import datasets

    cls: Any = kind
    if issubclass(kind, datasets.CIFAR10):
        files = [*cls.train_list, *cls.test_list, (cls.meta["filename"], cls.meta["md5"])]
        return [OfficialFile(cls.url, f"{cls.base_folder}/{file}", md5) for file, md5 in files]
    if issubclass(kind, datasets.Places365):
        files = [cls._CATEGORIES_META, *cls._FILE_LIST_META.values()]
        return [OfficialFile(cls._BASE_URL, file, md5) for file, md5 in files]
    return []


def broken_idx_file(paths: Sequence[Path]) -> Path | None:
    """The first of MNIST's unpacked files, which have no checksum, that does not hold what its header says."""
    from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

    for path in paths:
        if path.name.endswith("-ubyte"):
            try:
                read_sn3_pascalvincent_tensor(str(path))
            except Exception:  # short, long, empty or of another kind: each fails in its own way
                return path
    return None


def builds_on_its_files(kind: type) -> bool:
    """Whether the class's download skips what is already unpacked."""
    from torchvision import datasets

    return issubclass(kind, datasets.ImageNet | datasets.Places365)


def unpack_by_hand(kind: type, folder: Path) -> None:
    """Unpack CelebA's images where a user has put the archive: torchvision wants gdown even then."""
    from torchvision.datasets import CelebA
    from torchvision.datasets.utils import check_integrity, extract_archive

    if not issubclass(kind, CelebA):
        return
    for _, md5, file in CelebA.file_list:
        archive = folder / CelebA.base_folder / file
        if archive.suffix == ".zip" and check_integrity(archive, md5):
            extract_archive(archive, archive.parent)
