import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from advvae.errors import UserError
from advvae.runs import best_job
from advvae.sweep import gather, job_folders, write_summary

APP = """
import json, hydra, yaml
from pathlib import Path
from hydra.core.hydra_config import HydraConfig

@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(config):
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(hydra_config.overrides.task)))
    failed = config.x == 3
    result = {"status": "failed", "error": "x is 3"} if failed else {"status": "finished", "val_loss": config.x}
    (folder / "metrics.json").write_text(json.dumps(result))
    if failed:
        raise ValueError("x is 3")

main()
"""
CONFIG = """
x: 0
hydra:
  output_subdir: null
  run: {dir: single}
  sweep: {dir: sweep}
  callbacks: {summary: {_target_: advvae.sweep.SweepCallback}}
"""


def add_job(sweep: Path, job: int, overrides: list[str], metrics: dict[str, Any] | None) -> None:
    folder = sweep / str(job)
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))


def finished(**metrics: Any) -> dict[str, Any]:
    return {"status": "finished", "seconds": 2.5, **metrics}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """A sweep of gen_weight by recon_weight, whose last job failed."""
    for job, (gen, recon) in enumerate([(0, 0.002), (0, 0), (0.02, 0.002), (0.02, 0)]):
        metrics = finished(val_loss=1 - gen - recon, scores={"loss": {"auroc": 0.9}})
        if job == 3:
            metrics = {"status": "failed", "seconds": 0.1, "error": "lr must be above 0, got -1.0"}
        add_job(tmp_path, job, ["mode=train", f"gen_weight={gen}", f"recon_weight={recon}"], metrics)
    return tmp_path


def test_summary_has_a_row_per_job_and_a_column_per_swept_key_and_metric(grid: Path) -> None:
    rows = table(write_summary(grid))
    assert list(rows[0]) == [
        *["job", "gen_weight", "recon_weight", "overrides", "status", "error", "seconds"],
        *["val_loss", "scores.loss.auroc"],
    ]
    assert rows[2] == {
        "job": "2",
        "gen_weight": "0.02",
        "recon_weight": "0.002",
        "overrides": "mode=train gen_weight=0.02 recon_weight=0.002",
        "status": "finished",
        "error": "",
        "seconds": "2.5",
        "val_loss": "0.978",
        "scores.loss.auroc": "0.9",
    }
    assert (rows[3]["status"], rows[3]["error"]) == ("failed", "lr must be above 0, got -1.0")
    assert rows[3]["val_loss"] == ""


