"""Games that do not begin, or cannot be played, and are told so."""

import pytest

from tests.command import TINY, Command


def test_a_game_that_the_clock_does_not_let_begin_is_told(advvae: Command) -> None:
    result = advvae.train("adversarial_start=3", "n_epochs=5", "max_minutes=1e-6")
    assert "the training ended before epoch adversarial_start=3: no game" in result.output
    assert "no game" not in advvae.train("adversarial_start=1", "n_epochs=2").output


def test_a_penalty_under_batch_norm_is_refused(advvae: Command) -> None:
    for keys in (["adversarial=relativistic"], ["gradient_penalty=2"], ["gradient_penalty=2", "model.norm=batch"]):
        result = advvae("mode=train", "dataset=digits", *TINY, *keys)
        assert result.status == 1
        assert "set model.norm=none or group" in result.errors
    assert list(advvae.cwd.iterdir()) == []


@pytest.mark.parametrize("model", ["conv", "resnet"])
@pytest.mark.parametrize("keys", [("adversarial=relativistic", "model.norm=group"), ("experiment=sharp", "ema=0.5")])
def test_recipes_begin_with_either_model(advvae: Command, model: str, keys: tuple[str, ...]) -> None:
    assert advvae.train(f"model={model}", *keys).status == 0
