import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from advvae import figures
from advvae.errors import UserError
from advvae.outlier import pictures
from advvae.runs import best_job
from advvae.sweep import sweep_table, write_summary
from advvae.sweep_rows import gather, job_folders

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
    assert left == ["report.html", "summary.csv", "summary.md", "summary.png"]


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


def test_an_axis_that_was_swept_is_one_also_if_jobs_may_take_it_by_themselves(tmp_path: Path) -> None:
    for job, (precision, lr) in enumerate([(32, 1), (32, 2), ("bf16", 1), ("bf16", 2)]):
        add_job(tmp_path, job, [f"precision={precision}", f"lr={lr}"], scored(loss=0.5))
    write_summary(tmp_path)
    assert (tmp_path / "summary.png").exists()
    text = sweep_table(gather(tmp_path))
    assert text is not None
    assert text.startswith("AUROC by precision, lr")


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


def test_jobs_that_differ_in_the_seed_only_get_a_mean_and_a_deviation(tmp_path: Path) -> None:
    """Losses 1, 2, 4 have mean 7/3 and deviation √(14/3 / 2); of lr=2, one seed of two finished."""
    jobs = [(1, 0, 1.0), (1, 1, 2.0), (1, 2, 4.0), (2, 0, 8.0), (2, 1, None)]
    for job, (lr, seed, loss) in enumerate(jobs):
        result = {"status": "failed", "val_loss": 9.0} if loss is None else finished(val_loss=loss, note="undefined")
        add_job(tmp_path, job, ["mode=train", f"lr={lr}", f"seed={seed}"], result)
    table_of_jobs = table(write_summary(tmp_path))
    assert [row["job"] for row in table_of_jobs] == ["0", "1", "2", "3", "4", "mean of 0,1,2", "sd of 0,1,2"]
    mean, deviation = table_of_jobs[5:]
    assert mean == {
        "job": "mean of 0,1,2",
        "lr": "1",
        "seed": "",
        "overrides": "mode=train lr=1",
        "status": "",
        "error": "",
        "seconds": "",
        "val_loss": str(7 / 3),
        "note": "",
    }
    assert (deviation["lr"], deviation["seed"]) == ("1", "")
    assert float(deviation["val_loss"]) == pytest.approx((14 / 3 / 2) ** 0.5)


def test_seeds_are_one_group_whatever_precision_each_took_by_itself(tmp_path: Path) -> None:
    for job, precision in enumerate(["32", "bf16", "bf16"]):
        typed = ["lr=1", f"seed={job}", "checkpoint=a.pt", f"precision={precision}"]
        add_job(tmp_path, job, typed, finished(val_loss=job))
    mean = table(write_summary(tmp_path))[3]
    assert (mean["job"], mean["val_loss"]) == ("mean of 0,1,2", "1.0")
    assert (mean["overrides"], mean["precision"]) == ("lr=1 checkpoint=a.pt", "")


def test_seeds_of_a_precision_that_was_swept_are_groups_apart(tmp_path: Path) -> None:
    for job, (precision, seed) in enumerate([(32, 0), (32, 1), ("bf16", 0), ("bf16", 1)]):
        add_job(tmp_path, job, [f"seed={seed}", f"precision={precision}"], finished(val_loss=job))
    rows = table(write_summary(tmp_path))[4:]
    assert [(row["job"], row["precision"]) for row in rows if row["job"].startswith("mean")] == [
        ("mean of 0,1", "32"),
        ("mean of 2,3", "bf16"),
    ]