def test_two_swept_keys_give_a_heat_map_per_metric_with_axes_in_order(
    grid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from advvae import figures

    drawn = []
    real = figures.heat_map

    def heat_map(values: Any, rows: Any, columns: Any, row_name: str, column_name: str, title: str, path: Path) -> None:
        drawn.append((title, values.round(3).tolist(), rows, columns, row_name, column_name))
        real(values, rows, columns, row_name, column_name, title, path)

    monkeypatch.setattr(figures, "heat_map", heat_map)
    write_summary(grid)
    axes = (["0", "0.02"], ["0", "0.002"], "gen_weight", "recon_weight")
    assert repr(drawn) == repr(  # by text, since NaN, a failed job, equals nothing
        [
            ("val_loss", [[1.0, 0.998], [float("nan"), 0.978]], *axes),
            ("scores.loss.auroc", [[0.9, 0.9], [float("nan"), 0.9]], *axes),
        ]
    )
    assert (grid / "summary.png").read_bytes().startswith(b"\x89PNG")
    left = sorted(path.name for path in grid.iterdir() if path.is_file() and path.suffix != ".lock")
    assert left == ["summary.csv", "summary.png"]


def test_no_heat_map_while_the_grid_has_a_hole(tmp_path: Path) -> None:
    for job, (a, b) in enumerate([(1, 1), (1, 2), (2, 1)]):
        add_job(tmp_path, job, [f"a={a}", f"b={b}"], finished(val_loss=0.5))
    write_summary(tmp_path)
    assert not (tmp_path / "summary.png").exists()


def test_what_jobs_took_by_themselves_is_no_axis_beside_two_swept_keys(tmp_path: Path) -> None:
    for job, (a, b) in enumerate([(1, 1), (1, 2), (2, 1), (2, 2)]):
        add_job(tmp_path, job, [f"a={a}", f"b={b}", f"precision={'bf16' if job else 32}"], finished(val_loss=0.5))
    write_summary(tmp_path)
    assert (tmp_path / "summary.png").exists()


def test_jobs_are_ordered_by_number_and_one_that_was_killed_is_a_row(tmp_path: Path) -> None:
    for job in (10, 9, 2):
        add_job(tmp_path, job, [f"+seed={job}"], None if job == 9 else finished(val_loss=job))
    (tmp_path / "10" / "metrics.json").write_text('{"status": "fini')
    rows = gather(tmp_path)
    assert [(row["job"], row["status"], row["overrides"]) for row in rows] == [
        ("2", "finished", {"seed": "2"}),
        ("9", "unknown", {"seed": "9"}),
        ("10", "unknown", {"seed": "10"}),
    ]


def test_best_job_is_the_finished_one_of_lowest_val_loss(tmp_path: Path) -> None:
    results = [finished(val_loss=0.3), finished(val_loss=0.2), finished(val_loss=float("nan")), finished()]
    results.append({"status": "running", "val_loss": 0.1})
    for job, result in enumerate(results):
        add_job(tmp_path, job, [f"seed={job}"], result)
    assert best_job(tmp_path) == tmp_path / "1"


def test_best_job_of_a_sweep_without_one_says_so(tmp_path: Path) -> None:
    add_job(tmp_path, 0, [], {"status": "failed", "error": "no"})
    with pytest.raises(UserError, match="no job of this sweep finished with a val_loss"):
        best_job(tmp_path)


def test_a_run_folder_is_no_sweep(tmp_path: Path) -> None:
    add_job(tmp_path, 0, [], finished(val_loss=1))
    (tmp_path / "0" / "checkpoints").mkdir()
    assert job_folders(tmp_path / "0") == []
    with pytest.raises(UserError, match="holds no jobs of a sweep"):
        write_summary(tmp_path / "0")


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)


def test_command_rebuilds_the_summary_or_says_why_not_in_one_line(grid: Path) -> None:
    good = run("-m", "advvae.sweep", str(grid), folder=Path.cwd())
    assert (good.returncode, good.stdout) == (0, f"{grid / 'summary.csv'}\n")
    bad = run("-m", "advvae.sweep", str(grid / "nowhere"), folder=Path.cwd())
    assert (bad.returncode, bad.stdout, bad.stderr.count("\n")) == (1, "", 1)
    assert str(grid / "nowhere") in bad.stderr


def test_hydra_rebuilds_the_summary_after_each_job_also_when_the_last_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "config.yaml").write_text(CONFIG)

    single = run("app.py", "x=1", folder=tmp_path)
    assert (single.returncode, single.stderr) == (0, "")
    assert not list(tmp_path.rglob("summary.csv"))

    multirun = run("app.py", "-m", "x=1,2,3", folder=tmp_path)
    assert multirun.returncode == 1
    assert "Callback" not in multirun.stderr  # Hydra makes a warning of what a callback raises
    rows = table(tmp_path / "sweep" / "summary.csv")
    assert [(row["job"], row["x"], row["status"], row["error"], row["val_loss"]) for row in rows] == [
        ("0", "1", "finished", "", "1"),
        ("1", "2", "finished", "", "2"),
        ("2", "3", "failed", "x is 3", ""),
    ]


def test_importing_it_is_cheap() -> None:
    heavy = {"torch", "matplotlib", "pandas", "numpy", "hydra", "omegaconf"}
    code = f"import sys, advvae.sweep; print({heavy} & set(sys.modules))"
    assert run("-c", code, folder=Path.cwd()).stdout == "set()\n"
