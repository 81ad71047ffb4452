"""What each means does to samples and reconstructions, at equal wall-clock: `benchmarks/samples.md`.

    python -m benchmarks.samples screening      # each means alone, MNIST, 2 minutes, one seed
    python -m benchmarks.samples final          # plain, defaults, the best means, the recipe: 4 minutes, 3 seeds
    python -m benchmarks.samples final dataset=folder dataset.root=cifar10 size=32
    python -m benchmarks.samples picture        # docs/sharper.png: samples of three rows of `final`

Each row is trained by its own command for the same time, on one core, as many side by side as there are cores, and
measured by `mode=test`: with samples of the prior, and of a Gaussian mixture of the training latents. What has been
measured is read from `outputs/samples`, so that what was interrupted goes on; remove that folder to measure anew.
"""

import json
import os
import platform
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

Row = tuple[str, ...]

PLAIN: Row = ("train_discriminator=false", "gen_weight=0", "recon_weight=0")
SCREENED: dict[str, Row] = {
    "defaults": (),
    "plain VAE": PLAIN,
    "hinge": ("adversarial=hinge",),
    "lsgan": ("adversarial=lsgan",),
    "relativistic, R1 and R2": ("adversarial=relativistic", "model.norm=none"),
    "norm=group": ("model.norm=group",),
    "norm=none": ("model.norm=none",),
    "spectral norm": ("model.norm=none", "model.spectral_norm=true"),
    "features of D": ("feature_weight=0.02",),
    "lr of D × 4": ("lr_discriminator=8e-4",),
    "betas 0.5, 0.9": ("betas=[0.5,0.9]",),
    "2 steps of D": ("discriminator_steps=2",),
    "DiffAugment": ("augment=[translation,cutout]",),
    "adversarial weights × 10": ("gen_weight=0.02", "recon_weight=0.02"),
    "adversarial weights × 50": ("gen_weight=0.1", "recon_weight=0.1"),
    "adaptive weight": ("adaptive_weight=true", "gen_weight=0.4", "recon_weight=0.4"),
    "adversarial from epoch 2": ("adversarial_start=2", "adversarial_ramp=2"),
    "kld_weight × 10": ("kld_weight=1e-3",),
    "kld_weight × 50": ("kld_weight=5e-3",),
    "KL warm-up": ("kld_schedule=linear", "kld_epochs=5"),
    "cyclic KL": ("kld_schedule=cyclic", "kld_epochs=2"),
    "free bits": ("free_bits=0.05", "kld_weight=1e-3"),
    "latent_dim=32": ("latent_dim=32",),
    "EMA": ("ema=0.999",),
    "lr × 5": ("lr=1e-3",),
    "cosine lr × 5": ("lr=1e-3", "lr_schedule=cosine"),
    "batches of 64": ("batch_size=64",),
    "clipped gradients": ("clip_gradient=1",),
    "vae_norm=group": ("model.vae_norm=group",),
    "model=resnet": ("model=resnet",),
}
BEST = ("cosine lr × 5", "betas 0.5, 0.9", "clipped gradients")  # least sum of ranks in FD, density, coverage
FINAL: dict[str, Row] = {
    "plain VAE": PLAIN,
    "defaults": (),
    **{name: SCREENED[name] for name in BEST},
    "recipe": ("experiment=sharp",),
}
DRAWN = ("plain VAE", "defaults", "recipe")
METRICS = ("fid", "kid", "precision", "recall", "density", "coverage")
COLUMNS = ("FD prior", "FD gmm", "KID", "precision", "recall", "density", "coverage", "MSE", "PSNR", "SSIM", "seconds")
OUTPUTS = Path("outputs", "samples")
SCREENING_MINUTES, FINAL_MINUTES = 2.0, 4.0
N_DRAWN = 64


def main() -> None:
    kind, *overrides = sys.argv[1:] or [""]
    if kind not in ("screening", "final", "picture"):
        sys.exit("type screening, final or picture, and a dataset if it is not mnist")
    data = tuple(overrides) or ("dataset=mnist",)
    if kind == "picture":
        draw_side_by_side(data, Path("docs", "sharper.png"))
        return
    rows, minutes, seeds = (SCREENED, SCREENING_MINUTES, 1) if kind == "screening" else (FINAL, FINAL_MINUTES, 3)
    n_cores = os.cpu_count() or 1
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    print(f"{platform.machine()}, {n_cores} cores, of which each row has one; {versions}")
    print(f"{minutes:g} minutes of training for each row and seed, {seeds} seed{'s' if seeds > 1 else ''}\n")
    jobs = [(row, seed) for seed in range(seeds) for row in rows.values()]  # what disturbs, disturbs all rows
    with ThreadPoolExecutor(n_cores) as pool:
        found = dict(zip(jobs, pool.map(lambda job: one_seed(job[0], data, minutes, job[1]), jobs), strict=True))
    table = [
        [name, *cells([found[row, seed] for seed in range(seeds)]), command(row, data, minutes)]
        for name, row in rows.items()
    ]
    print(tabulate(table, ("", *COLUMNS, "command"), tablefmt="github", disable_numparse=True))


