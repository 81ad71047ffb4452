"""Several processes that train one model: the same numbers as one, one folder, and one error for all."""

import csv
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch import distributed as processes

from advvae import distributed, ranks
from advvae.checkpoint import read_checkpoint
from advvae.checks import check
from advvae.config import CONF, DATASET_KEYS, FLAT_KEYS, Config
from advvae.data.splits import Split, divide
from advvae.epoch import epoch_generator
from advvae.epoch_losses import EpochLosses
from advvae.errors import UserError
from advvae.game import draw_noise, play_step
from advvae.group import FAILURE, Group, join
from advvae.models import AdversarialVAE, conv_networks
from advvae.models.conv import NORMS
from advvae.models.evaluation import of_all_images
from advvae.players import make_players
from advvae.tracking import Tracker
from advvae.trainer import Trainer
from tests.command import FEW, TINY, Command
from tests.networks import objective, real_images, small_networks
from tests.steps import terminate_in_step

STEPS = 20
BATCH = 33  # one more than two ranks can share evenly
MOST = timedelta(minutes=2)
LOSSES = ("vae_loss", "recon", "kld", "adversarial_sample", "discriminator_loss", "val_loss")


@pytest.mark.slow
def test_two_ranks_on_half_batches_equal_one_rank(tmp_path: Path) -> None:
    """After 20 steps, without batch statistics: weights and losses, and what is gathered."""
    alone = played(tmp_path)
    (tmp_path / "prepared").unlink()
    with beside(_play_and_save, tmp_path):
        together = played(tmp_path)
    follower = torch.load(tmp_path / "rank1.pt", weights_only=True)
    for name, weights in alone["weights"].items():
        torch.testing.assert_close(together["weights"][name], weights, rtol=0, atol=1e-6, msg=name)
        assert torch.equal(together["weights"][name], follower["weights"][name])
    assert together["losses"] == pytest.approx(alone["losses"], abs=1e-6)
    assert together["losses"] == follower["losses"]
    assert together["n_images"] == alone["n_images"] == STEPS * BATCH
    assert torch.equal(together["gathered"], torch.arange(10.0)[:, None].expand(10, 2))
    assert together["statistics"] == follower["statistics"] == 0.5  # the mean of the ranks' 0 and 1
    assert together["from_first"] == follower["from_first"] == 0
    assert alone["from_first"] == together["alone"] == 0
    assert follower["alone"] == 1
    assert follower["is_prepared"]


def played(folder: Path) -> dict[str, Any]:
    """Twenty steps of this rank's share, and what the other functions give."""
    # in float64, so that Adam's first steps, which follow the signs of gradients, do not magnify rounding
    players = make_players(networks_without_batch_statistics().double(), 2e-3, torch.device("cpu"))
    distributed.begin_alike(players.networks)
    generator, losses = torch.Generator().manual_seed(2), EpochLosses(0)
    for step in range(STEPS):
        images = distributed.own_part(real_images(BATCH, seed=step).double())
        noise = [own.double() for own in draw_noise(BATCH, 3, generator, torch.device("cpu"))]
        losses.add(play_step(players, objective(), images, (noise[0], noise[1]), "32"), len(images))
    own = distributed.own_part(torch.arange(10))
    norm = nn.BatchNorm1d(1)
    norm.running_mean = torch.full((1,), float(distributed.rank()))
    distributed.average_statistics(norm)
    with distributed.first_ahead():
        if distributed.rank() == 0:
            time.sleep(0.3)
            (folder / "prepared").touch()
        is_prepared = (folder / "prepared").exists()
    with distributed.alone():
        alone = distributed.from_first(distributed.rank())
    return {
        "losses": losses.means(),
        "n_images": losses.images,
        "weights": {name: tensor.clone() for name, tensor in players.networks.state_dict().items()},
        "gathered": distributed.gathered({"values": own[:, None].expand(-1, 2).float()}, own, 10)["values"],
        "statistics": norm.running_mean.item(),
        "from_first": distributed.from_first(distributed.rank()),
        "alone": alone,
        "is_prepared": is_prepared,
    }


def networks_without_batch_statistics() -> AdversarialVAE:
    torch.manual_seed(distributed.rank())  # they begin alike all the same
    networks = conv_networks(1, 8, 3, [4, 6], norm="group")
    for module in list(networks.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, NORMS["group"](child.num_features))
    return networks


def _play_and_save(folder: Path) -> None:
    torch.save(played(folder), folder / "rank1.pt")


