from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from advvae import figures

HEADER = "epoch,vae_loss,recon,discriminator_loss,val_loss,accuracy_real,accuracy_reconstruction,accuracy_sample\n"
ADVERSARIAL_ROW = "{epoch},0.3,0.2,0.5,0.25,0.9,0.8,0.7\n"
PLAIN_ROW = "{epoch},0.3,0.2,,0.25,,,\n"


def pixels_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def texts(figure: Any) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text)]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list:
    """The matplotlib figures that were saved."""
    from matplotlib.figure import Figure

    saved: list[Figure] = []
    save = Figure.savefig

    def savefig(figure: Figure, *args: Any, **kwargs: Any) -> None:
        saved.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return saved


def test_pixels_span_the_range_and_are_clipped() -> None:
    images = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]).reshape(1, 1, 1, 5)
    assert figures.to_pixels(images).flatten().tolist() == [0, 0, 128, 255, 255]


def test_saved_images_keep_their_pixels_and_channels(tmp_path: Path) -> None:
    pixels = torch.arange(3 * 4 * 5, dtype=torch.uint8).reshape(3, 4, 5)
    figures.save_image(pixels, tmp_path / "new" / "colour.png")
    figures.save_image(pixels[:1], tmp_path / "grey.png")
    assert (pixels_of(tmp_path / "new" / "colour.png") == pixels.permute(1, 2, 0).numpy()).all()
    assert (pixels_of(tmp_path / "grey.png") == pixels[0].numpy()).all()


def test_grid_goes_row_by_row_in_whole_enlarged_pixels(tmp_path: Path) -> None:
    shades = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0])
    figures.image_grid(shades.reshape(5, 1, 1, 1).expand(5, 1, 32, 32), tmp_path / "grid.png")
    grid = pixels_of(tmp_path / "grid.png")
    assert grid.shape == (2 * 64 + 3 * 4, 3 * 64 + 4 * 4, 3)  # 32 px doubled, with gaps of 4 px
    centres = [grid[36 + 68 * row, 36 + 68 * column, 0] for row in range(2) for column in range(3)]
    assert centres == [0, 64, 128, 191, 255, 255]  # the sixth place is empty: white


def test_reconstructions_and_errors_stand_below_their_originals(tmp_path: Path) -> None:
    originals = torch.linspace(-1, 0.5, 10).reshape(10, 1, 1, 1).expand(10, 1, 64, 64)
    figures.reconstruction_grid(originals, originals + 0.4, tmp_path / "grid.png")
    grid = pixels_of(tmp_path / "grid.png")
    left = grid.shape[1] - (8 * 68 + 4) + 36  # centre of the first of eight columns
    pitch = 3 * 68 + 16  # three rows and the gap below them
    for i in range(10):
        x, y = left + 68 * (i % 8), 36 + pitch * (i // 8)
        expected = figures.to_pixels(torch.stack([originals[i], originals[i] + 0.4]))[:, 0, 0, 0]
        assert grid[[y, y + 68, y + 136], x, 0].tolist() == [*expected.tolist(), 102]  # 0.4 of 255
    assert (grid[:, : left - 40] < 128).any()  # the rows' names


@pytest.mark.parametrize("n_epochs", [1, 3])
@pytest.mark.parametrize(("row", "panels"), [(ADVERSARIAL_ROW, 3), (PLAIN_ROW, 1)])
def test_curves_show_what_the_run_measured(
    n_epochs: int, row: str, panels: int, tmp_path: Path, drawn: list, recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / "metrics.csv").write_text(HEADER + "".join(row.format(epoch=e) for e in range(1, n_epochs + 1)))
    figures.curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    assert len(drawn[0].axes) == panels
    validation = next(line for line in drawn[0].axes[0].lines if "validation" in line.get_label())
    assert validation.get_xdata().tolist() == list(range(1, n_epochs + 1))
    assert validation.get_ydata().tolist() == [0.25] * n_epochs
    assert pixels_of(tmp_path / "curves.png").ndim == 3
    assert not recwarn.list


def test_curves_cope_with_absent_columns(tmp_path: Path, drawn: list) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,vae_loss,val_loss\n1,0.5,0.25\n2,0.05,nan\n")
    figures.curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    assert [line.get_label() for line in drawn[0].axes[0].lines] == ["training, all terms", "validation, recon + KL"]


def test_heat_map_prints_every_number_and_marks_failures(tmp_path: Path, drawn: list) -> None:
    values = np.array([[0.0123, np.nan, 1.0], [0.5, 0.99871, 0.2]])
    figures.heat_map(values, ["0", "1"], ["a", "b", "c"], "rows", "columns", "title", tmp_path / "map.png")
    cells = [text.get_text() for text in drawn[0].axes[0].texts]
    assert cells == ["0.0123", "failed", "1", "0.5", "0.9987", "0.2"]
    assert {"rows", "columns", "title", "a"} <= set(texts(drawn[0]))


@pytest.mark.parametrize("values", [[[0.5]], [[np.nan]], [[np.nan, np.nan]]])
def test_heat_map_of_few_or_no_numbers(values: list, tmp_path: Path) -> None:
    columns = [str(i) for i in range(len(values[0]))]
    figures.heat_map(np.array(values), ["0"], columns, "row", "column", "title", tmp_path / "map.png")
    assert pixels_of(tmp_path / "map.png").ndim == 3


def test_heat_map_of_fixed_limits_has_the_same_colour_for_the_same_number(tmp_path: Path, drawn: list) -> None:
    for values in ([[0.4, 0.9]], [[0.4, 0.5]]):
        figures.heat_map(
            np.array(values), ["0"], ["a", "b"], "row", "column", "title", tmp_path / "map.png", limits=(0, 1)
        )
    assert [figure.axes[0].images[0].get_clim() for figure in drawn] == [(0, 1), (0, 1)]
    assert [text.get_color() for text in drawn[0].axes[0].texts] == ["white", "black"]


def test_heat_map_says_what_is_missing_and_turns_long_names(tmp_path: Path, drawn: list) -> None:
    columns = ["short", "a_very_long_name"]
    figures.heat_map(np.array([[np.nan, 1]]), ["0"], columns, "r", "c", "title", tmp_path / "map.png", missing="–")
    assert [text.get_text() for text in drawn[0].axes[0].texts] == ["–", "1"]
    assert {label.get_rotation() for label in drawn[0].axes[0].get_xticklabels()} == {90}
