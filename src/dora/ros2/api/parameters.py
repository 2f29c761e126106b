"""RosParameters of a ROS node: kept here, and served as ROS nodes do it, where the engine has services."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from dora.errors import DoraError, TransportError
from dora.ros2.qos import PARAMETERS
from dora.ros2.types.errors import MalformedMessage

if TYPE_CHECKING:
    from dora.ros2.api.reports import DroppedMessages
    from dora.ros2.engine import RosNode, RosPublisher, ServiceServer
    from dora.ros2.types.library import InterfaceLibrary
    from dora.ros2.types.message_type import ServiceType

__all__ = ["ParameterError", "ParameterValue", "RosParameters"]

ParameterValue = (
    bool | int | float | str | bytes | Sequence[bool] | Sequence[int] | Sequence[float] | Sequence[str]
)

SIM_TIME: Final = "use_sim_time"  # every node of ROS has it

# Number of a type in rcl_interfaces/msg/ParameterType → field of its values, and the type in words.
_TYPES: Final = {
    1: ("bool_value", "a bool"),
    2: ("integer_value", "an int"),
    3: ("double_value", "a float"),
    4: ("string_value", "a text"),
    5: ("byte_array_value", "bytes"),
    6: ("bool_array_value", "a list of bool"),
    7: ("integer_array_value", "a list of int"),
    8: ("double_array_value", "a list of float"),
    9: ("string_array_value", "a list of texts"),
}
_NOT_SET: Final = 0
_BYTES: Final = 5
_LISTS: Final = 5  # the number of a list is the number of its items and this
_SCALARS: Final[tuple[tuple[type, int], ...]] = ((bool, 1), (int, 2), (float, 3), (str, 4))
_INT64: Final = 1 << 63

Record = dict[str, Any]


class ParameterError(DoraError):
    """A parameter is not declared, or cannot have this value."""


class RosParameters:
    """The parameters of a node, by name. Safe from any thread."""

    def __init__(self, declared: Mapping[str, ParameterValue]) -> None:
        """Raises `ParameterError` for a value that ROS does not have."""
        if SIM_TIME in declared:
            raise ParameterError(f"every ROS node has the parameter `{SIM_TIME}`; it cannot be declared")
        self._lock = threading.Lock()
        self._values: dict[str, Any] = {name: _plain(name, value) for name, value in declared.items()}
        self._values[SIM_TIME] = False
        self._types = {name: type_of(name, value) for name, value in self._values.items()}
        self._server: _ParameterServer | None = None

    def serve(self, node: RosNode, library: InterfaceLibrary, dropped: DroppedMessages) -> None:
        """Serve the parameters to other nodes, which may get and set them."""
        self._server = _ParameterServer(self, node, library, dropped)
        self._server.tell("new_parameters", self.names())

    def names(self) -> list[str]:
        with self._lock:
            return sorted(self._values)

    def get(self, name: str) -> Any:
        """Return a value; None if it is not declared."""
        with self._lock:
            value = self._values.get(name)
        return list(value) if isinstance(value, list) else value

    def type(self, name: str) -> int:
        """Return the number of a type; 0 if it is not declared."""
        return self._types.get(name, _NOT_SET)

    def set(self, name: str, value: Any) -> None:
        """Change a value; raises `ParameterError` if it is not declared or has another type."""
        self.set_all({name: value})

    def set_all(self, values: Mapping[str, Any]) -> None:
        """Change values, or none of them: raises as `set` does."""
        found = {name: self._checked(name, value) for name, value in values.items()}
        with self._lock:
            self._values.update(found)
        if self._server is not None:
            self._server.tell("changed_parameters", list(found))

    def _checked(self, name: str, value: Any) -> Any:
        declared = self._types.get(name)
        if declared is None:
            raise ParameterError(f"there is no parameter `{name}`; it has to be declared with the node")
        plain = _plain(name, value)
        empty = plain == [] and declared > _BYTES
        if not empty and (got := type_of(name, plain)) != declared:
            raise ParameterError(
                f"parameter `{name}` is {_TYPES[declared][1]}, and cannot become {_TYPES[got][1]}"
            )
        if name == SIM_TIME and plain:
            raise ParameterError(
                f"parameter `{SIM_TIME}` stays false: nodes here have the time of their system"
            )
        return plain

    def close(self) -> None:
        """Serve them no more."""
        server, self._server = self._server, None
        if server is not None:
            server.close()


def type_of(name: str, value: Any) -> int:
    """Return the number of the type of a value; raises `ParameterError` if ROS has none."""
    if isinstance(value, bytes):
        return _BYTES
    if isinstance(value, list):
        found = {next((number for kind, number in _SCALARS if type(item) is kind), 0) for item in value}
        if len(found) == 1 and (number := found.pop()):
            return number + _LISTS
        what = "an empty list has no type" if not value else "the items of a list have the same type"
        raise ParameterError(f"parameter `{name}`: {what}, which is bool, int, float or str")
    for kind, number in _SCALARS:
        if type(value) is kind:
            return number
    raise ParameterError(
        f"parameter `{name}` is a {type(value).__name__}; ROS has bool, int, float, str, bytes, and lists "
        "of the first four"
    )


def _plain(name: str, value: Any) -> Any:
    """Return a value as it is kept: lists are lists, bytes are bytes."""
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        value = list(value)
    for item in value if isinstance(value, list) else [value]:
        if type(item) is int and not -_INT64 <= item < _INT64:
            raise ParameterError(f"parameter `{name}`: {item} does not fit into 64 bits")
    return value


def record_of(type: int, value: Any) -> Record:
    """Return a value as rcl_interfaces/msg/ParameterValue has it."""
    return {"type": type, _TYPES[type][0]: value} if type else {"type": _NOT_SET}


def value_of(record: Record) -> Any:
    """Return the value of an rcl_interfaces/msg/ParameterValue; raises `ParameterError`."""
    number = record["type"]
    if number not in _TYPES:
        raise ParameterError("a parameter cannot be removed")
    value = record[_TYPES[number][0]]
    return bytes(value) if number == _BYTES else value


class _ParameterServer:
    """The six services of parameters, and the topic of their changes; one thread answers."""

    def __init__(
        self, parameters: RosParameters, node: RosNode, library: InterfaceLibrary, dropped: DroppedMessages
    ) -> None:
        self._parameters = parameters
        self._dropped = dropped
        self._closed = False
        self._node = node
        self._event = library.message("rcl_interfaces/ParameterEvent")
        self._events: RosPublisher = node.create_publisher("/parameter_events", self._event, PARAMETERS)
        self._rung: queue.SimpleQueue[ServiceServer | None] = queue.SimpleQueue()
        self._answers: dict[int, tuple[ServiceType, Callable[[Record], Record]]] = {}
        self._servers: list[ServiceServer] = []
        answers: dict[str, Callable[[Record], Record]] = {
            "GetParameters": self._get,
            "SetParameters": self._set,
            "SetParametersAtomically": self._set_together,
            "ListParameters": self._list,
            "DescribeParameters": self._describe,
            "GetParameterTypes": self._get_types,
        }
        for name, answer in answers.items():
            type = library.service(f"rcl_interfaces/{name}")
            server = node.create_server(f"~/{_snake(name)}", type, PARAMETERS)
            self._servers.append(server)
            self._answers[id(server)] = type, answer
            server.set_on_request(partial(self._rung.put, server))
        threading.Thread(target=self._run, name="dora-ros2-parameters", daemon=True).start()

    def tell(self, field: str, names: Sequence[str]) -> None:
        """Publish that parameters are there or have changed."""
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        namespace = self._node.namespace.rstrip("/")
        changes = [{"name": name, "value": self._record(name)} for name in names]
        event = {
            "stamp": {"sec": seconds, "nanosec": nanoseconds},
            "node": f"{namespace}/{self._node.name}",
            field: changes,
        }
        try:
            self._events.publish(self._event.encode(event))
        except TransportError:
            pass  # the node is about to close

    def close(self) -> None:
        self._closed = True
        self._rung.put(None)
        for server in self._servers:
            server.close()

    def _run(self) -> None:
        while (server := self._rung.get()) is not None:
            while not self._closed and (request := server.take_request(0)) is not None:
                type, answer = self._answers[id(server)]
                try:
                    asked: Any = type.request.decode(request.data)[0].as_py()
                    server.send_response(request.id, type.response.encode(answer(asked)))
                except MalformedMessage as error:
                    server.counters.malformed += 1
                    self._dropped.add(str(error))
                except TransportError as error:  # this client has gone; others come
                    self._dropped.add(str(error))

    def _record(self, name: str) -> Record:
        return record_of(self._parameters.type(name), self._parameters.get(name))

    def _get(self, asked: Record) -> Record:
        return {"values": [self._record(name) for name in asked["names"]]}

    def _get_types(self, asked: Record) -> Record:
        return {"types": [self._parameters.type(name) for name in asked["names"]]}

    def _describe(self, asked: Record) -> Record:
        return {
            "descriptors": [{"name": name, "type": self._parameters.type(name)} for name in asked["names"]]
        }

    def _list(self, asked: Record) -> Record:
        names = list_names(self._parameters.names(), asked["prefixes"], asked["depth"])
        prefixes = sorted({name.rpartition(".")[0] for name in names if "." in name})
        return {"result": {"names": names, "prefixes": prefixes}}

    def _set(self, asked: Record) -> Record:
        return {"results": [self._try([item]) for item in asked["parameters"]]}

    def _set_together(self, asked: Record) -> Record:
        return {"result": self._try(list(asked["parameters"]))}

    def _try(self, items: Sequence[Record]) -> Record:
        try:
            self._parameters.set_all({item["name"]: value_of(item["value"]) for item in items})
        except ParameterError as error:
            return {"successful": False, "reason": str(error)}
        return {"successful": True, "reason": ""}


def list_names(names: Sequence[str], prefixes: Sequence[str], depth: int) -> list[str]:
    """Return the names below prefixes (none: all), at most ``depth`` dots deeper (0: however deep).

    >>> list_names(["a", "arm.speed", "arm.joint.gain"], ["arm"], 1)
    ['arm.speed']
    """
    found = []
    for name in names:
        if not prefixes:
            deeper = name.count(".") + 1
            matches = True
        else:
            below = [prefix for prefix in prefixes if name == prefix or name.startswith(prefix + ".")]
            matches = bool(below)
            deeper = min((name[len(prefix) :].count(".") for prefix in below), default=0)
        if matches and (depth == 0 or deeper <= depth):
            found.append(name)
    return found


def _snake(name: str) -> str:
    """Return the name of a service for its type.

    >>> _snake("GetParameterTypes")
    'get_parameter_types'
    """
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
