"""A daemon and a coordinator work together only if their messages have the same protocol version."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from serving import TIMEOUT, TOKEN, ObedientDaemon, Serving, serving
from waiting import wait_until
from websockets import ConnectionClosed

from dora._version import __version__
from dora.cluster.coordinator import fleet
from dora.cluster.coordinator.store import Store
from dora.cluster.protocol import DaemonRejected, Welcome, decode_to_daemon
from dora.wire.node_protocol import PROTOCOL_VERSION

HELLO = {"type": "Hello", "version": __version__, "daemon_id": "old", "pid": 1}
MEND = "install the same version of dora for both, and restart both"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Serving]:
    with serving(lambda: Store(str(tmp_path / "store.sqlite"))) as it:
        yield it


@pytest.mark.lengthy
@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"protocol": PROTOCOL_VERSION + 1}, f"protocol {PROTOCOL_VERSION + 1}"),
        ({"protocol": 1}, "protocol 1"),
        ({}, "an unknown protocol"),
        ({"runs": [{"id": "of another layout"}]}, "an unknown protocol"),
        ({"daemon_id": None, "protocol": PROTOCOL_VERSION + 1}, f"protocol {PROTOCOL_VERSION + 1}"),
    ],
    ids=["newer", "older", "without a number", "unreadable without a number", "unreadable"],
)
def test_a_daemon_of_another_protocol_version_is_refused(
    served: Serving, fields: dict[str, Any], named: str, caplog: pytest.LogCaptureFixture
) -> None:
    with served.websocket() as daemon:
        daemon.send(json.dumps({**HELLO, **fields}))
        answer = decode_to_daemon(daemon.recv(timeout=TIMEOUT))
        with pytest.raises(ConnectionClosed):
            daemon.recv(timeout=TIMEOUT)
    reason = (
        f"the daemon is dora {__version__} with {named} and the coordinator is dora {__version__} with "
        f"protocol {PROTOCOL_VERSION}, which do not understand each other; {MEND}"
    )
    assert answer == DaemonRejected(reason)
    assert f"refused the daemon with process id 1: {reason}" in caplog.text
    assert served.in_loop(served.daemons) == []


@pytest.mark.lengthy
def test_a_daemon_of_the_same_protocol_version_is_welcome(served: Serving) -> None:
    daemon = ObedientDaemon(served)
    wait_until(lambda: daemon.heard == [Welcome(__version__, PROTOCOL_VERSION)], "the welcome")
    daemon.close()


class UnknownMessage(msgspec.Struct, tag=True):
    version: str


@pytest.mark.processes
@pytest.mark.parametrize(
    ("welcome", "sentence"),
    [
        (Welcome(__version__), f"the coordinator is dora {__version__} with an unknown protocol"),
        (Welcome(__version__, 99), f"the coordinator is dora {__version__} with protocol 99"),
        (UnknownMessage(__version__), "sent an unknown message: Invalid value 'UnknownMessage'"),
    ],
    ids=["without a number", "newer", "unreadable"],
)
def test_a_daemon_ends_if_the_coordinator_has_another_protocol_version(
    served: Serving, monkeypatch: pytest.MonkeyPatch, runtime_root: str, welcome: Any, sentence: str
) -> None:
    monkeypatch.setattr(fleet, "Welcome", lambda *_: welcome)
    daemon = subprocess.run(
        [sys.executable, "-m", "dora", "daemon"],
        env={
            **os.environ,
            "DORA_COORDINATOR_PORT": str(served.port),
            "DORA_AUTH_TOKEN": TOKEN,
            "DORA_RUNTIME_DIR": runtime_root,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert daemon.returncode == 1
    assert f"the coordinator at 127.0.0.1:{served.port}" in daemon.stderr
    assert sentence in daemon.stderr
    assert MEND in daemon.stderr
