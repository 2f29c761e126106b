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
