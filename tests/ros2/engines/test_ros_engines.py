"""What every ROS 2 engine does; see `dora.ros2.engine`."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
from ros_meeting import (
    BASIC,
    BOOL,
    OTHER_STRING,
    STRING,
    Meeting,
    asked,
    message,
    number_of,
    request,
    wait_for_match,
    wait_for_subscription,
)
from waiting import TIMEOUT, wait_until

from dora.errors import CallFailed, CallTimedOut, TransportError
from dora.ros2.graph import Kind, NodeName
from dora.ros2.qos import Durability, History, Liveliness, Qos, Reliability

PATHS = [str(Path(__file__).parent), str(Path(__file__).parents[2])]  # of the helpers, for other processes
KEEP_ALL = Qos(history=History.KEEP_ALL)
LATCHED = Qos(durability=Durability.TRANSIENT_LOCAL, depth=3)


# ---------------------------------------------------------------------- messages


def test_messages_arrive_in_order(engines: Meeting) -> None:
    talker, listener = engines.open(), engines.open()
    publisher = talker.create_node("talker").create_publisher("/chatter", STRING)
    subscription = listener.create_node("listener").create_subscription("/chatter", STRING)
    wait_for_subscription(publisher)
    for number in range(5):
        publisher.publish(message(number))
    received = [subscription.take(TIMEOUT) for _ in range(5)]
    assert [number_of(item) for item in received] == [0, 1, 2, 3, 4]
    assert subscription.take() is None
    assert (subscription.counters.received, subscription.counters.dropped) == (5, 0)


def test_a_context_hears_its_own_publishers(engines: Meeting) -> None:
    node = engines.open().create_node("both")
    subscription = node.create_subscription("echo", STRING)
    publisher = node.create_publisher("echo", STRING)

    def heard() -> bool:
        publisher.publish(message(1))
        return subscription.take(0.1) is not None

    assert wait_until(heard, "a message to oneself")


@pytest.mark.lengthy
def test_ten_thousand_reliable_messages_all_arrive_in_order(engines: Meeting) -> None:
    talker, listener = engines.open(), engines.open()
    publisher = talker.create_node("talker").create_publisher("/many", STRING, KEEP_ALL)
    subscription = listener.create_node("listener").create_subscription("/many", STRING, KEEP_ALL)
    wait_for_subscription(publisher)
    for number in range(10_000):
        publisher.publish(message(number, 64))
    numbers = [number_of(subscription.take(TIMEOUT)) for _ in range(10_000)]
    assert numbers == list(range(10_000))
    assert (subscription.counters.dropped, subscription.counters.lost) == (0, 0)


def test_large_and_empty_messages_arrive_as_they_are(engines: Meeting) -> None:
    talker, listener = engines.open(), engines.open()
    publisher = talker.create_node("talker").create_publisher("/large", STRING, KEEP_ALL)
    subscription = listener.create_node("listener").create_subscription("/large", STRING, KEEP_ALL)
    wait_for_subscription(publisher)
    for data in (bytearray(message(7, 10_000_000)), memoryview(b"\x00\x01\x00\x00\x00")):
        publisher.publish(data)
        received = subscription.take(TIMEOUT)
        assert received[: len(data)] == data
        assert received[len(data) :] in (b"", bytes(3))  # DDS sends whole words


def test_a_full_queue_drops_and_counts_its_oldest_message(engines: Meeting) -> None:
    talker, listener = engines.open(), engines.open()
    publisher = talker.create_node("talker").create_publisher("/fast", STRING, KEEP_ALL)
    subscription = listener.create_node("listener").create_subscription("/fast", STRING, Qos(depth=4))
    wait_for_subscription(publisher)
    for number in range(10):
        publisher.publish(message(number))
    wait_until(lambda: subscription.counters.received == 10, "ten messages")
    assert [number_of(subscription.take(TIMEOUT)) for _ in range(4)] == [6, 7, 8, 9]
    assert subscription.counters.dropped == 6


def test_a_latecomer_gets_the_last_messages_of_a_latched_topic(engines: Meeting) -> None:
    talker, witness, listener = engines.open(), engines.open(), engines.open()
    publisher = talker.create_node("talker").create_publisher("/map", STRING, LATCHED)
    seen = witness.create_node("witness").create_subscription("/map", STRING, LATCHED)
    wait_for_subscription(publisher)
    for number in range(5):
        publisher.publish(message(number))
        # Before that it may be on its way to a router, where a subscription of this moment gets it.
        assert number_of(seen.take(TIMEOUT)) == number
    subscription = listener.create_node("listener").create_subscription("/map", STRING, LATCHED)
    assert [number_of(subscription.take(TIMEOUT)) for _ in range(3)] == [2, 3, 4]
    publisher.publish(message(5))
    assert number_of(subscription.take(TIMEOUT)) == 5
    assert subscription.counters.lost == 0


def test_a_latecomer_gets_nothing_old_from_a_volatile_topic(engines: Meeting) -> None:
    talker, witness, listener = engines.open(), engines.open(), engines.open()
    publisher = talker.create_node("talker").create_publisher("/now", STRING)
    seen = witness.create_node("witness").create_subscription("/now", STRING)
    wait_for_subscription(publisher)
    publisher.publish(message(1))
    # Until then it may still be on its way to a router, where a subscription of this moment would get it.
    assert number_of(seen.take(TIMEOUT)) == 1
    seen.close()
    wait_until(lambda: not publisher.has_subscription(), "the end of the witness")
    subscription = listener.create_node("listener").create_subscription("/now", STRING)
    wait_for_subscription(publisher)
    publisher.publish(message(2))
    assert number_of(subscription.take(TIMEOUT)) == 2


def test_domains_do_not_meet(engines: Meeting) -> None:
    from ros_domains import free_domain

    talker, listener = engines.open(), engines.open(free_domain())
    publisher = talker.create_node("talker").create_publisher("/chatter", STRING)
    near = talker.create_node("near").create_subscription("/chatter", STRING)
    far = listener.create_node("listener").create_subscription("/chatter", STRING)
    wait_for_subscription(publisher)
    publisher.publish(message(1))
    assert near.take(TIMEOUT) is not None
    assert far.take() is None
    assert listener.graph.wait_for(lambda: bool(listener.graph.nodes()), TIMEOUT)
    assert [node.full for node in listener.graph.nodes()] == ["/listener"]


# ---------------------------------------------------------------------- waiting and closing


def test_take_returns_none_after_its_timeout(engines: Meeting) -> None:
    subscription = engines.open().create_node("listener").create_subscription("/none", STRING)
    start = time.monotonic()
    assert subscription.take(0.05) is None
    assert time.monotonic() - start >= 0.05
    assert subscription.take() is None


def test_a_callback_rings_for_each_message_and_at_the_end(engines: Meeting) -> None:
    talker, listener = engines.open(), engines.open()
    publisher = talker.create_node("talker").create_publisher("/ring", STRING)
    subscription = listener.create_node("listener").create_subscription("/ring", STRING)
    wait_for_subscription(publisher)
    rings: list[int] = []
    subscription.set_on_message(lambda: rings.append(1))
    for number in range(3):
        publisher.publish(message(number))
    wait_until(lambda: len(rings) == 3, "three rings")
    subscription.close()
    assert len(rings) == 4


def test_a_callback_that_raises_stops_no_other_subscription(
    engines: Meeting, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise KeyError("a fault of the user")

    node = engines.open().create_node("both")
    topics = ("/one", "/two")
    publishers = [node.create_publisher(topic, STRING) for topic in topics]
    one, two = (node.create_subscription(topic, STRING) for topic in topics)
    for publisher in publishers:
        wait_for_subscription(publisher)
    one.set_on_message(fail)
    publishers[0].publish(message(1))
    assert one.take(TIMEOUT) is not None
    publishers[1].publish(message(2))
    assert two.take(TIMEOUT) is not None
    one.close()
    assert "a fault of the user" in caplog.text


@pytest.mark.parametrize("what", ["subscription", "node", "context"])
def test_closing_wakes_who_waits_for_a_message(engines: Meeting, what: str) -> None:
    context = engines.open()
    node = context.create_node("listener")
    subscription = node.create_subscription("/none", STRING)
    results: list[object] = []
    waiter = threading.Thread(target=lambda: results.append(subscription.take(None)))
    waiter.start()
    {"subscription": subscription, "node": node, "context": context}[what].close()
    waiter.join(TIMEOUT)
    assert results == [None]


def test_what_is_closed_refuses_to_work(engines: Meeting) -> None:
    context = engines.open()
    node = context.create_node("talker")
    publisher = node.create_publisher("/chatter", STRING)
    publisher.close()
    publisher.close()
    with pytest.raises(TransportError, match="publisher of /chatter is closed"):
        publisher.publish(message(1))
    node.close()
    with pytest.raises(TransportError, match="node /talker is closed"):
        node.create_publisher("/chatter", STRING)
    context.close()
    with pytest.raises(TransportError, match="context is closed"):
        context.create_node("talker")


def test_an_endpoint_that_is_made_while_its_node_is_closed_is_closed_too(name_engines: Meeting) -> None:
    context = name_engines.open()
    node = context.create_node("hasty")
    closing, make = threading.Thread(target=node.close), node._make

    def slow(spec: Any) -> Any:
        closing.start()
        closing.join(0.1)  # it is not over before the endpoint is there
        return make(spec)

    node._make = slow
    publisher = node.create_publisher("/chatter", STRING)
    closing.join(TIMEOUT)
    assert publisher.closed
    assert context.graph.wait_for(
        lambda: not context.graph.nodes() and not context.graph.endpoints(), TIMEOUT
    )


@pytest.mark.parametrize("name", ["a b", "", "/", "a//b", "a/", "1a", "a-b"])
def test_a_name_that_breaks_the_rules_is_refused(engines: Meeting, name: str) -> None:
    node = engines.open().create_node("talker")
    with pytest.raises(ValueError, match="is no name of a ROS topic"):
        node.create_publisher(name, STRING)
    with pytest.raises(ValueError, match="is no name of a ROS node"):
        engines.open().create_node(name + "/x")


def test_closed_endpoints_and_nodes_take_no_memory(engines: Meeting) -> None:
    context = engines.open()
    node = context.create_node("both")
    closed = [node.create_publisher("/chatter", STRING), node.create_subscription("/chatter", STRING)]
    if context.has_services:
        closed += [node.create_server("/set", BASIC), node.create_client("/set", BASIC)]
    other = context.create_node("other")
    closed += [other.create_publisher("/chatter", STRING), other]
    references = [weakref.ref(item) for item in closed]
    for item in closed[:-2]:
        item.close()
    other.close()
    del other, closed, item
    gc.collect()
    assert [reference() for reference in references] == [None] * len(references)
    assert node.create_publisher("/chatter", STRING) is not None


# ---------------------------------------------------------------------- the graph


def test_nodes_and_topics_are_in_the_graph_until_they_close(engines: Meeting) -> None:
    ours, other = engines.open(), engines.open()
    node = ours.create_node("talker", "robot")
    qos = Qos(Reliability.BEST_EFFORT, Durability.TRANSIENT_LOCAL, depth=7, deadline=2_500_000_000)
    publisher = node.create_publisher("~/state", STRING, qos)
    subscription = node.create_subscription("scan", BOOL)
    for context in (ours, other):
        wait_for_match(context, "/robot/talker/state", 1, 0)
        wait_for_match(context, "/robot/scan", 0, 1)
        assert context.graph.wait_for(
            lambda context=context: all(item.node.name == "talker" for item in context.graph.endpoints()),
            TIMEOUT,
        )
        # A node may get into the graph after its endpoints.
        assert context.graph.wait_for(
            lambda context=context: context.graph.nodes() == [NodeName("talker", "/robot")], TIMEOUT
        )
        topics = context.graph.topic_names_and_types()
        assert {name: types for name, types in topics.items() if name.startswith("/robot")} == {
            "/robot/scan": ["std_msgs/msg/Bool"],
            "/robot/talker/state": ["std_msgs/msg/String"],
        }
        (seen,) = context.graph.endpoints(Kind.PUBLISHER, "/robot/talker/state")
        assert (seen.node.full, seen.name, seen.type) == (
            "/robot/talker",
            "/robot/talker/state",
            STRING.name,
        )
        assert (seen.type_hash, seen.gid) == (STRING.hash, publisher.gid)
        assert seen.qos is not None
        assert (seen.qos.reliability, seen.qos.durability) == (qos.reliability, qos.durability)
        assert seen.qos.deadline == 2_500_000_000
    subscription.close()
    wait_for_match(other, "/robot/scan", 0, 0)
    node.close()
    assert other.graph.wait_for(lambda: not other.graph.nodes() and not other.graph.endpoints(), TIMEOUT)


def test_the_durations_and_the_liveliness_of_a_publisher_are_known_elsewhere(name_engines: Meeting) -> None:
    ours, other = name_engines.open(), name_engines.open()
    second = 1_000_000_000
    qos = Qos(
        deadline=second,
        lifespan=2 * second,
        liveliness=Liveliness.MANUAL_BY_TOPIC,
        lease_duration=3 * second,
    )
    other.create_node("talker").create_publisher("/state", STRING, qos)
    wait_for_match(ours, "/state", 1, 0)
    assert [item.qos for item in ours.graph.endpoints(Kind.PUBLISHER, "/state")] == [qos]


def test_a_context_that_comes_later_sees_what_is_there(engines: Meeting) -> None:
    engines.open().create_node("first").create_publisher("/early", STRING)
    late = engines.open()
    wait_for_match(late, "/early", 1, 0)
    assert late.graph.wait_for(lambda: late.graph.nodes() == [NodeName("first", "/")], TIMEOUT)


def test_a_change_of_the_graph_is_told(engines: Meeting) -> None:
    ours, other = engines.open(), engines.open()
    told = threading.Event()
    ours.graph.set_on_change(told.set)
    other.create_node("newcomer")
    assert told.wait(TIMEOUT)


def test_two_definitions_of_a_type_are_told_with_both_sides(name_engines: Meeting) -> None:
    ours, other = name_engines.open(), name_engines.open()
    publisher = ours.create_node("talker").create_publisher("/chatter", STRING)
    other.create_node("listener").create_subscription("/chatter", OTHER_STRING)
    other.create_node("counter").create_subscription("/chatter", BOOL)
    wait_for_match(ours, "/chatter", 1, 2)
    assert ours.graph.wait_for(lambda: len(ours.graph.nodes()) == 3, TIMEOUT)

    def problems() -> list[str]:
        return ours.graph.problems(publisher.gid, checks_qos=ours.checks_qos)

    assert ours.graph.wait_for(
        lambda: all(name in "".join(problems()) for name in ("/listener", "/counter")), TIMEOUT
    )
    assert problems() == [
        "publisher /talker and subscription /counter do not meet on /chatter: the first one's type is "
        "std_msgs/msg/String, the other one's std_msgs/msg/Bool",
        "publisher /talker and subscription /listener do not meet on /chatter: they have different "
        f"definitions of std_msgs/msg/String ({STRING.hash} and {OTHER_STRING.hash})",
    ]


PEER = textwrap.dedent(
    """
    import sys
    sys.path[:0] = {paths!r}
    from ros_meeting import STRING, message, open_context
    context = open_context({engine!r}, {domain})
    publisher = context.create_node("peer").create_publisher("/peer", STRING)
    print("ready", flush=True)
    sys.stdin.readline()
    number = 0
    while True:
        publisher.publish(message(number))
        number += 1
    """
)


@pytest.mark.slow
@pytest.mark.processes
def test_a_killed_peer_leaves_the_graph_and_a_new_one_is_found(engines: Meeting) -> None:
    context = engines.open()
    subscription = context.create_node("listener").create_subscription("/peer", STRING, Qos(depth=5))
    program = PEER.format(paths=PATHS, engine=engines.engine, domain=engines.domain)
    for _ in range(2):
        command = [sys.executable, "-c", program]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
            assert peer.stdout is not None
            assert peer.stdout.readline() == "ready\n"
            wait_for_match(context, "/peer")
            assert peer.stdin is not None
            peer.stdin.write("go\n")
            peer.stdin.flush()
            assert subscription.take(TIMEOUT) is not None
            os.kill(peer.pid, signal.SIGKILL)
        wait_for_match(context, "/peer", 0, 1)
        assert context.graph.wait_for(lambda: context.graph.nodes() == [NodeName("listener", "/")], TIMEOUT)
        while subscription.take() is not None:
            pass


@pytest.mark.processes
def test_a_program_that_ends_without_closing_ends_cleanly(engines: Meeting) -> None:
    program = textwrap.dedent(
        f"""
        import sys
        sys.path[:0] = {PATHS!r}
        from ros_meeting import STRING, message, open_context
        context = open_context({engines.engine!r}, {engines.domain})
        node = context.create_node("hasty")
        publisher = node.create_publisher("/hasty", STRING)
        subscription = node.create_subscription("/hasty", STRING)
        for number in range(1000):
            publisher.publish(message(number))
        """
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.processes
def test_a_forked_child_leaves_the_context_to_its_parent(engines: Meeting) -> None:
    program = textwrap.dedent(
        f"""
        import os, sys
        sys.path[:0] = {PATHS!r}
        from ros_meeting import STRING, message, open_context, wait_for_subscription
        from dora.errors import WrongProcess
        context = open_context({engines.engine!r}, {engines.domain})
        node = context.create_node("parent")
        publisher = node.create_publisher("/ours", STRING)
        subscription = node.create_subscription("/ours", STRING)
        wait_for_subscription(publisher)
        child = os.fork()
        if not child:
            for use in (lambda: publisher.publish(message(1)), lambda: context.create_node("child")):
                try:
                    use()
                except WrongProcess:
                    continue
                os._exit(1)
            context.close()
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        publisher.publish(message(2))
        assert subscription.take({TIMEOUT}).startswith(message(2))
        print("heard")
        """
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "heard\n", "")


# ---------------------------------------------------------------------- services


def _serve(server: Any) -> threading.Thread:
    """Answer each request with its number, plus a thousand."""

    def run() -> None:
        while (taken := server.take_request(None)) is not None:
            server.send_response(taken.id, request(asked(taken.data) + 1000))

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_clients_get_the_responses_to_their_own_requests(service_engines: Meeting) -> None:
    ours, other = service_engines.open(), service_engines.open()
    server = ours.create_node("server").create_server("/set", BASIC)
    thread = _serve(server)
    clients = [other.create_node(f"client{number}").create_client("/set", BASIC) for number in range(3)]
    for number in range(20):
        for index, client in enumerate(clients):
            sent = 100 * index + number
            assert asked(client.call(request(sent), TIMEOUT)) == sent + 1000
    server.close()
    thread.join(TIMEOUT)
    assert server.counters.received == 60


def test_a_request_has_its_client_and_number(service_engines: Meeting) -> None:
    context = service_engines.open()
    node = context.create_node("both")
    server = node.create_server("/set", BASIC)
    client = node.create_client("/set", BASIC)
    assert client.wait_for_service(TIMEOUT)
    futures = [client.send_request(request(number)) for number in range(3)]
    taken = [server.take_request(TIMEOUT) for _ in range(3)]
    assert [item.id.sequence_number for item in taken] == [1, 2, 3]
    assert len({item.id.client_gid for item in taken}) == 1
    for item in reversed(taken):  # in any order
        server.send_response(item.id, item.data)
    assert [asked(future.result(TIMEOUT)) for future in futures] == [0, 1, 2]
    with pytest.raises(TransportError, match="no open request 1"):
        server.send_response(taken[0].id, request(1))


@pytest.mark.lengthy
def test_a_request_beyond_the_limit_is_refused_until_another_one_is_forgotten(
    service_engines: Meeting,
) -> None:
    node = service_engines.open().create_node("both")
    server = node.create_server("/busy", BASIC, KEEP_ALL)
    client = node.create_client("/busy", BASIC, KEEP_ALL)
    assert client.wait_for_service(TIMEOUT)
    futures = []
    counters = server.counters
    for number in range(10_001):
        futures.append(client.send_request(request(number)))
        if number % 500 == 0:  # Fast DDS refuses a request if 5,000 wait for the server's thread
            wait_until(lambda: counters.received + counters.dropped == len(futures), "the requests")
    assert server.counters.dropped == 1
    taken = [server.take_request(TIMEOUT) for _ in range(10_000)]
    assert server.take_request() is None
    server.forget(taken[0].id)
    server.forget(taken[0].id)
    if service_engines.engine == "zenoh":
        for index in (0, -1):
            with pytest.raises(CallFailed, match="no server of /busy has answered"):
                futures[index].result(TIMEOUT)
    with pytest.raises(TransportError, match="no open request"):
        server.send_response(taken[0].id, request(0))
    last = client.send_request(request(5))
    server.send_response(server.take_request(TIMEOUT).id, request(6))
    assert asked(last.result(TIMEOUT)) == 6


def test_a_call_without_a_server_times_out(service_engines: Meeting) -> None:
    client = service_engines.open().create_node("client").create_client("/none", BASIC)
    assert not client.is_ready()
    with pytest.raises(CallTimedOut, match="no server of /none"):
        client.call(request(1), 0.05)


def test_a_server_that_comes_later_ends_the_wait_for_it(service_engines: Meeting) -> None:
    ours, other = service_engines.open(), service_engines.open()
    client = ours.create_node("client").create_client("/later", BASIC)
    results: list[object] = []
    waiter = threading.Thread(target=lambda: results.append(client.wait_for_service(TIMEOUT)))
    waiter.start()
    server = other.create_node("server").create_server("/later", BASIC)
    waiter.join(TIMEOUT)
    assert results == [True]
    client.send_request(request(1))
    assert server.take_request(TIMEOUT) is not None
    client.close()
    with pytest.raises(TransportError, match="client of /later is closed"):
        client.is_ready()


def test_a_call_to_a_silent_server_times_out(service_engines: Meeting) -> None:
    node = service_engines.open().create_node("both")
    node.create_server("/silent", BASIC)
    client = node.create_client("/silent", BASIC)
    assert client.wait_for_service(TIMEOUT)
    with pytest.raises(CallTimedOut, match=r"/silent has not answered within 0\.05 s"):
        client.call(request(1), 0.05)
    assert client._open == {}


def test_closing_fails_the_calls_that_wait(service_engines: Meeting) -> None:
    arrived = threading.Event()
    node = service_engines.open().create_node("both")
    server = node.create_server("/gone", BASIC)
    client = node.create_client("/gone", BASIC)
    assert client.wait_for_service(TIMEOUT)
    future = client.send_request(request(1))
    server.set_on_request(arrived.set)
    assert arrived.wait(TIMEOUT)
    client.close()
    with pytest.raises(CallFailed, match="client of /gone was closed"):
        future.result(TIMEOUT)
    server.close()
    assert server.take_request(None) is not None  # it came before
    assert server.take_request(None) is None


@pytest.mark.parametrize("what", ["client", "node", "context"])
def test_closing_ends_the_wait_for_a_server(service_engines: Meeting, what: str) -> None:
    context = service_engines.open()
    node = context.create_node("both")
    client = node.create_client("/none", BASIC)
    errors: list[str] = []

    def wait() -> None:
        with pytest.raises(TransportError) as caught:
            client.call(request(1), 10 * TIMEOUT)
        errors.append(str(caught.value))

    waiter = threading.Thread(target=wait, daemon=True)
    waiter.start()
    {"client": client, "node": node, "context": context}[what].close()
    waiter.join(TIMEOUT)
    (error,) = errors
    assert error.endswith("client of /none is closed")


def test_services_are_in_the_graph(service_engines: Meeting) -> None:
    ours, other = service_engines.open(), service_engines.open()
    node = ours.create_node("both", "/robot")
    server = node.create_server("set", BASIC)
    node.create_client("set", BASIC)
    assert other.graph.wait_for(lambda: len(other.graph.endpoints(name="/robot/set")) == 2, TIMEOUT)
    served = other.graph.endpoints(Kind.SERVER, "/robot/set")
    assert [item.type for item in served] == [BASIC.name]
    assert "/robot/set" not in other.graph.topic_names_and_types()
    (seen,) = other.graph.endpoints(Kind.SERVER, "/robot/set")
    assert (seen.node.full, seen.gid) == ("/robot/both", server.gid)
    assert seen.type_hash == (BASIC.hash if other.engine == "zenoh" else "")  # rclpy does not tell it
