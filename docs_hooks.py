"""What MkDocs adds to the pages in docs/: the measurements, and a reference that is made from the config itself."""

import re
from pathlib import Path
from typing import Any

import yaml
from mkdocs.structure.files import File, Files

from advvae.catalogue import first_comment
from advvae.config import CONF, FLAT_KEYS, GROUPS

ROOT = Path(__file__).parent


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the pages that are not in docs/."""
    for path in sorted((ROOT / "benchmarks").glob("*.md")):
        text = path.read_text(encoding="utf-8").replace("](../docs/", "](../")
        files.append(File.generated(config, f"benchmarks/{path.name}", content=_without_code_links(text)))
    files.append(File.generated(config, "reference/config.md", content=config_reference()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to the measurements, which beside docs/ in the repository are below it here."""
    return re.sub(r"\]\((\.\./)((?:\.\./)*)benchmarks/", r"](\2benchmarks/", markdown)


def config_reference() -> str:
    """Every group with its options, and every flat key with default, meaning and choices."""
    text = (CONF / "config.yaml").read_text(encoding="utf-8")
    chosen = {k: v for item in yaml.safe_load(text)["defaults"] if isinstance(item, dict) for k, v in item.items()}
    lines = [
        "# Keys and groups",
        "",
        "As `advvae --help` prints them: all are typed as `key=value`.",
        "",
        "## Groups",
        "",
    ]
    for group in GROUPS:
        lines += [f"### {group}", "", f"Default: `{group}={chosen[group] or 'null'}`.", ""]
        folder = CONF / ("dataset" if group == "out_dataset" else group)
        if group == "out_dataset":
            lines += ["The same options as `dataset`.", ""]
            continue
        lines += ["| option | |", "|---|---|"]
        lines += [
            f"| `{path.stem}` | {_cell(first_comment(path.read_text(encoding='utf-8')))} |"
            for path in sorted(folder.glob("*.yaml"))
        ]
        lines.append("")
    lines += ["## Flat keys", "", "| key | default | meaning |", "|---|---|---|"]
    for name, metadata in FLAT_KEYS.items():
        default = re.search(rf"^{name}: (.*?) #", text, re.MULTILINE)
        choices = f" Choices: {', '.join(metadata['choices'])}." if metadata["choices"] else ""
        lines.append(
            f"| `{name}` | `{_cell(default[1]) if default else ''}` | {_cell(metadata['meaning'] + choices)} |"
        )
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _without_code_links(text: str) -> str:
    """Links to Python files, which are no pages, as words."""
    return re.sub(r"\[([^\]]+)\]\([\w./]+\.py\)", r"`\1`", text)
