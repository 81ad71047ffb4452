"""Pages that show what a run or a sweep found: one file each, which needs no network, server or login."""

import logging
from pathlib import Path

from advvae.runs import REPORT

logger = logging.getLogger(__name__)


def write_page(folder: Path) -> None:
    """Write the `report.html` of a run that has ended. What keeps it from being written is said; no result is lost."""
    from advvae.report.run_page import write_report

    try:
        write_report(folder)
    except Exception as error:  # a page is made of all that a run leaves, whole or not
        logger.warning(f"{folder / REPORT} could not be written ({type(error).__name__}: {error})")
