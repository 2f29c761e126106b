"""Calls and those who answer them, over real links."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from fake_daemon import FakeDaemon, StartFlow
from flows import node
from waiting import TIMEOUT, wait_until

from dora import (
    CallFailed,
    CallRefused,
    CallTimedOut,
    Input,
    Node,
    ReceiveClosed,
    SendError,
    UndeclaredInput,
    UndeclaredOutput,
)
from dora.node.events import Error
from dora.wire.node_protocol import (
    AttachInput,
    AttachLink,
    Closing,
    DetachInput,
    InputsClosed,
    NodeRestartedFrame,
)


def pair(start_flow: StartFlow, **options: Any) -> tuple[FakeDaemon, Node, Node]:
    """Return a daemon, a client and a server; the client also has an input `other`."""
    daemon = start_flow(
        node("client", inputs={"response": "server/response", "other": "third/other"}, outputs="request"),
        node("server", inputs={"request": ("client/request", options)}, outputs="response"),
        node("third", outputs="other"),
    )
    return daemon, daemon.node("client"), daemon.node("server")


def requests(server: Node, count: int) -> list[Input]:
    events = [server.next(timeout=TIMEOUT) for _ in range(count)]
    assert all(isinstance(event, Input) for event in events), events
    return events  # type: ignore[return-value]


def number(event: Input) -> int:
    value: int = event["value"][0].as_py()
    return value


def answer(server: Node, request: Input, value: int) -> None:
    server.send_service_response("response", pa.array([value]), request["metadata"])


def start_serving(server: Node, function: Callable[[Input], Any]) -> threading.Thread:
    server.serve("request", "response")(function)
    thread = threading.Thread(target=lambda: list(server), daemon=True)
    thread.start()
    return thread


# ------------------------------------------------------------------ calls


def test_a_call_is_answered_by_a_server_that_only_knows_the_keys(start_flow: StartFlow) -> None:
    _, client, server = pair(start_flow)
    call = client.call("request", pa.array([1]), {"colour": "red"}, timeout=TIMEOUT)
    (request,) = requests(server, 1)
    assert request["metadata"]["request_id"] == call.id
    assert request["metadata"]["colour"] == "red"
    answer(server, request, 2)
    reply = call.wait()
    assert number(reply) == 2
    assert call.done
    assert call.wait() is reply
    assert client.statistics()["replies"]["answered"] == 1


def test_several_calls_are_answered_in_any_order(start_flow: StartFlow) -> None:
    _, client, server = pair(start_flow)
    calls = [client.call("request", pa.array([n]), timeout=TIMEOUT) for n in range(3)]
    for request in reversed(requests(server, 3)):
        answer(server, request, number(request) * 10)
    assert [number(call.wait()) for call in calls] == [0, 10, 20]


def test_events_that_are_not_responses_keep_their_order(start_flow: StartFlow) -> None:
    daemon, client, server = pair(start_flow)
    third = daemon.node("third")
    call = client.call("request", pa.array([1]), timeout=TIMEOUT)
    (request,) = requests(server, 1)
    server.send_output("response", pa.array([-1]))
    third.send_output("other", pa.array([100]))
    server.send_output("response", pa.array([-2]), {"request_id": "of another program"})
    answer(server, request, 1)
    server.send_output("response", pa.array([-3]))
    assert number(call.wait()) == 1
    assert sorted(number(event) for event in client.drain()) == [-3, -2, -1, 100]  # type: ignore[arg-type]


def test_events_between_are_in_the_order_of_their_input(start_flow: StartFlow) -> None:
    _, client, server = pair(start_flow)
    call = client.call("request", pa.array([1]), timeout=TIMEOUT)
    (request,) = requests(server, 1)
    for value in (-1, -2):
        server.send_output("response", pa.array([value]))
    answer(server, request, 1)
    for value in (-3, -4):
        server.send_output("response", pa.array([value]))
    call.wait()
    assert [number(event) for event in client.drain()] == [-1, -2, -3, -4]  # type: ignore[arg-type]


def looked_at(client: Node) -> int:
    return sum(client.statistics()["inputs"]["response"].values())


@pytest.mark.parametrize(("policy", "left"), [("drop_oldest", [16, 17, 18, 19]), ("backpressure", None)])
def test_events_held_during_a_call_follow_the_queue_policy_of_their_input(
    start_flow: StartFlow, policy: str, left: list[int] | None
) -> None:
    daemon = start_flow(
        node(
            "client",
            inputs={"response": ("server/response", {"queue_size": 4, "queue_policy": policy})},
            outputs="request",
        ),
        node("server", inputs={"request": "client/request"}, outputs="response"),
    )
    client, server = daemon.node("client"), daemon.node("server")
    call = client.call("request", pa.array([1]))
    thread = threading.Thread(target=call.wait, daemon=True)
    thread.start()
    (request,) = requests(server, 1)
    server.send_output("response", pa.array([100]), {"request_id": "of somebody else"})
    for value in range(20):
        wait_until(lambda: looked_at(client) == value + 1, "the client to look")  # noqa: B023
        server.send_output("response", pa.array([value]))
    wait_until(lambda: looked_at(client) == 21, "the client to look")
    answer(server, request, 1)
    thread.join(TIMEOUT)
    expected = [100, *(left or range(20))]
    assert [number(event) for event in client.drain()] == expected  # type: ignore[arg-type]
    counts = client.statistics()["inputs"]["response"]
    assert counts == {"received": len(expected) + 1, "dropped": 22 - len(expected) - 1}


def test_a_program_that_receives_events_meanwhile_hands_the_answer_over(start_flow: StartFlow) -> None:
    _, client, server = pair(start_flow)
    call = client.call("request", pa.array([1]))
    (request,) = requests(server, 1)
    answer(server, request, 7)
    server.send_output("response", pa.array([-1]))
    event = client.next(timeout=TIMEOUT)
    assert isinstance(event, Input)
    assert number(event) == -1
    assert call.done
    assert number(call.wait()) == 7


def test_late_and_double_answers_are_ignored_and_counted(start_flow: StartFlow) -> None:
    _, client, server = pair(start_flow)
    late = client.call("request", pa.array([1]), timeout=0)
    with pytest.raises(CallTimedOut, match="the call on `request` had no answer within 0 s") as raised:
        late.wait()
    assert isinstance(raised.value, TimeoutError)
    assert isinstance(raised.value, RuntimeError)
    twice = client.call("request", pa.array([2]), timeout=TIMEOUT)
    dropped = client.call("request", pa.array([3]))
    del dropped
    for request in requests(server, 3):
        answer(server, request, number(request))
        answer(server, request, number(request))
    assert number(twice.wait()) == 2
    assert client.drain() == []
    assert client.statistics()["replies"] == {"pending": 0, "answered": 1, "late": 4, "duplicates": 1}


def test_the_answer_to_a_call_that_is_no_longer_remembered_is_an_event(
    start_flow: StartFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora.node.patterns.replies._REMEMBERED", 2)
    _, client, server = pair(start_flow)
    for value in range(3):
        client.call("request", pa.array([value]))  # given up at once
    for request in requests(server, 3):
        answer(server, request, number(request))
    assert [number(event) for event in requests(client, 1)] == [0]
    assert client.drain() == []
    assert client.statistics()["replies"]["late"] == 2


def test_a_call_is_done_at_its_timeout_although_nobody_waits(start_flow: StartFlow) -> None:
    _, client, server = pair(start_flow)
    call = client.call("request", pa.array([1]), timeout=0)
    assert call.done
    (request,) = requests(server, 1)
    answer(server, request, 2)
    with pytest.raises(CallTimedOut):
        call.wait()
    assert not client.call("request", pa.array([1]), timeout=TIMEOUT).done


def test_a_call_waits_while_another_thread_receives(start_flow: StartFlow) -> None:
    daemon, client, server = pair(start_flow)
    taken: list[Any] = []
    thread = threading.Thread(target=lambda: taken.extend(client), daemon=True)
    thread.start()
    daemon.wait_for_sleep("client")
    call = client.call("request", pa.array([1]), timeout=TIMEOUT)
    (request,) = requests(server, 1)
    answer(server, request, 5)
    assert number(call.wait()) == 5
    daemon.stop("client")
    thread.join(TIMEOUT)
    assert [event["type"] for event in taken] == ["STOP"]


@pytest.mark.parametrize("receive", ["next", "try_recv", "drain"])
def test_events_are_received_while_another_thread_waits_for_an_answer(
    start_flow: StartFlow, receive: str
) -> None:
    daemon, client, server = pair(start_flow)
    third = daemon.node("third")
    call = client.call("request", pa.array([1]))
    thread = threading.Thread(target=call.wait, daemon=True)
    thread.start()
    for value in range(3):
        daemon.wait_for_sleep("client")
        third.send_output("other", pa.array([value]))
        if receive == "next":
            event = client.next(timeout=TIMEOUT)
        elif receive == "try_recv":
            event = client.try_recv()
        else:
            (event,) = client.drain()
        assert isinstance(event, Input)
        assert number(event) == value
    answer(server, requests(server, 1)[0], 1)
    thread.join(TIMEOUT)
    assert call.done


def test_a_contender_gets_the_inbox_from_a_thread_that_is_about_to_sleep(start_flow: StartFlow) -> None:
    daemon, client, _server = pair(start_flow)
    inbox = client._session.inbox
    inbox._spin_ns = 0
    inbox._doorbell.ring()  # so that the first sleep ends at once, and the second begins with `rearm`
    daemon.node("third").send_output("other", pa.array([7]))
    taken: list[Any] = []
    receiver = threading.Thread(target=lambda: taken.append(client.next(timeout=TIMEOUT)), daemon=True)
    polls = 0

    def poll() -> None:
        nonlocal polls
        polls += 1
        if polls == 3:  # awake again
            inbox._doorbell.clear()
            receiver.start()
            inbox._doorbell.wait(TIMEOUT)
            assert inbox._doorbell.rung, "no contender has rung"

    deadline = time.monotonic_ns() + int(TIMEOUT * 1e9)
    assert inbox.wait_until(lambda: bool(taken), threading.Event(), deadline, poll)
    assert number(taken[0]) == 7


@pytest.mark.lengthy
def test_a_poll_waits_for_a_thread_that_is_slow_to_yield(start_flow: StartFlow) -> None:
    daemon, client, _server = pair(start_flow)
    inbox = client._session.inbox
    held, polls, over = threading.Event(), threading.Event(), threading.Event()

    def poll() -> None:
        polls.set()
        assert held.wait(TIMEOUT)  # as if there were no processor for it

    deadline = time.monotonic_ns() + int(TIMEOUT * 1e9)
    arguments = (over.is_set, threading.Event(), deadline, poll)
    thread = threading.Thread(target=inbox.wait_until, args=arguments, daemon=True)
    thread.start()
    assert polls.wait(TIMEOUT)
    daemon.node("third").send_output("other", pa.array([7]))
    threading.Timer(0.2, held.set).start()
    assert number(client.try_recv()) == 7  # type: ignore[arg-type]
    over.set()
    inbox._doorbell.ring()
    thread.join(TIMEOUT)
    assert not thread.is_alive()


def test_a_poll_in_a_handler_does_not_wait_for_its_own_thread(
    start_flow: StartFlow,
) -> None:
    _daemon, client, _server = pair(start_flow)
    seen: list[Any] = []

    def poll() -> None:
        seen.append(client.try_recv())

    assert client._session.inbox.wait_until(lambda: bool(seen), threading.Event(), None, poll)
    assert seen == [None]


# ------------------------------------------------------------------ what can go wrong


def test_a_call_fails_at_once_when_the_server_has_ended(start_flow: StartFlow) -> None:
    daemon, client, server = pair(start_flow)
    answered = client.call("request", pa.array([1]))
    lost = client.call("request", pa.array([2]))
    answer(server, requests(server, 2)[0], 10)
    daemon.send("client", InputsClosed(["response"]))
    with pytest.raises(CallFailed, match="has no answer: node `server` has ended"):
        lost.wait()
    assert number(answered.wait()) == 10
    event = client.next(timeout=TIMEOUT)
    assert event is not None
    assert event["type"] == "INPUT_CLOSED"
    with pytest.raises(CallFailed, match="`response` is closed"):
        client.call("request", pa.array([3])).wait()


@pytest.mark.parametrize("has_called", [True, False])
def test_calls_follow_an_input_that_is_disconnected_and_connected_again(
    start_flow: StartFlow, has_called: bool
) -> None:
    daemon, client, server = pair(start_flow)
    if has_called:
        client.call("request", pa.array([0]))
        answer(server, requests(server, 1)[0], 0)
    (item,) = (item for item in daemon.plan.configs["client"].inputs if item.id == "response")
    daemon.send("client", DetachInput("response", item.slot))
    closed = client.next(timeout=TIMEOUT)
    assert closed is not None
    assert closed["type"] == "INPUT_CLOSED"
    with pytest.raises(CallFailed, match="`response` is closed"):
        client.call("request", pa.array([1]), reply="response").wait()
    line = daemon.plan.lines - 1
    daemon.send("client", AttachInput(msgspec.structs.replace(item, slot=line, late=True)))
    assert client.next(timeout=0) is not None, "a timeout, after the frame was read"
    (link,) = daemon.plan.configs["server"].outputs[0].links
    daemon.send("server", AttachLink("response", msgspec.structs.replace(link, slot=line), 1))
    again = client.call("request", pa.array([2]), timeout=TIMEOUT)
    answer(server, requests(server, 1)[0], 20)
    assert number(again.wait()) == 20


def test_a_call_fails_when_the_server_is_restarted(start_flow: StartFlow) -> None:
    daemon, client, server = pair(start_flow)
    answered = client.call("request", pa.array([1]))
    lost = client.call("request", pa.array([2]))
    answer(server, requests(server, 2)[0], 10)
    daemon.send("client", NodeRestartedFrame("server"))
    with pytest.raises(CallFailed, match="node `server` was restarted before it answered"):
        lost.wait()
    assert number(answered.wait()) == 10
    again = client.call("request", pa.array([3]), timeout=TIMEOUT)
    answer(server, requests(server, 1)[0], 30)
    assert number(again.wait()) == 30


def test_a_call_fails_when_no_server_is_running(start_flow: StartFlow) -> None:
    _, client, server = pair(start_flow)
    server.close()
    with pytest.raises(CallFailed, match="no node that receives it is running at the moment"):
        client.call("request", pa.array([1])).wait()


def test_a_call_fails_when_the_client_is_asked_to_stop(start_flow: StartFlow) -> None:
    daemon, client, server = pair(start_flow)
    call = client.call("request", pa.array([1]))
    thread = threading.Timer(0.0, daemon.stop, ["client"])
    thread.start()
    with pytest.raises(CallFailed, match="this node was asked to stop"):
        call.wait()
    thread.join()
    requests(server, 1)
    late = client.call("request", pa.array([1]))
    assert late.done
    assert server.is_empty(), "a call that cannot be answered was sent"
    with pytest.raises(CallFailed, match="this node was asked to stop"):
        late.wait()
    assert [event["type"] for event in client] == ["STOP"]


def test_a_call_fails_when_the_node_is_closed_by_another_thread(start_flow: StartFlow) -> None:
    daemon, client, _server = pair(start_flow)
    call = client.call("request", pa.array([1]))
    failures: list[Exception] = []

    def wait() -> None:
        try:
            call.wait()
        except CallFailed as error:
            failures.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    daemon.wait_for_sleep("client")
    client.close()
    thread.join(TIMEOUT)
    assert "this node is closed" in str(failures[0])


def test_names_that_are_not_declared(start_flow: StartFlow) -> None:
    _, client, server = pair(start_flow)
    with pytest.raises(UndeclaredOutput, match="did you mean `request`"):
        client.call("reqest", b"")
    with pytest.raises(UndeclaredInput, match="did you mean `response`"):
        client.call("request", b"", reply="respons")
    with pytest.raises(UndeclaredInput, match="has no input `reqest` from another node, did you mean"):
        server.serve("reqest", "response")(len)
    with pytest.raises(UndeclaredInput, match="has no input from a node that receives it"):
        client_without_reply(start_flow).call("request", b"")


def client_without_reply(start_flow: StartFlow) -> Node:
    daemon = start_flow(node("client", outputs="request"), node("server", inputs={"in": "client/request"}))
    return daemon.node("client")


# ------------------------------------------------------------------ servers


def test_a_function_answers_while_other_events_come_through(start_flow: StartFlow) -> None:
    daemon, client, server = pair(start_flow)
    seen: list[Any] = []

    @server.serve("request", "response")
    def double(request: Input) -> pa.Array:
        return pa.array([number(request) * 2])

    thread = threading.Thread(target=lambda: seen.extend(server), daemon=True)
    thread.start()
    client.send_output("request", pa.array([1]))  # without a request_id: an ordinary message
    assert number(client.call("request", pa.array([21]), timeout=TIMEOUT).wait()) == 42
    request_id = client.send_service_request("request", pa.array([4]))
    event = client.next(timeout=TIMEOUT)
    assert isinstance(event, Input)
    assert (event["metadata"]["request_id"], number(event)) == (request_id, 8)
    daemon.stop("server")
    thread.join(TIMEOUT)
    assert [event["type"] for event in seen] == ["INPUT", "STOP"]
    assert double.__name__ == "double"


def test_a_function_that_raises_refuses(start_flow: StartFlow, capfd: Any) -> None:
    _, client, server = pair(start_flow)

    def divide(request: Input) -> pa.Array:
        return pa.array([1 // number(request)])

    start_serving(server, divide)
    with pytest.raises(CallRefused, match="`divide` raised ZeroDivisionError"):
        client.call("request", pa.array([0]), timeout=TIMEOUT).wait()
    assert number(client.call("request", pa.array([1]), timeout=TIMEOUT).wait()) == 1
    error = capfd.readouterr().err
    assert "in divide" in error
    assert "patterns" not in error


def test_an_error_whose_text_is_no_unicode_refuses(start_flow: StartFlow) -> None:
    _, client, server = pair(start_flow)

    def read(request: Input) -> None:  # noqa: ARG001
        raise FileNotFoundError("caf\udce9")

    start_serving(server, read)
    with pytest.raises(CallRefused, match=r"`read` raised FileNotFoundError: caf\?"):
        client.call("request", pa.array([0]), timeout=TIMEOUT).wait()


def test_a_response_that_cannot_be_sent_is_refused(start_flow: StartFlow, capfd: Any) -> None:
    _, client, server = pair(start_flow)

    def name(request: Input) -> str:  # noqa: ARG001
        return "text"

    start_serving(server, name)
    with pytest.raises(
        CallRefused, match="`name` raised UnsupportedData: cannot send an object of type str"
    ):
        client.call("request", b"", timeout=TIMEOUT).wait()
    assert "error: in `name`: cannot send" in capfd.readouterr().err


def test_a_handler_without_a_result_responds_with_an_empty_array(start_flow: StartFlow) -> None:
    _, client, server = pair(start_flow)
    start_serving(server, lambda request: None)  # noqa: ARG005
    assert len(client.call("request", pa.array([0]), timeout=TIMEOUT).wait()["value"]) == 0


def test_an_input_is_served_by_one_function(start_flow: StartFlow) -> None:
    _, _, server = pair(start_flow)
    server.serve("request", "response")(len)
    with pytest.raises(ValueError, match="`request` is served already"):
        server.serve("request", "response")(len)


def test_a_served_node_keeps_to_timeouts(start_flow: StartFlow) -> None:
    _, _, server = pair(start_flow)
    server.serve("request", "response")(len)
    event = server.next(timeout=0)
    assert event is not None
    assert event.is_timeout
    assert server.try_recv() is None
    assert server.is_empty()


# ------------------------------------------------------------------ asyncio


@pytest.mark.parametrize("receive", ["next", "recv_async"])
def test_requests_that_follow_each_other_do_not_keep_a_program_from_its_timeout(
    start_flow: StartFlow, receive: str
) -> None:
    _, client, server = pair(start_flow)
    served: list[str] = []

    @server.serve("request", "response")
    def serve(request: Input) -> None:
        served.append(request["metadata"]["request_id"])
        if len(served) < 10:
            client.send_output("request", b"", {"request_id": f"{len(served)}"})

    client.send_output("request", b"", {"request_id": "0"})
    for count in (1, 2):
        event = server.next(0.0) if receive == "next" else asyncio.run(server.recv_async(0.0))
        assert isinstance(event, Error)
        assert event.is_timeout
        assert len(served) == count


def test_calls_are_awaited_while_events_are_received(start_flow: StartFlow) -> None:
    daemon, client, server = pair(start_flow)
    third = daemon.node("third")
    start_serving(server, lambda request: pa.array([number(request) + 1]))
    seen: list[int] = []

    async def receive() -> None:
        async for event in client:
            seen.append(number(event))  # type: ignore[arg-type]
            if len(seen) == 3:
                return

    async def main() -> list[int]:
        receiving = asyncio.ensure_future(receive())
        for value in range(3):
            third.send_output("other", pa.array([value]))
        replies = await asyncio.gather(
            *(client.call("request", pa.array([n]), timeout=TIMEOUT) for n in range(5))
        )
        await receiving
        return [number(reply) for reply in replies]

    assert asyncio.run(main()) == [1, 2, 3, 4, 5]
    assert seen == [0, 1, 2]


def test_an_awaited_call_times_out(start_flow: StartFlow) -> None:
    _, client, _server = pair(start_flow)

    async def main() -> None:
        await client.call("request", b"", timeout=0.01)

    with pytest.raises(TimeoutError):
        asyncio.run(main())


def test_a_function_may_be_async(start_flow: StartFlow) -> None:
    daemon, client, server = pair(start_flow)

    @server.serve("request", "response")
    async def slow(request: Input) -> pa.Array:
        await asyncio.sleep(0)
        return pa.array([number(request) / 0 if number(request) < 0 else number(request)])

    async def main() -> list[str]:
        return [event["type"] async for event in server]

    events: list[str] = []
    thread = threading.Thread(target=lambda: events.extend(asyncio.run(main())), daemon=True)
    thread.start()
    assert number(client.call("request", pa.array([3]), timeout=TIMEOUT).wait()) == 3
    with pytest.raises(CallRefused, match="ZeroDivisionError"):
        client.call("request", pa.array([-3]), timeout=TIMEOUT).wait()
    daemon.stop("server")
    thread.join(TIMEOUT)
    assert events == ["STOP"]


def test_an_async_function_needs_a_program_that_awaits(start_flow: StartFlow) -> None:
    _, client, server = pair(start_flow)

    @server.serve("request", "response")
    async def never(request: Input) -> None:
        raise AssertionError(request)

    client.call("request", b"")
    with pytest.raises(TypeError, match="have to be received with `async for`"):
        server.next(timeout=TIMEOUT)


def test_after_close_there_are_no_calls(start_flow: StartFlow) -> None:
    _, client, _server = pair(start_flow)
    client.close()
    with pytest.raises(SendError, match="closed"):
        client.call("request", b"")


def test_a_node_that_has_called_is_freed_with_its_last_reference(start_flow: StartFlow) -> None:
    daemon = start_flow(
        node("client", inputs={"response": "server/response"}, outputs="request"),
        node("server", inputs={"request": "client/request"}, outputs="response"),
    )
    client, _server = daemon.node("client"), daemon.node("server")
    call = client.call("request", b"")
    del client
    with pytest.raises(CallFailed, match="this node is closed"):
        call.wait()
    wait_until(lambda: bool(daemon.heard("client", Closing)), "the goodbye")


def test_two_threads_wait_for_one_call_while_a_third_receives(start_flow: StartFlow) -> None:
    daemon, client, server = pair(start_flow)
    receiver = threading.Thread(target=lambda: list(client), daemon=True)
    receiver.start()
    daemon.wait_for_sleep("client")
    call = client.call("request", b"")
    results: list[Input] = []
    threads = [threading.Thread(target=lambda: results.append(call.wait()), daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    answer(server, requests(server, 1)[0], 1)
    for thread in threads:
        thread.join(TIMEOUT)
    assert [number(event) for event in results] == [1, 1]
    daemon.stop("client")
    receiver.join(TIMEOUT)


def test_a_served_node_can_be_drained(start_flow: StartFlow) -> None:
    daemon, client, server = pair(start_flow)
    server.serve("request", "response")(lambda request: request["data"])
    client.send_output("request", pa.array([1]))
    call = client.call("request", pa.array([2]), timeout=TIMEOUT)
    client.send_output("request", pa.array([3]))
    assert [number(event) for event in server.drain()] == [1, 3]  # type: ignore[arg-type]
    assert call.wait()["data"] == (2).to_bytes(8, "little")
    assert server.drain() == []
    daemon.stop("server")
    assert [event["type"] for event in server.drain()] == ["STOP"]
    with pytest.raises(ReceiveClosed):
        server.drain()