def draw_side_by_side(data: Row, path: Path) -> None:
    """Samples of the first seed of some rows of the final table, a grid each."""
    from PIL import Image, ImageDraw, ImageFont

    grids = {}
    for name in DRAWN:
        row = FINAL[name]
        trained, folder = train(row, data, FINAL_MINUTES, seed=0)
        run(folder / "sample", "mode=sample", *data, f"checkpoint={trained}", f"num_samples={N_DRAWN}")
        grids[name] = Image.open(folder / "sample" / "samples.png").convert("RGB")
    font, gap, head = ImageFont.load_default(size=20), 16, 36
    width, height = next(iter(grids.values())).size
    canvas = Image.new("RGB", (len(grids) * (width + gap) - gap, head + height), "white")
    for number, (name, grid) in enumerate(grids.items()):
        left = number * (width + gap)
        ImageDraw.Draw(canvas).text((left + width / 2, head / 2), name, fill="black", font=font, anchor="mm")
        canvas.paste(grid, (left, head))
    canvas.save(path)
    print(path)


def command(row: Row, data: Row, minutes: float) -> str:
    return f"`{shlex.join(['advvae', 'mode=train', *data, *row, *limits(minutes)])}`"


def limits(minutes: float) -> Row:
    """What every training of a table is given beside its own keys and its seed."""
    return (f"max_minutes={minutes:g}", "n_epochs=1000", "precision=32")


def cells(seeds: list[dict[str, float]]) -> list[str]:
    """Of a row: means over what its seeds measured, with the deviation where there are several."""
    return [shown([values[column] for values in seeds if column in values]) for column in COLUMNS]


def shown(values: list[float]) -> str:
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4g}{spread}"


def one_seed(row: Row, data: Row, minutes: float, seed: int) -> dict[str, float]:
    """What a row and seed measured, by column. In the screening, a mixture is fitted to the defaults' latents alone."""
    trained, folder = train(row, data, minutes, seed)
    use = ("mode=test", *data, f"checkpoint={trained}", "features=random")
    prior = run(folder / "prior", *use, f"metrics=[mse,psnr,ssim,{','.join(METRICS)}]")
    columns = dict(zip(("FD prior", "KID", *METRICS[2:]), (prior[metric] for metric in METRICS), strict=True))
    columns |= {"MSE": prior["mse"], "PSNR": prior["psnr"], "SSIM": prior["ssim"]}
    if minutes == FINAL_MINUTES or not row:
        columns["FD gmm"] = run(folder / "gmm", *use, "metrics=[fid]", "sampler=gmm")["fid"]
    return columns | {"seconds": run(trained)["train_seconds"]}


def train(row: Row, data: Row, minutes: float, seed: int) -> tuple[Path, Path]:
    """The folder of a training, and the one that holds all of its row and seed."""
    name = "_".join([*data, *row, f"{minutes:g}min", f"seed={seed}"]).replace("/", "-")
    folder = OUTPUTS / re.sub(r"[^\w.-]+", "-", name)
    run(folder / "train", "mode=train", *data, *row, *limits(minutes), f"seed={seed}")
    return folder / "train", folder


def run(folder: Path, *overrides: str) -> dict[str, Any]:
    """The metrics of a command, which is run unless its folder holds them."""
    file = folder / "metrics.json"
    if not file.is_file() or json.loads(file.read_text()).get("status") != "finished":
        shutil.rmtree(folder, ignore_errors=True)  # what was interrupted begins anew
        typed = [*overrides, "tracker=none", f"hydra.run.dir={folder}"]
        print(shlex.join(["advvae", *typed]), file=sys.stderr, flush=True)
        one_core = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "advvae", *typed]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=one_core)
    metrics: dict[str, Any] = json.loads(file.read_text())
    return metrics


if __name__ == "__main__":
    main()
