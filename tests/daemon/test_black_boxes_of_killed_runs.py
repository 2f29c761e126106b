"""Black boxes of killed runs, of which the process that saved them was killed, too."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from dora._paths import SHARED_MEMORY
from dora.daemon import guardian, run_directory
from dora.daemon.guardian import RESCUED, RETRIED
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


def test_one_that_is_not_saved_is_tried_once_more_and_then_removed(
    box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[str] = []
    monkeypatch.setattr(guardian.subprocess, "Popen", lambda command, **_: orders.append(command[-1]))
    again = box.with_name(RETRIED + box.name.removeprefix(RESCUED))
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
    assert json.loads(orders.pop()) == {"folder": str(again), "reason": "killed", "dead": True}
    monkeypatch.setattr(run_directory.time, "time", lambda: now + 122)
    remove_stale(str(tmp_path))
    assert not again.exists()
    assert not orders


def test_a_folder_of_another_user_stays(box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(run_directory.time, "time", lambda: now + 61)
    box.chmod(0o777)  # others can write to it
    remove_stale(str(tmp_path))
    assert box.exists()


def test_a_link_is_no_black_box(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "box").symlink_to(tmp_path / "folder")
    guardian.save_black_box(str(tmp_path / "box"), str(tmp_path / "kept"))
    assert sorted(os.listdir(tmp_path)) == ["box", "folder"]
