"""What a run of `mode=outlier` says of the pixels of images with masks: metrics, a row per image, overlays."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advvae.data import Split
from advvae.models import AdversarialVAE
from advvae.models.evaluation import Device
from advvae.outlier.localisation import Localisation, Marked, localise
from advvae.outlier.maps import MAPS, ErrorMaps, map_files, maps_of
from advvae.outlier.overlay import overlays
from advvae.outlier.rendering import write_named

logger = logging.getLogger(__name__)

PIXELS = 2**26  # of the inliers, and of the outliers of a set, that are in memory with their error maps: 0.6 GB
CHUNK = 1024  # masks that are looked through at a time
UNKNOWN = 2  # in a mask
SHOWN = 8  # images found best, and found worst, that are drawn
SHOWN_MAP = "smoothed"


@dataclass(frozen=True, eq=False)
class Mapped:
    """Images, their masks (n, H, W) bool, True = anomalous, and their error maps."""

    split: Split
    masks: np.ndarray
    maps: ErrorMaps

    def marked(self, map_name: str) -> Marked:
        return Marked(self.maps[map_name], self.masks, self.split.groups)


def report_pixels(
    networks: AdversarialVAE,
    inliers: Split,
    outliers: Sequence[Split],
    folder: Path,
    *,
    seed: int,
    batch_size: int,
    device: Device,
    num_workers: int = 0,
) -> dict[str, dict[str, dict[str, float | str]]]:
    """Measure and draw how well error maps find what masks mark, of each outlier set that has masks.

    Inliers are normal but for what a mask of theirs marks. Outliers whose mask is not known are left out; of sides with
    more than PIXELS some images are drawn at random. Writes `pixels.csv`, a row per outlier that is used, and
    `overlays.png`, of several sets `overlays/<set>.png`.

    Returns:
        set -> error map -> `Localisation.metrics` and `counts`, and `n_left_out`, the outliers that are not used.
    """
    masked = [(split, used) for split in outliers if (used := _usable(split, seed)) is not None]
    if not masked:
        return {}
    make_maps = partial(maps_of, networks, batch_size=batch_size, device=device, num_workers=num_workers)
    normal = _mapped(_at_most(inliers, seed), make_maps)
    measured, rows = {}, []
    with_groups = any(used.groups is not None for _, used in masked)
    for split, used in masked:
        marked = _mapped(used, make_maps)
        found = {kind: localise(normal.marked(kind), marked.marked(kind), seed) for kind in MAPS}
        left_out = {"n_left_out": len(split) - len(used)}
        measured[split.name] = {kind: own.metrics | own.counts | left_out for kind, own in found.items()}
        rows += _rows(marked, found, with_groups)
        path = folder / ("overlays.png" if len(masked) == 1 else f"overlays/{split.name}.png")
        _draw(marked, found[SHOWN_MAP].dices, path)
    write_named(folder / "pixels.csv", rows)
    return measured


def report_maps(
    networks: AdversarialVAE,
    inliers: Split,
    outliers: Sequence[Split],
    folder: Path,
    *,
    batch_size: int,
    device: Device,
    num_workers: int = 0,
) -> None:
    """Write the error maps of all images, in the order of scores.csv, into `inliers/` and `outliers/<set>/`.

    Pictures have the index of their image in scores.csv.
    """
    for split, name in [(inliers, "inliers"), *((split, f"outliers/{split.name}") for split in outliers)]:
        with map_files(
            networks,
            folder / name,
            split.images.shape[-1],
            batch_size=batch_size,
            device=device,
            num_workers=num_workers,
        ) as add:
            add(split, [f"{index:05}" for index in split.rows.tolist()])


def _usable(split: Split, seed: int) -> Split | None:
    """The outliers whose mask is known, or some of very many; None = no mask marks a pixel of theirs.

    Nothing is known of transformed images: a shift may move their pixels, and not those of the masks.
    """
    if split.masks is None or split.transform is not None:
        return None
    highest = [split.masks_at(chunk).flatten(1).amax(1) for chunk in torch.arange(len(split)).split(CHUNK)]
    known = (torch.cat(highest) != UNKNOWN).nonzero()[:, 0]
    used = _at_most(split.subset(known), seed)
    if not _anomalous(used).any():
        logger.info(f"{split.name}: no pixel metrics: no mask marks a pixel")
        return None
    if len(known) < len(split):
        n = f"{len(split) - len(known):,} of {len(split):,}"
        logger.info(f"{split.name}: pixel metrics leave out {n} images, whose masks are not known")
    return used


def _at_most(split: Split, seed: int) -> Split:
    """As many images as PIXELS allows, drawn at random, in their order."""
    most = max(1, PIXELS // split.images[0, 0].numel())
    if len(split) <= most:
        return split
    logger.warning(f"{split.name}: pixel metrics use {most:,} of {len(split):,} images, drawn at random: memory")
    chosen = np.random.default_rng(seed).permutation(len(split))[:most]
    return split.subset(torch.from_numpy(np.sort(chosen)))


def _anomalous(split: Split) -> np.ndarray:
    """What the masks mark, (n, H, W) bool; nothing where there are none."""
    if split.masks is None or split.transform is not None:
        return np.zeros((len(split), *split.images.shape[-2:]), dtype=bool)
    return (split.masks_at(torch.arange(len(split))) == 1).numpy()


def _mapped(split: Split, make_maps: Callable[[Split], Iterable[ErrorMaps]]) -> Mapped:
    batches = list(make_maps(split))
    return Mapped(split, _anomalous(split), {kind: np.concatenate([batch[kind] for batch in batches]) for kind in MAPS})


def _rows(marked: Mapped, found: Mapping[str, Localisation], with_groups: bool) -> list[dict[str, Any]]:
    """A row of pixels.csv per image; what is undefined, or not known, is empty."""
    split = marked.split
    columns: dict[str, Sequence[Any]] = {
        "source": [split.name] * len(split),
        "split": [split.split] * len(split),
        "index": split.rows.tolist(),
        "path": [""] * len(split) if split.paths is None else split.paths,
    }
    if with_groups:
        columns["group"] = [""] * len(split) if split.groups is None else split.groups.tolist()
    columns["anomalous_pixels"] = marked.masks.sum((1, 2)).tolist()
    for kind, own in found.items():
        for metric, values in (("auroc", own.aurocs), ("dice", own.dices)):
            columns[f"{kind}_{metric}"] = ["" if np.isnan(value) else value for value in values.tolist()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _draw(marked: Mapped, dices: np.ndarray, path: Path) -> None:
    """Draw the images of largest Dice, and those of smallest; of up to twice SHOWN images all."""
    order = np.argsort(-dices, kind="stable")[: np.isfinite(dices).sum()]  # NaN comes last
    shown = np.concatenate([order[:SHOWN], order[SHOWN:][-SHOWN:]])
    chosen = marked.split.subset(torch.from_numpy(shown))
    images = torch.cat(list(chosen.batches(len(shown))))
    captions = [f"{index}: Dice {dices[i]:.3f}" for i, index in zip(shown, chosen.rows.tolist(), strict=True)]
    title = f"{chosen.name}: images in which the smoothed error map finds the mask best, and worst"
    overlays(images, marked.masks[shown], marked.maps[SHOWN_MAP][shown], captions, path, title)
