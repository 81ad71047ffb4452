"""Sweeps through the command: complete runs, one summary, and failures that stay where they are."""

import csv
from pathlib import Path

import pytest

from tests.command import FEW, TINY, Command

SWEEP = ("-m", "mode=train", "dataset=digits", *TINY)


def summary(advvae: Command) -> tuple[Path, list[dict[str, str]]]:
    (folder,) = (advvae.cwd / "outputs" / "sweeps").iterdir()
    with (folder / "summary.csv").open(newline="") as file:
        return folder, list(csv.DictReader(file))


def test_two_axes_give_complete_runs_a_table_and_a_picture(advvae: Command) -> None:
    arguments = ("gen_weight=0,0.5", "recon_weight=0,0.5", "then=[outlier]", *FEW, "out_dataset=photos")
    assert advvae(*SWEEP, *arguments).status == 0
    folder, rows = summary(advvae)
    assert [(row["gen_weight"], row["recon_weight"]) for row in rows] == [
        ("0", "0"), ("0", "0.5"), ("0.5", "0"), ("0.5", "0.5")
    ]  # fmt: skip
    for row in rows:
        assert row["status"] == "finished"
        assert float(row["val_loss"]) > 0
        assert 0 <= float(row["scores.loss.auroc"]) <= 1
        assert (folder / row["job"] / "checkpoints" / "best.pt").is_file()
    assert (folder / "summary.png").is_file()


@pytest.mark.parametrize("values", ["-1,0", "0,-1"])
def test_a_failed_job_is_a_row_and_the_others_finish(advvae: Command, values: str) -> None:
    result = advvae(*SWEEP, f"gen_weight={values}")
    assert result.status == 1
    assert "gen_weight must be" in result.errors
    assert "job failed: gen_weight must be" in result.output
    assert "summary of the sweep: " in result.output
    _, rows = summary(advvae)
    by_weight = {row["gen_weight"]: row for row in rows}
    assert by_weight["0"]["status"] == "finished"
    assert by_weight["-1"]["status"] == "failed"
    assert "gen_weight must be a finite number" in by_weight["-1"]["error"]


@pytest.mark.parametrize("typed", ["gen_wieght=0,1", "loss=mse,l1", "gen_weight=0,abc"])
def test_a_sweep_that_cannot_be_composed_leaves_nothing(advvae: Command, typed: str) -> None:
    result = advvae(*SWEEP, typed)
    assert result.status == 1
    assert "Traceback" not in result.errors
    assert list(advvae.cwd.iterdir()) == []


def test_the_objective_is_what_a_job_returns() -> None:
    from advvae.errors import UserError
    from advvae.running import objective

    measured = {"val_loss": 1.0, "scores": {"loss": {"auroc": 0.75}}}
    assert objective(None, measured) == 1.0
    assert objective("scores.loss.auroc", measured) == 0.75
    with pytest.raises(UserError, match="val_loss"):
        objective("val_mse", measured)


def test_an_objective_on_outliers_that_is_asked_for(advvae: Command) -> None:
    then = ("then=[outlier]", *FEW, "out_dataset=photos", "objective=scores.loss.auroc", "allow_outlier_selection=true")
    assert advvae(*SWEEP, *then, "gen_weight=0,1").status == 0
    assert [row["status"] for row in summary(advvae)[1]] == ["finished", "finished"]
