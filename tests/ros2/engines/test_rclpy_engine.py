"""The rclpy engine alone: its process, and what that cannot do."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from ros_meeting import BASIC, HEADER, STRING, Meeting, meeting, message, request
from waiting import TIMEOUT, wait_until

from dora.errors import CallFailed, TransportError
from dora.ros2.graph import NodeName
from dora.ros2.qos import SENSOR_DATA
from dora.ros2.rclpy import process

pytestmark = [pytest.mark.ros2, pytest.mark.processes]


@pytest.fixture(name="engine")
def _engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Meeting]:
    with meeting("rclpy", monkeypatch) as found:
        yield found


def test_a_server_of_a_node_that_is_there_is_seen(engine: Meeting) -> None:
    ours, other = engine.open(), engine.open()
    client = ours.create_node("client").create_client("/later", BASIC)
    node = other.create_node("server")

    def seen() -> bool:
        return NodeName("server", "/") in ours.graph.nodes() and bool(ours.graph.endpoints(name="/later"))

    assert ours.graph.wait_for(seen, TIMEOUT)
    node.create_server("/later", BASIC)
    assert client.wait_for_service(TIMEOUT)


def publish_until_error(publisher: Any) -> str:
    with pytest.raises(TransportError) as caught:
        while True:
            publisher.publish(message(1, 1_000_000))
    return str(caught.value)


def test_closing_ends_a_process_that_is_stuck_and_who_waits_for_it(engine: Meeting) -> None:
    context = engine.open()
    publisher = context.create_node("talker").create_publisher("/chatter", STRING)
    os.kill(context.process.pid, signal.SIGSTOP)
    errors: list[str] = []
    talker = threading.Thread(target=lambda: errors.append(publish_until_error(publisher)))
    talker.start()
    closer = threading.Thread(target=context.close)
    closer.start()
    for thread in (closer, talker):
        thread.join(TIMEOUT)
    assert len(errors) == 1
    assert not closer.is_alive()
    with pytest.raises(ProcessLookupError):
        os.kill(context.process.pid, 0)


def test_a_process_that_reads_nothing_is_killed(engine: Meeting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_SEND_TIMEOUT", 1)
    context = engine.open()
    publisher = context.create_node("talker").create_publisher("/chatter", STRING)
    subscription = context.create_node("listener").create_subscription("/chatter", STRING)
    os.kill(context.process.pid, signal.SIGSTOP)
    assert "has read nothing for 1 s, so it was killed" in publish_until_error(publisher)
    while subscription.take(None) is not None:  # the end wakes it
        pass


def test_bytes_that_are_no_request_fail_the_call_with_the_reason(engine: Meeting) -> None:
    node = engine.open().create_node("both")
    node.create_server("/set", BASIC)
    client = node.create_client("/set", BASIC)
    assert client.wait_for_service(TIMEOUT)
    with pytest.raises(CallFailed, match="/set cannot be called: "):
        client.send_request(HEADER).result(TIMEOUT)


def test_bytes_that_are_no_response_are_told(engine: Meeting, caplog: pytest.LogCaptureFixture) -> None:
    node = engine.open().create_node("both")
    server = node.create_server("/set", BASIC)
    client = node.create_client("/set", BASIC)
    assert client.wait_for_service(TIMEOUT)
    client.send_request(request(1))
    server.send_response(server.take_request(TIMEOUT).id, HEADER)
    wait_until(lambda: "rclpy cannot respond: " in caplog.text, "the reason")


def test_a_response_to_a_cancelled_call_is_not_waited_for(engine: Meeting) -> None:
    node = engine.open().create_node("both")
    server = node.create_server("/set", BASIC)
    client = node.create_client("/set", BASIC)
    assert client.wait_for_service(TIMEOUT)
    future = client.send_request(request(1))
    taken = server.take_request(TIMEOUT)
    assert future.cancel()
    responses: list[object] = []
    client.on_frame = lambda header, _: responses.append(header["id"])
    server.send_response(taken.id, request(1))
    client.send_request(request(2))
    server.send_response(server.take_request(TIMEOUT).id, request(2))
    wait_until(lambda: bool(responses), "the response to the second call")
    assert len(responses) == 1


def test_messages_that_rclpy_has_lost_are_counted(engine: Meeting) -> None:
    listener, talker = engine.open(), engine.open()
    subscription = listener.create_node("listener").create_subscription("/chatter", STRING, SENSOR_DATA)
    publisher = talker.create_node("talker").create_publisher("/chatter", STRING, SENSOR_DATA)

    def heard() -> bool:
        publisher.publish(message(0))
        return subscription.take(0.1) is not None

    wait_until(heard, "a message")
    pid = listener.process.pid
    os.kill(pid, signal.SIGSTOP)  # its sockets are full soon
    for number in range(200):
        publisher.publish(message(number, 100_000))
    wait_until(publisher.has_subscription, "the end of the work of the talker")
    os.kill(pid, signal.SIGCONT)

    counters = subscription.counters

    def told() -> bool:
        publisher.publish(message(0))
        return counters.lost > 0 and counters.received + counters.lost > 200

    wait_until(told, lambda: f"losses: {counters}")


def test_an_end_of_the_process_just_after_its_start_is_told(
    engine: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ending(process.RclpyProcess):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            os.kill(self.pid, signal.SIGKILL)
            self._thread.join(TIMEOUT)

    monkeypatch.setattr("dora.ros2.rclpy.context.RclpyProcess", Ending)
    context = engine.open()
    told: list[str] = []
    context.set_on_failure(lambda error: told.append(str(error)))
    assert told == [f"the process {context.process.pid}, which has rclpy, has ended"]
    assert context.graph.closed


def test_a_call_while_its_client_closes_is_refused(
    engine: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = engine.open()
    client = context.create_node("both").create_client("/set", BASIC)
    number = context.process.number

    def closing() -> int:
        client.close()
        return number()

    monkeypatch.setattr(context.process, "number", closing)
    with pytest.raises(TransportError, match="the client of /set is closed"):
        client.send_request(request(1))


def test_the_end_of_the_process_is_told_and_a_close_is_not(engine: Meeting) -> None:
    closed, killed = engine.open(), engine.open()
    told: list[str] = []
    for context in (closed, killed):
        context.set_on_failure(lambda error: told.append(str(error)))
    closed.close()
    os.kill(killed.process.pid, signal.SIGKILL)
    reason = f"the process {killed.process.pid}, which has rclpy, has ended"
    wait_until(lambda: told, "the end of the process")
    assert told == [reason]
    killed.set_on_failure(lambda error: told.append(str(error)))  # one that comes late
    assert told == [reason] * 2
