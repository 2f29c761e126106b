"""The Zenoh engine beside other programs on its wire: their messages, faults, and no router."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zenoh
from ports import free_port
from ros_meeting import STRING, Meeting, message, wait_for_subscription
from waiting import TIMEOUT, wait_until

from dora.errors import ConnectError, TransportError
from dora.ros2.graph import NodeName
from dora.ros2.qos import SENSOR_DATA, Durability, History, Qos, Reliability
from dora.ros2.zenoh.context import ZenohContext, open_context
from dora.ros2.zenoh.keys import attachment_bytes, node_token
from dora.ros2.zenoh.session import open_session

GID = bytes(range(16))


@pytest.fixture
def session(zenoh_engine: Meeting) -> Any:  # noqa: ARG001  # its router
    with open_session() as found:
        yield found


def _key(engine: Meeting, topic: str = "chatter") -> str:
    return f"{engine.domain}/{topic}/{STRING.dds_name}/{STRING.hash}"


@pytest.mark.lengthy
def test_a_message_by_hand_arrives(zenoh_engine: Meeting, session: Any) -> None:
    subscription = zenoh_engine.open().create_node("listener").create_subscription("/chatter", STRING)
    publisher = session.declare_publisher(_key(zenoh_engine))

    def put() -> Any:
        publisher.put(message(1), attachment=attachment_bytes(7, 123, GID))
        return subscription.take(0.1)

    assert wait_until(put, "the message") == message(1)


def test_our_messages_have_key_attachment_and_token(zenoh_engine: Meeting, session: Any) -> None:
    got: list[Any] = []
    subscriber = session.declare_subscriber(
        _key(zenoh_engine), zenoh.handlers.Callback(got.append, indirect=False)
    )
    publisher = zenoh_engine.open().create_node("talker").create_publisher("/chatter", STRING)

    def published() -> bool:
        publisher.publish(message(1))
        return bool(got)

    wait_until(published, "a message")
    attachment = got[0].attachment.to_bytes()
    assert len(attachment) == 33
    assert attachment[17:] == publisher.gid
    assert got[0].payload.to_bytes() == message(1)

    def find_tokens() -> list[str]:
        replies = list(session.liveliness().get(f"@ros2_lv/{zenoh_engine.domain}/**"))
        return [str(reply.ok.key_expr) for reply in replies] if len(replies) == 2 else []

    tokens = wait_until(find_tokens, "two tokens")
    session_id = tokens[0].split("/")[2]
    end = f"/%chatter/{STRING.dds_name}/{STRING.hash}/::,10:,:,:,,"
    assert sorted(tokens) == [
        f"@ros2_lv/{zenoh_engine.domain}/{session_id}/0/0/NN/%/%/talker",
        f"@ros2_lv/{zenoh_engine.domain}/{session_id}/0/1/MP/%/%/talker{end}",
    ]
    subscriber.undeclare()


def test_gaps_in_the_numbers_of_a_publisher_are_counted(zenoh_engine: Meeting, session: Any) -> None:
    subscription = zenoh_engine.open().create_node("listener").create_subscription("/chatter", STRING)
    publisher = session.declare_publisher(_key(zenoh_engine))
    publisher_ready = lambda: publisher.matching_status.matching  # noqa: E731
    wait_until(publisher_ready, "the subscription")
    for number in (1, 2, 5, 6):
        publisher.put(message(number), attachment=attachment_bytes(number, 0, GID))
    for _ in range(4):
        assert subscription.take(TIMEOUT) is not None
    assert subscription.counters.lost == 2


def test_malformed_messages_are_counted_and_dropped(zenoh_engine: Meeting, session: Any) -> None:
    node = zenoh_engine.open().create_node("listener")
    subscription = node.create_subscription("/chatter", STRING)
    latched = node.create_subscription("/map", STRING, Qos(durability=Durability.TRANSIENT_LOCAL))
    good = attachment_bytes(1, 0, GID)
    for topic, found in (("chatter", subscription), ("map", latched)):
        publisher = session.declare_publisher(_key(zenoh_engine, topic))
        wait_until(lambda publisher=publisher: publisher.matching_status.matching, "the subscription")
        publisher.put(message(1))
        publisher.put(message(1), attachment=b"")
        publisher.put(message(1), attachment=good[:-1])
        publisher.put(message(1), attachment=good[:16] + b"\x08" + good[17:])
        publisher.put(b"\x00", attachment=good)
        publisher.put(b"", attachment=good)
        publisher.put(message(2), attachment=good)
        assert found.take(TIMEOUT) == message(2)
        assert found.counters.malformed == 6


def test_malformed_requests_are_counted_and_dropped(zenoh_engine: Meeting, session: Any) -> None:
    server = zenoh_engine.open().create_node("server").create_server("/set", STRING)
    key = _key(zenoh_engine, "set")

    def asked() -> bool:
        list(session.get(key, timeout=1))
        list(session.get(key, payload=b"x", attachment=b"short", timeout=1))
        return bool(server.counters.malformed >= 2)

    wait_until(asked, "two malformed requests")
    assert server.take_request() is None


def test_a_request_that_comes_twice_is_taken_once(zenoh_engine: Meeting) -> None:
    server: Any = zenoh_engine.open().create_node("server").create_server("/set", STRING)
    query = SimpleNamespace(
        payload=zenoh.ZBytes(message(1)),
        attachment=zenoh.ZBytes(attachment_bytes(1, 0, GID)),
        drop=lambda: None,
    )
    for _ in range(2):
        server._on_query(query)
    assert (server.counters.received, server.counters.malformed) == (1, 1)


@pytest.mark.parametrize(
    ("qos", "blocks", "reliable"),
    [
        (Qos(), False, True),
        (Qos(history=History.KEEP_ALL), True, True),
        (Qos(Reliability.BEST_EFFORT, history=History.KEEP_ALL), False, False),
        (SENSOR_DATA, False, False),
    ],
)
def test_only_a_reliable_publisher_that_keeps_all_waits_for_slow_subscriptions(
    zenoh_engine: Meeting, qos: Qos, blocks: bool, reliable: bool
) -> None:
    publisher = zenoh_engine.open().create_node("talker").create_publisher("/chatter", STRING, qos)
    plain = publisher._plain
    assert (plain.congestion_control == zenoh.CongestionControl.BLOCK) == blocks
    assert (plain.reliability == zenoh.Reliability.RELIABLE) == reliable


def test_a_context_that_cannot_watch_the_graph_leaves_no_session(
    zenoh_engine: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions: list[Any] = []

    def fail(context: ZenohContext) -> None:
        sessions.append(context.session)
        raise zenoh.ZError("no answer")

    monkeypatch.setattr(ZenohContext, "_watch_graph", fail)
    with pytest.raises(TransportError, match="Zenoh cannot watch the ROS graph: no answer"):
        zenoh_engine.open()
    assert [session.is_closed() for session in sessions] == [True]


def test_malformed_tokens_are_counted_and_dropped(zenoh_engine: Meeting, session: Any) -> None:
    start = f"@ros2_lv/{zenoh_engine.domain}/ab/0/0"
    tokens = [
        session.liveliness().declare_token(key)
        for key in (
            f"{start}/NN",
            f"{start}/XX/%/%/a",
            f"{start}/MP/%/%/a/%b/T/H/1:2",
            f"{start}/NN/%/%/good",
        )
    ]
    context = zenoh_engine.open()
    assert context.graph.wait_for(lambda: context.graph.nodes() == [NodeName("good", "/")], TIMEOUT)
    wait_until(lambda: context.malformed >= 3, "three malformed tokens")
    for token in tokens:
        token.undeclare()
    assert context.graph.wait_for(lambda: not context.graph.nodes(), TIMEOUT)


def test_a_node_that_goes_while_the_graph_is_asked_for_does_not_stay(zenoh_engine: Meeting) -> None:
    context: Any = zenoh_engine.open()
    token = node_token(zenoh_engine.domain, "aa", 0, NodeName("ghost", "/"))
    gone = SimpleNamespace(key_expr=token, kind=zenoh.SampleKind.DELETE)
    leaving = threading.Thread(target=lambda: context._on_token(gone))

    class Ended(set[str]):
        def __contains__(self, token: object) -> bool:
            found = super().__contains__(token)
            leaving.start()
            leaving.join(0.1)  # it is not over before the answer is in the graph
            return found

    context._ended = Ended()
    context._on_answer(SimpleNamespace(key_expr=token, kind=zenoh.SampleKind.PUT))
    leaving.join(TIMEOUT)
    assert context._ended == {token}
    assert context.graph.nodes() == []


def test_humble_nodes_meet_without_hashes(zenoh_engine: Meeting) -> None:
    with (
        open_context(zenoh_engine.domain, profile="humble") as ours,
        open_context(zenoh_engine.domain, profile="humble") as other,
    ):
        publisher = ours.create_node("talker").create_publisher("/chatter", STRING)
        subscription = other.create_node("listener").create_subscription("/chatter", STRING)
        wait_for_subscription(publisher)
        publisher.publish(message(1))
        assert subscription.take(TIMEOUT) == message(1)
        assert {item.type_hash for item in ours.graph.endpoints()} == {""}
    with pytest.raises(ValueError, match="`foxy` is no profile of rmw_zenoh; there are humble, rep2016"):
        open_context(zenoh_engine.domain, profile="foxy")


@pytest.mark.lengthy
def test_without_a_router_the_address_and_the_mend_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = f"tcp/127.0.0.1:{free_port()}"
    monkeypatch.setenv("ZENOH_CONFIG_OVERRIDE", f'connect/endpoints=["{endpoint}"];connect/timeout_ms=200')
    with pytest.raises(ConnectError) as caught:
        open_context(0)
    assert str(caught.value).startswith(
        f"no Zenoh router answers at {endpoint}: start one there (`ros2 run rmw_zenoh_cpp rmw_zenohd`, "
        "without ROS `python -m dora.ros2.zenoh`), "
    )
    assert "\n" not in str(caught.value)
    assert ".rs:" not in str(caught.value)


@pytest.mark.processes
def test_the_router_without_ros_brings_contexts_together_until_it_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    endpoint = f"tcp/127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "dora.ros2.zenoh", endpoint]
    router = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert router.stdout is not None
    assert router.stdout.readline() == f"listening on {endpoint}; Ctrl-C ends it\n"
    monkeypatch.setenv("ZENOH_CONFIG_OVERRIDE", f'connect/endpoints=["{endpoint}"]')
    with open_context(0) as ours, open_context(0) as other:
        ours.create_node("here")
        assert other.graph.wait_for(lambda: bool(other.graph.nodes()), TIMEOUT)
        again = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT)
        assert again.returncode == 1
        assert again.stderr.startswith(f"error: the Zenoh router cannot listen on {endpoint}: ")
    router.send_signal(signal.SIGINT)
    assert router.wait(TIMEOUT) == 0


def test_a_configuration_that_cannot_be_used_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConnectError, match=r"the Zenoh configuration /nowhere/x\.json5 cannot be used"):
        open_session("/nowhere/x.json5")
    monkeypatch.setenv("ZENOH_CONFIG_OVERRIDE", "mode")
    with pytest.raises(ConnectError, match=r"`mode` in \$ZENOH_CONFIG_OVERRIDE cannot be used"):
        open_session()


def test_a_configuration_file_names_the_router(
    zenoh_engine: Meeting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import os

    endpoints = os.environ["ZENOH_CONFIG_OVERRIDE"].partition("connect/endpoints=")[2].partition(";")[0]
    monkeypatch.delenv("ZENOH_CONFIG_OVERRIDE")
    path = tmp_path / "session.json5"
    scouting = {"multicast": {"enabled": False}}
    path.write_text(
        json.dumps(
            {"mode": "client", "connect": {"endpoints": json.loads(endpoints)}, "scouting": scouting}
        )
    )
    with open_context(zenoh_engine.domain, config_uri=f"file://{path}") as ours:
        ours.create_node("client")
        assert ours.graph.wait_for(lambda: ours.graph.nodes() == [NodeName("client", "/")], TIMEOUT)
    monkeypatch.setenv("ZENOH_SESSION_CONFIG_URI", str(path))
    with open_context(zenoh_engine.domain):
        pass
