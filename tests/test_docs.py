"""The documentation: every command and script in it is run, in its page's order, and the site is built strictly."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command import TINY, Command
from tests.data import official_files

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ELSEWHERE = {"medical.md": "test_medical_page.py"}  # pages whose commands need images of their own
PAGES = sorted(path.relative_to(DOCS) for path in DOCS.rglob("*.md") if path.name not in ELSEWHERE)
TOO_LARGE = ("n_devices=8", "dataset=octmnist")  # of examples: machines of eight GPUs, sets that are not at hand
STEP = re.compile(
    r"^```python\n# (\S+\.py)\n(.*?)^```|^ {4,}((?:python -m )?advvae [^\n]*)$|^```bash\n(.*?)^```",
    re.DOTALL | re.MULTILINE,
)


@pytest.fixture
def here(advvae: Command) -> Command:
    """A current folder with what the pages take for granted: scans, new_scans, scans.npz; MNIST is at hand."""
    generator = np.random.default_rng(0)
    for number in range(120):
        kind = ("normal", "lesion")[number % 4 == 0]
        for folder in (Path("scans", kind), Path("new_scans")):
            (advvae.cwd / folder).mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 255, (10, 10), dtype=np.uint8)
            Image.fromarray(pixels).save(advvae.cwd / folder / f"{number}.png")
    np.savez(advvae.cwd / "scans.npz", images=generator.integers(0, 255, (60, 10, 10), dtype=np.uint8))
    advvae.data_dir = advvae.cwd / "data"
    official_files.write_mnist(advvae.data_dir)
    for dataset in (
        "digits",
        "mnist",
    ):  # finished trainings, and below a sweep, which pages use that begin with another mode
        assert advvae("mode=train", f"dataset={dataset}", *TINY).status == 0
    assert advvae("-m", "mode=train", "dataset=digits", *TINY, "latent_dim=2,3").status == 0
    return advvae


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_command_of_a_page_runs(here: Command, page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVVAE_DATA", str(here.data_dir))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name, script, command, shell in STEP.findall((DOCS / page).read_text(encoding="utf-8")):
        if name:
            (here.cwd / name).write_text(script)
            if "import advvae" in script or "from advvae import" in script:
                subprocess.run([sys.executable, name], cwd=here.cwd, check=True)
        elif command:
            run(here, command)
        else:
            for line in shell.splitlines():
                if line.startswith("python "):
                    subprocess.run([sys.executable, *shlex.split(line)[1:]], cwd=here.cwd, check=True)


def run(here: Command, command: str) -> None:
    """A command as it stands, with a tiny network, and the newest folder of its kind for <time>."""
    for kind in re.findall(r"checkpoint=(\S+)/<time>", command):
        newest = max((here.cwd / kind).iterdir(), key=lambda folder: folder.name)
        command = command.replace(f"{kind}/<time>", str(newest))
    words = shlex.split(command.replace("python -m advvae", "advvae"))[1:]
    if set(words) & set(TOO_LARGE):
        return
    if "mode=train" in words or "-m" in words:
        swept = {word.partition("=")[0] for word in words if "," in word and "[" not in word}
        words += [word for word in TINY if word.partition("=")[0] not in swept]
        words = [word for word in words if not word.startswith("max_minutes=")]
    settings = {word.partition("=")[0] if "=" in word else word: word for word in words}
    result = here(*settings.values(), *([] if {"tracker", "-m"} & set(settings) else ["tracker=none"]))
    assert result.status == 0, (command, result.errors)


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    for path in DOCS.rglob("*.md"):
        assert str(path.relative_to(DOCS)) in navigation


def test_pages_with_commands_of_their_own_tests_name_them() -> None:
    for page, test in ELSEWHERE.items():
        assert (DOCS / page).is_file()
        assert page in (ROOT / "tests" / test).read_text()


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
