"""The DDS engine alone: qualities that do not match, services, variables of ROS."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cyclonedds.core import DDSException
from ros_domains import free_domain, give_back
from ros_meeting import BASIC, STRING, Meeting, message, wait_for_match
from waiting import TIMEOUT, wait_until

from dora.errors import ConnectError, TransportError
from dora.ros2.dds import calls, domains, watch
from dora.ros2.dds.context import open_context
from dora.ros2.dds.domains import close_domain, config_from_environment, open_domain
from dora.ros2.dds.entities import NodeEntities, ParticipantEntities, write_entities
from dora.ros2.dds.topics import DdsPublisher, DdsSubscription
from dora.ros2.graph import NodeName
from dora.ros2.qos import SENSOR_DATA, History, Qos

PATHS = [str(Path(__file__).parent), str(Path(__file__).parents[2])]  # of the helpers, for other processes


def test_qualities_that_do_not_match_are_told_with_both_sides(dds_engine: Meeting) -> None:
    ours, other = dds_engine.open(), dds_engine.open()
    lidar = other.create_node("lidar").create_publisher("/scan", STRING, SENSOR_DATA)
    subscription = ours.create_node("map").create_subscription("/scan", STRING)
    fitting = ours.create_node("view").create_subscription("/scan", STRING, SENSOR_DATA)
    wait_for_match(other, "/scan", 1, 2)

    def problems() -> list[str]:
        found: list[str] = ours.graph.problems(subscription.gid, checks_qos=ours.checks_qos)
        return found

    def has_both() -> bool:
        return all(name in "".join(problems()) for name in ("/lidar", "/map"))

    assert ours.graph.wait_for(has_both, TIMEOUT)  # discovery tells of an endpoint before its node
    assert problems() == [
        "no message passes on /scan from publisher /lidar to subscription /map: the publisher offers "
        "reliability best_effort, the subscription requests reliable; set `reliability: best_effort` here"
    ]
    lidar.publish(message(1))
    assert fitting.take(TIMEOUT) is not None
    assert subscription.take() is None


@pytest.mark.parametrize(("configuration", "mask"), [("", 3), ("<CycloneDDS/>", 7)])
def test_cyclone_prints_warnings_only_if_the_user_has_configured_it(
    monkeypatch: pytest.MonkeyPatch, configuration: str, mask: int
) -> None:
    monkeypatch.setenv("CYCLONEDDS_URI", configuration)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    calls._library.dds_set_log_mask(7)  # fatal errors, errors and warnings, as at the start of a process
    domain = free_domain()
    open_domain(domain)
    assert calls._library.dds_get_log_mask() == mask
    close_domain(domain)
    give_back(domain)


def test_services_are_refused_with_the_way_out(dds_engine: Meeting) -> None:
    node = dds_engine.open().create_node("client")
    with pytest.raises(TransportError, match="need the rclpy of a ROS installation"):
        node.create_client("/set", BASIC)
    with pytest.raises(TransportError, match="or take the Zenoh engine"):
        node.create_server("/set", BASIC)


def test_the_network_learns_no_fields_of_a_type(dds_engine: Meeting) -> None:
    from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication

    context = dds_engine.open()
    context.create_node("talker").create_publisher("/chatter", STRING)
    reader = BuiltinDataReader(context.participant, BuiltinTopicDcpsPublication)
    wait_for_match(context, "/chatter", 1, 0)
    found = {sample.topic_name: sample for sample in reader.take(50)}
    assert found["rt/chatter"].type_name == STRING.dds_name
    assert found["rt/chatter"].type_id is None


def test_a_closed_context_has_left_its_domain(dds_engine: Meeting) -> None:
    def resources() -> set[str]:
        """Return the sockets and the threads; what other tests have left may go meanwhile."""
        found = set(os.listdir("/proc/self/task"))
        for descriptor in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # it was open for this list
                found.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        return found

    before = resources()
    context = dds_engine.open()
    publisher = context.create_node("talker").create_publisher("/chatter", STRING)
    opened = resources() - before
    assert any(name.startswith("socket:") for name in opened)
    assert any(name.isdigit() for name in opened)
    context.close()
    assert not opened & resources()
    publisher.close()  # still held


def test_threads_that_open_contexts_share_one_table_of_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2)

    class Slow(tuple[int, ...]):
        def __iter__(self) -> Any:  # both threads are in the middle of it
            both.wait(TIMEOUT)
            return super().__iter__()

    monkeypatch.setattr(calls, "_FIELD_OPERATIONS", Slow(calls._FIELD_OPERATIONS))
    source = (ctypes.c_void_p * calls._OPERATIONS)()
    source[0] = ctypes.cast(calls._library.ddsi_sertype_v0, ctypes.c_void_p).value
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(calls._without_fields(ctypes.addressof(source))))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert len(found) == 2
    assert found[0] is found[1]


def test_a_subscription_that_is_full_holds_up_no_other_one(dds_engine: Meeting) -> None:
    ours, other = dds_engine.open(), dds_engine.open()
    talker, listener = other.create_node("talker"), ours.create_node("listener")
    order: list[str] = []
    publishers, subscriptions = {}, {}
    for topic in ("/much", "/little"):
        subscriptions[topic] = listener.create_subscription(topic, STRING, Qos(history=History.KEEP_ALL))
        publishers[topic] = talker.create_publisher(topic, STRING, Qos(history=History.KEEP_ALL))
        wait_until(publishers[topic].has_subscription, "the subscription")
    begun, filled = threading.Event(), threading.Event()

    def wait() -> None:
        order.append("/much")
        begun.set()
        assert filled.wait(TIMEOUT)

    subscriptions["/much"].set_on_message(wait)
    subscriptions["/little"].set_on_message(lambda: order.append("/little"))
    publishers["/much"].publish(message(0))
    assert begun.wait(TIMEOUT)
    for number in range(500):
        publishers["/much"].publish(message(number))
    publishers["/little"].publish(message(0))
    filled.set()
    wait_until(lambda: len(order) == 502, "all messages")
    assert order.index("/little") < 100


@pytest.mark.parametrize("error", [DDSException(1), TransportError("not known")], ids=str)
def test_a_context_that_cannot_be_opened_leaves_nothing(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def threads() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "dora-ros2-dds"]

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("dora.ros2.dds.context.GraphWatch", fail)
    domain, before = free_domain(), threads()
    try:
        with pytest.raises(ConnectError, match=f"DDS cannot take part in domain {domain}: "):
            open_context(domain)
        assert domain not in domains._domains
        assert threads() == before
        # Cyclone configures a domain only if nobody is in it.
        monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        monkeypatch.delenv("CYCLONEDDS_URI", raising=False)
        open_domain(domain)
        close_domain(domain)
    finally:
        give_back(domain)


def test_what_cannot_be_announced_is_closed(dds_engine: Meeting, monkeypatch: pytest.MonkeyPatch) -> None:
    context = dds_engine.open()
    node = context.create_node("both")
    closed: list[str] = []

    def fail(*_: object, **__: object) -> None:
        raise DDSException(1)

    for kind in (DdsPublisher, DdsSubscription):
        monkeypatch.setattr(
            kind, "_end", lambda endpoint, end=kind._end: (end(endpoint), closed.append(endpoint.name))
        )
    monkeypatch.setattr(context.watch, "announce", fail)
    for number, create in enumerate((node.create_publisher, node.create_subscription)):
        with pytest.raises(TransportError, match="DDS cannot create a"):
            create(f"/chatter{number}", STRING)
    with pytest.raises(TransportError, match="DDS cannot announce node /third"):
        context.create_node("third")
    assert closed == ["/chatter0", "/chatter1"]
    assert list(context.watch._own) == [NodeName("both", "/")]


def test_an_endpoint_that_is_closed_is_announced_no_more(dds_engine: Meeting) -> None:
    context = dds_engine.open()
    node = context.create_node("both")
    for create in (node.create_publisher, node.create_subscription):
        create("/chatter", STRING).close()
    assert context.watch._own == {NodeName("both", "/"): (set(), set())}


def test_nodes_that_cannot_be_read_are_counted_and_the_next_ones_are_in_the_graph(
    dds_engine: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, good = dds_engine.open(), NodeName("good", "/")
    data = write_entities(ParticipantEntities(bytes(16), (NodeEntities(good, (), ()),)))
    info = SimpleNamespace(valid_data=True)
    arrived = [[(b"odd", info), (data, info)]]
    monkeypatch.setattr(watch, "take", lambda _: arrived.pop() if arrived else [])
    context.watch._on_entities()
    assert context.graph.wait_for(lambda: context.graph.nodes() == [good], TIMEOUT)
    assert context.malformed == 1


def test_losses_are_known_after_the_end_of_a_subscription(
    dds_engine: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscription: Any = dds_engine.open().create_node("listener").create_subscription("/chatter", STRING)
    lost = SimpleNamespace(total_count=3)
    monkeypatch.setattr(subscription._reader, "get_sample_lost_status", lambda: lost)
    subscription.close()
    assert subscription.counters.lost == 3


def test_a_domain_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="domain 233 does not exist over DDS"):
        open_context(233)


@pytest.mark.parametrize(
    ("variables", "parts"),
    [
        ({}, None),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}, None),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, ['"127.0.0.1"', '<Peer address="localhost"/>']),
        ({"ROS_LOCALHOST_ONLY": "1"}, ['"127.0.0.1"', '<Peer address="localhost"/>']),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}, ["false</Allow", "none</Part", "<Tag>"]),
        (
            {"ROS_STATIC_PEERS": "10.0.0.1; localhost"},
            ['<Peer address="10.0.0.1"/><Peer address="localhost"/>'],
        ),
        (
            {"ROS_STATIC_PEERS": "10.0.0.1", "ROS_LOCALHOST_ONLY": "1"},
            ['"127.0.0.1"', "autodetermine", '<Peer address="localhost"/><Peer address="10.0.0.1"/>'],
        ),
        ({"ROS_LOCALHOST_ONLY": "1", "CYCLONEDDS_URI": "<CycloneDDS/>"}, None),
    ],
)
def test_variables_of_ros_say_who_is_reached(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], parts: list[str] | None
) -> None:
    names = ("ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOCALHOST_ONLY", "ROS_STATIC_PEERS", "CYCLONEDDS_URI")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config = config_from_environment()
    open_context(free_domain()).close()  # Cyclone accepts it
    if parts is None:
        assert config == ""
    else:
        assert all(part in config for part in parts), config


@pytest.mark.processes
def test_with_discovery_off_no_other_process_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CYCLONEDDS_URI", raising=False)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    domain = free_domain()
    program = (
        f"import sys; sys.path[:0] = {PATHS!r}\n"
        f"from ros_meeting import open_context\ncontext = open_context('dds', {domain})\n"
        "context.create_node(sys.argv[1]); print('ready', flush=True); sys.stdin.read()"
    )

    def start(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, name]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    with start("hidden") as hidden:
        monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        with open_context(domain) as ours, start("shown") as shown:
            assert ours.graph.wait_for(lambda: bool(ours.graph.nodes()), TIMEOUT)
            assert ours.graph.nodes() == [NodeName("shown", "/")]  # which came last
            shown.communicate()
        hidden.communicate()


def test_a_range_without_meaning_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CYCLONEDDS_URI", raising=False)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "WORLD")
    with pytest.raises(ConnectError, match="`ROS_AUTOMATIC_DISCOVERY_RANGE=WORLD` has no meaning"):
        open_context(1)


def test_a_peer_that_is_not_known_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CYCLONEDDS_URI", raising=False)
    monkeypatch.setenv("ROS_STATIC_PEERS", "no-such-machine.invalid")
    with pytest.raises(
        ConnectError, match=r"`no-such-machine\.invalid` in \$ROS_STATIC_PEERS is no machine"
    ):
        open_context(1)
