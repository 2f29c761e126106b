"""Black boxes of killed runs, of which the process that saved them was killed, too."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from dora._paths import SHARED_MEMORY
from dora.daemon import run_directory
from dora.daemon.guardian import RESCUED
from dora.daemon.run_directory import remove_stale

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a black box is for Linux")


@pytest.fixture
def box() -> Iterator[Path]:
    """A box that nobody saves."""
    path = Path(SHARED_MEMORY, f"{RESCUED}test_{uuid.uuid4().hex[:12]}")
    (path / "order").mkdir(parents=True, mode=0o700)
    path.chmod(0o700)
    (path / "start").touch(mode=0o600)
    (path / "order" / "camera").write_bytes(b"entries")
    yield path
    shutil.rmtree(path, ignore_errors=True)


def test_one_that_nobody_saves_is_removed_after_a_minute(
    box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove_stale(str(tmp_path))
    assert box.exists(), "a process may be about to save it"
    now = time.time()
    monkeypatch.setattr(run_directory.time, "time", lambda: now + 61)
    lock = os.open(box / "start", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    remove_stale(str(tmp_path))
    assert box.exists(), "a process saves it"
    os.close(lock)
    remove_stale(str(tmp_path))
    assert not box.exists()


def test_a_folder_of_another_user_stays(box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(run_directory.time, "time", lambda: now + 61)
    box.chmod(0o777)  # others can write to it
    remove_stale(str(tmp_path))
    assert box.exists()
