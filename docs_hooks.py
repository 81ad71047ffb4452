"""What MkDocs adds to the pages in docs/: the measurements, and a reference that is made from the config itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advvae.conf_text import default_options, first_comment, flat_defaults, group_keys, option_files
from advvae.config import FLAT_KEYS, GROUPS

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parent


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the pages that are not in docs/."""
    from mkdocs.structure.files import File

    for path in sorted((ROOT / "benchmarks").glob("*.md")):
        text = path.read_text(encoding="utf-8").replace("](../docs/", "](../")
        files.append(File.generated(config, f"benchmarks/{path.name}", content=_without_code_links(text)))
    files.append(File.generated(config, "reference/config.md", content=config_reference()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to the measurements, which beside docs/ in the repository are below it here."""
    return re.sub(r"\]\((\.\./)((?:\.\./)*)benchmarks/", r"](\2benchmarks/", markdown)


def config_reference() -> str:
    """Every group with its options and their keys, and every flat key with default, meaning and choices."""
    lines = [
        "# Keys and groups",
        "",
        "As `advvae --help` prints them: all are typed as `key=value`.",
        "",
        "## Groups",
        "",
    ]
    for group in GROUPS:
        lines += _group(group)
    lines += ["## Flat keys", "", "| key | default | meaning |", "|---|---|---|"]
    defaults = flat_defaults()
    for name, metadata in FLAT_KEYS.items():
        choices = f" Choices: {', '.join(metadata['choices'])}." if metadata["choices"] else ""
        lines.append(f"| `{name}` | {_code(defaults[name])} | {_cell(metadata['meaning'] + choices)} |")
    return "\n".join(lines) + "\n"


def _group(group: str) -> list[str]:
    lines = [f"### {group}", "", f"Default: `{group}={default_options()[group] or 'null'}`.", ""]
    if group == "out_dataset":
        lines += ["The same options as `dataset`, with the same keys.", ""]
    else:
        lines += ["| option | |", "|---|---|"]
        for path in option_files(group):
            lines.append(f"| `{path.stem}` | {_cell(first_comment(path.read_text(encoding='utf-8')))} |")
        lines.append("")
    if keys := [key for key in group_keys() if key.name.startswith(f"{group}.")]:
        lines += ["| key | of | default | meaning |", "|---|---|---|---|"]
        for name, default, meaning, options in keys:
            having = ", ".join(f"`{option}`" for option in options) or "all"
            lines.append(f"| `{name}` | {having} | {_code(default)} | {_cell(meaning)} |")
        lines.append("")
    return lines


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _cell(text: str) -> str:
    """Words in a table, as they stand: only what is between backticks is code."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([_*\[\]|])", r"\\\1", part.replace("<", "&lt;")) for part in parts[::2]]
    return "`".join(parts)


def _without_code_links(text: str) -> str:
    """Links to Python files, which are no pages, as words."""
    return re.sub(r"\[([^\]]+)\]\([\w./]+\.py\)", r"`\1`", text)
