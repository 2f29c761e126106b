"""The graph of ROS tells what does not meet, and wakes who waits for a change."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from waiting import TIMEOUT, wait_until

from dora.ros2.graph import Endpoint, Kind, NodeName, RosGraph

ARM = NodeName("arm", "/")


def test_an_endpoint_without_an_id_is_not_taken_for_another_one() -> None:
    def service(kind: Kind, node: str, type: str) -> Endpoint:
        return Endpoint(kind, NodeName(node, "/"), "/set", type, "", b"", None)

    graph = RosGraph()
    client, server = service(Kind.CLIENT, "a", "x/srv/A"), service(Kind.SERVER, "b", "x/srv/B")
    graph.update(endpoints=[(1, client), (2, server)])
    assert graph.problems(b"", checks_qos=False) == []


def test_a_server_whose_hash_is_not_known_is_one_of_the_type() -> None:
    graph = RosGraph()
    graph.update(endpoints=[(1, Endpoint(Kind.SERVER, ARM, "/set", "x/srv/A", "", b"1", None))])
    assert graph.has_server("/set", "x/srv/A", "RIHS01_1")
    graph.update(endpoints=[(1, Endpoint(Kind.SERVER, ARM, "/set", "x/srv/A", "RIHS01_2", b"1", None))])
    assert not graph.has_server("/set", "x/srv/A", "RIHS01_1")
    assert graph.has_server("/set", "x/srv/A", "")


def test_a_client_and_a_server_of_two_types_are_told_and_two_clients_are_not() -> None:
    graph = RosGraph()
    sides = ((b"1", Kind.CLIENT, "x/srv/A"), (b"2", Kind.SERVER, "x/srv/B"), (b"3", Kind.CLIENT, "x/srv/B"))
    for gid, kind, type in sides:
        entry = Endpoint(kind, NodeName(f"node{gid.decode()}", "/"), "/set", type, "", gid, None)
        graph.update(endpoints=[(gid, entry)])
    assert graph.problems(b"1", checks_qos=False) == [
        "client /node1 and server /node2 do not meet on /set: the first one's type is x/srv/A, the other "
        "one's x/srv/B"
    ]
    assert graph.problems(b"3", checks_qos=False) == []
    assert len(graph.problems(b"2", checks_qos=False)) == 1


def test_endpoints_are_found_by_their_node() -> None:
    graph = RosGraph()
    for number, node in enumerate((ARM, NodeName("arm", "/robot"))):
        entry = Endpoint(Kind.PUBLISHER, node, "/state", "x/msg/A", "", bytes([number]), None)
        graph.update(endpoints=[(number, entry)])
    assert [item.gid for item in graph.endpoints(node=ARM)] == [b"\0"]


def test_a_change_while_the_condition_is_asked_is_not_missed() -> None:
    graph = RosGraph()

    def condition() -> bool:
        was_there = bool(graph.nodes())
        if not was_there:
            graph.update(nodes=[(1, ARM)])  # just after the look
        return was_there

    assert graph.wait_for(condition, TIMEOUT)


@pytest.mark.parametrize("how", ["update", "replace", "wake", "close"])
def test_who_waits_asks_again_after_each_change_until_the_end(how: str) -> None:
    graph = RosGraph()
    changes: Any = {
        "update": lambda: graph.update(nodes=[(1, ARM)]),
        "replace": lambda: graph.replace({1: ARM}, {}),
        "wake": graph.wake,
        "close": graph.close,
    }
    is_true = threading.Event()
    asked, found = list[bool](), list[bool]()

    def condition() -> bool:
        asked.append(is_true.is_set())
        return asked[-1]

    waiting = threading.Thread(target=lambda: found.append(graph.wait_for(condition, None)), daemon=True)
    waiting.start()
    wait_until(lambda: asked, "the first question")
    is_true.set()
    changes[how]()
    waiting.join(TIMEOUT)
    assert found == [how != "close"]
    assert asked == ([False] if how == "close" else [False, True])


def test_a_graph_that_is_replaced_by_an_equal_one_has_not_changed() -> None:
    graph, rings = RosGraph(), list[int]()
    graph.set_on_change(lambda: rings.append(1))
    for _ in range(2):
        graph.replace({1: ARM}, {})
    assert rings == [1]
