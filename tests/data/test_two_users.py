"""Two users of one data_dir, each a process of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from advvae import runs
from advvae.data.writing import partial_of
from tests.data.given import Given, folders, prepared

pytestmark = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may become another user"
)

ONE, OTHER = 4711, 4712  # user ids
OTHERS_OWN = Path(tempfile.gettempdir(), f"advvae-of-{OTHER}-{os.getpid()}")  # tests may run several times at once


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder that every user may write into; pytest's own are for its user alone."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def as_user(number: int, work: Callable[[], None]) -> None:
    """Do this as another user, with the usual umask."""
    child = os.fork()
    if child == 0:
        try:
            os.setgid(number)
            os.setuid(number)
            os.umask(0o022)
            os.environ["XDG_CACHE_HOME"] = str(OTHERS_OWN) if number == OTHER else "/nowhere"
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def prepare(data_dir: Path, name: str, n_reads: int) -> None:
    Given.reads.clear()
    assert len(prepared(data_dir, Given(name=name)).images) == 300
    assert Given.reads[name] == n_reads


def test_what_one_has_prepared_the_other_uses(data_dir: Path) -> None:
    as_user(ONE, lambda: prepare(data_dir, "shared", 1))
    (data_dir / "cache").chmod(0o755)  # as the first user's umask made it
    as_user(OTHER, lambda: prepare(data_dir, "shared", 0))


class OfFile(Given):
    """Read from a file."""

    def files(self, split: str, data_dir: Path) -> list[Path]:
        return [data_dir / "file"]


def test_what_one_has_prepared_is_used_where_nothing_can_be_written(data_dir: Path) -> None:
    """Neither a lock nor what is known of the files is written, there or in the other user's own folder."""
    (data_dir / "file").write_text("content")

    def use(n_reads: int) -> None:
        Given.reads.clear()
        assert len(prepared(data_dir, OfFile(name="shared")).images) == 300
        assert Given.reads["shared"] == n_reads

    as_user(ONE, lambda: use(1))
    before = sorted(data_dir.rglob("*"))
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in before)
    data_dir.chmod(0o755)
    as_user(OTHER, lambda: use(0))
    assert sorted(data_dir.rglob("*")) == before
    assert not OTHERS_OWN.exists()


def test_what_is_missing_goes_to_the_users_own_folder(data_dir: Path) -> None:
    as_user(ONE, lambda: prepare(data_dir, "first", 1))
    try:
        as_user(OTHER, lambda: prepare(data_dir, "second", 1))
        as_user(OTHER, lambda: prepare(data_dir, "second", 0))
        assert len(folders(data_dir / "cache")) == len(folders(OTHERS_OWN / "advvae")) == 1
    finally:
        shutil.rmtree(OTHERS_OWN, ignore_errors=True)


def test_both_may_write_where_the_folder_lets_them(data_dir: Path) -> None:
    as_user(ONE, lambda: prepare(data_dir, "first", 1))
    (data_dir / "cache").chmod(0o777)  # the lock's file there is the first user's
    as_user(OTHER, lambda: prepare(data_dir, "second", 1))
    as_user(ONE, lambda: prepare(data_dir, "second", 0))
    assert len(folders(data_dir / "cache")) == 2


def test_a_lock_that_its_user_keeps_does_not_stop_the_other(data_dir: Path) -> None:
    as_user(ONE, lambda: prepare(data_dir, "first", 1))
    (data_dir / "cache").chmod(0o777)
    (lock,) = data_dir.glob("cache/.*.lock")
    lock.chmod(0o644)
    as_user(OTHER, lambda: prepare(data_dir, "second", 1))
    as_user(ONE, lambda: prepare(data_dir, "second", 0))


def test_what_one_left_half_prepared_does_not_stop_the_other(data_dir: Path) -> None:
    as_user(OTHER, lambda: prepare(data_dir, "half", 1))
    (entry,) = folders(data_dir / "cache")
    (data_dir / "cache").chmod(0o777)

    def leave_half() -> None:
        partial = partial_of(entry)
        partial.mkdir()
        (partial / "images.npy").write_bytes(b"half")

    as_user(ONE, leave_half)
    shutil.rmtree(entry)
    as_user(OTHER, lambda: prepare(data_dir, "half", 1))


def test_anothers_run_is_told_to_be_under_way_or_not(data_dir: Path) -> None:
    run = data_dir / "run"
    held = runs.hold(run)

    def ask(expected: bool) -> None:
        assert runs.is_locked(run) is expected

    as_user(OTHER, lambda: ask(True))
    held.release()  # as a kill does: the file stays
    (run / runs.LOCK).touch()
    as_user(OTHER, lambda: ask(False))
