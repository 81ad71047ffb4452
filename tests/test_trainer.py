"""The pieces of a training; tests/test_commands.py and tests/test_resume.py train."""

from pathlib import Path

import pytest
import torch

from advvae.epoch import epoch_generator
from advvae.epoch_losses import EpochLosses, NotFinite
from advvae.game import MEASURED
from advvae.metrics_table import MetricsTable


def terms(value: float) -> torch.Tensor:
    return torch.full((len(MEASURED),), value)


def test_epoch_losses_are_means_per_image() -> None:
    losses = EpochLosses(0)
    losses.add(terms(1.0), 3)
    losses.add(terms(2.0), 1)  # a smaller last batch
    assert losses.means() == dict.fromkeys(MEASURED, 1.25)
    assert (losses.steps, losses.images) == (2, 4)


def test_losses_are_read_in_between_and_at_the_end() -> None:
    losses = EpochLosses(0)
    for value in range(120):
        losses.add(terms(float(value)), 1)
    assert losses.means()["recon"] == pytest.approx(59.5)


def test_epoch_losses_do_not_depend_on_when_they_are_read() -> None:
    measured = torch.randn(60, len(MEASURED), generator=torch.Generator().manual_seed(0))
    whole = EpochLosses(0)
    for step, row in enumerate(measured):
        whole.add(row, 1 + step % 3)
    half = EpochLosses(0)
    for step, row in enumerate(measured):
        if step in (7, 33):  # as when the run is interrupted, and goes on elsewhere
            half.read()
            half = EpochLosses(0, half.steps, half.images, half.totals)
        half.add(row, 1 + step % 3)
    assert half.means() == whole.means()


def test_what_is_not_finite_is_told_with_its_step_and_all_that_was_measured() -> None:
    losses = EpochLosses(10)
    losses.add(terms(1.0), 4)
    losses.add(torch.tensor([0.5, torch.inf, *[0.0] * 6, 7.0, torch.nan]), 4)
    with pytest.raises(NotFinite, match=r"at step 12 is not finite \(vae_loss=0.5, recon=inf.*_norm=7, .*_norm=nan\)"):
        losses.means()


def test_an_epochs_draws_follow_from_seed_and_epoch() -> None:
    draws = {
        (seed, epoch): torch.randn(4, generator=epoch_generator(seed, epoch)).tolist()
        for seed in (0, 1, 2**32 - 1)
        for epoch in (0, 1, 99_999)
    }
    assert len({tuple(draw) for draw in draws.values()}) == len(draws)
    assert torch.randn(4, generator=epoch_generator(1, 1)).tolist() == draws[1, 1]


def test_the_table_is_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    table, measured = MetricsTable(path), [{"epoch": epoch, "val_loss": epoch / 10} for epoch in (1, 2, 3)]
    for row in measured:
        table.append(row)
    MetricsTable(path, measured[:2]).append({"epoch": 3, "val_loss": 0.9})
    rows = [line.split(",") for line in path.read_text().splitlines()]
    column = rows[0].index("val_loss")
    assert [(row[0], row[column]) for row in rows[1:]] == [("1", "0.1"), ("2", "0.2"), ("3", "0.9")]
