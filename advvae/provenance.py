"""What a run was made with: versions, machine and commit each time it was begun, and checksums of its images.

Kept in the run's `provenance.json`:

    started     of each time that the run was begun or went on: time, versions, machine
    data        of each split that was read: set, split, n, sha256 of its prepared files' checksums
"""

import json
import os
import platform
import subprocess
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advvae.config import HERE
from advvae.files import replacing
from advvae.runs import PROVENANCE

if TYPE_CHECKING:
    from advvae.data import Split

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "pytorch-msssim", "scikit-learn", "hydra-core")


def record_start(folder: Path) -> None:
    """Note what the run in this folder is begun, or goes on, with."""
    facts = read_provenance(folder)
    _write(folder, {**facts, "started": [*facts["started"], {"time": _now(), **versions(), **machine()}]})


def record_split(folder: Path, split: "Split") -> None:
    """Note what a split of images is that the run reads."""
    facts = read_provenance(folder)
    row = {"set": split.name, "split": split.split, "n": len(split), "sha256": split.sha256}
    if row not in facts["data"]:
        _write(folder, {**facts, "data": [*facts["data"], row]})


def read_provenance(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What was noted of a run; empty lists where nothing was, or nothing that can be read."""
    facts: Any = {}
    with suppress(OSError, ValueError):
        facts = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    noted = {name: facts.get(name) if isinstance(facts, dict) else None for name in ("started", "data")}
    return {name: rows if isinstance(rows, list) else [] for name, rows in noted.items()}


def versions() -> dict[str, str]:
    """Of advvae, with its commit where it runs from a checkout; of Python and what computes."""
    found = {"advvae": _version("advvae"), "python": platform.python_version()}
    if found_commit := commit():
        found["commit"] = found_commit
    return found | {name: _version(name) for name in PACKAGES}


def machine() -> dict[str, Any]:
    """The operating system, the processor with the cores that this process may use, the GPUs and CUDA's version.

    No host's name.
    """
    import torch

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": cores,
        **({"gpus": gpus, "cuda": torch.version.cuda} if gpus else {}),
    }


def commit() -> str | None:
    """The commit of the checkout that this code is in, marked where files differ from it; None = it is in none."""
    checkout = HERE.parent
    if not (checkout / ".git").exists():  # an installed package may lie in another project's repository
        return None
    with suppress(OSError, subprocess.SubprocessError):
        head = _git(checkout, "rev-parse", "HEAD")
        changed = _git(checkout, "status", "--porcelain", "--untracked-files=no", "--", "advvae", "conf")
        return f"{head[:12]}, with changes" if changed else head[:12]
    return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _processor() -> str:
    """Its model, where the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _write(folder: Path, facts: dict[str, Any]) -> None:
    with replacing(folder / PROVENANCE) as unfinished:
        unfinished.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
