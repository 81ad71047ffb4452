"""From sections to the text of a page, and to its file."""

import base64
import hashlib
import logging
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from advvae.files import replacing
from advvae.report.blocks import Section
from advvae.report.embedding import chart_library, chart_script

if TYPE_CHECKING:
    from jinja2 import Environment

logger = logging.getLogger(__name__)

LARGEST = 10_000_000  # bytes of a page that others are sent
DRAWN = ("chart", "choice", "explorer")  # blocks that need the library of charts


def write_page(path: Path, *, title: str, subtitle: str, status: str, sections: Sequence[Section]) -> Path:
    """Write a page; sections without blocks are left out. All text is escaped.

    Args:
        status: finished, failed, and the like, shown beside the title.

    Raises:
        UserError: the file cannot be written.
    """
    shown = [section for section in sections if section.blocks]
    needs_charts = any(block.kind in DRAWN for section in shown for block in section.blocks)
    text = (
        _environment()
        .get_template("page.html")
        .render(
            title=title,
            subtitle=subtitle,
            status=status,
            sections=shown,
            library=chart_library() if needs_charts else "",
        )
    )
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    if (size := path.stat().st_size) > LARGEST:
        logger.warning(f"{path} is large: {size / 1e6:.0f} MB")
    return path


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("advvae.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    templates = files("advvae.report").joinpath("templates")
    environment.globals["style"] = Markup(templates.joinpath("page.css").read_text(encoding="utf-8"))
    script = templates.joinpath("page.js").read_text(encoding="utf-8")
    environment.globals["script"] = Markup(script)
    environment.globals["allowed"] = " ".join(map(_source, (script.encode(), chart_script())))
    return environment


def _source(script: bytes) -> str:
    """A script as a Content-Security-Policy allows it; none but those of `allowed` run in a page, nor do links."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"
