"""Streams of chunks, `flush`, and what a queue never lets go of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fake_daemon import FakeDaemon, StartFlow
from flows import node, operator, runtime
from waiting import TIMEOUT

from dora import Node
from dora.dataflow.model import NodeSpec as NodeModel
from dora.node.events import Reference
from dora.node.receive.link_input import LinkInput
from dora.node.receive.local_input import LocalInput
from dora.transport.board import DROPPED, RECEIVED, Board
from dora.transport.queues import PriorityQueue
from dora.wire.correlation import PATTERN_QUEUE_SIZE, asks_to_flush, carries_correlation
from dora.wire.counters import FLUSHED
from dora.wire.encode import encode
from dora.wire.message import Encoding, Message, pack_head
from dora.wire.metadata import encode_metadata
from dora.wire.node_config import InputConfig


def link(start_flow: StartFlow, *more: NodeModel, **options: Any) -> tuple[FakeDaemon, Node, Node]:
    daemon = start_flow(
        node("a", outputs="out"), node("b", inputs={"in": ("a/out", {"queue_size": 100, **options})}), *more
    )
    return daemon, daemon.node("a"), daemon.node("b")


def numbers(receiver: Node) -> list[int]:
    return [event["value"][0].as_py() for event in receiver.drain()]


def flushed(daemon: FakeDaemon) -> int:
    (item,) = daemon.plan.configs["b"].inputs
    return daemon.board.get(item.slot, FLUSHED.word)


def send(sender: Node, *values: int, **metadata: Any) -> None:
    for value in values:
        sender.send_output("out", pa.array([value]), metadata)


# ------------------------------------------------------------------ the sender of a stream


def test_chunks_are_numbered(start_flow: StartFlow) -> None:
    _, sender, receiver = link(start_flow)
    stream = sender.stream("out", metadata={"language": "en"})
    stream.send(b"a")
    stream.send(b"b", fin=True)
    stream.send(b"c", metadata={"language": "de"})
    stream.interrupt()
    stream.send(b"d")
    received = []
    for event in receiver.drain():
        metadata = event["metadata"]
        assert metadata["session_id"] == stream.session_id
        keys = ("segment_id", "seq", "fin", "flush", "language")
        received.append(tuple(metadata[key] for key in keys))
    assert received == [(2, 0, False, True, "en"), (2, 1, False, False, "en")]
    assert receiver.statistics()["inputs"]["in"] == {"received": 2, "dropped": 3}


def test_a_session_may_have_a_name_of_its_own(start_flow: StartFlow) -> None:
    _, sender, receiver = link(start_flow)
    sender.stream("out", "call-7").send(b"a", fin=True)
    (event,) = receiver.drain()
    metadata = event["metadata"]
    assert (metadata["session_id"], metadata["segment_id"], metadata["seq"]) == ("call-7", 0, 0)
    assert (metadata["fin"], metadata["flush"]) == (True, False)


# ------------------------------------------------------------------ flush


@pytest.mark.parametrize("policy", ["drop_oldest", "backpressure"])
def test_a_flush_drops_queued_messages_and_counts_them(start_flow: StartFlow, policy: str) -> None:
    daemon, sender, receiver = link(start_flow, queue_policy=policy)
    send(sender, 1, 2, 3)
    send(sender, 4, flush=True)
    send(sender, 5)
    assert numbers(receiver) == [4, 5]
    assert receiver.statistics()["inputs"]["in"] == {"received": 2, "dropped": 3}
    assert flushed(daemon) == 3
    send(sender, 6, 7)
    assert numbers(receiver) == [6, 7]


def test_a_flush_keeps_messages_of_exchanges(start_flow: StartFlow) -> None:
    daemon, sender, receiver = link(start_flow)
    send(sender, 1)
    send(sender, 2, request_id="r")
    send(sender, 3, goal_id="g")
    send(sender, 4, goal_status="succeeded")
    send(sender, 5)
    send(sender, 6, flush=True)
    assert numbers(receiver) == [2, 3, 4, 6]
    assert receiver.statistics()["inputs"]["in"] == {"received": 4, "dropped": 2}
    assert flushed(daemon) == 2


def test_flush_false_and_other_inputs_are_left_alone(start_flow: StartFlow) -> None:
    daemon = start_flow(
        node("a", outputs="out other"), node("b", inputs={"in": "a/out", "second": "a/other"})
    )
    sender, receiver = daemon.node("a"), daemon.node("b")
    send(sender, 1)
    sender.send_output("other", pa.array([10]))
    send(sender, 2, flush=False)
    sender.send_output("other", pa.array([11]), {"flush": True})
    assert sorted(numbers(receiver)) == [1, 2, 11]


def test_every_receiver_of_the_output_is_flushed(start_flow: StartFlow) -> None:
    daemon, sender, receiver = link(start_flow, node("c", inputs={"in": "a/out"}))
    other = daemon.node("c")
    send(sender, 1, 2)
    assert numbers(other) == [1, 2]
    send(sender, 3)
    send(sender, 4, flush=True)
    assert numbers(receiver) == [4]
    assert numbers(other) == [4]


def test_a_loan_may_flush(start_flow: StartFlow) -> None:
    _, sender, receiver = link(start_flow)
    send(sender, 1, 2)
    with sender.loan("out", 1, "int64", {"flush": True}) as array:
        array[:] = 3
    assert numbers(receiver) == [3]


@pytest.mark.parametrize("size", [1, 10_000], ids=["small", "large"])
def test_a_flush_of_a_recording_is_one_when_it_is_sent_again(start_flow: StartFlow, size: int) -> None:
    _, sender, receiver = link(start_flow)
    payload = encode(pa.array([3] * size))
    section = encode_metadata({"flush": True})
    recorded = Message(
        pack_head(payload.encoding, payload.schema, section, payload.size, 9, 1, payload.to_bytes())
    )
    send(sender, 1, 2)
    sender._session.outputs["out"].resend(recorded, payload, 1, exactly=False)
    assert numbers(receiver) == [3]


def test_messages_flushed_before_a_stop_do_not_come_after_the_stop(start_flow: StartFlow) -> None:
    daemon, sender, receiver = link(start_flow)
    send(sender, 1, 2)
    send(sender, 3, flush=True)
    send(sender, 4)
    daemon.stop("b")
    events = [event["value"][0].as_py() for event in receiver if event["type"] == "INPUT"]
    assert events == [3, 4]


def test_a_flush_after_a_stop_does_not_prolong_the_stream(start_flow: StartFlow) -> None:
    daemon, sender, receiver = link(start_flow)
    send(sender, 1, 2)
    daemon.stop("b")
    assert receiver.next(timeout=TIMEOUT)["type"] == "STOP"  # type: ignore[index]
    send(sender, 3, flush=True)
    send(sender, 4, 5)
    assert numbers(receiver) == [3]


def test_a_flush_does_not_open_a_closed_input(
    start_flow: StartFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, sender, receiver = link(start_flow)
    port = receiver._session.inbox.ports["in"]
    assert isinstance(port, LinkInput)
    send(sender, 1, flush=True)
    port.close()
    monkeypatch.setattr(port._receiver, "receive", lambda: pytest.fail("it is closed"))
    port.check_flush()
    assert port.poll() is None


@pytest.mark.processes
def test_flush_between_operators_of_one_runtime(start_flow: StartFlow, tmp_path: Any) -> None:
    (tmp_path / "first.py").write_text("""
