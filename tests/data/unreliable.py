"""A web server on this machine that gets things wrong, as those on the way to a dataset do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

Answer = Callable[["Handler"], None]


@dataclass
class Web:
    """url: with a slash at the end. asked: (file name, Range) of each request. n_sent: bytes of files, in all."""

    url: str
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    n_sent: int = 0


class Handler(BaseHTTPRequestHandler):
    """Gives the next of `answers` to each request, and when they are used up the file, or the range of it asked for."""

    folder: Path
    answers: Iterator[Answer]
    web: Web
    closing: Event

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.web.asked.append((self.path[1:], self.headers["Range"]))
        next(self.answers, send)(self)

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def body(self, content: bytes) -> None:
        self.web.n_sent += len(content)
        self.wfile.write(content)


def send(handler: Handler, most: int | None = None, ranges: bool = True, change: bytes = b"") -> None:
    """The file, or what is asked for of it, but at most so many bytes; `change` comes in place of its first ones."""
    content = (handler.folder / handler.path[1:].split("?")[0]).read_bytes()
    asked = handler.headers["Range"] if ranges else None
    first = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
    if first >= len(content):
        return handler.head(416, Content_Range=f"bytes */{len(content)}", Content_Length=0)
    span = {"Content_Range": f"bytes {first}-{len(content) - 1}/{len(content)}"} if asked else {}
    handler.head(206 if asked else 200, Content_Length=len(content) - first, **span)
    return handler.body((change + content[len(change) :])[first:][:most])


def truncated(n_bytes: int) -> Answer:
    """Breaks off after so many."""
    return lambda handler: send(handler, most=n_bytes)


def stalled(n_bytes: int) -> Answer:
    """Says nothing more after so many."""

    def answer(handler: Handler) -> None:
        send(handler, most=n_bytes)
        handler.closing.wait()

    return answer


def silent(handler: Handler) -> None:
    """Never answers."""
    handler.closing.wait()


def corrupted(handler: Handler) -> None:
    """Sends other bytes than those of the file, as many."""
    send(handler, change=b"other bytes")


def without_ranges(handler: Handler) -> None:
    """Sends the whole file whatever part of it is asked for."""
    send(handler, ranges=False)


def status(code: int, **headers: object) -> Answer:
    return lambda handler: handler.head(code, Content_Length=0, **headers)


def redirected(name: str) -> Answer:
    return status(302, Location=f"/{name}")


def page(handler: Handler) -> None:
    """Sends what a network does that wants a login first."""
    handler.head(200, Content_Type="text/html; charset=utf-8", Content_Length=6)
    handler.wfile.write(b"log in")


@contextmanager
def unreliable_server(folder: Path, answers: Iterable[Answer] = ()) -> Iterator[Web]:
    """answers: to the first requests, in order; those that follow get the files of the folder, as they are."""
    handler = type("Handler", (Handler,), {"folder": folder, "answers": iter(answers), "closing": Event()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        handler.web = Web(f"http://127.0.0.1:{server.server_address[1]}/")  # type: ignore[attr-defined]
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield handler.web  # type: ignore[attr-defined]
        finally:
            handler.closing.set()  # type: ignore[attr-defined]
            server.shutdown()
            thread.join()
