"""Users of one machine: without a token a coordinator is its own user's."""

from __future__ import annotations

import http.client
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from system import PATIENCE, System

from dora.coordinator.peers import name_of, stranger

CLIENT, SERVER = ("127.0.0.1", 0xC350), ("127.0.0.1", 0x177D)
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def row(local: str, remote: str, state: str, user: int) -> str:
    return f"   0: {local} {remote} {state} 00000000:00000000 00:00000000 00000000 {user:5} 0 734500 1\n"


LISTENING = row("0100007F:177D", "00000000:0000", "0A", 0)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([LISTENING, row("0100007F:C350", "0100007F:177D", "01", 1000)], ""),
        ([LISTENING, row("0100007F:C350", "0100007F:177D", "01", 0)], ""),
        (
            [LISTENING, row("0100007F:C350", "0100007F:177D", "01", 4_000_001)],
            "the user with number 4000001",
        ),
        ([LISTENING, row("0100007F:C350", "0100007F:177D", "06", 0)], "somebody who has gone"),
        ([LISTENING, row("0100007F:177D", "0100007F:C350", "01", 1000)], "somebody who has gone"),
        ([LISTENING], "somebody who has gone"),
        ([], ""),
        (["nonsense\n"], ""),
    ],
    ids=["own", "root", "other", "closed", "only ours", "gone", "does not tell", "nonsense"],
)
@pytest.mark.skipif(sys.byteorder != "little", reason="the rows are those of such a machine")
def test_whose_a_connection_is(rows: list[str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert stranger(CLIENT, SERVER, lambda _: HEAD + "".join(rows)) == told


def test_a_system_that_does_not_tell() -> None:
    def read(path: str) -> str:
        raise FileNotFoundError(path)

    assert stranger(CLIENT, SERVER, read) == ""
    assert stranger(("testclient", 50000), SERVER) == ""


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_the_own_connection(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listener:
        client = socket.create_connection(listener.getsockname()[:2])
        served, peer = listener.accept()
        assert stranger(peer, served.getsockname()) == ""
        client.close()
        served.close()


@contextmanager
def another_user(user: int) -> Iterator[None]:
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.processes
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="this system does not tell")
def test_another_user_of_the_machine(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    system.dora("up")

    def ask(**headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", system.port, timeout=PATIENCE)
        with another_user(65534):
            connection.connect()
        connection.request("GET", "/api/dataflows", None, headers)
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, text

    status, text = ask()
    assert status == 403
    assert f"what runs here is {name_of(0)}'s, and this request comes from nobody" in text
    system.dora("down")
    monkeypatch.setenv("DORA_AUTH_TOKEN", "secret")
    system.dora("up", "--auth")
    assert ask()[0] == 401
    assert ask(Authorization="Bearer secret") == (200, "[]")