@pytest.mark.slow
def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    """Two epochs, the losses of each; rank 1 alone believes that the time is up before the first."""
    with beside(_train_and_save, tmp_path):
        together = {norm: trained(tmp_path / norm, norm) for norm in ("batch", "group")}
    alone = trained(tmp_path / "alone", "group")
    follower = torch.load(tmp_path / "rank1.pt", weights_only=True)
    for norm in ("batch", "group"):  # running statistics too
        assert together[norm]["epochs"] == follower[norm]["epochs"] == 2
        for name, tensor in together[norm]["state"].items():
            assert torch.equal(tensor, follower[norm]["state"][name]), name
    assert together["group"]["losses"] == pytest.approx(alone["losses"], rel=1e-3)
    assert len(alone["losses"]) == 2 * 6


def trained(folder: Path, norm: str) -> dict[str, Any]:
    """What a training leaves; `norm`: of all networks."""
    rank = distributed.rank()
    networks = networks_without_batch_statistics() if norm == "group" else small_networks(seed=rank)
    pixels = torch.randint(256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    split = Split("noise", "train", pixels, torch.arange(40), "train", np.zeros(40, np.int64), ["any"], None)
    config = config_of(n_epochs=2, batch_size=9, lr=2e-4, precision="32", max_minutes=1)
    own = folder / f"rank{rank}"
    own.mkdir(parents=True)
    trainer = Trainer(
        *(config, networks, objective(), split, split.subset(torch.arange(20))),
        folder=own,
        shared_folder=own,
        device=torch.device("cpu"),
        tracker=Tracker(),
    )
    trainer.training.seconds = 1e6 * rank
    trainer.train()
    with (own / "metrics.csv").open(newline="") as file:
        losses = [float(row[name]) for row in csv.DictReader(file) for name in LOSSES]
    return {"epochs": trainer.training.epoch, "losses": losses, "state": dict(networks.state_dict())}


def config_of(**changes: Any) -> Config:
    """The defaults, but for these."""
    defaults: Any = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))
    return Config(**{name: defaults[name] for name in FLAT_KEYS} | changes)


def _train_and_save(folder: Path) -> None:
    torch.save({norm: trained(folder / norm, norm) for norm in ("batch", "group")}, folder / "rank1.pt")


@contextmanager
def beside(function: Callable[[Path], None], folder: Path) -> Iterator[None]:
    """This process is rank 0 of two in here; the other calls the function."""
    store = processes.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    other = multiprocessing.get_context("spawn").Process(target=_join_and_call, args=(function, folder, store.port))
    other.start()
    try:
        processes.init_process_group("gloo", store=store, rank=0, world_size=2, timeout=MOST)
        yield
        other.join()
        assert other.exitcode == 0
    finally:
        other.terminate()
        processes.destroy_process_group()


