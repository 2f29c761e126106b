"""Opening Zenoh sessions; Zenoh reads the number of threads from the environment."""

from __future__ import annotations

import os
import socket
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import zenoh

from dora.errors import DoraError
from dora.transport.network.sessions import connect, dscp_from_environment
from dora.transport.network.zenoh_router import open_session
from dora.wire.node_config import RemoteConfig

VARIABLE = "ZENOH_RUNTIME"


def test_threads_that_open_sessions_at_once_leave_the_environment_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    another = threading.Event()
    seen = []

    def fake_open(config: Any) -> Any:
        overlaps = another.is_set()
        another.set()
        threading.Event().wait(0.002)  # seconds in which another one could come
        seen.append((overlaps, os.environ[VARIABLE]))
        another.clear()
        return config

    monkeypatch.setattr(zenoh, "open", fake_open)
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda number: open_session(number, f"threads {number}"), range(8)))  # type: ignore[arg-type, return-value]
    assert opened == list(range(8))
    assert sorted(seen) == [(False, f"threads {number}") for number in range(8)]
    assert VARIABLE not in os.environ


def test_the_environment_of_the_user_has_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "mine")
    monkeypatch.setattr(zenoh, "open", lambda _: os.environ[VARIABLE])
    config: Any = None
    assert open_session(config, "ours") == "mine"  # type: ignore[comparison-overlap]
    assert os.environ[VARIABLE] == "mine"


@pytest.mark.parametrize(("text", "number"), [("46", 46), ("0", 0), ("63", 63)])
def test_the_mark_of_urgent_packets_is_a_number(
    monkeypatch: pytest.MonkeyPatch, text: str, number: int
) -> None:
    monkeypatch.setenv("DORA_LINK_DSCP", text)
    assert dscp_from_environment() == number


@pytest.mark.parametrize("text", ["", "64", "-1", "ef", "0x2e", "4.6"])
def test_a_mark_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("DORA_LINK_DSCP", text)
    with pytest.raises(DoraError, match=r"DORA_LINK_DSCP is `.*`; write a number from 0 to 63"):
        dscp_from_environment()


def test_only_the_fast_path_is_marked() -> None:
    marks = {}
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"tcp/127.0.0.1:{server.getsockname()[1]}"
        for low_latency in (False, True):
            session = connect(
                endpoint, RemoteConfig({}, {}, "secret", "", dscp=46), low_latency=low_latency
            )
            try:
                connection, peer = server.accept()
                with connection:
                    marks[low_latency] = _type_of_service(peer)
            finally:
                session.close()
    assert marks == {False: 0, True: 46 << 2}


def _type_of_service(address: tuple[str, int]) -> int:
    """Return the mark of this process's socket with a local address."""
    for name in os.listdir("/dev/fd"):
        try:
            if stat.S_ISSOCK(os.stat(int(name)).st_mode):
                with socket.socket(fileno=os.dup(int(name))) as found:
                    if found.getsockname() == address:
                        return found.getsockopt(socket.IPPROTO_IP, socket.IP_TOS)
        except OSError:
            pass  # it is closed by now
    raise AssertionError(f"no socket at {address}")
