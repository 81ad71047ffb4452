"""The rows of benchmarks/samples.md: that each is a command which would begin, and how its figures are shown."""

import pytest

from advvae import running
from advvae.errors import UserError
from advvae.settle import Settled
from benchmarks.samples import COLUMNS, FINAL, SCREENED, Row, command, shown
from tests.command import Command

ROWS = {**SCREENED, **FINAL}


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_each_row_is_a_training_that_would_begin(advvae: Command, monkeypatch: pytest.MonkeyPatch, row: Row) -> None:
    def begin(settled: Settled, *_: object) -> None:
        raise UserError("it would begin")

    monkeypatch.setattr(running, "open_job", begin)
    assert advvae("mode=train", "dataset=digits", *row, "max_minutes=2", "tracker=none").message == "it would begin"


def test_a_command_can_be_typed_as_it_stands() -> None:
    expected = "`advvae mode=train dataset=mnist 'betas=[0.5,0.9]' max_minutes=2 n_epochs=1000 precision=32`"
    assert command(SCREENED["betas 0.5, 0.9"], ("dataset=mnist",), 2.0) == expected


def test_spread_is_shown_where_there_are_several_seeds() -> None:
    assert shown([0.5]) == "0.5"
    assert shown([1.0, 2.0, 3.0]) == "2 ± 1"
    assert len(COLUMNS) == 11