def test_two_swept_keys_and_the_seed_give_heat_maps_of_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a=1, b=2 one seed of two finished; of a=2, b=2 none."""
    losses = {(1, 1): (1, 3), (1, 2): (5, None), (2, 1): (0, 1), (2, 2): (None, None)}
    jobs = [(a, b, seed, loss) for (a, b), found in losses.items() for seed, loss in enumerate(found)]
    for job, (a, b, seed, loss) in enumerate(jobs):
        result = {"status": "failed"} if loss is None else finished(val_loss=loss)
        add_job(tmp_path, job, [f"a={a}", f"b={b}", f"seed={seed}", f"precision={job % 3}"], result)
    drawn: list[tuple[str, str]] = []
    real = figures.heat_map

    def heat_map(values: Any, *args: Any) -> None:
        drawn.append((args[4], repr(values.tolist())))
        real(values, *args)

    monkeypatch.setattr(figures, "heat_map", heat_map)
    write_summary(tmp_path)
    assert drawn == [("val_loss, mean over seeds", "[[2.0, 5.0], [0.5, nan]]")]
    assert (tmp_path / "summary.png").is_file()


def test_a_metric_that_one_seed_lacks_has_no_mean(tmp_path: Path) -> None:
    add_job(tmp_path, 0, ["seed=0"], finished(val_loss=1.0, scores={"loss": {"auroc": "undefined"}}, fid=1.0))
    add_job(tmp_path, 1, ["seed=1"], finished(val_loss=float("inf"), scores={"loss": {"auroc": 0.5}}))
    mean = table(write_summary(tmp_path))[2]
    assert (mean["job"], mean["val_loss"], mean["scores.loss.auroc"], mean["fid"]) == ("mean of 0,1", "", "", "")


def test_means_over_seeds_are_no_jobs(tmp_path: Path) -> None:
    for job, (lr, seed) in enumerate([(1, 0), (1, 1), (2, 0), (2, 1)]):
        add_job(tmp_path, job, [f"lr={lr}", f"seed={seed}"], finished(val_loss=4 - job))
    write_summary(tmp_path)
    write_summary(tmp_path)
    assert len(gather(tmp_path)) == len(job_folders(tmp_path)) == 4
    assert len(table(tmp_path / "summary.csv")) == 8
    assert (tmp_path / "summary.png").is_file()  # lr by seed, of the jobs alone
    assert best_job(tmp_path) == tmp_path / "3"


def scored(**aurocs: float | str) -> dict[str, Any]:
    scores = {name: {"auroc": auroc, "aupr_out": 0.25, "auroc_low": 0.1} for name, auroc in aurocs.items()}
    return finished(scores=scores, sets={"x": {"scores": scores}})


def test_the_table_of_scores_has_a_line_per_swept_value_and_the_mean(tmp_path: Path) -> None:
    """Job 2 failed: the means are of the other two, and say so."""
    results = [scored(loss=0.9, kld=0.5), scored(loss=0.8, kld="undefined"), {"status": "failed", "error": "no"}]
    for job, result in enumerate(results):
        add_job(tmp_path, job, [f"dataset.keep_classes=[{job}]", f"precision={job}"], result)
    write_summary(tmp_path)
    auroc, aupr = (tmp_path / "summary.md").read_text().split("AUPR-out")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in auroc.splitlines()]
    assert lines[0] == ["AUROC by dataset.keep_classes"]
    assert [lines[2], *lines[4:9]] == [
        ["", "loss", "kld"],
        ["[0]", "0.900", "0.500"],
        ["[1]", "0.800", "undefined"],
        ["[2]", "failed", "failed"],
        ["mean", "0.850 of 2", "0.500 of 1"],
        [""],
    ]
    assert aupr.count("0.250") == 6  # two jobs and the mean, of two scores


def test_more_scores_than_jobs_go_down_the_page(tmp_path: Path) -> None:
    add_job(tmp_path, 0, ["lr=1"], scored(loss=0.5, kld=0.25, elbo=1.0))
    add_job(tmp_path, 1, ["lr=2"], scored(loss=1.0, kld=0.75, elbo=1.0))
    text = sweep_table(gather(tmp_path))
    assert text is not None
    lines = [line.replace(" ", "") for line in text.splitlines()]
    assert [lines[2], *lines[4:7]] == [
        "||1|2|mean|",
        "|loss|0.500|1.000|0.750|",
        "|kld|0.250|0.750|0.500|",
        "|elbo|1.000|1.000|1.000|",
    ]


def test_one_swept_key_and_scores_give_a_heat_map_of_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = [scored(loss=0.9, kld=0.5), scored(loss=0.8, kld="undefined"), {"status": "failed", "error": "no"}]
    for job, result in enumerate(results):
        add_job(tmp_path, job, [f"dataset.keep_classes=[{job}]", f"precision={job}"], result)
    drawn: list[tuple[str, Any, Any, str]] = []
    real = pictures.auroc_map

    def auroc_map(values: Any, rows: Any, columns: Any, path: Path, **names: str) -> None:
        drawn.append((repr(values.tolist()), rows, columns, names["row_name"]))
        real(values, rows, columns, path, **names)

    monkeypatch.setattr(pictures, "auroc_map", auroc_map)
    write_summary(tmp_path)
    values = "[[0.9, 0.5], [0.8, nan], [nan, nan]]"
    assert drawn == [(values, ["[0]", "[1]", "[2]"], ["loss", "kld"], "dataset.keep_classes")]
    assert (tmp_path / "summary.png").is_file()


def test_no_picture_of_one_swept_key_without_scores(tmp_path: Path) -> None:
    for job in range(2):
        add_job(tmp_path, job, [f"lr={job}"], finished(val_loss=0.5))
    write_summary(tmp_path)
    assert not (tmp_path / "summary.png").exists()


def test_no_table_without_scores(tmp_path: Path) -> None:
    add_job(tmp_path, 0, ["lr=1"], finished(val_loss=0.5))
    write_summary(tmp_path)
    assert sweep_table(gather(tmp_path)) is None
    assert not (tmp_path / "summary.md").exists()


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
    heavy = {"torch", "matplotlib", "pandas", "numpy", "hydra", "omegaconf", "tabulate"}
    code = f"import sys, advvae.sweep; print({heavy} & set(sys.modules))"
    assert run("-c", code, folder=Path.cwd()).stdout == "set()\n"
