"""The life of contexts and nodes, which is the same with every engine."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

from dora.errors import TransportError
from dora.ros2.graph import NodeName, RosGraph
from dora.ros2.names import check_namespace, check_node_name, resolve
from dora.transport.forking import disown_after_fork, leak, refuse

N = TypeVar("N", bound="OpenNode")


# Both are plain classes: `leave_to_parent` gives their objects another class, and objects of an abstract or
# a generic class cannot have one.


class OpenContext:
    """Makes nodes until it is closed, at the latest at the end of the process."""

    def __init__(self, domain_id: int) -> None:
        self.domain_id = domain_id
        self.graph = RosGraph()
        self.nodes: set[Any] = set()  # those that are open
        self._lock = threading.RLock()
        self._closed = False

    def _begin(self) -> None:
        """Close the context when the process ends, and never in a child that was forked from it.

        Threads of engines call Python. In an interpreter that has ended, that aborts the process.
        """
        atexit.register(self.close)
        disown_after_fork(self)

    def _end(self) -> None:
        """Close what the engine has; `_close_nodes` is a part of it."""

    def _add_node(self, name: str, namespace: str, make: Callable[[NodeName], N]) -> N:
        """Do what `dora.ros2.engine.RosContext.create_node` says; ``make`` makes the node."""
        node = NodeName(check_node_name(name), check_namespace(namespace))
        with self._lock:
            if self._closed:
                raise TransportError("the ROS context is closed")
            created = make(node)
            self.nodes.add(created)
        return created

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self.close)
        self._end()

    def _close_nodes(self) -> None:
        for node in list(self.nodes):
            node.close()
        self.graph.close()

    def disown(self) -> None:
        """Leave everything to the parent, in a forked child process."""
        atexit.unregister(self.close)
        leave_to_parent(self, self.nodes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class OpenNode:
    """Makes endpoints until it is closed, which closes them, too."""

    def __init__(self, context: OpenContext, node: NodeName) -> None:
        self.name, self.namespace = node.name, node.namespace
        self._node = node
        self._nodes = context.nodes
        self._endpoints: set[Any] = set()  # those that are open
        self._closed = False

    def _end(self) -> None:
        """Leave the graph; the endpoints are closed."""

    def _full_name(self, name: str) -> str:
        """Return the full name of a topic or service.

        Raises `TransportError` after `close`, and ``ValueError`` for a name that ROS does not have.
        """
        if self._closed:
            raise TransportError(f"node {self._node.full} is closed")
        return resolve(name, self.name, self.namespace)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for endpoint in list(self._endpoints):
            endpoint.close()
        self._end()
        self._nodes.discard(self)


class _OfTheParent:
    """An object of the parent process, in a child that was forked from it: only `close` has no error.

    The child has no thread of the engine. So a call into the engine may wait for ever there, and the parent
    would lose what the child closes. See `dora.transport.forking`.
    """

    def __getattr__(self, name: str) -> NoReturn:
        refuse()

    def __enter__(self) -> NoReturn:
        refuse()

    def __exit__(self, *error: object) -> None:
        """Do nothing: the context goes on in the parent."""

    def close(self) -> None:
        """Do nothing: the parent closes it."""


def leave_to_parent(context: Any, nodes: Iterable[Any]) -> None:
    """Turn a context, its graph, its nodes and their endpoints into objects that refuse, and keep them."""
    things = [context, context.graph]
    for node in nodes:
        things += [node, *node._endpoints]
    leak(*things)
    for thing in things:
        thing.__class__ = _OfTheParent  # its methods take locks that a thread of the parent may hold
