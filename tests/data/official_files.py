"""Small datasets in the official on-disk formats.

Each `write_*` function writes one under `data_dir`, in the place where advvae looks for it, and returns what was
written. Only tables of checksums are patched in the libraries, so their own parsing reads the files. Images are random
but for their size, from a fixed seed; labels count through the classes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image

COUNTS = {"train": 20, "val": 6, "test": 10}


def random_images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=shape, dtype=np.uint8)


def md5(content: bytes | Path) -> str:
    return hashlib.md5(content.read_bytes() if isinstance(content, Path) else content).hexdigest()


def jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG")
    return file.getvalue()


def write_file(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def tar(members: Mapping[str, bytes], mode: Any = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def idx(array: np.ndarray) -> bytes:
    """The IDX format of MNIST: two zeros, type (8 = uint8), rank, big-endian sizes, values."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">i4").tobytes() + array.tobytes()


def mnist_files(n_train: int = COUNTS["train"], n_test: int = COUNTS["test"], side: int = 28) -> dict[str, bytes]:
    return {
        "train-images-idx3-ubyte": idx(random_images(n_train, side, side)),
        "train-labels-idx1-ubyte": idx((np.arange(n_train) % 10).astype(np.uint8)),
        "t10k-images-idx3-ubyte": idx(random_images(n_test, side, side, seed=1)),
        "t10k-labels-idx1-ubyte": idx((np.arange(n_test) % 10).astype(np.uint8)),
    }


def write_mnist(data_dir: Path, dataset: str = "MNIST", **sizes: int) -> Path:
    """MNIST, FashionMNIST or KMNIST, unpacked. sizes: n_train, n_test, side."""
    folder = data_dir / dataset / "raw"
    for name, content in mnist_files(**sizes).items():
        write_file(folder / name, content)
    return folder


def write_mnist_archives(folder: Path, monkeypatch: pytest.MonkeyPatch, url: str | None = None) -> None:
    """MNIST's four archives, as its mirrors offer them, and MNIST's table to match; `url`: the only mirror."""
    from torchvision.datasets import MNIST

    archives = {f"{name}.gz": gzip.compress(content) for name, content in mnist_files().items()}
    for name, content in archives.items():
        write_file(folder / name, content)
    monkeypatch.setattr(MNIST, "resources", [(name, md5(content)) for name, content in archives.items()])
    if url is not None:
        monkeypatch.setattr(MNIST, "mirrors", [url])


def write_cifar(data_dir: Path, monkeypatch: pytest.MonkeyPatch, classes: int = 10) -> Path:
    """CIFAR-10 (20 images per batch, 100 in all) or CIFAR-100 (classes=100)."""
    from torchvision import datasets

    if classes == 10:
        cls, key, train, test = datasets.CIFAR10, "labels", [f"data_batch_{i}" for i in range(1, 6)], ["test_batch"]
    else:
        cls, key, train, test = datasets.CIFAR100, "fine_labels", ["train"], ["test"]
    folder = data_dir / cls.base_folder

    def batch(name: str, n: int, seed: int) -> list[str]:
        entry = {"data": random_images(n, 3072, seed=seed), key: [i % classes for i in range(n)]}
        return [name, md5(write_file(folder / name, pickle.dumps(entry)))]

    names = {cls.meta["key"]: [f"class {i}" for i in range(classes)]}
    meta = write_file(folder / cls.meta["filename"], pickle.dumps(names))
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": md5(meta)})
    monkeypatch.setattr(cls, "train_list", [batch(name, 20, seed) for seed, name in enumerate(train)])
    monkeypatch.setattr(cls, "test_list", [batch(name, 10, 9) for name in test])
    return folder


