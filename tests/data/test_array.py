from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advvae.data import Items, array, infer_channels, load_split
from advvae.data.array import Array
from advvae.errors import UserError
from tests.data.configured import stacked
from tests.data.official_files import random_images

IMAGES = random_images(20, 9, 9)


def write(path: Path, **arrays: np.ndarray) -> Array:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return Array(str(path))


def read_npy(path: Path, images: np.ndarray) -> Items:
    np.save(path, images)
    return Array(str(path)).read("train", path.parent)


def test_npy_has_no_labels_and_no_official_splits(tmp_path: Path) -> None:
    items = read_npy(tmp_path / "images.npy", IMAGES)
    assert np.array_equal(stacked(items), IMAGES)
    assert set(items.labels.tolist()) == {-1}
    source = Array(str(tmp_path / "images.npy"))
    lengths = [
        len(load_split(source, split, name="array", size=9, channels=1, data_dir=tmp_path))
        for split in ("train", "val", "test")
    ]
    assert lengths == [14, 2, 4]


def test_npz_with_splits_and_labels(tmp_path: Path) -> None:
    source = write(
        tmp_path / "a.npz", train_images=IMAGES, train_labels=np.zeros((20, 1), int), test_images=IMAGES[:2],
        test_labels=np.array([2, 0]),
    )  # fmt: skip
    assert list(source.splits) == ["train", "test"]
    assert source.read("train", tmp_path).labels.tolist() == [0] * 20
    assert source.read("train", tmp_path).classes == source.read("test", tmp_path).classes == ["0", "1", "2"]
    assert source.read("test", tmp_path).labels.tolist() == [2, 0]


def test_npz_with_images_alone(tmp_path: Path) -> None:
    source = write(tmp_path / "a.npz", images=IMAGES, labels=np.arange(20) % 2)
    assert list(source.splits) == ["train"]
    assert source.read("train", tmp_path).classes == ["0", "1"]


def test_several_labels_per_image(tmp_path: Path) -> None:
    items = write(tmp_path / "a.npz", images=IMAGES[:2], labels=np.array([[0, 1, 0], [0, 0, 0]])).read(
        "train", tmp_path
    )
    assert items.labels.shape == (2, 3)
    assert items.classes == ["0", "1", "2"]


def test_channels(tmp_path: Path) -> None:
    for shape, channels in {(2, 9, 9): 1, (2, 9, 9, 1): 1, (2, 9, 9, 3): 3, (2, 9, 9, 4): 3}.items():
        np.save(tmp_path / "a.npy", random_images(*shape))
        assert infer_channels(Array(str(tmp_path / "a.npy")), tmp_path) == channels


@pytest.mark.parametrize("shape", [(9, 9, 3), (9, 9, 4), (2, 9, 3)])
def test_one_colour_image_is_no_list_of_grey_ones(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"images\[None\] makes N×H×W×C of it"):
        read_npy(tmp_path / "a.npy", random_images(*shape))
    assert len(read_npy(tmp_path / "a.npy", random_images(*shape)[None]).images) == 1


