"""One file from servers that break off, send other bytes, fall silent, redirect, are busy, or do not have it."""

from __future__ import annotations

import errno
import shutil
import urllib.error
from collections.abc import Iterable
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest

from advvae.data import transfer as module
from advvae.data.transfer import transfer
from tests.data.official_files import md5
from tests.data.unreliable import (
    Answer,
    Handler,
    Web,
    corrupted,
    page,
    redirected,
    send,
    silent,
    stalled,
    status,
    truncated,
    unreliable_server,
    without_ranges,
)

CONTENT = np.random.default_rng(0).bytes(100_000)
NOWHERE = "http://127.0.0.1:9/"  # the discard port: nothing listens


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that are waited between attempts; nobody waits."""
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    return waits


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "set.zip").write_bytes(CONTENT)
    return tmp_path / "data" / "set.zip"


def part_of(path: Path, content: bytes) -> Path:
    path.parent.mkdir()
    part = path.with_name("set.zip.part")
    part.write_bytes(content)
    return part


def fetched(path: Path, answers: Iterable[Answer] = (), urls: tuple[str, ...] = ("{}set.zip",)) -> Web:
    """What the server was asked for while the file was fetched, which is whole and alone in its folder."""
    with unreliable_server(path.parent.parent / "web", answers) as web:
        transfer([url.format(web.url) for url in urls], path, md5(CONTENT))
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["set.zip"]
    return web


def test_whole_at_once(path: Path, waits: list[float]) -> None:
    assert fetched(path).asked == [("set.zip", None)]
    assert waits == []
    assert fetched(path).asked == []  # it is there


def test_what_has_arrived_before_a_kill_is_not_sent_again(path: Path) -> None:
    part_of(path, CONTENT[:70_000])
    web = fetched(path)
    assert web.asked == [("set.zip", "bytes=70000-")]
    assert web.n_sent == 30_000


def test_what_arrives_is_on_the_disk_at_once(path: Path, waits: list[float]) -> None:
    sizes = []

    def answer(handler: Handler) -> None:
        send(handler, most=10)
        part = path.with_name("set.zip.part")
        for _ in range(200):
            if not (part.is_file() and part.stat().st_size):
                handler.closing.wait(0.01)
        sizes.append(part.stat().st_size)

    fetched(path, [answer])
    assert sizes == [10]


def test_a_connection_that_breaks_off_goes_on_there(path: Path, waits: list[float]) -> None:
    web = fetched(path, [truncated(40_000)])
    assert web.asked == [("set.zip", None), ("set.zip", "bytes=40000-")]
    assert web.n_sent == 100_000
    assert waits == [1]


def test_attempts_that_bring_something_are_not_counted(path: Path, waits: list[float]) -> None:
    web = fetched(path, repeat(truncated(10_000), 9))
    assert [asked for _, asked in web.asked[1:]] == [f"bytes={k}0000-" for k in range(1, 10)]
    assert waits == [1] * 9


def test_a_server_without_ranges_begins_anew(path: Path, waits: list[float]) -> None:
    web = fetched(path, [truncated(40_000), without_ranges])
    assert web.n_sent == 40_000 + 100_000
    assert waits == [1]


def test_a_server_that_never_gets_further_is_given_up(path: Path, waits: list[float]) -> None:
    answers = repeat(lambda handler: send(handler, most=10_000, ranges=False))
    with pytest.raises(ConnectionError, match="the connection broke off after 10,000 of 100,000 bytes"):
        fetched(path, answers)
    assert waits == [1, 2, 4, 8]


def test_wrong_bytes_are_removed_and_fetched_once_more(path: Path, waits: list[float]) -> None:
    assert fetched(path, [corrupted]).asked == [("set.zip", None), ("set.zip", None)]
    assert waits == []


def test_a_wrong_beginning_is_removed_too(path: Path) -> None:
    part_of(path, b"of another version")
    assert fetched(path).asked == [("set.zip", "bytes=18-"), ("set.zip", None)]


def test_what_is_wrong_twice_is_removed(path: Path) -> None:
    with pytest.raises(OSError, match=r"the checksum of set\.zip is wrong"):
        fetched(path, repeat(corrupted))
    assert list(path.parent.iterdir()) == []


def test_all_had_arrived_before_a_kill(path: Path) -> None:
    part_of(path, CONTENT)
    web = fetched(path)
    assert web.asked == [("set.zip", "bytes=100000-")]
    assert web.n_sent == 0


def test_silence_in_the_middle(path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE", 0.2)
    web = fetched(path, [stalled(30_000)])
    assert web.asked == [("set.zip", None), ("set.zip", "bytes=30000-")]
    assert waits == [1]


def test_silence_for_ever(path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE", 0.1)
    with pytest.raises(OSError, match="timed out"):
        fetched(path, repeat(silent))
    assert waits == [1, 2, 4, 8]
    assert list(path.parent.iterdir()) == []


def test_redirects_are_followed_with_the_range(path: Path) -> None:
    part_of(path, CONTENT[:70_000])
    web = fetched(path, [redirected("elsewhere.zip"), redirected("set.zip")])
    assert web.asked == [(name, "bytes=70000-") for name in ("set.zip", "elsewhere.zip", "set.zip")]
    assert web.n_sent == 30_000


def test_a_busy_server_is_asked_again_and_later(
    path: Path, waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    fetched(path, [status(503), status(500)])
    assert waits == [1, 2]
    assert "set.zip: HTTP Error 503: Service Unavailable; trying again in 1 s" in caplog.text


def test_a_busy_server_says_when(path: Path, waits: list[float]) -> None:
    fetched(path, [status(503, Retry_After=7), status(429, Retry_After=86_400), status(503, Retry_After="tomorrow")])
    assert waits == [7, 60, 4]


def test_a_server_that_stays_busy_is_given_up(path: Path, waits: list[float]) -> None:
    part = part_of(path, CONTENT[:70_000])
    with pytest.raises(urllib.error.HTTPError, match="503"):
        fetched(path, repeat(status(503)))
    assert waits == [1, 2, 4, 8]
    assert part.read_bytes() == CONTENT[:70_000]


@pytest.mark.parametrize("code", [403, 404, 410])
def test_what_is_not_there_is_not_asked_for_again(code: int, path: Path, waits: list[float]) -> None:
    with pytest.raises(urllib.error.HTTPError, match=str(code)):
        fetched(path, repeat(status(code)))
    assert waits == []


def test_no_network_is_told_at_once(path: Path, waits: list[float]) -> None:
    with pytest.raises(urllib.error.URLError, match="refused"):
        transfer([NOWHERE], path, md5(CONTENT))
    assert waits == []


def test_a_login_page_is_not_taken_for_the_file(path: Path) -> None:
    part = part_of(path, CONTENT[:70_000])
    with pytest.raises(OSError, match=r"set\.zip sends a page in place of the file"):
        fetched(path, [page])
    assert part.read_bytes() == CONTENT[:70_000]


def test_mirrors_stand_in_for_each_other(path: Path, waits: list[float]) -> None:
    urls = ("{}gone.zip", "{}set.zip")
    assert fetched(path, [status(404)], urls).asked == [("gone.zip", None), ("set.zip", None)]
    path.unlink()
    assert fetched(path, [corrupted], ("{}set.zip?first", "{}set.zip")).asked[1:] == [("set.zip", None)]
    assert waits == [0]


def test_a_disk_without_room_is_told_before(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(path.parent.parent)._replace(free=99_999)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match="GB are needed") as error:
        fetched(path)
    assert error.value.errno == errno.ENOSPC
    assert list(path.parent.iterdir()) == []
    usage = usage._replace(free=30_000)  # of what is there nothing more is needed
    part_of_size = path.with_name("set.zip.part").write_bytes(CONTENT[:70_000])
    assert part_of_size == 70_000
    fetched(path)