from dora import DoraStatus

class Operator:
    def on_event(self, event, send_output):
        if event["type"] == "INPUT":
            send_output("out", event["value"], {"request_id": "kept"})
            send_output("out", event["value"])
            send_output("out", event["value"], {"flush": True})
        return DoraStatus.CONTINUE
""")
    (tmp_path / "second.py").write_text("""
from dora import DoraStatus

class Operator:
    def on_event(self, event, send_output):
        if event["type"] == "INPUT":
            send_output("out", event["value"], event["metadata"])
        return DoraStatus.CONTINUE
""")
    daemon = start_flow(
        node("a", outputs="out"),
        runtime(
            "host",
            operator("first", "first.py", inputs={"in": "a/out"}, outputs="out"),
            operator("second", "second.py", inputs={"in": "host/first/out"}, outputs="out"),
        ),
        node("b", inputs={"in": "host/second/out"}),
        working_dir=str(tmp_path),
    )
    sender, receiver = daemon.node("a"), daemon.node("b")
    daemon.start_process("host")
    daemon.wait_for_sleep("host")
    send(sender, 1)
    keys = []
    while len(keys) < 2:
        event = receiver.next(timeout=TIMEOUT)
        assert event is not None
        keys.append(sorted(set(event["metadata"]) - {"timestamp"}))
    assert keys == [["request_id"], ["flush"]]
    daemon.stop("host")


# ------------------------------------------------------------------ queues of declared patterns


def exchange(start_flow: StartFlow, **server: Any) -> tuple[FakeDaemon, Node, Node]:
    daemon = start_flow(
        node("client", inputs={"response": "server/response"}, outputs="out"),
        node("server", inputs={"in": ("client/out", {"queue_size": 2})}, outputs="response", **server),
    )
    return daemon, daemon.node("client"), daemon.node("server")


def test_a_declared_server_loses_no_request(start_flow: StartFlow) -> None:
    _, client, server = exchange(start_flow, pattern="service-server")
    for number in range(20):
        send(client, number, request_id=str(number))
        send(client, 100 + number)
    received = numbers(server)
    assert received == [*range(18), 18, 118, 19, 119]
    assert server.statistics()["inputs"]["in"] == {"received": 22, "dropped": 18}


def test_an_undeclared_server_loses_no_request_either(start_flow: StartFlow) -> None:
    _, client, server = exchange(start_flow)
    for number in range(40):
        send(client, number, **({"request_id": str(number)} if number % 2 else {}))
    assert numbers(server) == [*range(1, 39, 2), 38, 39]
    assert server.statistics()["inputs"]["in"] == {"received": 21, "dropped": 19}


def test_unanswered_links_keep_their_declared_policy(start_flow: StartFlow) -> None:
    daemon = start_flow(
        node("camera", outputs="image"),
        node(
            "client",
            inputs={"image": "camera/image", "response": "server/response"},
            outputs="request",
            pattern="service-client",
        ),
        node("server", inputs={"request": "client/request"}, outputs="response"),
    )
    sizes = {item.id: item.engine_queue_size for item in daemon.plan.configs["client"].inputs}
    assert sizes == {"image": 0, "response": PATTERN_QUEUE_SIZE}
    assert daemon.plan.configs["server"].inputs[0].engine_queue_size == PATTERN_QUEUE_SIZE
    assert daemon.plan.configs["client"].outputs[0].max_queue_size == PATTERN_QUEUE_SIZE


class Source:
    """A receiver with messages that lie there."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def put(self, number: int, **metadata: Any) -> None:
        section = encode_metadata(metadata) if metadata else b""
        self.messages.append(Message(pack_head(Encoding.PLAIN, b"C", section, 0, number, 0)))

    def receive(self) -> Message | None:
        return self.messages.pop(0) if self.messages else None

    def has_messages(self) -> bool:
        return bool(self.messages)

    def close(self) -> None:
        self.messages.clear()


