"""Overrides made from the schema: what a key may be composes, all else is one message that names it, and no folder."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from advvae import running
from advvae.checks import LARGEST
from advvae.cli import check_words
from advvae.config import FLAT_KEYS, GROUPS, Config
from advvae.errors import UserError
from advvae.overrides import check_overrides
from advvae.settle import Settled
from tests.command import TINY, Command

TYPES = {name: hint for name, hint in get_type_hints(Config).items() if name in FLAT_KEYS}
KINDS = {  # name -> the type of a key's value, and of the items of a list, null aside
    name: get_args(hint)[0] if isinstance(hint, UnionType) else hint for name, hint in TYPES.items()
}
OPTIONAL = [name for name, hint in TYPES.items() if hint is Any or NoneType in get_args(hint)]
LISTS = [name for name, kind in KINDS.items() if get_origin(kind) is list]
NOT_A_NUMBER = ("abc", "true", "nan", "inf", "-inf", "", "''", "[1]", "{a:1}")
WRONG = {  # by type: of another one, not a number, not finite, empty, out of every range, huge
    int: (*NOT_A_NUMBER, "1.5", "1e3", "-1", "99999999999999999999", "9" * 5000),
    float: (*NOT_A_NUMBER, "-1", "-0.5", "1e999"),
    bool: ("maybe", "2", "-1", "1.5", "nan", "inf", "", "''", "[true]", "{a:1}"),
    str: ("true", "1.5", "nan", "inf", "", "''", "' '", "[a]", "{a:1}"),
    Any: ("5", "1.5", "nan", "true", "", "''", "[a]", "{a:1}"),
    list: ("abc", "5", "1.5", "nan", "inf", "true", "", "''", "{a:1}"),
}
WRONG_ITEMS = {  # of lists, by the type of their items
    int: ("[]", "[a]", "[1.5]", "[null]", "[0]", "[-1]", "[1,99999999999999999999]"),
    float: ("[]", "[a]", "[null]", "[0.5]", "[0.5,nan]", "[-0.1,0.5]", "[0.5,1]", "[0.5,0.6,0.7]"),
    str: ("[null]", "[{a:1}]", "[[a]]"),
    Any: (),
}
BAD_OPTIONS = ("nonsense", "Conv", "", "''", "[a,b]", "{a:1}", "5", "../dataset/digits", "mnist.yaml")


def wrong_values(name: str) -> Iterator[str]:
    kind = KINDS[name]
    yield from WRONG[get_origin(kind) or kind]
    yield from () if name in OPTIONAL else ("null",)
    if name in LISTS:
        yield from WRONG_ITEMS[get_args(kind)[0]]
    if FLAT_KEYS[name]["choices"]:
        yield "[nonsense]" if name in LISTS else "nonsense"


BAD = [(name, value) for name in FLAT_KEYS for value in wrong_values(name)]
BAD += [(group, value) for group in GROUPS for value in BAD_OPTIONS]
BAD += [(group, "null") for group in GROUPS if group != "experiment"]


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> list[Settled]:
    """What each command would begin with, in place of beginning."""
    found: list[Settled] = []

    def begin(settled: Settled, *_: object) -> None:
        found.append(settled)
        raise UserError("it would begin")

    monkeypatch.setattr(running, "open_job", begin)
    return found


def test_there_are_hundreds_of_cases() -> None:
    assert len(BAD) > 400
    assert len({name for name, _ in BAD}) == len(FLAT_KEYS) + len(GROUPS)


@pytest.mark.parametrize(("name", "value"), BAD, ids=[f"{name}={value[:25]}" for name, value in BAD])
def test_a_bad_value_names_its_key(advvae: Command, settled: list[Settled], name: str, value: str) -> None:
    result = advvae(f"{name}={value}")
    assert result.status == 1
    assert name in result.message
    assert len(result.message.splitlines()) == 1
    assert "Traceback" not in result.errors
    assert list(advvae.cwd.iterdir()) == []
    assert settled == []


def test_null_composes_where_it_means_something(advvae: Command, settled: list[Settled]) -> None:
    advvae(*(f"{name}=null" for name in OPTIONAL))
    (begun,) = settled
    decided = ("size", "hidden_dims")
    assert {getattr(begun.config, name) for name in OPTIONAL if name not in decided} == {None}
    assert (begun.config.size, begun.config.hidden_dims) == (32, [32, 64, 128, 256])


def test_the_largest_values_compose(advvae: Command, settled: list[Settled]) -> None:
    largest: dict[str, float] = {"seed": 2**32 - 1, **LARGEST}
    assert set(largest) - {"hidden_dims"} == {name for name, kind in KINDS.items() if kind is int}
    del largest["hidden_dims"], largest["n_devices"]  # a list, and what the machine has
    largest |= {name: 1e308 for name, kind in KINDS.items() if kind is float and name not in ("alpha", "ema")}
    result = advvae(*(f"{name}={value}" for name, value in largest.items()))
    assert result.message == "it would begin"
    (begun,) = settled
    assert {name: getattr(begun.config, name) for name in largest} == largest


def test_lists_may_be_empty(advvae: Command, settled: list[Settled]) -> None:
    names = [name for name in LISTS if get_args(KINDS[name])[0] not in (int, float)]
    advvae(*(f"{name}=[]" for name in names))
    (begun,) = settled
    assert all(getattr(begun.config, name) == [] for name in names)


def answer(argument: str) -> str | None:
    """What is said to an argument before Hydra starts; None = nothing."""
    try:
        check_words([argument])
        check_overrides([argument])
    except SystemExit as end:
        return str(end.code)
    return None


@st.composite
def misspelt(draw: st.DrawFn) -> str:
    """A key or group with one letter too many, too few, or another."""
    name = draw(st.sampled_from([*FLAT_KEYS, *GROUPS]))
    place, kept = draw(st.integers(0, len(name) - 1)), draw(st.integers(0, 1))
    letter = draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz_"))
    wrong = name[:place] + draw(st.sampled_from(["", letter])) + name[place + kept :]
    assume(wrong and wrong not in FLAT_KEYS and wrong not in GROUPS)
    return wrong


@settings(derandomize=True, deadline=None, max_examples=300)
@given(name=misspelt(), value=st.sampled_from(["1", "abc", "[1]", "null", ""]), prefix=st.sampled_from(["", "+", "++"]))
def test_a_misspelt_key_is_told_with_the_one_meant(name: str, value: str, prefix: str) -> None:
    told = answer(f"{prefix}{name}={value}") or ""
    assert told.startswith(f"there is no key '{name}'")
    assert "did you mean" in told or len(name) < 5


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    name=st.sampled_from([*FLAT_KEYS, *GROUPS]),
    value=st.text(max_size=12)
    | st.text("0123456789.e-+_[]{},:'\"\\ naif", max_size=8)
    | st.integers().map(str)
    | st.floats().map(str)
    | st.lists(st.integers() | st.text("abc", max_size=2), max_size=3).map(str),
)
def test_whatever_is_typed_passes_or_is_one_line_that_names_the_key(name: str, value: str) -> None:
    told = answer(f"{name}={value}")
    assert told is None or (name in told and len(told.splitlines()) == 1)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("++lr=x", "lr takes a number"),
        ("--config-dir=. lr=x", "lr takes a number"),
        ("-m lr=1,x", "lr=x"),
        ("lr=1,2", "lr=1,2"),
        ("lr=0.1 lr=0", "lr must be"),
        ("lr=${nope}", "lr: Interpolation key 'nope' not found"),
        ("lr=${oc.env:NOPE}", "lr: KeyError"),
        ("lr", "cannot read 'lr'"),
        ("size=größe", "size=größe"),
        ("batch-size=3", "did you mean batch_size?"),
        ("+nodes.x=1", "nodes"),
        ("dataset.size=abc", "dataset.size takes a whole number"),
        ("dataset.size=-5", "dataset.size must be 8 px or more"),
        ("dataset.size=1000000", "dataset.size must be 16384 or less"),
        ("dataset.channels=true", "dataset.channels must be 1, 3 or null"),
        ("dataset.a.b.c=1", "dataset.a.b.c"),
        ("tracker.images=abc", "tracker.images must be true, false or null"),
        ("tracker=tensorboard no_wandb=true", "no_wandb=true is tracker=none, got tracker=tensorboard"),
        ("hydra.nope=1", "hydra.nope"),
        ("--config-dir=nowhere", "nowhere"),
        ("--config-dir=. dataset=../dataset/digits", "dataset=../dataset/digits is no option"),
        ("--config-dir=. experiment=5", "experiment takes the name of an option"),
        (f"output_dir={'a' * 300}", "File name too long"),
    ],
)
def test_other_mistakes(advvae: Command, settled: list[Settled], arguments: str, expected: str) -> None:
    result = advvae(*arguments.split())
    assert (result.status, settled) == (1, [])
    assert expected in result.message
    assert len(result.message.splitlines()) == 1
    assert list(advvae.cwd.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nope: 1", "nope"),
        ("lr: [1", "mistaken.yaml"),
        ("lr: abc", "lr: "),
        ("lr: -1", "lr must be a finite number above 0"),
        ("nodes: {a: {b: 1}}", "nodes"),
    ],
)
def test_a_file_with_a_mistake(advvae: Command, settled: list[Settled], text: str, expected: str) -> None:
    (advvae.cwd / "experiment").mkdir()
    (advvae.cwd / "experiment" / "mistaken.yaml").write_text(f"# @package _global_\n{text}\n")
    result = advvae("--config-dir=.", "experiment=mistaken")
    assert (result.status, settled) == (1, [])
    assert expected in result.message
    assert len(result.message.splitlines()) == 1
    assert [path.name for path in advvae.cwd.iterdir()] == ["experiment"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("dataset.keep_classes=[1] dataset.drop_classes=[1]", "keep/drop_classes"),
        ("then=[outlier] out_dataset=digits out_dataset.keep_classes=[77]", "77 is not a class"),
        ("then=[outlier] scores=[] baselines=false", "scores: none can be computed"),
        ("crop=16", "crop=16 does not fit into images of size=8"),
        ("train_discriminator=false gen_weight=0 recon_weight=0 negatives=[jigsaw]", "train_discriminator is false"),
        ("model.norm=nonsense", "model.norm must be one of"),
        ("model.spectral_norm=nonsense", "model.spectral_norm must be true or false"),
        ("loss._partial_=nonsense", "loss: cannot build"),
        ("hidden_dims=[65536,65536]", "out of memory: lower batch_size, size"),
    ],
)
def test_contradictions_are_told_before_training(  # more of them in test_bad_input.py
    advvae: Command, monkeypatch: pytest.MonkeyPatch, arguments: str, expected: str
) -> None:
    monkeypatch.setattr("advvae.trainer.Trainer.train", lambda _: pytest.fail("it trains"))
    result = advvae("mode=train", "dataset=digits", *TINY, *arguments.split())
    assert result.status == 1
    assert expected in result.message
    assert len(result.message.splitlines()) == 1
    assert list(advvae.cwd.iterdir()) == []


def test_a_discriminator_of_other_channels(advvae: Command) -> None:
    run = advvae.train().folder
    colour = advvae.train("dataset.channels=3").folder
    result = advvae("mode=outlier", f"checkpoint={run}", f"discriminator_checkpoint={colour}")
    assert result.status == 1
    assert "is for channels=3, the rest for 1" in result.message
    assert advvae.runs() == [run, colour]


PROCESSES = [
    *("gen_wieght=1", "lr=0", "lr=abc", "lr=nan", "lr=1e999", "batch_size=1e3", "n_epochs=99999999999999999999"),
    *("seed=-1", "latent_dim=1000000000", "hidden_dims=[0]", "size=1000000", "num_workers=1000000", "maps=2"),
    *("then=[nonsense]", "scores=loss", "checkpoint=", "dataset=nonsense", "experiment=nonsense"),
    *("lr=${nope}", "deterministic=true precision=bf16"),
]
HEAVY = ("torch", "torchvision", "wandb", "matplotlib", "sklearn", "medmnist")


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[subprocess.CompletedProcess[str], Path]]:
    """What real processes, in which no heavy package can be imported, say to each of PROCESSES, and their folders."""
    poison = tmp_path_factory.mktemp("poison")
    for package in HEAVY:
        (poison / f"{package}.py").write_text(f"raise AssertionError('{package} is imported')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(poison), str(Path(running.__file__).parents[1])])}

    def run(arguments: str) -> tuple[subprocess.CompletedProcess[str], Path]:
        folder = tmp_path_factory.mktemp("process")
        command = [sys.executable, "-m", "advvae", *arguments.split()]
        given: dict[str, Any] = {"cwd": folder, "env": environment, "text": True, "capture_output": True}
        return subprocess.run(command, check=False, **given), folder

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(PROCESSES, pool.map(run, PROCESSES), strict=True))


@pytest.mark.parametrize("arguments", PROCESSES)
def test_a_process_ends_with_one_line_and_status_1(
    processes: dict[str, tuple[subprocess.CompletedProcess[str], Path]], arguments: str
) -> None:
    process, folder = processes[arguments]
    assert process.returncode == 1
    assert arguments.partition("=")[0] in process.stderr
    assert len(process.stderr.splitlines()) == 1
    assert process.stdout == ""
    assert list(folder.iterdir()) == []
