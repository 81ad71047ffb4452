"""Error maps: where an image and its reconstruction differ, pixel by pixel, and the files that hold them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch

from advvae.data import Split
from advvae.errors import UserError
from advvae.figures import save_image
from advvae.files import disk_errors_told, replacing, write_csv
from advvae.models import AdversarialVAE
from advvae.models.evaluation import Device, evaluation

logger = logging.getLogger(__name__)

MAPS = ("difference", "smoothed")

ErrorMaps = Mapping[str, np.ndarray]  # each of MAPS -> (n, H, H) float32 in [0, 1]


def pixel_errors(images: torch.Tensor, reconstructions: torch.Tensor) -> dict[str, np.ndarray]:
    """The error maps of images (B, C, H, H) in [-1, 1], each (B, H, H) float32.

    Returns:
        `difference`: |x − x̂|, the mean over channels, as a share of the range of values.
        `smoothed`: the same after a Gaussian of a 16th of the side, mirrored at the border, which leaves of thin edges,
            where reconstructions always differ, less than of areas.
    """
    from scipy.ndimage import gaussian_filter1d

    difference = ((images - reconstructions).abs().mean(1) / 2).cpu().numpy()
    side = difference.shape[-1]
    gaussian = gaussian_filter1d(np.eye(side), side / 16, axis=0).astype(np.float32)
    return {"difference": difference, "smoothed": gaussian @ difference @ gaussian.T}


def maps_of(
    networks: AdversarialVAE, split: Split, *, batch_size: int, device: Device, num_workers: int = 0
) -> Iterator[dict[str, np.ndarray]]:
    """`pixel_errors` of all images at the posterior mean, in their order, batch by batch.

    Raises UserError where they are not finite.
    """
    for images in split.batches(batch_size, device, num_workers=num_workers):
        with evaluation(networks, device):  # left before each yield: its settings are everybody's
            reconstructions = networks.reconstruct(images)
        if not reconstructions.isfinite().all():
            raise UserError(
                f"error maps: some reconstructions of {split.name} {split.split} are not finite: train again, or "
                "leave out maps=true and masks"
            )
        yield pixel_errors(images, reconstructions)


def reconstructing(networks: AdversarialVAE, crop: int | None, *, asked: bool) -> AdversarialVAE | None:
    """The networks, if they reconstruct whole images; else None, and if maps were `asked` for the log says why.

    crop: side of the crops that they were trained on; None = whole images.
    """
    if networks.has_vae and crop is None:
        return networks
    if asked:
        reason = f"they were trained on crops of {crop} px" if networks.has_vae else "they are a discriminator alone"
        logger.info(f"no error maps: the networks reconstruct no whole images, since {reason}")
    return None


def coloured(maps: np.ndarray, largest: float) -> torch.Tensor:
    """(B, H, W) in [0, largest] as (B, 3, H, W) uint8, black to bright in colours whose lightness rises."""
    from matplotlib import colormaps

    colours = colormaps["inferno"](maps / max(largest, 1e-12), bytes=True)[..., :3]
    return torch.from_numpy(colours).permute(0, 3, 1, 2)


@contextmanager
def map_files(
    networks: AdversarialVAE,
    folder: Path,
    side: int,
    *,
    batch_size: int,
    device: Device,
    num_workers: int = 0,
) -> Iterator[Callable[[Split, Sequence[str]], None]]:
    """Write the error maps of all images that the function given is called with, and the names of their pictures.

    `difference.npy` and `smoothed.npy` hold them, (n, side, side) float32, in this order. `<map>/<name>.png` are
    pictures of each, pixel by pixel, in one scale per map: `scale.json` says which errors are black and brightest,
    `pictures.csv` which row of the arrays each picture is.

    Raises:
        UserError: they cannot be written, as on a full disk, or are not finite.
    """
    names: list[str] = []
    with ExitStack() as stack:
        arrays = {kind: stack.enter_context(_growing_array(folder / f"{kind}.npy", side)) for kind in MAPS}

        def add(split: Split, own_names: Sequence[str]) -> None:
            names.extend(own_names)
            for maps in maps_of(networks, split, batch_size=batch_size, device=device, num_workers=num_workers):
                for kind, append in arrays.items():
                    append(maps[kind])

        yield add
    with disk_errors_told(str(folder)):
        scale = {kind: {"black": 0, "brightest": _draw_maps(folder, kind, names)} for kind in MAPS}
        (folder / "scale.json").write_text(json.dumps(scale, indent=2) + "\n")
    write_csv(folder / "pictures.csv", ["row", "picture"], ([row, f"{name}.png"] for row, name in enumerate(names)))


def _draw_maps(folder: Path, kind: str, names: Sequence[str]) -> float:
    """Draw each map of an array; returns the largest error, which is the brightest."""
    maps = np.load(folder / f"{kind}.npy", mmap_mode="r")
    largest = float(maps.max())
    for name, one in zip(names, maps, strict=True):
        save_image(coloured(one[None], largest)[0], folder / kind / f"{name}.png")
    return largest


@contextmanager
def _growing_array(path: Path, side: int) -> Iterator[Callable[[np.ndarray], None]]:
    """An .npy file of float32 to which batches (B, side, side) are appended; how many is known when it is closed.

    It is no memory map: writing to that ends the process where the disk is full.
    """
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        n = 0

        def append(batch: np.ndarray) -> None:
            nonlocal n
            n += len(batch)
            file.write(batch.astype("<f4", copy=False).tobytes())

        def write_header() -> None:
            header = {"descr": "<f4", "fortran_order": False, "shape": (n, side, side)}
            np.lib.format.write_array_header_1_0(file, header)

        write_header()
        yield append
        file.seek(0)
        write_header()  # as long as the first: NumPy leaves room for any n
