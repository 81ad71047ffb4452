"""report.html of a run: that it is whole, needs nothing from elsewhere, and says what the folder says."""

import csv
import json
import re
import shlex
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advvae.outlier.rendering import read_tables
from advvae.report import leave_page, run_page
from advvae.report.embedding import Budget
from advvae.report.record import read_record
from advvae.report.run_page import write_report
from tests.command import FEW, TINY, Command

VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """What a page holds: its ids, the addresses that it names, images without alt, and whether all tags are closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.without_alt = 0
        self.headings: list[str] = []
        self.cells: list[str] = []
        self._open: list[str] = []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)
        assert self._open == [], self._open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        own = dict(attributes)
        self.ids += [own["id"] or ""] if "id" in own else []
        self.addresses += [own[name] or "" for name in ("src", "href") if name in own]
        self.without_alt += tag == "img" and not own.get("alt")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "h2":
            self.headings.append(data)
        if self._open and (self._open[-1] == "td" or self._open[-2:] == ["td", "b"]):
            self.cells.append(data)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def page_of(folder: Path) -> Page:
    page = Page(folder / "report.html")
    assert all(address.startswith(("data:", "#")) for address in page.addresses), "it loads nothing"
    assert page.without_alt == 0
    assert len(set(page.ids)) == len(page.ids)
    return page


@pytest.mark.drawn
def test_the_page_of_a_training(advvae: Command) -> None:
    result = advvae.train("n_epochs=3", "sample_and_save_frequency=1")
    page = page_of(result.folder)
    assert {"What was run", "Results", "Training", "Configuration"} <= set(page.headings)
    assert f"report: {result.folder / 'report.html'}" in result.output
    assert page.text.count("<img") == 6, "grids of samples and reconstructions, of three epochs"
    assert 'type="range" min="0" max="2" value="2"' in page.text
    for chart in ("VAE: loss", "Discriminator: loss", "Discriminator: accuracy", "kld"):
        assert f"<figcaption>{chart}" in page.text
    losses = [float(row["val_loss"]) for row in table(result.folder / "metrics.csv")]
    drawn = [json.loads(unescape(text)) for text in re.findall(r'json">(\{"data.*?\})</script>', page.text)]
    (vae,) = [chart for chart in drawn if any(line["name"] == "validation, recon + KL" for line in chart["data"])]
    assert vae["data"][-1]["y"] == pytest.approx(losses, rel=1e-4)
    assert 1_000_000 < (result.folder / "report.html").stat().st_size < 10_000_000


def test_what_was_run_is_told(advvae: Command) -> None:
    result = advvae.train("seed=7")
    page = page_of(result.folder)
    assert "seed=7" in page.text
    rows = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page.text))
    assert rows["status"] == "finished"
    assert {"time", "begun", "seed", "advvae", "python", "torch", "machine", "folder"} <= set(rows)
    assert re.search(r"\d+ cores of ", rows["machine"])
    assert "digits" in page.cells
    assert sum(re.fullmatch("[0-9a-f]{64}", cell) is not None for cell in page.cells) == 2, "of train and val"


def test_what_differs_from_the_defaults_is_marked(advvae: Command) -> None:
    result = advvae.train("dataset.drop_classes=[9]")
    differing = {setting.key: setting for setting in read_record(result.folder).settings if setting.differs}
    typed = {"dataset", "dataset.drop_classes", "tracker", "size", "hidden_dims", "latent_dim", "batch_size"}
    assert set(differing) == typed | {"n_epochs"}
    assert (differing["latent_dim"].value, differing["latent_dim"].default) == ("4", "128")
    assert (differing["size"].value, differing["size"].default) == ("8", "32")
    assert differing["dataset.drop_classes"].value == "[9]"


def test_the_page_of_an_outlier_run(advvae: Command) -> None:
    advvae.train()
    result = advvae("mode=outlier", "dataset=digits", "out_datasets=[photos,hflip]", *FEW)
    page, metrics = page_of(result.folder), json.loads((result.folder / "metrics.json").read_text())
    assert {"Outlier scores", "ROC curves and histograms", "Thresholds", "Worst misses and false alarms"} <= set(
        page.headings
    )
    for name in ("photos", "hflip"):
        for values in metrics["sets"][name]["scores"].values():
            cell = f"{values['auroc']:.3f} [{values['auroc_low']:.3f}, {values['auroc_high']:.3f}]"
            assert any(text.startswith(cell) for text in page.cells)
            assert f"{name}: AUROC {values['auroc']:.4f}" in page.text
    assert page.text.count("Misses of ") == 2 * 2, "alt text and caption of each set's"
    scores = table(result.folder / "scores.csv")
    miss = min((row for row in scores if row["source"] == "photos"), key=lambda row: float(row["loss"]))
    first_row = page.text[page.text.index("Misses of photos") :].partition("<tbody>")[2].partition("</tr>")[0]
    assert f"<td>photos</td><td>test</td><td>{miss['index']}</td>" in first_row


def test_the_page_says_what_results_md_says(advvae: Command) -> None:
    advvae.train()
    result = advvae("mode=outlier", "dataset=digits", "out_datasets=[photos,digits]", "scores=[loss,kld]")
    page = page_of(result.folder)
    tables = read_tables(result.folder / "results.md")
    assert len(tables) == 7, "all sets, each set, their mean, labels of two sets, and false alarms"
    for found in tables:
        assert escape(found.caption) in page.text
        assert {cell.strip("*") for row in found.rows for cell in row if cell} <= set(page.cells)
    assert "equal an inlier, pixel by pixel" in page.text


def test_the_page_of_screened_images(advvae: Command) -> None:
    advvae.train()
    for number in range(3):
        (advvae.cwd / "new").mkdir(exist_ok=True)
        Image.new("L", (8, 8), 80 * number).save(advvae.cwd / "new" / f"{number}.png")
    result = advvae("mode=screen", "dataset=digits", "input=new", *FEW)
    assert result.status == 0, result.errors
    page = page_of(result.folder)
    assert "Screened images" in page.headings
    assert "3 images by loss" in page.text
    best = max(table(result.folder / "screen.csv"), key=lambda row: float(row["loss"]))
    assert page.cells.index(best["path"]) < min(
        page.cells.index(row["path"]) for row in table(result.folder / "screen.csv") if row != best
    )


def test_what_a_user_typed_is_escaped(advvae: Command) -> None:
    evil = "<img src=x onerror=alert(1)>\"'"
    for number in range(40):
        path = advvae.cwd / evil / f"{evil}{number}.png"
        path.parent.mkdir(exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    root = (advvae.cwd / evil).as_posix().replace("\\", "\\\\").replace("'", "\\'")
    licence = "dataset.licence='</script><script>alert(2)</script>'"
    result = advvae("mode=train", "dataset=folder", f"dataset.root='{root}'", *TINY, "then=[outlier]", *FEW,
                    "out_dataset=digits", licence)  # fmt: skip
    assert result.status == 0, result.errors
    page = page_of(result.folder)
    assert "onerror" in page.text
    assert "<img src=x" not in page.text
    assert page.text.count("<script") == page.text.count("</script>")
    assert "alert(2)</script>" not in page.text


def test_no_place_of_the_machine_is_told(advvae: Command) -> None:
    outside = advvae.cwd.parent / "Jane Doe" / "scans.npy"
    outside.parent.mkdir()
    np.save(outside, np.random.default_rng(0).integers(0, 255, (60, 8, 8), dtype=np.uint8))
    result = advvae("mode=train", "dataset=array", f"dataset.path='{outside}'", *TINY)
    assert result.status == 0, result.errors
    text = page_of(result.folder).text
    assert "scans.npy" in text
    assert "Jane Doe" not in text
    assert str(advvae.cwd) not in text


def test_a_command_keeps_all_but_the_places_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    kept = ["scores=[loss,{_target_:a.b}]", "note='123'", "input=z/w"]
    typed = ["dataset.root='/home/Jane Doe/scans'", "folders=[/srv/x/y,z/w]", *kept]
    (tmp_path / ".hydra" / "overrides.yaml").write_text(json.dumps(typed))
    (tmp_path / "metrics.json").write_text('{"status": "finished"}')
    words = shlex.split(read_record(tmp_path).command)
    assert words == ["advvae", "dataset.root='scans'", "folders=[y,z/w]", *kept]


def test_names_that_look_like_numbers_stay_names(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"status": "finished"}')
    (tmp_path / "screen.csv").write_text(
        "path,index,loss,loss_p,loss_flag\n000001,0,0.123456,0.5,0\n1.20,0,0.2,0.01,1\n"
    )
    cells = page_of(write_report(tmp_path).parent).cells
    assert cells[-10:] == ["1.20", "0", "0.2", "0.01", "yes", "000001", "0", "0.12346", "0.5", "no"]


def test_damaged_files_cost_their_own_part_alone(advvae: Command) -> None:
    result = advvae.train("n_epochs=2", "sample_and_save_frequency=1", "then=[outlier]", "out_dataset=photos", *FEW)
    for path in (result.folder / "samples").glob("*.png"):
        path.write_bytes(path.read_bytes()[:60])  # a machine that went down while it was written
    with (result.folder / "metrics.csv").open("a") as file:
        file.write("3,0.5")
    (result.folder / "scores.csv").write_text("is_outlier,source\n")
    assert advvae("mode=report", f"checkpoint={result.folder}").status == 0
    page = page_of(result.folder)
    assert page.text.count("This part cannot be made of its files") == 1, "ROC curves and histograms"
    assert {"Training", "Outlier scores", "Thresholds", "Configuration"} <= set(page.headings)
    assert page.text.count("Samples after epoch") == 0
    assert page.text.count("Reconstructions after epoch") > 0


def test_every_start_of_a_run_is_told(advvae: Command) -> None:
    result = advvae.train()
    assert "This run was begun" not in page_of(result.folder).text
    facts = json.loads((result.folder / "provenance.json").read_text())
    facts["started"] *= 2
    (result.folder / "provenance.json").write_text(json.dumps(facts))
    leave_page(result.folder)
    assert "This run was begun 2 times" in page_of(result.folder).text


def test_what_is_left_out_of_a_series_is_told(advvae: Command) -> None:
    result = advvae.train()
    for epoch in range(1, 31):
        Image.new("L", (8, 8)).save(result.folder / "samples" / f"epoch-{epoch:04}.png")
    leave_page(result.folder)
    assert "Samples by epoch (24 of 30 grids)" in page_of(result.folder).text


def test_pictures_stay_within_their_room(tmp_path: Path) -> None:
    noise, room = np.random.default_rng(0), 1_000_000
    paths = []
    for number in range(40):
        paths.append(tmp_path / f"epoch-{number:04}.png")
        Image.fromarray(noise.integers(0, 255, (300, 300, 3), dtype=np.uint8)).save(paths[-1])
    budget = Budget(room)
    pictures = budget.embed_series(paths, [path.stem for path in paths], 0.5)
    assert 2 <= len(pictures) < 40
    assert (pictures[0].caption, pictures[-1].caption) == ("epoch-0000", "epoch-0039")
    assert sum(len(picture.data) for picture in pictures) <= room / 2
    assert pictures[0].data.startswith("data:image/webp;base64,")
    while budget.embed(paths[0], "noise"):
        pass
    assert budget.left_out == ["noise"]


def test_a_page_that_cannot_be_written_costs_no_result(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path) -> Path:
        raise ValueError("no page")

    monkeypatch.setattr(run_page, "write_report", fail)
    result = advvae.train()
    assert result.status == 0
    assert "report.html could not be written (ValueError: no page)" in result.output
    assert json.loads((result.folder / "metrics.json").read_text())["status"] == "finished"
    monkeypatch.undo()
    leave_page(result.folder)
    assert (result.folder / "report.html").is_file()


def test_a_run_that_fails_has_a_page_that_says_why(advvae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advvae.trainer.draw_reconstructions", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        advvae("mode=train", "dataset=digits", *TINY, "then=[test]")
    (folder,) = advvae.runs()
    assert "division by zero" in page_of(folder).text


def test_mode_report_builds_it_anew_and_makes_no_run(advvae: Command) -> None:
    result = advvae.train()
    before = (result.folder / "report.html").read_bytes()
    (result.folder / "report.html").unlink()
    for place in (result.folder, result.folder / "checkpoints" / "best.pt"):
        again = advvae("mode=report", f"checkpoint={place}")
        assert again.status == 0, again.errors
        assert again.output.strip() == str(result.folder / "report.html")
        assert (result.folder / "report.html").read_bytes() == before
    assert advvae("mode=report", "dataset=digits").status == 0, "the newest"
    assert len(advvae.runs()) == 1
    assert {path.name for path in (advvae.cwd / "outputs").iterdir()} == {"train"}


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (("checkpoint=nowhere",), "checkpoint=nowhere: there is nothing there"),
        (("checkpoint=.",), "is no run folder"),
        ((), "no finished training run on digits"),
        (("-m",), "leave -m out"),
        (("chekpoint=x",), "did you mean checkpoint?"),
    ],
)
def test_what_cannot_be_reported_is_one_message(advvae: Command, typed: tuple[str, ...], words: str) -> None:
    result = advvae("mode=report", "dataset=digits", *typed)
    assert result.status == 1
    assert words in result.errors
    assert len(result.message.splitlines()) == 1
    assert list(advvae.cwd.iterdir()) == []
