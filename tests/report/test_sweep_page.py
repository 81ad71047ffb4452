"""report.html of a sweep."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from advvae import trainer
from advvae.report.sweep_page import write_sweep_report
from tests.command import TINY, Command
from tests.report.test_run_page import Page


def sweep_of(advvae: Command, *arguments: str) -> Path:
    advvae("-m", "mode=train", "dataset=digits", *TINY, *arguments)
    (folder,) = (advvae.cwd / "outputs" / "sweeps").iterdir()
    return folder


def explored(page: Page) -> dict[str, dict[str, list[float]]]:
    """What the page's script draws: keys and metrics, each with its value in every job."""
    (text,) = re.findall(r'class="explorer">\s*<script type="application/json">(.*?)</script>', page.text)
    return json.loads(unescape(text))


def test_a_sweep_has_a_page_with_a_link_to_each_jobs(advvae: Command) -> None:
    folder = sweep_of(advvae, "gen_weight=0,0.5", "kld_weight=1e-4,1e-3")
    page = Page(folder / "report.html")
    links = [address for address in page.addresses if not address.startswith(("#", "data:"))]
    assert links == [f"./{number}/report.html" for number in range(4)]
    assert all((folder / link).is_file() for link in links)
    found = explored(page)
    assert found["keys"] == {"gen_weight": ["0", "0", "0.5", "0.5"], "kld_weight": ["0.0001", "0.001"] * 2}
    losses = [json.loads((folder / str(job) / "metrics.json").read_text())["val_loss"] for job in range(4)]
    assert found["metrics"]["val_loss"] == pytest.approx(losses, rel=1e-5)
    assert page.text.count('<tr class="marked">') == 1
    assert f'<tr class="marked"><td><a href="./{losses.index(min(losses))}/report.html">' in page.text
    assert '<span class="status good">finished</span>' in page.text


def test_a_job_that_failed_is_a_row_with_its_error_and_no_link(advvae: Command) -> None:
    folder = sweep_of(advvae, "gen_weight=-1,0,1")
    page = Page(folder / "report.html")
    assert "./0/report.html" not in page.addresses
    assert {"./1/report.html", "./2/report.html"} <= set(page.addresses)
    assert "Job 0 failed: gen_weight must be" in page.text
    assert "not all finished" in page.text
    assert len(explored(page)["keys"]["gen_weight"]) == 2


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
    assert "./1/report.html" in Page(folder / "report.html").addresses


def test_a_sweep_under_way_or_cut_short_is_not_called_finished(
    advvae: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, epochs = [], trainer.Trainer.train

    def interrupted(*arguments: Any, **settings: Any) -> Any:
        for page in advvae.cwd.rglob("sweeps/*/report.html"):
            seen.append(page.read_text())
        if seen:
            raise KeyboardInterrupt
        return epochs(*arguments, **settings)

    monkeypatch.setattr(trainer.Trainer, "train", interrupted)
    text = (sweep_of(advvae, "gen_weight=0,0.5,1") / "report.html").read_text()
    assert '<span class="status bad">under way, 1 jobs so far</span>' in seen[0]
    assert '<span class="status bad">not all finished</span>' in text


def test_a_sweep_of_one_job_has_its_numbers(advvae: Command) -> None:
    page = Page(sweep_of(advvae, "then=[outlier]", "out_dataset=photos", "scores=[loss]") / "report.html")
    assert "Sweep of 1 job " in page.text.replace("</h1>", " ")
    assert "val_loss" in page.text
    assert "scores.loss.auroc<" in page.text
    assert "auroc_low" not in page.text


def test_a_link_to_a_job_is_never_more_than_a_link(tmp_path: Path) -> None:
    job = tmp_path / "javascript:alert(1)"
    for folder in (job, tmp_path / "#?%"):
        (folder / ".hydra").mkdir(parents=True)
        (folder / "metrics.json").write_text('{"status": "finished", "val_loss": 1}')
        (folder / "report.html").write_text("")
    write_sweep_report(tmp_path)
    links = [address for address in Page(tmp_path / "report.html").addresses if address.endswith("report.html")]
    assert sorted(links) == ["./%23%3F%25/report.html", "./javascript%3Aalert%281%29/report.html"]


def test_a_page_of_many_jobs_stays_small(tmp_path: Path) -> None:
    scores = [f"score_{number}" for number in range(22)]
    names = ("auroc", "aupr_out", "aupr_in", "fpr95_out", "fpr95_in", "fpr80_out")
    values = {f"{name}{end}": 0.123456789 for name in names for end in ("", "_low", "_high")}
    metrics = {"status": "finished", "val_loss": 1.0, "scores": dict.fromkeys(scores, values)}
    metrics |= dict.fromkeys(("near", "far"), metrics["scores"])
    for number in range(200):
        (tmp_path / str(number) / ".hydra").mkdir(parents=True)
        (tmp_path / str(number) / ".hydra" / "overrides.yaml").write_text(f"[gen_weight={number}]")
        (tmp_path / str(number) / "metrics.json").write_text(json.dumps(metrics))
    assert write_sweep_report(tmp_path).stat().st_size < 4_000_000
