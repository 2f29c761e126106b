"""Looks from one machine into another, as the coordinator joins them; both ends are of the test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from serving import ObedientDaemon, Serving, serving
from waiting import TIMEOUT, wait_until
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from dora._version import __version__
from dora.cluster.coordinator.store import Store
from dora.cluster.http import relay
from dora.cluster.protocol import (
    CLOSE_WITH_REASON,
    Hello,
    ObserverRefused,
    OpenObserver,
    encode,
)
from dora.wire.node_protocol import PROTOCOL_VERSION

FLOW = {"spec": {"name": "arm", "dataflow": {"nodes": [{"id": "a"}], "working_dir": "/tmp"}}}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Serving]:
    with serving(lambda: Store(str(tmp_path / "store.sqlite"))) as served:
        yield served


@pytest.fixture
def daemon(served: Serving) -> Iterator[ObedientDaemon]:
    with closing(ObedientDaemon(served)) as daemon:
        start(served)
        served.ask("GET", "/api/dataflows/arm/wait?until=started&timeout=60")
        yield daemon


def start(served: Serving) -> None:
    body = json.dumps(FLOW).encode()
    status, text = served.ask("POST", "/api/dataflows", body, content_type="application/json")
    assert status == 201, text


def open_at(served: Serving, path: str) -> ClientConnection:
    return served.websocket(path)


def look_at(served: Serving, dataflow: str = "arm", machine: str = "") -> ClientConnection:
    return open_at(served, f"/api/dataflows/{quote(dataflow)}/observe?machine={quote(machine)}")


def ticket_of(daemon: ObedientDaemon, number: int = 0) -> str:
    def tickets() -> list[str]:
        return [message.ticket for message in daemon.heard if isinstance(message, OpenObserver)]

    wait_until(lambda: len(tickets()) > number, "a look that the daemon hears of")
    return tickets()[number]


def why_closed(connection: ClientConnection) -> str:
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            connection.recv(timeout=TIMEOUT)
    received = closed.value.rcvd
    assert received is not None and received.code == (CLOSE_WITH_REASON if received.reason else 1000)
    return received.reason


@pytest.mark.lengthy
def test_frames_go_both_ways_and_the_reason_of_the_end_arrives(
    served: Serving, daemon: ObedientDaemon
) -> None:
    with look_at(served) as asker:
        asker.send(b"query")
        with open_at(served, f"/api/observers/{ticket_of(daemon)}") as process:
            assert process.recv(timeout=TIMEOUT) == b"query"
            for number in range(20):
                process.send(b"%d" % number)
        assert [asker.recv(timeout=TIMEOUT) for _ in range(20)] == [b"%d" % n for n in range(20)]
        assert why_closed(asker) == "the observer on machine `default` is gone"


@pytest.mark.lengthy
def test_a_process_ends_with_its_asker(served: Serving, daemon: ObedientDaemon) -> None:
    with look_at(served) as asker, open_at(served, f"/api/observers/{ticket_of(daemon)}") as process:
        asker.close()
        assert why_closed(process) == ""
    with look_at(served) as asker:  # one that has gone before the process came
        ticket = ticket_of(daemon, 1)
    wait_until(lambda: not served.in_loop(lambda: served._coordinator.relay._sessions), "the end")
    with open_at(served, f"/api/observers/{ticket}") as process:
        assert why_closed(process) == "no client waits for this observer"


@pytest.mark.lengthy
def test_a_ticket_is_good_once_and_cannot_be_guessed(served: Serving, daemon: ObedientDaemon) -> None:
    with look_at(served), open_at(served, f"/api/observers/{ticket_of(daemon)}"):
        for wrong in (ticket_of(daemon), "guessed"):
            with open_at(served, f"/api/observers/{wrong}") as other:
                assert why_closed(other) == "no client waits for this observer"


@pytest.mark.lengthy
def test_a_refused_relay_reports_its_reason(
    served: Serving, daemon: ObedientDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    with look_at(served, "amr") as asker:
        assert "did you mean `arm`?" in why_closed(asker)
    with look_at(served, "arm", "defualt") as asker:
        assert "`arm` has no machine `defualt`; did you mean `default`?" in why_closed(asker)
    with look_at(served, "arm", "ü" * 300) as asker:
        assert why_closed(asker).startswith("`arm` has no machine")
    with look_at(served) as asker:
        daemon.say(ObserverRefused(ticket_of(daemon), "too many look already"))
        assert why_closed(asker) == "too many look already"
    monkeypatch.setattr(relay, "START_TIMEOUT", 0.05)
    with look_at(served) as asker:
        assert why_closed(asker) == "machine `default` has not started an observer within 0.05 s"
    monkeypatch.setattr(relay, "MAX_SESSIONS", 0)
    with look_at(served) as asker:
        assert why_closed(asker) == "there are 0 observers of machine `default` already; end one of them"


@pytest.mark.lengthy
def test_a_starting_dataflow_is_not_observed(served: Serving) -> None:
    with served.websocket() as silent:
        silent.send(encode(Hello(__version__, "silent", 1, protocol=PROTOCOL_VERSION)).decode())
        wait_until(lambda: served.in_loop(served.daemons), "the daemon")
        start(served)
        with look_at(served) as asker:
            assert why_closed(asker) == "`arm` is still starting"


@pytest.mark.lengthy
def test_a_relay_ends_with_the_connection_of_its_machine(served: Serving, daemon: ObedientDaemon) -> None:
    with look_at(served) as asker, open_at(served, f"/api/observers/{ticket_of(daemon)}") as process:
        daemon.close()
        reason = "machine `default` has lost its daemon, or the connection to it"
        assert why_closed(asker) == reason
        assert why_closed(process) == reason
    with look_at(served) as asker:
        assert why_closed(asker) == "machine `default` is not connected at the moment"


@pytest.mark.lengthy
def test_malformed_frames_and_floods_end_only_their_relay(served: Serving, daemon: ObedientDaemon) -> None:
    with look_at(served) as asker, open_at(served, f"/api/observers/{ticket_of(daemon)}") as process:
        asker.send("a text")  # frames are bytes
        assert why_closed(process) == ""
    with look_at(served) as asker, open_at(served, f"/api/observers/{ticket_of(daemon, 1)}") as process:
        process.send(bytes(relay.MAX_FRAME + 1))
        assert why_closed(asker) == "the observer on machine `default` is gone"
    assert served.ask("GET", "/api/status")[0] == 200


@pytest.mark.lengthy
def test_the_relay_needs_the_token(tmp_path: Path) -> None:
    with serving(lambda: Store(str(tmp_path / "store.sqlite"))) as served:
        for path in ("/api/dataflows/arm/observe", "/api/observers/1"):
            with pytest.raises(Exception, match="HTTP 403"):
                served.websocket(path, token="")


class SlowClient:
    """The WebSocket of a client that says nothing, and takes its time for each frame."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.reason = ""

    async def receive_bytes(self) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    async def send_bytes(self, data: bytes) -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        self.taken.append(data)

    async def close(self, _code: int, reason: str) -> None:
        self.reason = reason


