"""What a page is made of. The template draws each block by its `kind`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from advvae.outlier.rendering import Table
from advvae.report.charts import Chart
from advvae.report.embedding import Picture


@dataclass(frozen=True)
class Facts:
    """Names with their values, in words."""

    kind: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Sortable:
    """A table whose columns sort it. `links`: where each row's first cell leads. `marked`: rows to be seen first."""

    kind: ClassVar[str] = "table"
    table: Table
    links: Sequence[str] = ()
    marked: Sequence[bool] = ()
    folded: bool = False


@dataclass(frozen=True)
class Drawn:
    """A chart."""

    kind: ClassVar[str] = "chart"
    chart: Chart


@dataclass(frozen=True)
class Choice:
    """Charts of which those of one name are shown at a time."""

    kind: ClassVar[str] = "choice"
    label: str
    charts: Mapping[str, Sequence[Chart]]
    first: str


@dataclass(frozen=True)
class Shown:
    """A picture."""

    kind: ClassVar[str] = "picture"
    picture: Picture


@dataclass(frozen=True)
class Series:
    """Pictures of which a slider shows one at a time; the last at first."""

    kind: ClassVar[str] = "series"
    label: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Code:
    """What to type."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Note:
    """A sentence."""

    kind: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True)
class Explorer:
    """The jobs of a sweep, drawn by the page's script: parallel coordinates, and a heat map over any two keys.

    keys: key -> its value in each job. metrics: name -> its value in each job, None where it has none.
    """

    kind: ClassVar[str] = "explorer"
    keys: Mapping[str, Sequence[str]]
    metrics: Mapping[str, Sequence[float | None]]


Block = Facts | Sortable | Drawn | Choice | Shown | Series | Code | Note | Explorer


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it. `name`: how links within the page call it."""

    name: str
    title: str
    blocks: list[Block] = field(default_factory=list)


def section(name: str, title: str, build: Callable[[], list[Block]]) -> Section:
    """A section of what `build` gives; of a file that is damaged, or another version's, it says so instead."""
    try:
        return Section(name, title, build())
    except Exception as error:  # of as many kinds as files can be wrong: the rest of the page is worth having
        return Section(name, title, [Note(f"This part cannot be made of its files ({type(error).__name__}: {error}).")])
