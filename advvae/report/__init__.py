"""Pages that show what a run or a sweep found: one file each, which needs no network, server or login."""

import logging
from pathlib import Path

from advvae.runs import REPORT

logger = logging.getLogger(__name__)


def leave_page(folder: Path, *, of_sweep: bool = False) -> None:
    """Write the `report.html` of a run that has ended, or of a sweep; if it cannot be, say why: no result is lost."""
    try:
        if of_sweep:
            from advvae.report.sweep_page import write_sweep_report as write
        else:
            from advvae.report.run_page import write_report as write
        write(folder)
    except Exception as error:  # a page is made of all that a run leaves, whole or not
        logger.warning(f"{folder / REPORT} could not be written ({type(error).__name__}: {error})")