def test_a_priority_queue_drops_the_oldest_message_outside_of_exchanges() -> None:
    source = Source()
    queue = PriorityQueue(source, 2, carries_correlation)
    for number in range(1, 10):
        source.put(number, **({"goal_id": "g"} if number % 3 == 0 else {}))
    assert queue.has_messages()
    taken = []
    while (message := queue.receive()) is not None:
        taken.append(message.sequence)
    assert taken == [3, 6, 7, 8, 9]
    assert not queue.has_messages()
    source.put(10)
    queue.close()
    assert queue.receive() is None


def test_keys_are_found_in_the_section_itself() -> None:
    def message(**metadata: Any) -> Message:
        return Message(pack_head(Encoding.PLAIN, b"C", encode_metadata(metadata), 0, 1, 0))

    assert carries_correlation(message(request_id="x"))
    assert not carries_correlation(message(text="request_id", more={"goal_id": 1}))
    assert not carries_correlation(message(width=3))
    assert asks_to_flush(encode_metadata({"a": 1, "flush": True}))
    assert not asks_to_flush(encode_metadata({"a": {"flush": True}}))
    assert not asks_to_flush(encode_metadata({"flush": "yes"}))


def test_an_operator_loses_no_request_of_another_one(tmp_path: Path) -> None:
    board = Board.create(str(tmp_path / "board"), 1)
    config = InputConfig(id="in", kind="local", source="a/out", queue_size=2, slot=0)
    port = LocalInput(config, board)
    for number in range(10):
        metadata = {"request_id": str(number)} if number % 3 == 0 else {}
        port.put(Reference(number, metadata, 0))
    received = []
    while (event := port.poll()) is not None:
        received.append(event["value"])
    assert received == [0, 3, 6, 9]
    assert (board.get(0, RECEIVED), board.get(0, DROPPED)) == (4, 6)
