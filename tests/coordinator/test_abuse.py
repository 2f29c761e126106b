"""Peers that are no good: sockets that say nothing, requests that never end, daemons that are none."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from serving import ObedientDaemon, Serving, serving
from tokens import TOKEN
from waiting import TIMEOUT, wait_until
from websockets.exceptions import ConnectionClosed

from dora._version import __version__
from dora.cluster.coordinator import api
from dora.cluster.coordinator.store import Store
from dora.cluster.http import server as connections
from dora.cluster.protocol import (
    Collected,
    Hello,
    RunDescription,
    RunReport,
    RunSpec,
    encode,
)
from dora.wire.node_protocol import PROTOCOL_VERSION

LOOSE = {"id": "in", "source": {"type": "node", "node": "b", "output": "out"}}
SHOWN = f"Authorization: Bearer {TOKEN}\r\n".encode()
SPEC = {"name": "arm", "dataflow": {"nodes": [{"id": "a"}], "working_dir": "/tmp"}}


@pytest.fixture
def served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Serving]:
    with serving(lambda: Store(str(tmp_path / "store.sqlite")), most=40) as served:
        yield served
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], "at the end"
    assert "Exception in ASGI application" not in [
        record.getMessage().strip() for record in caplog.get_records("call")
    ]


def raw(served: Serving, data: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", served.port), timeout=TIMEOUT)
    connection.sendall(data)
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Wait until the other side closes a connection."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def start(served: Serving, dataflow: object) -> tuple[int, str]:
    body = json.dumps({"spec": {"name": "arm", "dataflow": dataflow}}).encode()
    return served.ask("POST", "/api/dataflows", body, content_type="application/json")


# --------------------------------------------------------------------------- connections


@pytest.mark.lengthy
def test_500_open_connections_do_not_block_clients(
    served: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT", 3600.0)  # nobody has to wait until it is over
    daemon = ObedientDaemon(served)
    beginnings = [b"", b"GET /api/sta", b"POST /api/dataflows HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "]
    crowd = [raw(served, beginnings[number % 3]) for number in range(500)]
    assert json.loads(served.ask("GET", "/api/status")[1])["daemons"] == ["obedient"]
    assert is_closed(crowd[0])  # for those who came after it
    daemon.close()
    for connection in crowd:
        connection.close()


@pytest.mark.lengthy
@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"GET /api/status HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        b"GET /api/status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /api/",
    ],
)
def test_a_connection_without_a_request_is_closed(
    served: Serving, beginning: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT", 0.1)
    with raw(served, beginning) as connection:
        assert is_closed(connection)


@pytest.mark.lengthy
def test_a_body_that_never_ends(served: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dora.cluster.http.endpoints.BODY_TIMEOUT", 0.1)
    head = b"POST /api/down HTTP/1.1\r\nHost: x\r\n" + SHOWN + b"Content-Length: 100\r\n\r\n"
    with raw(served, head + b"{") as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")


@pytest.mark.lengthy
def test_a_waiting_command_keeps_its_connection(served: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = ObedientDaemon(served)
    assert start(served, SPEC["dataflow"])[0] == 201
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT", 0.1)  # in which the request has to come
    with served.held():  # so it has, when the connection begins
        request = b"GET /api/dataflows/arm/wait?timeout=0.5 HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        connection = raw(served, request + SHOWN + b"\r\n")
    with connection, connection.makefile("rb") as answer:
        assert answer.readline().startswith(b"HTTP/1.1 200 ")
        assert b'"status":"Running"' in answer.read()  # up to the end of the connection
    daemon.close()


def request(connection: HTTPConnection) -> int:
    """Send a request on a connection, which goes on; return the status of the answer."""
    connection.request("GET", "/api/status", headers={"Authorization": f"Bearer {TOKEN}"})
    response = connection.getresponse()
    response.read()
    return response.status


@pytest.mark.lengthy
def test_the_connection_that_was_idle_for_longest_is_closed_for_a_new_one(tmp_path: Path) -> None:
    with serving(lambda: Store(str(tmp_path / "store.sqlite")), most=2) as served:
        used, silent = (HTTPConnection("127.0.0.1", served.port, timeout=TIMEOUT) for _ in range(2))
        for connection in (used, silent, used):
            assert request(connection) == 200
        with raw(served):
            assert is_closed(silent.sock)
            assert request(used) == 200
        used.close()
        silent.close()


@pytest.mark.lengthy
def test_a_connection_is_closed_once_no_request_has_come_for_a_while(served: Serving) -> None:
    connection = HTTPConnection("127.0.0.1", served.port, timeout=TIMEOUT)
    assert request(connection) == 200
    (end,) = served._server.server_state.connections
    served.in_loop(lambda: end._check(requests_before=0))
    sock = connection.sock
    assert request(connection) == 200 and connection.sock is sock
    served.in_loop(lambda: end._check(requests_before=2))
    assert is_closed(sock)
    connection.close()


@pytest.mark.lengthy
def test_a_websocket_has_no_request_to_send_in_time(
    served: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[connections.LimitedConnection] = []
    schedule = connections.LimitedConnection._schedule_check

    def schedule_check(connection: connections.LimitedConnection) -> None:
        made.append(connection)
        schedule(connection)

    monkeypatch.setattr(connections.LimitedConnection, "_schedule_check", schedule_check)
    with served.websocket():
        assert {connection._timer for connection in made} == {None}


@pytest.mark.lengthy
def test_a_client_that_leaves_before_its_answer_is_forgotten(served: Serving) -> None:
    daemon = ObedientDaemon(served)
    assert start(served, SPEC["dataflow"])[0] == 201
    ends = served._server.server_state.connections

    def answering() -> list[connections.LimitedConnection]:
        return [end for end in ends if isinstance(end, connections.LimitedConnection) and not end.is_idle]

    client = raw(served, b"GET /api/dataflows/arm/wait HTTP/1.1\r\nHost: 127.0.0.1\r\n" + SHOWN + b"\r\n")
    wait_until(lambda: served.in_loop(answering), "the request")
    (end,) = served.in_loop(answering)
    client.close()
    wait_until(lambda: end not in ends, "the end of the connection")
    assert end._timer is None, "nothing looks at it again and again"
    served.ask("POST", "/api/dataflows/arm/stop")
    assert '"status":"Finished"' in served.ask("GET", "/api/dataflows/arm/wait")[1]
    daemon.close()


@pytest.mark.lengthy
@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"GET / HTTP/9.9\r\n\r\n",
        b"\0" * 100_000,
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"POST /api/down HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /api/down HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=["TLS", "version", "zeros", "long", "hosts", "chunks", "length", "HTTP/2"],
)
def test_bytes_that_are_not_http_close_the_connection(served: Serving, nonsense: bytes) -> None:
    with raw(served, nonsense) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert is_closed(connection)
    assert served.ask("GET", "/api/status")[0] == 200


# --------------------------------------------------------------------------- requests


@pytest.mark.lengthy
@pytest.mark.parametrize(
    "dataflow",
    [
        None,
        [],
        {"nodes": [{"id": 1}], "working_dir": "/tmp"},
        {"nodes": [{"id": "a"}], "working_dir": 7},
        {"nodes": [{"id": "a"}], "working_dir": "here"},
        {"nodes": [{"id": "a", "inputs": 3}], "working_dir": "/tmp"},
        {"nodes": [{"id": "a"}, {"id": "a"}], "working_dir": "/tmp"},
        {"nodes": [{"id": "../a"}], "working_dir": "/tmp"},
        {"nodes": [{"id": "a", "inputs": [LOOSE]}], "working_dir": "/tmp"},
    ],
)
def test_a_malformed_dataflow_leaves_no_record(served: Serving, dataflow: object) -> None:
    daemon = ObedientDaemon(served)
    status, told = start(served, dataflow)
    assert (status, "`dataflow` is not a dataflow" in told) == (400, True)
    assert served.ask("GET", "/api/dataflows") == (200, "[]")
    daemon.close()


@pytest.mark.lengthy
def test_a_field_that_is_not_known_may_hold_a_nul(served: Serving) -> None:
    body = json.dumps({"note": "\0"}).encode()
    status, told = served.ask("POST", "/api/dataflows/x/stop", body, content_type="application/json")
    assert status != 400 and "NUL" not in told


@pytest.mark.lengthy
@pytest.mark.parametrize("place", ["id", "path", "working_dir"])
def test_a_dataflow_with_a_nul_leaves_no_record(served: Serving, place: str) -> None:
    texts = {"id": "a", "path": "a.py", "working_dir": "/a"}
    texts[place] += "\0"
    dataflow = {"nodes": [{"id": texts["id"], "path": texts["path"]}], "working_dir": texts["working_dir"]}
    status, told = start(served, dataflow)
    assert (status, "holds a NUL character, which no program can be given" in told) == (400, True)
    assert served.ask("GET", "/api/dataflows") == (200, "[]")


@pytest.mark.lengthy
@pytest.mark.parametrize("body", [b'{"grace": -1}', b'{"grace": 1e300}', b'{"grace": 1e999}', b"[]"])
def test_stops_that_cannot_be(served: Serving, body: bytes) -> None:
    assert served.ask("POST", "/api/dataflows/x/stop", body, content_type="application/json")[0] == 400


@pytest.mark.lengthy
@pytest.mark.parametrize("timeout", ["nan", "-1", "-inf", "soon", ""])
def test_waits_that_cannot_be(served: Serving, timeout: str) -> None:
    assert served.ask("GET", f"/api/dataflows/x/wait?timeout={timeout}")[0] == 400


@pytest.mark.lengthy
@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b'{"spec": ' * 50_000, b'"\xff"', b"\0", b"nul"],
    ids=["lists", "objects", "no text", "zero", "half a word"],
)
def test_bodies_that_are_no_good(served: Serving, body: bytes) -> None:
    assert served.ask("POST", "/api/dataflows", body, content_type="application/json")[0] == 400


@pytest.mark.lengthy
def test_the_name_of_a_strange_file(served: Serving) -> None:
    daemon = ObedientDaemon(served)
    file = "/tmp/" + "a\n" * 300 + ".yml"
    body = json.dumps({"spec": {"name": "", "dataflow": {**SPEC["dataflow"], "file": file}}}).encode()
    status, text = served.ask("POST", "/api/dataflows", body, content_type="application/json")
    assert (status, json.loads(text)["name"]) == (201, "a" * 190)
    daemon.close()


# --------------------------------------------------------------------------- daemons

UNKNOWN = RunReport("0f3e", "Running")
HELLO = encode(Hello(__version__, "second", 2, protocol=PROTOCOL_VERSION))


@pytest.mark.lengthy
@pytest.mark.parametrize(
    "frames",
    [
        [b"{"],
        [b"[" * 100_000],
        [b"\xff\xfe"],
        [encode(UNKNOWN)],
        [encode(Hello("", "x", 1, protocol=PROTOCOL_VERSION))],
        [encode(Hello("99.0.0", "x", 1, protocol=PROTOCOL_VERSION))],
        [b'{"type": "Hello", "version": 1}'],
        [HELLO, HELLO],
        [HELLO, b"}"],
        [HELLO, encode(RunDescription(UNKNOWN, RunSpec(name="x", dataflow=3)))],
        [HELLO, encode(Collected(1, "usage")), encode(UNKNOWN)],
    ],
    ids=[
        *(
            "half a document",
            "nested",
            "no text",
            "no greeting",
            "no version",
            "other version",
            "wrong type",
        ),
        *("twice", "nonsense", "no dataflow", "gone"),
    ],
)
@pytest.mark.parametrize("text", [True, False], ids=["text", "binary"])
def test_malformed_daemon_messages_do_not_disturb_the_coordinator(
    served: Serving, frames: list[bytes], text: bool
) -> None:
    with served.websocket() as peer:
        try:
            for frame in frames:
                peer.send(frame, text=text)
            peer.recv(timeout=0.2)
        except (ConnectionClosed, TimeoutError):
            pass
    wait_until(lambda: json.loads(served.ask("GET", "/api/status")[1])["daemons"] == [], "its end")
    daemon = ObedientDaemon(served)
    assert start(served, SPEC["dataflow"])[0] == 201
    daemon.close()


@pytest.mark.lengthy
def test_a_frame_that_is_too_large(served: Serving) -> None:
    daemon = ObedientDaemon(served)
    with served.websocket() as peer, pytest.raises(ConnectionClosed):
        peer.send(b"x" * (17 << 20), text=True)
        peer.recv(timeout=TIMEOUT)
    assert json.loads(served.ask("GET", "/api/status")[1])["daemons"] == ["obedient"]
    daemon.close()


@pytest.mark.lengthy
def test_a_silent_daemon_connection_is_closed(served: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "HELLO_TIMEOUT", 0.1)
    with served.websocket() as peer, pytest.raises(ConnectionClosed):
        peer.recv(timeout=TIMEOUT)


@pytest.mark.lengthy
@pytest.mark.parametrize(
    ("far", "silence", "code", "told"),
    [
        (True, 60.0, None, "its daemon is gone"),
        (True, 0.0, None, "does not answer"),
        (False, 60.0, None, "its daemon is gone"),
        (False, 0.0, None, "does not answer"),
        (True, 60.0, api.PING_UNANSWERED, "does not answer"),
        (True, 60.0, 1000, "its daemon is gone"),
    ],
    ids=[
        "killed",
        "after a silence",
        "killed here",
        "hung here",
        "was not answered",
        "ended",
    ],
)
def test_a_daemon_behind_a_cut_is_not_reported_dead(
    served: Serving,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    far: bool,
    silence: float,
    code: int | None,
    told: str,
) -> None:
    monkeypatch.setattr(api, "is_loopback", lambda address: not far)  # noqa: ARG005
    monkeypatch.setattr(api, "CUT_SILENCE", silence)
    with served.websocket() as peer:
        peer.send(HELLO, text=True)
        peer.recv(timeout=TIMEOUT)
        if code is None:
            peer.socket.shutdown(socket.SHUT_RDWR)  # what is left of one that was killed
        else:
            peer.close(code)
    wait_until(lambda: f"machine `default`: {told}" in caplog.text, told)


@pytest.mark.lengthy
def test_every_request_needs_the_token(tmp_path: Path) -> None:
    with serving(lambda: Store(str(tmp_path / "store.sqlite"))) as served:
        for shown in ("", "Bearer ", "Bearer wrong", "Basic c2VjcmV0", TOKEN, f"Bearer {TOKEN}é"):
            headers = {"authorization": shown.encode().decode("latin-1")}
            assert served.ask("GET", "/openapi.json", **headers)[0] == 401
        assert served.ask("GET", "/api/status", authorization=f"Bearer {TOKEN}")[0] == 200
        with pytest.raises(Exception, match="HTTP 403"):
            served.websocket(token="")
