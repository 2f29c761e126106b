"""Parameters of a node with a `ros2` block, which are parameters of its ROS node.

The dataflow keeps the values. A change in ROS is checked here, in the thread that answers ROS, and sent to
the daemon; a change in the dataflow comes as an event.

A mapping becomes one parameter of ROS for each of its values, with dots in the name, as in the parameter
files of ROS: `limits: {low: -1}` is `limits.low`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from dora.dataflow.names import parameter_fault
from dora.errors import DaemonLost
from dora.node.events import ParamDeleted, ParamUpdate
from dora.node.node import Node
from dora.ros2.api.parameters import SIM_TIME, ParameterError, RosParameters

Path = tuple[str, ...]
"""The key of a parameter of dora, and the keys in the mappings that are its value."""


class BridgeParameters:
    """Keeps the parameters of both sides equal."""

    def __init__(self, node: Node, warn: Callable[[str], None]) -> None:
        """``warn`` is told of each value that ROS does not have."""
        self._node = node
        self._values: dict[str, Any] = {}
        self._paths: dict[str, Path] = {SIM_TIME: (SIM_TIME,)}  # by the name in ROS
        # Values that this side has set and that have not come back, by key; oldest first.
        self._sent: dict[str, deque[Any]] = {}
        self._warn = warn
        self.ros = RosParameters({})
        # For the values of dora and their names, too: the thread that answers ROS sets them, and the thread
        # of the node takes over changes. With a lock of its own, each of the two could wait for the other.
        self._lock = self.ros.changing
        for key, value in node.parameters.items():
            self._take(key, value)
        self.ros.on_set = self._on_set

    def _take(self, key: str, value: Any, gone: Iterable[str] = ()) -> None:
        """Take over a value of dora; ``gone``: names in ROS that it had before."""
        self._values[key] = value
        found = {}
        for path, item in leaves((key,), value):
            name = ".".join(path)
            if name in self._paths and self._paths[name] != path:
                self._warn(f"not in ROS: parameter `{name}` is there twice, as one key and in a mapping")
                continue
            self._paths[name] = path
            found[name] = item
        for problem in self.ros.take_over(found, set(gone) - found.keys()):
            self._warn(f"not in ROS: {problem}")

    # ---------------------------------------------------------------- from ROS

    def _on_set(self, changes: Mapping[str, Any]) -> None:
        """Check values for dora, and send them; raises `ParameterError`, and then sends none."""
        changed: dict[str, Any] = {}
        with self._lock:
            for name, value in changes.items():
                if isinstance(value, bytes):
                    raise ParameterError(
                        f"parameter `{name}` cannot become bytes, which dora does not have"
                    )
                if name not in self._paths:
                    raise ParameterError(f"parameter `{name}` was removed")
                key, *inner = self._paths[name]
                changed[key] = with_leaf(changed.get(key, self._values.get(key)), inner, value)
            for key, value in changed.items():
                if fault := parameter_fault(key, value):
                    raise ParameterError(fault)
            for key, value in changed.items():
                self._values[key] = value
                self._sent.setdefault(key, deque()).append(value)
            try:  # under the lock: the daemon gets the values in the order that `_sent` has
                self._node.set_parameters(changed)
            except DaemonLost as error:
                raise ParameterError(f"the dataflow has ended: {error}") from error

    # ---------------------------------------------------------------- from dora

    def handle(self, event: ParamUpdate | ParamDeleted) -> None:
        """Take over a change of the dataflow."""
        key = event["id"]
        value = event["value"] if isinstance(event, ParamUpdate) else None
        with self._lock:
            if waiting := self._sent.get(key):
                # The daemon puts all changes in order. The newest one of this side comes after this event.
                if isinstance(event, ParamUpdate) and waiting[0] == value:
                    waiting.popleft()
                return
            names = {name for name, path in self._paths.items() if path[0] == key}
            for name in names - {SIM_TIME}:
                del self._paths[name]
            if isinstance(event, ParamUpdate):
                self._take(key, value, names)
            else:
                self._values.pop(key, None)
                self.ros.take_over({}, names)


def leaves(path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
    """Yield what is no mapping in a value, with the keys that lead to it.

    >>> list(leaves(("limits",), {"low": -1, "high": {"soft": 1}}))
    [(('limits', 'low'), -1), (('limits', 'high', 'soft'), 1)]
    """
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves((*path, key), item)
    else:
        yield path, value


def with_leaf(value: Any, path: list[str], leaf: Any) -> Any:
    """Return a copy of a value in which one leaf is another one.

    >>> with_leaf({"low": -1, "high": {"soft": 1}}, ["high", "soft"], 2)
    {'low': -1, 'high': {'soft': 2}}
    """
    if not path:
        return leaf
    return {**value, path[0]: with_leaf(value[path[0]], path[1:], leaf)}
