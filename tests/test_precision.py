"""precision=auto: a trial that changes nothing, made once for a machine and a shape of work."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from advvae import precision, recording
from advvae.precision import choose_precision
from tests.networks import changed, objective, real_images, small_networks, snapshot


def test_choosing_changes_nothing(tmp_path: Path) -> None:
    networks = small_networks()
    before, state = snapshot(networks), torch.get_rng_state()
    assert choose_precision(networks, objective(), real_images(), tmp_path) in ("32", "bf16")
    assert changed(before, networks, lambda _: True) == []
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("gain", "chosen"), [(0.8, "32"), (1.09, "32"), (1.11, "bf16")])
def test_a_gain_under_a_tenth_gives_float32(
    gain: float, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "measured_gain", lambda *_: gain)
    assert choose_precision(small_networks(), objective(), real_images(), tmp_path) == chosen


@pytest.mark.parametrize(("seconds", "played"), [(1.0, ["32", "bf16"] * (1 + precision.TRIALS)), (9.0, [])])
def test_no_step_is_tried_in_a_bfloat16_that_the_processor_lacks(
    seconds: float, played: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emulated, it is some seventy times slower."""
    steps = []

    def play(*arguments: Any) -> torch.Tensor:
        steps.append(arguments[4])
        return torch.zeros(6)

    clock = iter(range(1000))
    monkeypatch.setattr(recording, "play_step", play)
    monkeypatch.setattr(
        precision, "_seconds_of_a_product", lambda matrix: seconds if matrix.dtype == torch.bfloat16 else 1
    )
    monkeypatch.setattr(precision.time, "perf_counter", lambda: next(clock))
    gain = precision.measured_gain(small_networks(), objective(), real_images(), "auto")
    assert steps == played
    assert gain == pytest.approx(1 / seconds)


def test_a_clear_gain_ends_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0

    def play(*arguments: Any) -> torch.Tensor:
        nonlocal now
        now += 3 if arguments[4] == "32" else 1
        return torch.zeros(6)

    monkeypatch.setattr(recording, "play_step", play)
    monkeypatch.setattr(precision, "_gain_of_a_product", lambda _: 1.0)
    monkeypatch.setattr(precision.time, "perf_counter", lambda: now)
    assert precision.measured_gain(small_networks(), objective(), real_images(), "auto") == 3
    assert now == 2 * (3 + 1)  # one step of each to warm up, and one


def test_a_shape_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def gain(*_: object) -> float:
        measured.append(1)
        return 2.0

    monkeypatch.setattr(precision, "measured_gain", gain)
    networks, images = small_networks(), real_images()
    for _ in range(2):
        assert choose_precision(networks, objective(), images, tmp_path) == "bf16"
    assert len(measured) == 1
    choose_precision(networks, objective(), images[:3], tmp_path)  # another batch
    choose_precision(networks, objective(gen_weight=0.0), images, tmp_path)  # a term less
    networks.discriminator = None
    choose_precision(networks, objective(), images, tmp_path)
    assert len(measured) == 4


@pytest.mark.parametrize("content", ["", "[]", '{"gain": null}', '{"gain": -1.0}'])
def test_a_damaged_memory_of_the_trial_is_made_anew(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "measured_gain", lambda *_: 2.0)
    for _ in range(2):
        assert choose_precision(small_networks(), objective(), real_images(), tmp_path) == "bf16"
        (kept,) = tmp_path.iterdir()
        assert json.loads(kept.read_text()) == {"gain": 2.0}
        kept.write_text(content)
