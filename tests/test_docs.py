"""The documentation: every command and script in it is run, in its page's order, and the site is built strictly."""

import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from advvae.config import FLAT_KEYS, GROUPS
from advvae.outlier.scores import FUSED, SCORES
from tests.command import FEW, TINY, Command
from tests.data import official_files

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ELSEWHERE = {  # of images of their own
    "how-to/dicom.md": "test_dicom_page.py",
    "how-to/patients.md": "test_dicom_page.py",
}
WITHOUT_COMMANDS = {  # and why there is none to run
    "index.md": "links alone",
    "how-to/generativezoo.md": "its flags are read by test_readme.py",
    "how-to/tables.md": "says what other pages' commands have written",
    "explanation/conventions.md": "says what numbers mean",
    "explanation/game.md": "says what is computed",
    "explanation/scores.md": "says what scores mean",
    "reference/commands.md": "a table of them, which other pages show",
    "reference/files.md": "a table of files",
    "reference/python.md": "made from docstrings",
    "reference/scores.md": "made from docstrings",
}
COMPOSED = ("experiment=medmnist_one_class", "experiment=medmnist_matrix")  # whose sets are not at hand
STEP = re.compile(
    r"^```(?:python|yaml)\n# (\S+\.(?:py|yaml))\n(.*?)^```|^ {4,}((?:python -m )?advvae [^\n]*)$|^```bash\n(.*?)^```",
    re.DOTALL | re.MULTILINE,
)
PLUGINS = {  # what composes a launcher or sweeper
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "submitit_slurm": "hydra_plugins.hydra_submitit_launcher",
    "ray": "hydra_plugins.hydra_ray_launcher",
    "optuna": "hydra_plugins.hydra_optuna_sweeper",
}
MOST_SECONDS = 60  # that the script for SLURM is waited for


def text_of(page: str | Path) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def steps(page: str | Path) -> list[tuple[str, str, str, str]]:
    """What a page has its reader write and type: (file, its content, command, shell), two of them or three empty."""
    return STEP.findall(text_of(page))


def is_run(command: str) -> bool:
    return bool(command) and not command_of_plugin(command) and not any(word in command for word in COMPOSED)


def command_of_plugin(command: str) -> str | None:
    """The launcher or sweeper that a command names."""
    found = re.search(r"hydra/(?:launcher|sweeper)=(\w+)", command)
    return found[1] if found else None


ALL_PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
PAGES = [page for page in ALL_PAGES if page not in {*ELSEWHERE, *WITHOUT_COMMANDS}]
NOT_RUN = sorted(
    (page, command) for page in ALL_PAGES for _, _, command, _ in steps(page) if command and not is_run(command)
)


@pytest.fixture
def here(advvae: Command) -> Command:
    """A current folder with what the pages take for granted: scans, new_scans, scans.npz; some sets are at hand."""
    generator = np.random.default_rng(0)
    for number in range(120):
        kind = ("normal", "lesion")[number % 4 == 0]
        for folder in (Path("scans", kind), Path("new_scans")):
            (advvae.cwd / folder).mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 255, (10, 10), dtype=np.uint8)
            Image.fromarray(pixels).save(advvae.cwd / folder / f"{number}.png")
    np.savez(advvae.cwd / "scans.npz", images=generator.integers(0, 255, (60, 10, 10), dtype=np.uint8))
    advvae.data_dir = advvae.cwd / "data"
    for dataset in ("MNIST", "FashionMNIST"):
        official_files.write_mnist(advvae.data_dir, dataset)
    official_files.write_medmnist(advvae.data_dir, "octmnist")
    return advvae


