"""The ROS graph as a context sees it: nodes, and who publishes, subscribes, calls and serves what."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from dora.ros2.message_queue import ring
from dora.ros2.names import full_node_name
from dora.ros2.qos import Qos, explain


class Kind(Enum):
    """The work of an endpoint."""

    PUBLISHER = "publisher"
    SUBSCRIPTION = "subscription"
    SERVER = "server"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class NodeName:
    """A node of the graph."""

    name: str
    namespace: str

    @property
    def full(self) -> str:
        """The name with the namespace: ``/robot/talker``."""
        return full_node_name(self.name, self.namespace)


UNKNOWN_NODE = NodeName("_NODE_NAME_UNKNOWN_", "_NODE_NAMESPACE_UNKNOWN_")  # as rclpy names it


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One publisher, subscription, server or client.

    ``type`` is the ROS name, ``std_msgs/msg/String``. ``type_hash`` is empty and ``qos`` None where the
    other side does not tell.
    """

    kind: Kind
    node: NodeName
    name: str  # of the topic or service, in full
    type: str
    type_hash: str
    gid: bytes
    qos: Qos | None


class RosGraph:
    """The nodes and endpoints of a domain, which an engine keeps up to date. Safe from any thread.

    Its methods tell what is known now. Just after the start, and after a change elsewhere, that may be less
    than there is: `wait_for` waits.
    """

    def __init__(self) -> None:
        self._nodes: dict[object, NodeName] = {}
        self._endpoints: dict[object, Endpoint] = {}
        # Threads of the engine change the graph, threads of the program read it and wait for changes.
        self._changed = threading.Condition(threading.Lock())
        self._on_change: Callable[[], None] | None = None
        self._version = 0  # counts the changes
        self.malformed = 0  # how much came over the network for it and could not be read
        self.closed = False

    # ------------------------------------------------------------------ what an engine does

    def update(
        self,
        nodes: Iterable[tuple[object, NodeName]] = (),
        endpoints: Iterable[tuple[object, Endpoint]] = (),
        gone: Iterable[object] = (),
    ) -> None:
        """Add and remove entries; a key identifies an entry for the engine."""
        with self._changed:
            for key in gone:
                self._nodes.pop(key, None)
                self._endpoints.pop(key, None)
            self._nodes.update(nodes)
            self._endpoints.update(endpoints)
            self._version += 1
            self._changed.notify_all()
        ring(self._on_change)  # outside the lock, which the methods that it may call take

    def replace(self, nodes: dict[object, NodeName], endpoints: dict[object, Endpoint]) -> None:
        """Set the whole graph; nobody is told if nothing has changed."""
        with self._changed:
            if nodes == self._nodes and endpoints == self._endpoints:
                return
            self._nodes, self._endpoints = nodes, endpoints
            self._version += 1
            self._changed.notify_all()
        ring(self._on_change)

    def wake(self) -> None:
        """Wake all that wait; each asks its condition again."""
        with self._changed:
            self._version += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Wake all that wait; nothing changes any more."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    # ------------------------------------------------------------------ what a program asks

    def set_on_change(self, callback: Callable[[], None] | None) -> None:
        """Set what a thread of the engine calls after each change; it must not block."""
        self._on_change = callback

    def wait_for(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until a condition on this graph is true, at most ``timeout`` seconds; return whether it is.

        The condition is asked again after each change, and may use every method of the graph.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            before = self._version  # before the condition: a change while it is asked is not missed
            if condition():  # without the lock, which the methods of the graph take
                return True
            with self._changed:
                while before == self._version and not self.closed:
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        return False
                    self._changed.wait(left)
                if self.closed:
                    return False

    def nodes(self) -> list[NodeName]:
        """Return the nodes by name; a name that two nodes have is there twice."""
        with self._changed:
            return sorted(self._nodes.values(), key=lambda node: node.full)

    def endpoints(
        self, kind: Kind | None = None, name: str | None = None, node: NodeName | None = None
    ) -> list[Endpoint]:
        """Return the endpoints of a kind, of a topic or service, and of a node."""
        with self._changed:
            found = list(self._endpoints.values())
        return [
            item
            for item in found
            if kind in (None, item.kind) and name in (None, item.name) and node in (None, item.node)
        ]

    def topic_names_and_types(self) -> dict[str, list[str]]:
        """Return the types of each topic that somebody publishes or subscribes to, by name."""
        found: dict[str, set[str]] = {}
        for item in self.endpoints():
            if item.kind in (Kind.PUBLISHER, Kind.SUBSCRIPTION):
                found.setdefault(item.name, set()).add(item.type)
        return {name: sorted(types) for name, types in sorted(found.items())}

    def has_server(self, service: str, type_name: str, type_hash: str) -> bool:
        """Return whether a service of this type is served. Hashes that are not known count as equal."""
        return any(
            item.type == type_name and (not type_hash or item.type_hash in ("", type_hash))
            for item in self.endpoints(Kind.SERVER, service)
        )

    def problems(self, gid: bytes, *, checks_qos: bool) -> list[str]:
        """Return a sentence for each endpoint on the same topic or service that does not meet this one.

        The types or their definitions differ, or, if ``checks_qos``, the qualities of service do not match.
        An endpoint without an id has no problems.
        """
        if not gid:  # rclpy names neither clients nor servers
            return []
        ours = next((item for item in self.endpoints() if item.gid == gid), None)
        if ours is None:
            return []
        others = self.endpoints(_COUNTERPART[ours.kind], ours.name)
        found = (_problem(ours, other, checks_qos=checks_qos) for other in others)
        return sorted({problem for problem in found if problem is not None})


_COUNTERPART = {
    Kind.PUBLISHER: Kind.SUBSCRIPTION,
    Kind.SUBSCRIPTION: Kind.PUBLISHER,
    Kind.SERVER: Kind.CLIENT,
    Kind.CLIENT: Kind.SERVER,
}


def _problem(ours: Endpoint, other: Endpoint, *, checks_qos: bool) -> str | None:
    sides = f"{ours.kind.value} {ours.node.full} and {other.kind.value} {other.node.full}"
    if ours.type != other.type:
        return (
            f"{sides} do not meet on {ours.name}: the first one's type is {ours.type}, "
            f"the other one's {other.type}"
        )
    if ours.type_hash and other.type_hash and ours.type_hash != other.type_hash:
        return (
            f"{sides} do not meet on {ours.name}: they have different definitions of {ours.type} "
            f"({ours.type_hash} and {other.type_hash})"
        )
    if not checks_qos or ours.qos is None or other.qos is None:
        return None
    if ours.kind is Kind.PUBLISHER:
        return explain(ours.name, ours.node.full, ours.qos, other.node.full, other.qos, ours=ours.node.full)
    if ours.kind is Kind.SUBSCRIPTION:
        return explain(ours.name, other.node.full, other.qos, ours.node.full, ours.qos, ours=ours.node.full)
    return None
