"""report.html in a browser without network: no error on its console, and its slider, sorting and choices work."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.command import TINY, Command

pytestmark = [pytest.mark.slow, pytest.mark.drawn]
SHOTS = os.environ.get("ADVVAE_SCREENSHOTS")  # a folder to keep screenshots in, to be looked at


def chromium() -> str:
    """The browser's path; installed where it is missing and may be; else the test is skipped with the reason."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None and shutil.which("apt-get") and os.geteuid() == 0:
        for command in (["update"], ["install", "--yes", "--quiet", "chromium"]):
            subprocess.run(["apt-get", *command], capture_output=True, check=False)
        found = shutil.which("chromium")
    if found is None:
        pytest.skip("there is no chromium, and it cannot be installed here (apt-get as root)")
    return found


@pytest.fixture
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--enable-unsafe-swiftshader"]
        )
        yield browser
        browser.close()


def opened(browser: Any, path: Path, **settings: Any) -> tuple[Any, list[str]]:
    """The page without network, and what its console says of errors."""
    context = browser.new_context(offline=True, **settings)
    page, errors = context.new_page(), []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: errors.append(request.url) if request.url.startswith("http") else None)
    page.goto(path.as_uri())
    return page, errors


def shot(page: Any, name: str) -> None:
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)


def test_a_runs_page(advvae: Command, browser: Any) -> None:
    advvae.train("n_epochs=3", "sample_and_save_frequency=1", "then=[test,outlier]", "out_dataset=photos")
    page, errors = opened(browser, advvae.runs()[-1] / "report.html")

    slider = page.locator(".series input").first
    shown = page.locator(".series").first.locator(".shown:visible img")
    assert shown.get_attribute("alt").endswith("after epoch 3")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert shown.get_attribute("alt").endswith("after epoch 2")
    assert slider.get_attribute("aria-valuetext").endswith("after epoch 2")

    table = page.locator("#outliers table").first
    column = 1  # AUROC

    def values() -> list[float]:
        return [float(text.split()[0]) for text in table.locator(f"tbody td:nth-child({column + 1})").all_inner_texts()]

    heading = table.locator("th button").nth(column)
    heading.focus()
    page.keyboard.press("Enter")
    assert values() == sorted(values())
    page.keyboard.press("Enter")
    assert values() == sorted(values(), reverse=True)
    assert table.locator("th").nth(column).get_attribute("aria-sort") == "descending"

    choice = page.locator(".choice select").first
    choice.scroll_into_view_if_needed()
    choice.select_option("kld")
    page.locator(".chosen:visible .plot .main-svg").first.wait_for()
    assert page.locator(".chosen:visible figcaption").first.inner_text().startswith("kld")
    assert page.locator("#curves .plot .main-svg").count() > 0

    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    shot(page, "run-dark")
    page.locator("#theme").click()
    shot(page, "run-light")
    assert errors == []


def test_all_that_is_shown_is_printed_and_on_white(advvae: Command, browser: Any, tmp_path: Path) -> None:
    advvae.train("n_epochs=2", "then=[outlier]", "out_dataset=photos")
    page, errors = opened(browser, advvae.runs()[-1] / "report.html", color_scheme="dark")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    shown = "[...document.querySelectorAll('.plot')].filter((plot) => plot.offsetParent)"
    page.wait_for_function(f"{shown}.every((plot) => plot.querySelector('.main-svg'))")
    theme = "document.documentElement.dataset.theme"
    page.evaluate(f"window.addEventListener('beforeprint', () => {{ window.printed = {theme}; }})")
    printed = tmp_path / "report.pdf"
    page.pdf(path=str(printed))
    assert printed.read_bytes().startswith(b"%PDF")
    assert page.evaluate(f"[window.printed, {theme}]") == ["light", "dark"]
    if SHOTS:
        shutil.copy(printed, Path(SHOTS) / "run.pdf")
    assert errors == []


def test_markup_in_names_is_shown_as_it_is(advvae: Command, browser: Any) -> None:
    name = "<b onmouseover=alert(1)>&amp;"
    for number in range(30):
        path = advvae.cwd / name / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (8, 8), dtype=np.uint8)).save(path)
    quoted = (advvae.cwd / name).as_posix()
    advvae.train()
    job = ("mode=outlier", "dataset=digits", "out_dataset=folder", f"out_dataset.root='{quoted}'", "tracker=none")
    assert advvae(*job, "scores=[loss]").status == 0
    page, errors = opened(browser, advvae.runs()[-1] / "report.html")
    page.locator("#curves-of-scores .main-svg").first.wait_for()
    assert page.locator("b[onmouseover]").count() == 0
    page.evaluate(
        """() => draw(document.querySelector('.plot'), {layout: {}, data: [
            {x: ['<a href="http://x.org">x</a>'], y: [1], name: '<i>a</i>', showlegend: true}]})"""
    )
    page.wait_for_function("document.querySelector('.plot .legendtext')?.textContent === '<i>a</i>'")
    assert page.locator(".plot a[href^=http]").count() == 0
    assert errors == []


def test_a_runs_page_fits_a_phone(advvae: Command, browser: Any) -> None:
    advvae.train("then=[outlier]", "out_dataset=photos")
    page, errors = opened(browser, advvae.runs()[-1] / "report.html", viewport={"width": 360, "height": 700})
    page.wait_for_timeout(1000)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    shot(page, "run-phone")
    assert errors == []


def test_a_sweeps_page(advvae: Command, browser: Any) -> None:
    advvae("-m", "mode=train", "dataset=digits", *TINY, "gen_weight=0,0.5", "kld_weight=1e-4,1e-3", "seed=0,1")
    (folder,) = (advvae.cwd / "outputs" / "sweeps").iterdir()
    page, errors = opened(browser, folder / "report.html")
    explorer = page.locator(".explorer")
    explorer.scroll_into_view_if_needed()
    explorer.locator(".heat .main-svg").first.wait_for()
    assert explorer.locator(".heat text.xtitle").text_content() == "kld_weight"
    explorer.locator("select.across").select_option("seed")
    page.wait_for_function("document.querySelector('.heat .xtitle').textContent === 'seed'")
    explorer.locator("summary").click()
    assert explorer.locator(".cells th").all_inner_texts() == ["gen_weight \\ seed", "0", "1"]
    assert explorer.locator(".cells td").count() == 6
    shot(page, "sweep")
    page.locator("#jobs td a").first.click()
    assert page.locator("h1").inner_text() == "train on digits"
    assert errors == []