def train_first(here: Command, page: str) -> None:
    """The finished trainings that a page's commands use and do not make themselves, and the sweep."""
    commands = [command for _, _, command, _ in steps(page) if command]
    for dataset in ("digits", "mnist"):
        first = next((c for c in commands if f"dataset={dataset}" in c), "mode=train")
        if "mode=train" not in first and "experiment=" not in first:
            assert here("mode=train", f"dataset={dataset}", *TINY).status == 0
    if "checkpoint=outputs/train/digits/<time>" in text_of(page) and not here.runs():
        assert here("mode=train", "dataset=digits", *TINY).status == 0
    makes_sweeps = any(" -m " in command or "experiment=" in command for command in commands)
    if "outputs/sweeps/<time>" in text_of(page) and not makes_sweeps:
        assert here("-m", "mode=train", "dataset=digits", *TINY, "latent_dim=2,3").status == 0


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_runs(here: Command, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVVAE_DATA", str(here.data_dir))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    train_first(here, page)
    for name, script, command, shell in steps(page):
        if name:
            (here.cwd / name).parent.mkdir(parents=True, exist_ok=True)
            (here.cwd / name).write_text(script)
            if "import advvae" in script or "from advvae import" in script:
                subprocess.run([sys.executable, name], cwd=here.cwd, check=True)
        elif is_run(command):
            run(here, command)
        else:
            for line in shell.splitlines():
                if line.startswith("python "):
                    subprocess.run([sys.executable, *shlex.split(line)[1:]], cwd=here.cwd, check=True)


def run(here: Command, command: str) -> None:
    """A command as it stands, with a tiny network and two processes at most, and the newest folder for <time>."""
    for kind in re.findall(r"checkpoint=(\S+)/<time>", command):
        newest = max((here.cwd / kind).iterdir(), key=lambda folder: folder.name)
        command = command.replace(f"{kind}/<time>", str(newest))
    words = shlex.split(command.replace("python -m advvae", "advvae"))[1:]
    modes = {word for word in words if word.startswith("mode=")}
    if modes <= {"mode=train", "mode=matrix"}:  # what trains
        swept = {word.partition("=")[0] for word in words if "," in word and "[" not in word}
        words += [word for word in TINY if word.partition("=")[0] not in swept]
        words = [word for word in words if not word.startswith("max_minutes=")]
        words = ["n_devices=2" if word == "n_devices=8" else word for word in words]
        if any(word in ("experiment=one_class", "experiment=hold_out") for word in words):  # a job for each class
            words += FEW
    settings = {word if "=" not in word or word.startswith("--") else word.partition("=")[0]: word for word in words}
    result = here(*settings.values(), *([] if {"tracker", "-m"} & set(settings) else ["tracker=none"]))
    assert result.status == 0, (command, result.errors)


def test_every_page_has_commands_or_a_reason_to_have_none() -> None:
    for page in PAGES:
        assert any(name or is_run(command) for name, _, command, _ in steps(page)), page
    for page in WITHOUT_COMMANDS:
        assert not steps(page), page


@pytest.mark.parametrize(("page", "command"), NOT_RUN)
def test_what_is_not_run_composes(advvae: Command, page: str, command: str) -> None:
    """Launchers of clusters, and benches of twelve sets: with one value of each key that is swept."""
    plugin = command_of_plugin(command)
    if plugin and not installed(PLUGINS[plugin]):
        pytest.skip(f"{PLUGINS[plugin]} is not installed")
    words = [one_value(word) for word in shlex.split(command)[1:] if word != "-m"]
    result = advvae("--cfg", "hydra" if plugin else "job", *words)
    assert result.status == 0, (page, command, result.errors)


def installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def one_value(word: str) -> str:
    """An override, with the first of its values where it is swept."""
    override = OverridesParser.create().parse_override(word)
    if not override.is_sweep_override():
        return word
    return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"


def test_what_is_typed_beside_advvae_is_there() -> None:
    extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for path in (*DOCS.rglob("*.md"), ROOT / "README.md", *(ROOT / "benchmarks").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        for module in re.findall(r"python -m (benchmarks\.\w+|advvae\.\w+)", text):
            assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file(), (path, module)
        for extra in re.findall(r"pip install '\.\[(\w+)\]'", text):
            assert extra in extras, (path, extra)
        assert "pip install 'advvae" not in text, f"{path}: it is no name of a package registry's"
        for target in re.findall(r"(?:^    |`)make ([\w-]+)", text, re.MULTILINE):
            assert target in targets, (path, target)


def test_the_command_for_several_machines_composes(advvae: Command) -> None:
    (line,) = re.findall(r"^    torchrun (.*)$", text_of("scaling.md"), re.MULTILINE)
    words = shlex.split(line)
    assert advvae("--cfg", "job", *words[words.index("advvae") + 1 :]).status == 0
    known = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for word in words[: words.index("-m")]:
        assert word.partition("=")[0] in known


@pytest.mark.slow
def test_the_script_for_slurm_puts_back_what_is_stopped_and_not_what_fails(tmp_path: Path) -> None:
    """With stand-ins for SLURM's commands; the training is a process that waits for its signal."""
    in_bash = re.compile(r"^```bash\n(#!/bin/bash\n#SBATCH.*?)^```", re.DOTALL | re.MULTILINE)
    (script,) = in_bash.findall(text_of("interruptions.md"))
    stand_ins = {
        "srun": 'echo "$$" > step\nif [ -e failing ]; then exit 1; fi\ntrap "echo saved > last.pt; exit 1" USR1\n'
        "for second in $(seq 60); do sleep 1 & wait $!; done",
        "scancel": 'echo "$@" > cancelled\nkill -USR1 "$(cat step)"',
        "scontrol": 'cat last.pt > at_requeue\necho "$@" > requeued',
    }
    for name, lines in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "train.sh").write_text(script)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    job = subprocess.Popen(["bash", "train.sh"], cwd=tmp_path, env=environment)
    deadline = time.monotonic() + MOST_SECONDS
    while not (tmp_path / "step").exists() or not (tmp_path / "step").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)  # until both have set their traps
    job.send_signal(signal.SIGUSR1)
    assert job.wait(MOST_SECONDS) == 0
    assert (tmp_path / "cancelled").read_text() == "--signal=USR1 7\n"
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    assert (tmp_path / "at_requeue").read_text() == "saved\n"
    (tmp_path / "requeued").unlink()
    (tmp_path / "failing").touch()
    assert subprocess.run(["bash", "train.sh"], cwd=tmp_path, env=environment, check=False).returncode == 1
    assert not (tmp_path / "requeued").exists()


