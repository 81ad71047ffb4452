"""Faults put into one training on digits, and what becomes of it: kills, signals, and damaged checkpoints.

    python -m benchmarks.chaos             # fifteen minutes on two cores; `seed=1` for other moments

1. One training is never disturbed.
2. The same command with `resume=auto` is killed with SIGKILL at random moments, 50 times: from the start of the process
   to its end, writing of files included. Started once more it comes to its end, which is compared with the other's.
3. The same with SIGTERM, SIGINT and SIGUSR1, 12 times.
4. Of its last checkpoint single bits are flipped, or its end is cut off, at 400 random places.

Weights, optimisers, generators and tables are compared bit by bit, times aside.
"""

import csv
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from advvae.checkpoint import read_checkpoint
from advvae.errors import UserError

TRAIN = (
    *("mode=train", "dataset=digits", "tracker=none", "deterministic=true"),
    *("n_epochs=60", "hidden_dims=[16,32,64]", "latent_dim=16", "checkpoint_every_minutes=0.01"),
)
N_KILLS, N_SIGNALS, N_DAMAGES = 50, 12, 400
TIMED = ("seconds", "images_per_second")  # columns of metrics.csv


def main() -> None:
    name, _, seed = (sys.argv[1:] or ["seed=0"])[0].partition("=")
    if name != "seed" or not seed.isdigit() or len(sys.argv) > 2:
        sys.exit("type seed=<number>, or nothing")
    chance = random.Random(int(seed))
    print(
        f"{platform.machine()}, {os.cpu_count()} cores; torch {torch.__version__}, Python {platform.python_version()}"
    )
    print("advvae", *TRAIN)
    with tempfile.TemporaryDirectory() as scratch:
        whole, seconds = undisturbed(Path(scratch, "whole"))
        rows = [
            disturbed(Path(scratch, "killed"), whole, seconds, [signal.SIGKILL] * N_KILLS, chance),
            disturbed(Path(scratch, "asked"), whole, seconds, asking(), chance),
            *damaged(whole / "checkpoints" / "last.pt", chance),
        ]
    print(tabulate(rows, headers=("fault", "n", "outcome"), tablefmt="github"))


def asking() -> list[signal.Signals]:
    return [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1] * (N_SIGNALS // 3)


def undisturbed(output_dir: Path) -> tuple[Path, tuple[float, float]]:
    """Its folder; and the seconds to its first checkpoint, and from there to its end."""
    started = time.perf_counter()
    process = start(output_dir)
    while process.poll() is None and not list(output_dir.glob("train/digits/*/checkpoints/last.pt")):
        time.sleep(0.02)
    begun = time.perf_counter()
    assert process.wait() == 0
    (run,) = output_dir.glob("train/digits/*")
    return run, (begun - started, time.perf_counter() - begun)


def disturbed(
    output_dir: Path,
    whole: Path,
    seconds: tuple[float, float],
    signals: Sequence[signal.Signals],
    chance: random.Random,
) -> tuple[str, int, str]:
    """A training that is sent these signals, each in a life of its own, and then left in peace."""
    start_up, training = seconds
    phases: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    for number in signals:
        process = start(output_dir)
        # all together, most of the training passes
        moment = chance.uniform(0, 1.5 * start_up) + chance.uniform(0, training / len(signals))
        try:
            process.communicate(timeout=moment)
            phases["too late: it had ended"] += 1
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            _, told = process.communicate()
            phases[phase(output_dir, process.pid, moment < start_up)] += 1
            if number != signal.SIGKILL:
                answers[answer(process.returncode, told)] += 1
    assert start(output_dir).wait() == 0
    runs = list(output_dir.glob("train/digits/*"))
    finished = [run for run in runs if '"finished"' in (run / "metrics.json").read_text()]
    unfinished = [path for run in finished for path in run.rglob(".*.*") if path.is_file()]
    (run,) = finished
    print(f"{len(signals)} signals, by what they met: {dict(phases)}", end="; ")
    print(f"run folders: {len(runs)}; unfinished files left in it: {len(unfinished)}")
    n_sent = sum(n for what, n in phases.items() if not what.startswith("too late"))
    name = "SIGKILL" if signals[0] == signal.SIGKILL else "SIGTERM, SIGINT, SIGUSR1"
    differing = differences(whole, run)
    outcome = f"differs in {', '.join(differing)}" if differing else "the same bits at the end"
    return name, n_sent, "; ".join([outcome, *(f"{n} {what}" for what, n in answers.most_common())])


def start(output_dir: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "advvae", *TRAIN, "resume=auto", f"output_dir={output_dir}"]
    quiet, one_thread = subprocess.DEVNULL, {**os.environ, "OMP_NUM_THREADS": "1"}  # small tensors gain by no more
    return subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=subprocess.PIPE, env=one_thread, text=True)


def answer(status: int, told: str) -> str:
    """How a process ended that was asked to stop."""
    if status != 1 or "Traceback" in told:
        return f"ended with status {status}: {told.strip().splitlines()[-1:]}"
    return "named the command that goes on" if "this goes on: advvae " in told else "ended before there was anything"


def phase(output_dir: Path, pid: int, is_early: bool) -> str:
    """What a process was at when it was killed, as far as its files and the clock tell."""
    if any(path.is_file() for path in output_dir.glob(f"train/digits/*/checkpoints/.*.pt.{pid}")):
        return "writing a checkpoint"
    return "starting" if is_early else "training"


def differences(one: Path, other: Path) -> list[str]:
    """Which parts of what two runs leave are not equal."""
    found = [] if losses(one) == losses(other) else ["metrics.csv"]
    for name in ("last", "best"):
        first, second = (torch.load(run / "checkpoints" / f"{name}.pt", weights_only=True) for run in (one, other))
        for content in (first, second):
            del content["config"], content["training"]["seconds"]
            content["training"]["rows"] = untimed(content["training"]["rows"])
        try:
            torch.testing.assert_close(first, second, rtol=0, atol=0)
        except AssertionError as error:
            found.append(f"{name}.pt ({str(error).splitlines()[-1]})")
    return found


def losses(run: Path) -> list[dict[str, Any]]:
    with (run / "metrics.csv").open(newline="") as file:
        return untimed(csv.DictReader(file))


def untimed(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in TIMED} for row in rows]


def damaged(checkpoint: Path, chance: random.Random) -> list[tuple[str, int, str]]:
    """Flip a bit of a checkpoint, or cut off its end, and read it."""
    content, copy = checkpoint.read_bytes(), checkpoint.with_name("damaged.pt")
    outcomes: dict[str, Counter[str]] = {"a flipped bit in a checkpoint": Counter(), "a checkpoint cut off": Counter()}
    for i in range(N_DAMAGES):
        place = chance.randrange(len(content))
        flipped = bytes([content[place] ^ 1 << chance.randrange(8)])
        if i % 2:
            name, damage = "a checkpoint cut off", content[:place]
        else:
            name, damage = "a flipped bit in a checkpoint", content[:place] + flipped + content[place + 1 :]
        copy.write_bytes(damage)
        try:
            read_checkpoint(copy)
            outcomes[name]["read as if whole"] += 1
        except UserError as error:
            outcomes[name]["named as damaged" if str(copy) in str(error) else "not named"] += 1
    return [
        (name, of.total(), ", ".join(f"{n} {what}" for what, n in of.most_common())) for name, of in outcomes.items()
    ]


if __name__ == "__main__":
    main()
