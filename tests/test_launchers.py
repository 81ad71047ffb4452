"""Sweeps by other launchers than Hydra's own: nine jobs in processes of their own, one summary."""

import csv
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tests.command import TINY, Command

WEIGHTS = ("gen_weight=0,0.002,0.02", "recon_weight=0,0.002,0.02")
ON_TWO_CORES = ["+hydra.launcher.ray.init.num_cpus=2", "+hydra.launcher.ray.remote.num_cpus=1"]
LAUNCHERS = {
    "hydra_plugins.hydra_joblib_launcher": ("joblib", ["hydra.launcher.n_jobs=2"]),
    "hydra_plugins.hydra_submitit_launcher": ("submitit_local", ["hydra.launcher.timeout_min=10"]),
    "hydra_plugins.hydra_ray_launcher": ("ray", ON_TWO_CORES),
}


def needing(module: str) -> None:
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if not found:
        pytest.skip(f"{module} is not installed")


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.parametrize("module", LAUNCHERS)
def test_nine_jobs_and_one_summary(advvae: Command, module: str) -> None:
    needing(module)
    launcher, settings = LAUNCHERS[module]
    advvae.train()  # digits are prepared before
    typed = ("-m", "mode=train", "dataset=digits", *TINY, *WEIGHTS, f"hydra/launcher={launcher}", *settings)
    result = advvae(*typed)
    assert result.status == 0, result.errors
    (summary,) = (advvae.cwd / "outputs" / "sweeps").glob("*/summary.csv")
    rows = table(summary)
    assert [(row["gen_weight"], row["recon_weight"]) for row in rows] == [
        (gen, recon) for gen in ("0", "0.002", "0.02") for recon in ("0", "0.002", "0.02")
    ]
    assert {row["status"] for row in rows} == {"finished"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wanted", "better"),
    [
        (["hydra.sweeper.direction=minimize"], min),
        (
            [
                *("then=[outlier]", "out_dataset=photos", "scores=[loss]", "baselines=false"),
                *("objective=scores.loss.auroc", "allow_outlier_selection=true", "hydra.sweeper.direction=maximize"),
            ],
            max,
        ),
    ],
    ids=["val_loss", "auroc"],
)
def test_a_search_ends_with_its_best_trial(advvae: Command, wanted: list[str], better: Any) -> None:
    needing("hydra_plugins.hydra_optuna_sweeper")
    search = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1", "latent_dim=choice(2,4,8)")
    tiny = [value for value in TINY if not value.startswith("latent_dim")]
    result = advvae("-m", "mode=train", "dataset=digits", *tiny, *search, *wanted)
    assert result.status == 0, result.errors
    (sweep,) = (advvae.cwd / "outputs" / "sweeps").glob("*")
    rows = table(sweep / "summary.csv")
    column = "scores.loss.auroc" if "then=[outlier]" in wanted else "val_loss"
    best = better(float(row[column]) for row in rows)
    found = (sweep / "optimization_results.yaml").read_text()
    assert f"best_value: {best}" in found