@pytest.mark.parametrize("page", ["explanation/scores.md", "how-to/outliers.md"])
def test_every_score_is_on_the_pages_of_scores(page: str) -> None:
    named = set(re.findall(r"[a-z]\w+", " ".join(re.findall(r"`([^`]+)`", text_of(page)))))
    assert {*SCORES, FUSED} <= named


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    for path in DOCS.rglob("*.md"):
        assert str(path.relative_to(DOCS)) in navigation


def test_pages_with_commands_of_their_own_tests_name_them() -> None:
    for page, test in ELSEWHERE.items():
        assert (DOCS / page).is_file()
        assert page in (ROOT / "tests" / test).read_text()


def test_the_reference_has_every_key_as_it_is_written() -> None:
    from docs_hooks import config_reference

    reference = config_reference()
    for name in FLAT_KEYS:
        assert f"| `{name}` | `" in reference
    for group in GROUPS:
        assert f"### {group}\n" in reference
    for key in ("dataset.root", "dataset.max_unreadable", "model.vae_norm", "tracker.images"):
        assert f"| `{key}` |" in reference
    assert "| `data_dir` | `data` |" in reference
    assert r"{\_target\_: …}" in reference
    assert not re.search(r"\| `\w+` \|\s+\|", reference), "an option says nothing of itself"


@pytest.mark.slow
def test_the_site_is_built_strictly(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    text = (tmp_path / "site" / "reference" / "config" / "index.html").read_text()
    assert "kld_weight" in text
    assert "{_target_: …}" in text
    scores = (tmp_path / "site" / "reference" / "scores" / "index.html").read_text()
    assert all(path.rpartition(".")[2] in scores for path in SCORES.values())
    assert (tmp_path / "site" / "benchmarks" / "outlier" / "index.html").is_file()


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("ADVVAE_DATA", str(tmp_path / "data"))
    notebook = nbformat.read(ROOT / "notebooks" / "digits.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "latent_mahalanobis" in printed
    assert sum("image/png" in output.get("data", {}) for c in notebook.cells for output in c.get("outputs", [])) == 4
