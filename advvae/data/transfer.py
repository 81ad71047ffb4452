"""One file from the network: continued where it broke off, tried again while there is hope, checked at the end."""

from __future__ import annotations

import logging
import ssl
import time
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError

from rich.filesize import decimal

from advvae.data.locks import check_room
from advvae.progress import transfer_bar

log = logging.getLogger(__name__)

SILENCE = 30  # seconds without an answer after which a server counts as unreachable
ATTEMPTS = 5  # in a row that bring nothing new
LONGEST_WAIT = 60  # seconds that a server may ask for before the next attempt
BLOCK = 2**18  # bytes taken from the network at a time, at most


def transfer(urls: Sequence[str], path: Path, md5: str) -> None:
    """Fetch `path`, which all these addresses offer, unless it is there.

    What has arrived lies in `<path>.part`, and the next call goes on from there, also after a kill.
    Raises OSError or HTTPException where no address gives the file, or it is a wrong one twice, which is removed.
    """
    from torchvision.datasets.utils import check_integrity

    if check_integrity(path, md5):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    for addresses in (urls, urls[::-1]):  # what one mirror has wrong, another may have right
        receive_all(addresses, part)
        if check_integrity(part, md5):
            part.replace(path)
            return
        log.warning("%s has arrived with a wrong checksum and is removed", path.name)
        part.unlink(missing_ok=True)
    raise OSError(f"the checksum of {path.name} is wrong")


def receive_all(urls: Sequence[str], part: Path) -> None:
    """Fetch what `part` lacks, from one address after the other. Raises the last error once there is no more hope."""
    waiting, fruitless, furthest = list(urls), 0, size_of(part)
    while True:
        url = waiting.pop(0)
        try:
            return receive(url, part)
        except (OSError, HTTPException) as error:
            fruitless = 1 if size_of(part) > furthest else fruitless + 1
            furthest = max(furthest, size_of(part))
            pause = seconds_to_wait(error, fruitless)
            if pause is not None:
                waiting.append(url)
            if not waiting or fruitless == ATTEMPTS:
                raise
            where = "again" if waiting[0] == url else waiting[0]
            log.warning("%s: %s; trying %s in %d s", url, error, where, pause or 0)
        time.sleep(pause or 0)


def receive(url: str, part: Path) -> None:
    """Fetch what `part` lacks, or all of it where the server cannot begin in the middle."""
    have = size_of(part)
    headers = {"User-Agent": "advvae", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=SILENCE)
    except HTTPError as error:
        if error.code == 416 and have:  # nothing lies behind what is there: the checksum tells whether it is the file
            return
        raise
    with response:
        if response.headers.get_content_type() == "text/html":  # such as the login page of a network
            raise OSError(f"{url} sends a page in place of the file")
        continued = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        have = have if continued else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        check_room(part.parent, (total or have) - have)
        size = "unknown size" if total is None else decimal(total)
        log.info("%s (%s) from %s%s", part.stem, size, url, f", going on at {decimal(have)}" if have else "")
        with part.open("ab" if continued else "wb") as file, transfer_bar(part.stem, total, have) as bar:
            while block := response.read1(BLOCK):
                file.write(block)
                file.flush()  # what has arrived outlives a kill
                bar.advance(len(block))
    if total is not None and size_of(part) < total:
        raise ConnectionError(f"the connection broke off after {size_of(part):,} of {total:,} bytes")


def seconds_to_wait(error: OSError | HTTPException, fruitless: int) -> float | None:
    """Before the next attempt, the longer the more there were; None = another one would end the same way."""
    pause = 2.0 ** (fruitless - 1)
    if isinstance(error, HTTPError):
        asked_for = error.headers.get("Retry-After", "")
        passing = error.code >= 500 or error.code in (408, 429)
        return (min(int(asked_for), LONGEST_WAIT) if asked_for.isdigit() else pause) if passing else None
    cause = error.reason if isinstance(error, URLError) else error
    passing = isinstance(cause, TimeoutError | ConnectionError | HTTPException | ssl.SSLEOFError)
    return pause if passing and not isinstance(cause, ConnectionRefusedError) else None


def part_of(path: Path) -> Path:
    """Where the file lies as long as it is not whole."""
    return path.with_name(f"{path.name}.part")


def size_of(path: Path) -> int:
    """In bytes; 0 = it is not there."""
    return path.stat().st_size if path.is_file() else 0