def test_the_last_frames_arrive_before_the_reason_of_the_end() -> None:
    async def end() -> None:
        client: Any = SlowClient()
        sessions = relay.Relay()
        session = sessions.open("far", lambda _: None)
        frames = [b"%d" % number for number in range(relay.QUEUE_SIZE)]
        for frame in frames:
            session.to_client.put_nowait(frame)
        session.end("the observer is gone")
        await sessions.serve_client(client, session)
        assert (client.taken, client.reason) == (frames, "the observer is gone")

    asyncio.run(end())


def test_nothing_is_left_of_a_session_whose_client_is_cut_off() -> None:
    async def cut() -> None:
        sessions = relay.Relay()
        session = sessions.open("far", lambda _: None)
        client: Any = SlowClient()
        serving = asyncio.create_task(sessions.serve_client(client, session))
        await asyncio.sleep(0)
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
        assert session.ended.is_set() and not sessions._sessions

    asyncio.run(cut())


def test_an_observer_that_has_come_in_time_stays() -> None:
    async def come() -> None:
        sessions = relay.Relay()
        session = sessions.open("far", lambda _: None)
        observer: Any = SlowClient()
        serving = asyncio.create_task(sessions.serve_observer(observer, session.ticket))
        await asyncio.sleep(0)
        assert session.start_timer is not None and session.start_timer.cancelled()
        session.end()
        await serving

    asyncio.run(come())