def test_images_stay_on_disk_until_they_are_asked_for(tmp_path: Path) -> None:
    images = read_npy(tmp_path / "a.npy", (IMAGES / 255).astype(np.float32)).images
    assert all(isinstance(image, np.memmap) for image in images)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            IMAGES / 1.0,
            r"20 of its 20 images cannot be used without a window, such as image 0 \(values from 1\.0 to 2\d\d\.0",
        ),
        (
            np.array([0.5, np.nan]).repeat(81).reshape(2, 9, 9),
            r"image 1 is unreadable \(some of its values are no numbers",
        ),
        (IMAGES.astype(np.int64), "of type int64"),
        (random_images(2, 5, 9, 9), r"shape \(2, 5, 9, 9\): N×H×W or N×H×W×C"),
        (random_images(9, 9), r"shape \(9, 9\)"),
        (np.zeros((2, 0, 9)), r"shape \(2, 0, 9\)"),
        (np.zeros((2, 9, 0, 3)), r"shape \(2, 9, 0, 3\)"),
        (IMAGES[:0], "holds no images"),
    ],
)
def test_images_that_are_none(images: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", images)
    with pytest.raises(UserError, match=message):
        load_split(Array(str(tmp_path / "a.npy")), "test", name="array", size=9, channels=1, data_dir=tmp_path)


@pytest.mark.parametrize("kind", ["<u2", ">u2"])
def test_16_bits_in_any_byte_order(kind: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", (IMAGES.astype(np.uint16) * 256).astype(kind))
    split = load_split(Array(str(tmp_path / "a.npy")), "test", name="array", size=9, channels=1, data_dir=tmp_path)
    assert np.array_equal(split.images.numpy()[:, 0], IMAGES.astype(np.uint16) * 256)


@pytest.mark.parametrize(
    "labels",
    [np.array([0.5, 1]), np.array([-2, 0]), np.array([[2, 0], [0, 1]]), np.array(["a", "b"]), np.array([0, 10**9])],
)
def test_labels_that_are_none(labels: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.npz: labels must be"):
        write(tmp_path / "a.npz", images=IMAGES[:2], labels=labels).read("train", tmp_path)


@pytest.mark.parametrize("names", [np.arange(20) // 4, np.array([f"patient {i // 4}" for i in range(20)])[:, None]])
def test_groups_follow_their_images(names: np.ndarray, tmp_path: Path) -> None:
    source = write(tmp_path / "a.npz", images=IMAGES, groups=names)
    for split in ("val", "test"):
        loaded = load_split(source, split, name="array", size=9, channels=1, data_dir=tmp_path)
        assert loaded.groups is not None
        assert loaded.groups.tolist() == names.ravel()[loaded.rows.numpy()].tolist()


def test_groups_of_a_split(tmp_path: Path) -> None:
    source = write(tmp_path / "a.npz", train_images=IMAGES, test_images=IMAGES[:2], test_groups=np.array([5, 5]))
    groups = source.read("test", tmp_path).groups
    assert groups is not None
    assert groups.tolist() == [5, 5]
    assert source.read("train", tmp_path).groups is None


@pytest.mark.parametrize("groups", [np.array([0.5, 1]), np.array([[0, 1], [0, 1]]), np.array([b"a", b"b"])])
def test_groups_that_are_none(groups: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.npz: groups must be .* whole numbers or strings, one per image"):
        write(tmp_path / "a.npz", images=IMAGES[:2], groups=groups).read("train", tmp_path)


def test_as_many_groups_as_images(tmp_path: Path) -> None:
    source = write(tmp_path / "a.npz", images=IMAGES[:3], groups=np.arange(2))
    with pytest.raises(UserError, match=r"a\.npz: groups are 2 for 3 images: one for each image is needed$"):
        load_split(source, "test", name="array", size=9, channels=1, data_dir=tmp_path)


def test_as_many_labels_as_images(tmp_path: Path) -> None:
    source = write(tmp_path / "a.npz", images=IMAGES[:3], labels=np.arange(2))
    with pytest.raises(UserError, match=r"a\.npz: labels are 2 for 3 images: one for each image is needed$"):
        load_split(source, "test", name="array", size=9, channels=1, data_dir=tmp_path)
    source = write(tmp_path / "b.npz", test_images=IMAGES[:3], test_labels=np.arange(4))
    with pytest.raises(UserError, match=r"b\.npz: test_labels are 4 for 3 images"):
        source.read("test", tmp_path)


def test_images_with_and_without_a_split_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "a.npz", images=IMAGES, train_images=IMAGES)
    with pytest.raises(UserError, match=r"a\.npz: has images and train_images: rename or remove one of them"):
        load_split(source, "train", name="array", size=9, channels=1, data_dir=tmp_path)


def test_labels_of_no_images_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "a.npz", train_images=IMAGES, labels=np.arange(20))
    with pytest.raises(UserError, match=r"a\.npz: has labels, but no images by that name"):
        source.read("train", tmp_path)
    source = write(tmp_path / "b.npz", train_images=IMAGES, test_groups=np.arange(20))
    with pytest.raises(UserError, match=r"b\.npz: has test_groups, but no images by that name"):
        source.read("train", tmp_path)
    source = write(tmp_path / "c.npz", train_images=IMAGES, val_masks=IMAGES)
    with pytest.raises(UserError, match=r"c\.npz: has val_masks, but no images by that name"):
        source.read("train", tmp_path)


def test_other_keys_are_listed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has the keys x, y, but needs <split>_images .* or images"):
        _ = write(tmp_path / "a.npz", x=IMAGES, y=IMAGES).splits


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("key", ["images", "labels", "groups", "masks", None])
def test_pickled_objects_are_refused(key: str | None, tmp_path: Path) -> None:
    objects = np.array([Payload(tmp_path / "made")], dtype=object)
    path = tmp_path / ("a.npz" if key else "a.npy")
    if key:
        write(path, **({"images": IMAGES} | {key: objects}))
    else:
        np.save(path, objects)
    with pytest.raises(UserError, match=f"{path} .*holds Python objects, which could run code when loaded") as error:
        Array(str(path)).read("train", tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "made").exists()
    np.load(path, allow_pickle=True)[key or 0]  # what would have happened
    assert (tmp_path / "made").exists()


def test_a_pickle_by_the_name_of_an_array_is_refused(tmp_path: Path) -> None:
    for name in ("a.npy", "a.npz"):
        (tmp_path / name).write_bytes(pickle.dumps(Payload(tmp_path / "made")))
        with pytest.raises(UserError, match=r"a\.np. is no NumPy file, or holds Python objects"):
            Array(str(tmp_path / name)).read("train", tmp_path)
    assert not (tmp_path / "made").exists()


def npy(header: str) -> bytes:
    """An .npy file with this header and little else."""
    content = f"{header:<117}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(content).to_bytes(2, "little") + content + bytes(100)


@pytest.mark.parametrize(
    "shape", ["(10**12, 9, 9)", f"({10**12}, 9, 9)", f"({10**30}, 9, 9)", "(-3, 9, 9)", "(2, 9, True)"]
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_headers_that_claim_what_is_not_there(shape: str, suffix: str, tmp_path: Path) -> None:
    path, content = tmp_path / f"a.{suffix}", npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}")
    if suffix == "npy":
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", content)
    with pytest.raises(UserError, match=rf"{path} is broken or no \.npy or \.npz file") as error:
        Array(str(path)).read("train", tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["images", "labels", "groups", "masks"])
def test_what_is_no_array_in_an_archive_is_named(key: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write(path, **({"images": IMAGES} if key != "images" else {}))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(key, "no array")
    with pytest.raises(UserError, match=rf"{path} is broken or no \.npy or \.npz file \({key} is no array\)"):
        Array(str(path)).read("train", tmp_path)


def test_what_no_memory_can_hold_is_not_decompressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    images, labels = np.zeros((1000, 9, 9), np.uint8), np.zeros(1000, int)
    np.savez_compressed(path, train_images=images, train_labels=labels, test_images=IMAGES[:3])
    monkeypatch.setattr(array, "memory_of_machine", lambda: 81_000)  # 128 bytes of header are not among them
    told = r"a\.npz: train_images unpacks to 0 GB, and this machine has 0 GB of memory: save its images as \.npy"
    with pytest.raises(UserError, match=told):
        Array(str(path)).read("train", tmp_path)
    assert len(Array(str(path)).read("test", tmp_path).images) == 3
    monkeypatch.setattr(array, "memory_of_machine", lambda: 81_128)
    assert len(Array(str(path)).read("train", tmp_path).images) == 1000


@pytest.mark.parametrize("content", [b"", b"no array", b"PK\x03\x04 no zip either"])
def test_broken_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=str(path)) as error:
        Array(str(path)).read("train", tmp_path)
    assert "\n" not in str(error.value)


def test_truncated_npy_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, IMAGES)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=f"{path} is broken"):
        Array(str(path)).read("train", tmp_path)


def test_path_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.path .* is not set"):
        _ = Array().splits
    with pytest.raises(UserError, match=r"dataset\.path .*/no\.npy: there is no such file"):
        _ = Array(str(tmp_path / "no.npy")).splits


def test_masks_go_with_their_images(tmp_path: Path) -> None:
    masks = np.zeros((3, 9, 9), np.uint8)
    masks[1, 2, 5] = 7  # anything but 0
    np.savez(tmp_path / "a.npz", train_images=IMAGES, test_images=IMAGES[:3], test_masks=masks)
    source = Array(str(tmp_path / "a.npz"))
    split = load_split(source, "test", name="array", size=9, channels=1, data_dir=tmp_path)
    assert split.masks is not None
    assert split.masks.nonzero().tolist() == [[1, 2, 5]]
    assert load_split(source, "train", name="array", size=9, channels=1, data_dir=tmp_path).masks is None


def test_masks_of_another_shape_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=IMAGES, masks=np.zeros((len(IMAGES), 8, 9), np.uint8))
    with pytest.raises(
        UserError, match=rf"masks have the shape \({len(IMAGES)}, 8, 9\): \({len(IMAGES)}, 9, 9\) is needed"
    ):
        load_split(Array(str(tmp_path / "a.npz")), "test", name="array", size=9, channels=1, data_dir=tmp_path)


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32"])
def test_a_window_makes_any_numbers_pixels(dtype: str, tmp_path: Path) -> None:
    """(v + 1000) / 2000 with 16 bits: -1000, 0 and 1000 are 0, 32768 and 65535; what lies outside is clipped."""
    values = np.array([-2000, -1000, 0, 1000, 1500, 0, 0, 0, 0]).astype(dtype)
    np.save(tmp_path / "a.npy", np.tile(values, (20, 9, 1)))
    source = Array(str(tmp_path / "a.npy"))
    split = load_split(source, "train", name="array", size=9, channels=1, window=(-1000.0, 1000.0), data_dir=tmp_path)
    assert split.images[0, 0, 0, :5].tolist() == [0, 0, 32768, 65535, 65535]


def test_a_patient_in_two_splits_is_refused(tmp_path: Path) -> None:
    ours, theirs = np.arange(20) // 2, np.array([8, 9, 10])  # 0 to 9; 8 and 9 are in both
    file = tmp_path / "a.npz"
    np.savez(file, train_images=IMAGES[:20], test_images=IMAGES[:3], train_groups=ours, test_groups=theirs)
    told = "2 groups are in train_groups and in test_groups: no patient may be in two splits"
    with pytest.raises(UserError, match=told):
        load_split(Array(str(file)), "test", name="array", size=9, channels=1, data_dir=tmp_path)
