"""The topics of a ROS domain, with the nodes on both sides."""

from __future__ import annotations

from typing import Final, NamedTuple

from dora.ros2.choose import choose, open_context
from dora.ros2.graph import UNKNOWN_NODE, Kind, RosGraph

_DISCOVERY: Final = 2.0  # seconds that other nodes have to answer; `ros2 topic list` takes as long
_NAMES: Final = 5.0  # seconds; Fast DDS repeats the names of its nodes every 3 s


class RosTopicEntry(NamedTuple):
    """One topic. A topic with several types is one that somebody has got wrong."""

    name: str
    types: list[str]
    publishers: list[str]  # full names of nodes
    subscribers: list[str]


def topics_of_domain(domain_id: int) -> list[RosTopicEntry]:
    """Take part in a domain for two seconds, and return its topics by name; raises `ConnectError`."""
    with open_context(choose(), domain_id) as context:
        # Nothing says that the graph is complete: the condition only lets it come in.
        context.graph.wait_for(lambda: False, _DISCOVERY)
        # Over DDS, the names of nodes come after their topics; some nodes never tell.
        context.graph.wait_for(lambda: not context.graph.endpoints(node=UNKNOWN_NODE), _NAMES)
        return entries_of(context.graph)


def entries_of(graph: RosGraph) -> list[RosTopicEntry]:
    """Return the topics of a graph by name."""

    def nodes(kind: Kind, name: str) -> list[str]:
        return sorted({item.node.full for item in graph.endpoints(kind, name)})

    return [
        RosTopicEntry(name, types, nodes(Kind.PUBLISHER, name), nodes(Kind.SUBSCRIPTION, name))
        for name, types in graph.topic_names_and_types().items()
    ]
