"""report.html of a sweep."""

import json
import re
from html import unescape
from pathlib import Path

from tests.command import TINY, Command
from tests.report.test_run_page import Page


def sweep_of(advvae: Command, *arguments: str) -> Path:
    advvae("-m", "mode=train", "dataset=digits", *TINY, *arguments)
    (folder,) = (advvae.cwd / "outputs" / "sweeps").iterdir()
    return folder


def jobs_in(page: Page) -> list[dict[str, dict[str, float]]]:
    (text,) = re.findall(r'class="explorer">\s*<script type="application/json">(.*?)</script>', page.text)
    return json.loads(unescape(text))["jobs"]


def test_a_sweep_has_a_page_with_a_link_to_each_jobs(advvae: Command) -> None:
    folder = sweep_of(advvae, "gen_weight=0,0.5", "kld_weight=1e-4,1e-3")
    page = Page(folder / "report.html")
    links = [address for address in page.addresses if not address.startswith(("#", "data:"))]
    assert links == [f"{number}/report.html" for number in range(4)]
    assert all((folder / link).is_file() for link in links)
    jobs = jobs_in(page)
    assert [job["keys"] for job in jobs] == [
        {"gen_weight": gen, "kld_weight": kld} for gen in ("0", "0.5") for kld in ("0.0001", "0.001")
    ]
    for job in jobs:
        metrics = json.loads((folder / str(job["job"]) / "metrics.json").read_text())
        assert abs(job["metrics"]["val_loss"] / metrics["val_loss"] - 1) < 1e-5


def test_a_job_that_failed_is_a_row_with_its_error_and_no_link(advvae: Command) -> None:
    folder = sweep_of(advvae, "gen_weight=-1,0,1")
    page = Page(folder / "report.html")
    assert "0/report.html" not in page.addresses
    assert {"1/report.html", "2/report.html"} <= set(page.addresses)
    assert "Job 0 failed: gen_weight must be" in page.text
    assert "not all finished" in page.text
    assert len(jobs_in(page)) == 2


def test_seeds_are_averaged(advvae: Command) -> None:
    page = Page(sweep_of(advvae, "seed=0,1") / "report.html")
    assert "mean of 0,1" in page.cells
    assert "sd of 0,1" in page.cells


def test_mode_report_builds_a_sweeps_pages_anew(advvae: Command) -> None:
    folder = sweep_of(advvae, "gen_weight=0,0.5")
    for path in folder.rglob("report.html"):
        path.unlink()
    result = advvae("mode=report", f"checkpoint={folder}")
    assert result.status == 0, result.errors
    assert result.output.strip() == str(folder / "report.html")
    assert len(list(folder.rglob("report.html"))) == 3
    assert "1/report.html" in Page(folder / "report.html").addresses