def _join_and_call(function: Callable[[Path], None], folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    store = processes.TCPStore("127.0.0.1", port, 2, is_master=False)
    processes.init_process_group("gloo", store=store, rank=1, world_size=2, timeout=MOST)
    function(folder)
    processes.destroy_process_group()


@pytest.mark.parametrize("n", [1, 5, 8, 9])
@pytest.mark.parametrize("n_ranks", [1, 2, 3])
def test_ranks_evaluate_the_batches_that_one_rank_would_see(
    n: int, n_ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbered = torch.arange(n, dtype=torch.uint8).view(-1, 1, 1, 1)
    split = Split("numbered", "test", numbered, torch.arange(n), "test", np.zeros(n, np.int64), ["any"], None)
    batches = [batch.tolist() for batch in divide(torch.arange(n), 4)]
    for rank in range(n_ranks):
        seen: list[list[int]] = []

        def look(images: Tensor, positions: Tensor, seen: list[list[int]] = seen) -> dict[str, Tensor]:
            seen.append(((images.flatten() + 1) * 127.5).round().int().tolist())
            assert seen[-1] == positions.tolist()
            return {"values": images}

        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed, "n_ranks", lambda: n_ranks)
        monkeypatch.setattr(distributed, "gathered", lambda values, positions, n: values)
        of_all_images(nn.Identity(), split, look, batch_size=4, device="cpu", what="")
        assert seen == batches[rank::n_ranks]


def test_ranks_draw_apart_and_leave_the_shared_draws_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = epoch_generator(0, 0)
    before = shared.get_state()
    assert distributed.own_generator(shared) is shared
    monkeypatch.setattr(distributed, "n_ranks", lambda: 2)
    draws = {torch.rand((), generator=epoch_generator(0, epoch)).item() for epoch in (0, 1)}
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        draws.add(torch.rand((), generator=distributed.own_generator(shared)).item())
    assert len(draws) == 4
    assert torch.equal(shared.get_state(), before)


def test_more_devices_than_there_are(advvae: Command) -> None:
    result = advvae("mode=train", "dataset=digits", *TINY, "n_devices=99", "device=cpu")
    assert (result.status, result.message) == (1, f"n_devices=99: there are only {ranks.n_cores()} cores here")
    assert list(advvae.cwd.iterdir()) == []


def test_a_rank_that_fails_has_its_say(tmp_path: Path) -> None:
    store = processes.TCPStore("127.0.0.1", 0, 1, is_master=True)
    store.set(FAILURE, "there is no disk")
    assert Group(store, []).failure() == "there is no disk"


@pytest.mark.slow
def test_two_devices_give_what_one_gives(advvae: Command) -> None:
    """Training, test and outliers in one command; then each again by one process, from the same weights."""
    scores = ("out_dataset=photos", "scores=[loss,discriminator,latent_gmm,feature_knn]", "baselines=false")
    run = advvae.train("n_devices=2", "n_epochs=2", "then=[test,outlier]", *scores).folder
    assert len(advvae.runs()) == 1
    assert (run / "samples" / "epoch-0002.png").is_file()
    together = json.loads((run / "metrics.json").read_text())
    for file in run.glob("*detector.pt"):
        file.unlink()
    test = advvae("mode=test", "dataset=digits", "tracker=none", "batch_size=256")
    alone = json.loads((test.folder / "metrics.json").read_text())
    assert {name: together[name] for name in ("n", "mse", "kld", "psnr", "ssim")} == {
        name: alone[name] for name in ("n", "mse", "kld", "psnr", "ssim")
    }
    outlier = advvae("mode=outlier", "dataset=digits", *scores, "tracker=none", "batch_size=256")
    assert (outlier.folder / "scores.csv").read_bytes() == (run / "scores.csv").read_bytes()


@pytest.mark.slow
def test_checkpoints_move_between_numbers_of_ranks(advvae: Command) -> None:
    run = advvae.train().folder
    for epochs, n_devices in ((2, 2), (3, 1)):
        again = advvae("mode=train", f"resume={run}", f"n_epochs={epochs}", f"n_devices={n_devices}", "tracker=none")
        assert again.status == 0, again.errors
        assert json.loads((run / "metrics.json").read_text())["epochs"] == epochs
    assert advvae.runs() == [run]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_all_ranks_with_one_line(advvae: Command) -> None:
    result = advvae("mode=train", "dataset=digits", *TINY, "lr=1e30", "n_epochs=2", "n_devices=2")
    assert result.status == 1
    assert "is not finite" in result.message
    assert len(result.message.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before it joins", "later"])
def test_a_rank_that_dies_ends_all(advvae: Command, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    groups = []

    class Doomed(Group):
        def wait_until_here(self) -> None:
            groups.append(self)
            if when == "before it joins":
                self.followers[0].kill()
            super().wait_until_here()

    def joined(*arguments: Any) -> None:
        join(*arguments)
        groups[0].followers[0].kill()

    monkeypatch.setattr(ranks, "join", joined)
    monkeypatch.setattr(ranks, "Group", Doomed)
    result = advvae("mode=train", "dataset=digits", *TINY, "n_devices=2")
    assert (result.status, result.message) == (1, "rank 1 ended with status -9 (killed)")
    assert not processes.is_initialized()


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.2, 1.0, 5.0])
def test_an_interrupt_ends_all_and_leaves_nothing(advvae: Command, tmp_path: Path, seconds: float) -> None:
    """Ctrl-C, which reaches all processes, as the other one begins, joins and trains."""
    arguments = ["mode=train", "dataset=digits", *TINY, "n_epochs=9999", "n_devices=2"]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "ADVVAE_DATA": str(advvae.data_dir), "TMPDIR": str(temporary)}
    command = subprocess.Popen(
        [sys.executable, "-m", "advvae", *arguments],
        cwd=advvae.cwd,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not list(temporary.glob("advvae-*")) and command.poll() is None:  # made just before the other process
        time.sleep(0.02)
    time.sleep(seconds)
    os.killpg(command.pid, signal.SIGINT)
    _, errors = command.communicate(timeout=60)
    assert command.returncode == 1
    told = errors.strip().splitlines()[-1]
    assert told == "interrupted" or told.startswith("stopped by SIGINT; this goes on: advvae")
    assert "Traceback" not in errors
    assert list(temporary.glob("advvae-*")) == []
    deadline = time.monotonic() + 10
    while is_running(command.pid) and time.monotonic() < deadline:  # Python's own helper ends a moment later
        time.sleep(0.1)
    assert not is_running(command.pid)


@pytest.mark.slow
def test_two_ranks_go_on_from_the_middle_of_an_epoch(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("mode=train", "dataset=digits", *TINY, "n_devices=2", "device=cpu", "negatives=[cutout]")
    whole = advvae(*arguments).folder

    with monkeypatch.context() as patch:
        terminate_in_step(patch, 4)
        stopped = advvae(*arguments)
    assert "stopped by SIGTERM" in stopped.message
    resumed = advvae(*arguments, "resume=auto")
    assert "last.pt, after epoch 0 and 4 steps of the next" in resumed.output
    assert resumed.folder == stopped.folder
    one, other = (read_checkpoint(run / "checkpoints" / "last.pt").parts for run in (whole, resumed.folder))
    for part, tensors in one.items():
        for name, tensor in tensors.items():  # statistics were averaged at the interruption, which is one rounding more
            torch.testing.assert_close(other[part][name], tensor, rtol=1e-5, atol=1e-6)


def is_running(process_group: int) -> bool:
    try:
        os.killpg(process_group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_jobs_of_a_sweep_each_have_their_ranks(advvae: Command) -> None:
    result = advvae("-m", "mode=train", "dataset=digits", *TINY, "n_devices=2", "seed=0,1")
    assert result.status == 0, result.errors
    assert len(advvae.runs()) == 2


@pytest.mark.slow
def test_torchrun(advvae: Command) -> None:
    arguments = ["mode=train", "dataset=digits", *TINY, "then=[outlier]", "out_dataset=photos", *FEW]
    result = torchrun(advvae, *arguments)
    assert result.returncode == 0, result.stderr
    (run,) = advvae.runs()
    assert json.loads((run / "metrics.json").read_text())["status"] == "finished"
    assert result.stdout.count(f"run folder: {run}") == 1
    help_of_torchrun = torchrun(advvae, "--help")
    assert (help_of_torchrun.returncode, help_of_torchrun.stdout.count("Usage: advvae")) == (0, 1)
    assert torchrun(advvae, "lr=0").returncode == 1
    sweep = torchrun(advvae, "-m", "mode=train", "dataset=digits", "seed=0,1")
    assert (sweep.returncode, sweep.stderr.count("torchrun runs one job, not a sweep")) == (1, 1)
    assert advvae.runs() == [run]


def torchrun(advvae: Command, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "advvae", *arguments]
    environment = {**os.environ, "ADVVAE_DATA": str(advvae.data_dir)}
    return subprocess.run(command, cwd=advvae.cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def by_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """As rank 0 of two."""
    for name, value in (("TORCHELASTIC_RUN_ID", "none"), ("WORLD_SIZE", "2"), ("RANK", "0")):
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("by_torchrun")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"mode": "matrix", "datasets": ["digits", "photos"]}, "one device, got torchrun with 2 processes"),
        ({"device": "cuda:1"}, "torchrun with 2 processes needs device=auto, cuda or cpu"),
        ({"batch_size": 3}, "torchrun with 2 processes needs two images for each, 4"),
    ],
)
def test_what_torchrun_starts_is_checked_as_n_devices_are(changes: dict[str, Any], expected: str) -> None:
    dataset = {"name": "digits", **DATASET_KEYS}
    with pytest.raises(UserError, match=expected):
        check(config_of(**{"mode": "train", "dataset": dataset, "out_dataset": dataset} | changes))


@pytest.mark.usefixtures("by_torchrun")
def test_torchrun_counts_the_devices() -> None:
    with pytest.raises(UserError, match="n_devices=3 beside torchrun's 2 processes: leave it out"):
        ranks._beside_torchrun(config_of(n_devices=3)).__enter__()


@pytest.mark.slow
def test_two_ranks_need_two_training_images_each(advvae: Command) -> None:
    np.save(advvae.cwd / "few.npy", np.arange(5 * 64, dtype=np.uint8).reshape(5, 8, 8))
    result = advvae("mode=train", "dataset=array", "dataset.path=few.npy", *TINY, "n_devices=2")
    assert (result.status, result.message) == (1, "array: 3 training images are too few for 2 processes")
