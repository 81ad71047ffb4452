import json
import logging
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from advvae import tracking
from advvae.errors import UserError
from advvae.tracking import Tracker, open_tracker

WANDB = {"name": "wandb", "project": "advvae", "entity": None, "images": None}


class Server(ThreadingHTTPServer):
    """As much of a W&B server as a run needs, on 127.0.0.1. `status`: what it answers every request with."""

    def __init__(self, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = status
        self.received: list[tuple[str, str]] = []  # (path, body)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def uploads(self) -> list[str]:
        return [path for path, _ in self.received if path.startswith("/upload/")]

    def streams(self) -> dict[str, str]:
        """What each run streamed: its rows of numbers, and its exit code."""
        streams: dict[str, str] = {}
        for path, body in self.received:
            if path.endswith("/file_stream"):
                run = path.split("/")[-2]
                streams[run] = streams.get(run, "") + body
        return streams


class Handler(BaseHTTPRequestHandler):
    server: Server

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode(errors="replace")
        self.server.received.append((self.path, body))
        reply = json.dumps(self.reply(body)).encode()
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    do_GET = do_POST = do_PUT = answer

    def reply(self, body: str) -> dict[str, Any]:
        if self.path != "/graphql":
            return {}
        variables = json.loads(body).get("variables", {})
        project = {"name": "advvae", "entity": {"name": "me"}}
        bucket = {"id": "1", "name": variables.get("name"), "config": "{}", "historyLineCount": 0, "project": project}
        names = variables.get("files") or []
        files = [{"name": name, "uploadUrl": f"{self.server.url}/upload/{name}"} for name in names]
        return {
            "data": {
                "upsertBucket": {"bucket": bucket, "inserted": True},
                "createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files},
            }
        }

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(logged_out: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that answers, and a login to it."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "grid.png"
    Image.new("L", (4, 6), 255).save(path)
    return path


def track(folder: Path, picture: Path | None = None, **options: Any) -> str | None:
    """Open a tracker, report one epoch, close it."""
    folder.mkdir(exist_ok=True)
    settings = options.pop("settings", WANDB)
    with open_tracker(settings, folder=folder, config={"lr": 0.1}, run_name="mine", **options) as tracker:
        tracker.log({"val_loss": 0.5}, 1)
        if picture:
            tracker.image("samples", picture, 1)
    return tracker.run_id


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "advvae.tracking"]


def test_none_reports_nowhere(tmp_path: Path) -> None:
    assert track(tmp_path, tmp_path / "no such picture.png", settings={"name": "none"}) is None
    assert list(tmp_path.iterdir()) == []


def test_unknown_tracker_names_the_choices(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tracker\.name=mlflow: choose wandb, tensorboard or none"):
        track(tmp_path, settings={"name": "mlflow"})


def test_tensorboard_holds_numbers_pictures_and_config(tmp_path: Path, picture: Path) -> None:
    from tensorboard.backend.event_processing import event_accumulator

    track(tmp_path, picture, settings={"name": "tensorboard", "images": None}, private=True)
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("val_loss")] == [(1, 0.5)]
    (image,) = events.Images("samples")
    assert (image.step, image.width, image.height) == (1, 4, 6)
    assert events.Tags()["tensors"] == ["config/text_summary"]


def test_tensorboard_without_its_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # importing it then raises ImportError
    with pytest.raises(UserError, match=r"pip install 'advvae\[tensorboard\]'"):
        track(tmp_path, settings={"name": "tensorboard"})


@pytest.mark.usefixtures("logged_out")
def test_wandb_without_a_login_records_offline_in_the_run_folder_and_says_so_once(
    tmp_path: Path, picture: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked the user"))
    monkeypatch.setattr("getpass.getpass", lambda *_, **__: pytest.fail("asked the user"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    run_id = track(tmp_path, picture)
    (message,) = told(caplog)
    (record,) = (tmp_path / "wandb").glob(f"offline-run-*-{run_id}")
    assert message.startswith("W&B: recording offline, no login found")
    assert message.endswith(f"wandb sync {record}")
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("logged_out")
def test_wandb_mode_is_respected(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    track(tmp_path)
    assert told(caplog) == []
    assert not list(tmp_path.glob("wandb/*run-*"))


def test_wandb_mode_offline_beats_a_login(
    tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("WANDB_MODE", "offline")
    track(tmp_path)
    assert told(caplog)[0].startswith("W&B: recording offline, its mode is offline")
    assert server.received == []


def test_two_jobs_of_one_process_are_two_wandb_runs_also_if_the_first_fails(
    tmp_path: Path, server: Server, picture: Path
) -> None:
    with (
        pytest.raises(ValueError, match="the job's own error"),
        open_tracker(WANDB, folder=tmp_path, config={}, run_name="first") as first,
    ):
        raise ValueError("the job's own error")
    second = track(tmp_path, picture)
    streams = server.streams()
    assert set(streams) == {first.run_id, second}
    assert '"exitcode":1' in streams[str(first.run_id)]
    assert '"exitcode":0' in streams[str(second)]
    history = streams[str(second)].replace("\\", "")
    assert '"val_loss":0.5' in history
    assert '"epoch":1' in history
    assert any("samples" in path for path in server.uploads())


def test_a_resumed_run_goes_on_in_the_same_wandb_run(tmp_path: Path, server: Server) -> None:
    first = track(tmp_path / "a")
    assert track(tmp_path / "b", run_id=first) == first
    assert set(server.streams()) == {first}


@pytest.mark.parametrize(
    ("images", "private", "sent"), [(None, False, True), (None, True, False), (True, True, True), (False, False, False)]
)
def test_which_images_leave_the_machine(
    tmp_path: Path, server: Server, picture: Path, images: bool | None, private: bool, sent: bool
) -> None:
    track(tmp_path, picture, settings={**WANDB, "images": images}, private=private)
    assert any("media" in path for path in server.uploads()) == sent


@pytest.mark.parametrize("status", [401, 500])
def test_a_server_that_fails_costs_a_line_and_the_records_stay_local(
    tmp_path: Path, server: Server, status: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "CONNECT_SECONDS", 1)
    server.status = status
    run_id = track(tmp_path)
    (message,) = told(caplog)
    assert message.startswith("W&B: recording offline, no run could be opened on its server")
    assert list((tmp_path / "wandb").glob(f"offline-run-*-{run_id}"))


@pytest.mark.usefixtures("server")
def test_an_unreachable_server_holds_a_run_up_for_no_longer_than_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "CONNECT_SECONDS", 1)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # the discard port: nothing listens
    track(tmp_path)
    assert "connection refused" in told(caplog)[0]


def test_a_server_lost_on_the_way_is_told_once_and_closing_gives_up(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "UPLOAD_SECONDS", 1)
    with open_tracker(WANDB, folder=tmp_path, config={}, run_name="mine") as tracker:
        server.status = 500
        tracker.log({"val_loss": 0.5}, 1)
    (message,) = told(caplog)
    assert message.startswith("W&B: Timed out finishing run. The run goes on. Upload later: wandb sync ")


def test_a_broken_wandb_is_told_in_one_line_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, logged_out: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "nonsense")
    with open_tracker(WANDB, folder=tmp_path, config={}, run_name="mine") as tracker:
        tracker.log({"val_loss": 0.5}, 1)
    assert type(tracker) is Tracker
    (message,) = told(caplog)
    assert "\n" not in message
    assert message.endswith("Nothing is recorded there.")


def test_the_first_failing_call_is_told_and_the_rest_is_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, logged_out: None
) -> None:
    with open_tracker(WANDB, folder=tmp_path, config={}, run_name="mine") as tracker:
        for epoch in (1, 2):
            tracker.image("samples", tmp_path / "missing.png", epoch)
    (message,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "missing.png" in message
