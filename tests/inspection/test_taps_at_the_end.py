"""Taps that are opened while a dataflow ends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dora.daemon.guardian import remove_run_files
from dora.observe import tap_session
from dora.transport.board import Board
from dora.wire.daemon_protocol import Inspection

pytest.importorskip("iceoryx2")


def test_a_tap_leaves_nothing_of_a_run_that_was_removed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Run:
        def ask(self, question: Any) -> None: ...

    class Mapped:
        def close(self) -> None: ...

    directory = tmp_path / "0123456789ab"
    directory.mkdir(0o700)  # the lock, which goes last, is gone
    monkeypatch.setattr(Board, "open", lambda _name: Mapped())
    inspection = Inspection("id", None, "iceoryx2", str(directory), "dora_0123456789ab_", "board", [], [])
    lease = tap_session.TapLease(Run(), inspection, [])  # type: ignore[arg-type]
    assert os.listdir(directory) == ["iox"]
    lease.close()
    assert not directory.exists()
    # One that exists is the daemon's.
    directory.mkdir(0o700)
    (directory / "lock").touch()
    tap_session.TapLease(Run(), inspection, []).close()  # type: ignore[arg-type]
    assert (directory / "lock").exists() and (directory / "iox").exists()
    remove_run_files(str(directory), inspection.prefix)  # as the daemon does
