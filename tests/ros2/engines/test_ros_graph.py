"""The graph of ROS tells what does not meet."""

from __future__ import annotations

from dora.ros2.graph import Endpoint, Kind, NodeName, RosGraph


def test_an_endpoint_without_an_id_is_not_taken_for_another_one() -> None:
    def service(kind: Kind, node: str, type: str) -> Endpoint:
        return Endpoint(kind, NodeName(node, "/"), "/set", type, "", b"", None)

    graph = RosGraph()
    client, server = service(Kind.CLIENT, "a", "x/srv/A"), service(Kind.SERVER, "b", "x/srv/B")
    graph.update(endpoints=[(1, client), (2, server)])
    assert graph.problems(b"", checks_qos=False) == []