def write_svhn(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """SVHN, whose files call the digit 0 class 10. Returns the images of each split, N×H×W×3."""
    import scipy.io
    from torchvision.datasets import SVHN

    images, table = {}, dict(SVHN.split_list)
    for seed, split in enumerate(("train", "test")):
        n = COUNTS[split]
        images[split] = random_images(n, 32, 32, 3, seed=seed)
        url, name, _ = table[split]
        file = io.BytesIO()
        scipy.io.savemat(file, {"X": images[split].transpose(1, 2, 3, 0), "y": (np.arange(n) % 10 + 1)[:, None]})
        table[split] = [url, name, md5(write_file(data_dir / "SVHN" / name, file.getvalue()))]
    monkeypatch.setattr(SVHN, "split_list", table)
    return images


def dtd_files() -> dict[str, bytes]:
    """DTD's archive: two classes, and in its first partition 4, 2, 4 images."""
    files: dict[str, bytes] = {}
    for split, numbers in {"train": (0, 1), "val": (2,), "test": (3, 4)}.items():
        lines = [f"{name}/{name}_{number:04d}.jpg" for name in ("banded", "woven") for number in numbers]
        files[f"dtd/labels/{split}1.txt"] = "".join(f"{line}\n" for line in lines).encode()
        files |= {f"dtd/images/{line}": jpeg(random_images(30, 40, 3, seed=i)) for i, line in enumerate(lines)}
    return files


def write_dtd(data_dir: Path) -> None:
    for name, content in dtd_files().items():
        write_file(data_dir / "dtd" / name, content)


def write_places365(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Places365's small images, unpacked: two classes, 4 + 2 images; labels in the order of its category file."""
    from torchvision.datasets import Places365

    root = data_dir / "Places365"
    train = [f"/{place[0]}/{place}/0000000{i}.jpg {k}" for k, place in enumerate(("airfield", "zoo")) for i in (1, 2)]
    val = ["Places365_val_00000001.jpg 1", "Places365_val_00000002.jpg 0"]
    lists = {"train-standard": ("places365_train_standard.txt", train), "val": ("places365_val.txt", val)}
    categories = write_file(root / "categories_places365.txt", "/a/airfield 0\n/z/zoo 1\n")
    table = {}
    for split, (name, lines) in lists.items():
        table[split] = (name, md5(write_file(root / name, "\n".join(lines) + "\n")))
        folder = root / {"train-standard": "data_256_standard", "val": "val_256"}[split]
        for seed, line in enumerate(lines):
            write_file(folder / line.split()[0].lstrip("/"), jpeg(random_images(20, 20, 3, seed=seed)))
    monkeypatch.setattr(Places365, "_CATEGORIES_META", (categories.name, md5(categories)))
    monkeypatch.setattr(Places365, "_FILE_LIST_META", table)


def write_places365_archives(folder: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Places365's tables, small training and small val images, as `url` offers them, and its table to match."""
    from torchvision.datasets import Places365

    write_places365(folder / "unpacked", monkeypatch)
    root = folder / "unpacked" / "Places365"

    def archive(name: str, pattern: str, moved: tuple[str, str] = ("", "")) -> tuple[str, str]:
        files = {str(path.relative_to(root)).replace(*moved): path.read_bytes() for path in sorted(root.glob(pattern))}
        return name, md5(write_file(folder / name, tar(files)))

    train = archive("train_256_places365standard.tar", "data_256_standard/*/*/*", ("data_256_standard", "data_256"))
    images = {("train-standard", True): train, ("val", True): archive("val_256.tar", "val_256/*")}
    monkeypatch.setattr(Places365, "_IMAGES_META", images)
    monkeypatch.setattr(Places365, "_DEVKIT_META", {"standard": archive("filelist_places365-standard.tar", "*.txt")})
    monkeypatch.setattr(Places365, "_BASE_URL", url)


def write_imagenet_archives(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ImageNet's three archives, as they are downloaded by hand: two classes, 3 + 3 training and 2 val images."""
    import scipy.io
    from torchvision.datasets import imagenet

    fields = ["ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height", "n"]
    synsets = np.zeros(3, dtype=[(field, object) for field in fields])
    synsets[0] = (1, "n01440764", "tench, Tinca tinca", "a fish", 0, [], 0, 3)
    synsets[1] = (2, "n01443537", "goldfish", "a fish", 0, [], 0, 3)
    synsets[2] = (3, "n00000001", "fish", "an inner node", 2, [1, 2], 1, 0)
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": synsets})
    data = "ILSVRC2012_devkit_t12/data"
    devkit = {
        f"{data}/meta.mat": meta.getvalue(),
        f"{data}/ILSVRC2012_validation_ground_truth.txt": b"2\n1\n",
    }
    train = {
        f"{wnid}.tar": tar({f"{wnid}_{i}.JPEG": jpeg(random_images(24, 24, 3, seed=i)) for i in range(3)})
        for wnid in ("n01440764", "n01443537")
    }
    val = {f"ILSVRC2012_val_0000000{i}.JPEG": jpeg(random_images(24, 24, 3, seed=i)) for i in (1, 2)}
    archives = {"devkit": tar(devkit, "w:gz"), "train": tar(train), "val": tar(val)}
    table = {}
    for part, content in archives.items():
        name = imagenet.ARCHIVE_META[part][0]
        table[part] = (name, md5(write_file(data_dir / "ImageNet" / name, content)))
    monkeypatch.setattr(imagenet, "ARCHIVE_META", table)
    return data_dir / "ImageNet"


def write_celeba(data_dir: Path, monkeypatch: pytest.MonkeyPatch, *, unpacked: bool = True) -> Path:
    """CelebA with 4 + 2 + 2 faces and 3 attributes; its images unpacked or as their .zip."""
    from torchvision.datasets import CelebA

    folder = data_dir / CelebA.base_folder
    names = [f"{i:06d}.jpg" for i in range(1, 9)]
    images = {name: jpeg(random_images(218, 178, 3, seed=i)) for i, name in enumerate(names)}

    def table(header: str, rows: list[str], counted: bool = True) -> str:
        lines = [f"{name} {row}" for name, row in zip(names, rows, strict=True)]
        return "".join(f"{line}\n" for line in ([str(len(names)), header] if counted else []) + lines)

    attributes = [" ".join(" 1" if i & 1 << k else "-1" for k in range(3)) for i in range(8)]
    texts = {
        "list_attr_celeba.txt": table("Bald Smiling Young ", attributes),
        "identity_CelebA.txt": table("", [str(i) for i in range(8)], counted=False),
        "list_bbox_celeba.txt": table("image_id x_1 y_1 width height", ["1  2  3  4"] * 8),
        "list_landmarks_align_celeba.txt": table("lefteye_x lefteye_y", ["69  109"] * 8),
        "list_eval_partition.txt": table("", [str(part) for part in (0, 0, 0, 0, 1, 1, 2, 2)], counted=False),
    }
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in images.items():
            file.writestr(f"img_align_celeba/{name}", content)
            if unpacked:
                write_file(folder / "img_align_celeba" / name, content)
    sums = {name: md5(write_file(folder / name, text)) for name, text in texts.items()}
    sums["img_align_celeba.zip"] = md5(archive.getvalue())
    if not unpacked:
        write_file(folder / "img_align_celeba.zip", archive.getvalue())
    monkeypatch.setattr(CelebA, "file_list", [(key, sums[name], name) for key, _, name in CelebA.file_list])
    return folder


def tiny_imagenet_files() -> dict[str, bytes]:
    """TinyImageNet's archive: two classes, 3 + 3 training, 2 val and 1 unlabelled test image."""
    root = "tiny-imagenet-200"
    wnids = ("n02124075", "n01443537")  # the official list is not in order either
    files = {
        f"{root}/wnids.txt": "\n".join(wnids).encode(),
        f"{root}/words.txt": b"n01443537\tgoldfish, Carassius auratus\nn02124075\tEgyptian cat\nn00001740\tentity",
        f"{root}/val/val_annotations.txt": b"val_0.JPEG\tn02124075\t0\t32\t44\t62\nval_1.JPEG\tn01443537\t0\t0\t9\t9\n",
        f"{root}/test/images/test_0.JPEG": jpeg(random_images(64, 64, 3)),
    }
    for seed, wnid in enumerate(wnids):
        files[f"{root}/train/{wnid}/{wnid}_boxes.txt"] = b""
        files[f"{root}/val/images/val_{seed}.JPEG"] = jpeg(random_images(64, 64, seed=seed))
        for i in range(3):
            files[f"{root}/train/{wnid}/images/{wnid}_{i}.JPEG"] = jpeg(random_images(64, 64, 3, seed=i))
    return files


def write_tiny_imagenet(data_dir: Path) -> Path:
    for name, content in tiny_imagenet_files().items():
        write_file(data_dir / name, content)
    return data_dir / "tiny-imagenet-200"


def tiny_imagenet_archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in tiny_imagenet_files().items():
            archive.writestr(name, content)
    return file.getvalue()


def medmnist_file(flag: str, size: int = 28, seed: int = 0) -> bytes:
    """A MedMNIST set as its .npz, with its own number of channels and of labels."""
    from medmnist import INFO

    info = INFO[flag]
    colours = (3,) if info["n_channels"] == 3 else ()
    multi = info["task"].startswith("multi-label")
    arrays = {}
    for number, (split, n) in enumerate(COUNTS.items()):
        numbers = np.arange(n)[:, None] % len(info["label"])
        arrays[f"{split}_images"] = random_images(n, size, size, *colours, seed=10 * seed + number)
        # With several labels per image, image i has label i, and every fourth none.
        labels = np.eye(n, len(info["label"]))[np.arange(n)] * (np.arange(n)[:, None] % 4 > 0) if multi else numbers
        arrays[f"{split}_labels"] = labels.astype(np.uint8)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def write_medmnist(data_dir: Path, flag: str = "octmnist", size: int = 28, seed: int = 0) -> Path:
    name = f"{flag}.npz" if size == 28 else f"{flag}_{size}.npz"
    return write_file(data_dir / "MedMNIST" / name, medmnist_file(flag, size, seed))


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """A web server for the files of a folder, on this machine; gives its address, with a slash at the end."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as web:
        thread = Thread(target=web.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{web.server_address[1]}/"
        finally:
            web.shutdown()
            thread.join()
