"""Parameters of a ROS node: kept here, and served as ROS nodes do it, where the engine has services."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from dora.errors import DoraError, TransportError, UnsupportedData
from dora.ros2.api.answers import AnswerThread
from dora.ros2.api.clock import stamp_of
from dora.ros2.names import full_node_name
from dora.ros2.qos import PARAMETERS

if TYPE_CHECKING:
    from dora.ros2.api.reports import DroppedMessages
    from dora.ros2.engine import RequestId, RosNode, RosPublisher
    from dora.ros2.types.library import InterfaceLibrary

__all__ = ["ParameterError", "ParameterValue", "RosParameters"]

ParameterValue = (
    bool
    | int
    | float
    | str
    | bytes
    | Sequence[bool]
    | Sequence[int]
    | Sequence[float]
    | Sequence[str]
    | None
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
_NOT_SET, _BOOL, _DOUBLE, _BYTES = 0, 1, 3, 5
_LISTS: Final = 5  # the number of a list is the number of its items and this
_SCALARS: Final[tuple[tuple[type, int], ...]] = ((bool, 1), (int, 2), (float, 3), (str, 4))
_INT64: Final = 1 << 63

Record = dict[str, Any]


class ParameterError(DoraError):
    """A parameter is not declared, or cannot have this value."""


class RosParameters:
    """The parameters of a node, by name. Safe from any thread."""

    def __init__(self, declared: Mapping[str, ParameterValue]) -> None:
        """Raises `ParameterError` for a value that ROS does not have.

        ``None`` is a value without a type: the parameter may become anything.
        """
        self.any_declared = bool(declared)
        # Threads of the program, and the one that answers other nodes.
        self._lock = threading.Lock()  # of the values, for a moment: those who read wait for no change
        # A change is one step, with what `on_set` and `follow` do: else one that comes between `on_set` and
        # the new values would be lost. An `on_set` that needs a lock takes this one: with two locks, two
        # threads could wait for each other.
        self.changing = threading.RLock()
        self._values: dict[str, Any] = {SIM_TIME: False}
        self._types: dict[str, int] = {SIM_TIME: _BOOL}  # as they were declared
        for name, value in declared.items():
            self._values[name] = plain = _plain(name, value)
            self._types[name] = type_of(name, plain)
        _check_sim_time(self._types[SIM_TIME])
        self._server: _ParameterServer | None = None
        # Called with values that were checked and not yet set; it may refuse them with a `ParameterError`.
        self.on_set: Callable[[Mapping[str, Any]], None] = _ignore
        self._follow: Callable[[bool], None] = _ignore

    def follow(self, sim_time: Callable[[bool], None]) -> None:
        """Call a function with the value of `use_sim_time`, now and before each change; it may raise
        `TransportError`."""
        self._follow = sim_time
        sim_time(self._values[SIM_TIME])

    def serve(
        self, node: RosNode, library: InterfaceLibrary, now: Callable[[], int], dropped: DroppedMessages
    ) -> None:
        """Serve the parameters to other nodes, which may get and set them.

        ``now``: the time of the node, in nanoseconds.
        """
        self._server = _ParameterServer(self, node, library, now, dropped)
        self._server.tell(new_parameters=self.names())

    def names(self) -> list[str]:
        with self._lock:
            return sorted(self._values)

    def get(self, name: str) -> Any:
        """Return a value; None if it is not declared."""
        with self._lock:
            value = self._values.get(name)
        return list(value) if isinstance(value, list) else value

    def type(self, name: str) -> int:
        """Return the number of a type; 0 if the parameter is not declared, or has no value."""
        return self._types.get(name, _NOT_SET) or type_of(name, self.get(name))

    def may_become_anything(self, name: str) -> bool:
        """Return whether a parameter is declared without a type."""
        return self._types.get(name) == _NOT_SET

    def set(self, name: str, value: Any) -> None:
        """Change a value; raises `ParameterError` if it is not declared or has another type."""
        self.set_all({name: value})

    def set_all(self, values: Mapping[str, Any]) -> None:
        """Change values, or none of them: raises as `set` does."""
        with self.changing:
            found = {name: self._checked(name, value) for name, value in values.items()}
            before = self._values[SIM_TIME]
            if SIM_TIME in found:
                self._follow_sim_time(found[SIM_TIME])
            try:
                self.on_set(found)  # last: what it tells others cannot be taken back
            except BaseException:
                if SIM_TIME in found:
                    self._follow_sim_time(before)
                raise
            with self._lock:
                self._values.update(found)
        if self._server is not None:
            self._server.tell(changed_parameters=list(found))  # after the change: it reads the values

    def take_over(self, values: Mapping[str, Any], gone: Iterable[str] = ()) -> list[str]:
        """Take values that were decided elsewhere; return why some of them are left out.

        Names may be new, and types others than declared. ``gone``: names that are not there any more. A
        value that ROS does not have is gone, too. Whole numbers among floats, or for a parameter that is a
        float, become floats.
        """
        with self.changing:
            return self._take_over(values, gone)

    def _take_over(self, values: Mapping[str, Any], gone: Iterable[str]) -> list[str]:
        self.any_declared |= bool(values)
        found: dict[str, Any] = {}
        types: dict[str, int] = {}
        gone, problems = set(gone), []
        for name, value in values.items():
            declared = self._types.get(name)
            try:
                plain = found[name] = _numbers_alike(_plain(name, value), declared)
                if declared is None or not (declared == _NOT_SET or _is_empty_list(plain, declared)):
                    declared = type_of(name, plain)
                types[name] = declared
                if name == SIM_TIME:
                    _check_sim_time(types[name])
                    self._follow_sim_time(plain)
            except ParameterError as error:
                found.pop(name, None)
                gone.add(name)
                problems.append(str(error))
        if SIM_TIME in gone:
            gone.discard(SIM_TIME)
            found[SIM_TIME], types[SIM_TIME] = False, _BOOL
            self._follow_sim_time(False)
        with self._lock:
            before = dict(self._values)
            deleted = [name for name in sorted(gone) if name in before and name not in found]
            for name in deleted:
                del self._values[name], self._types[name]
            self._values.update(found)
            self._types.update(types)
        new = [name for name in found if name not in before]
        changed = [name for name, value in found.items() if name in before and before[name] != value]
        if self._server is not None and (new or changed or deleted):
            self._server.tell(new_parameters=new, changed_parameters=changed, deleted_parameters=deleted)
        return problems

    def _follow_sim_time(self, simulated: bool) -> None:
        try:
            self._follow(simulated)
        except TransportError as error:
            raise ParameterError(f"parameter `{SIM_TIME}` cannot be set: {error}") from error

    def _checked(self, name: str, value: Any) -> Any:
        declared = self._types.get(name)
        if declared is None:
            raise ParameterError(f"there is no parameter `{name}`; it has to be declared with the node")
        plain = _plain(name, value)
        if plain == b"" and declared > _BYTES:  # rclpy and `ros2 param set` have no other empty list
            plain = []
        if declared == _NOT_SET or _is_empty_list(plain, declared):
            return plain
        if (got := type_of(name, plain)) == _NOT_SET:
            raise ParameterError(f"parameter `{name}` is {_TYPES[declared][1]}, and cannot be removed")
        if got != declared:
            raise ParameterError(
                f"parameter `{name}` is {_TYPES[declared][1]}, and cannot become {_TYPES[got][1]}"
            )
        return plain

    def close(self) -> None:
        """Serve them no more."""
        server, self._server = self._server, None
        if server is not None:
            server.close()


def _ignore(_: Any) -> None:
    pass


def _numbers_alike(value: Any, declared: int | None) -> Any:
    """Return a value in which whole numbers are floats, if others are, or if floats were declared."""
    if type(value) is int and declared == _DOUBLE:
        return float(value)
    kinds = {type(item) for item in value} if isinstance(value, list) else set()
    if kinds == {int, float} or (kinds == {int} and declared == _DOUBLE + _LISTS):
        return [float(item) for item in value]
    return value


def _is_empty_list(value: Any, declared: int) -> bool:
    """Return whether a value is a list without items, which fits every declared list."""
    return value == [] and declared > _BYTES


def _check_sim_time(type: int) -> None:
    if type != _BOOL:
        raise ParameterError(f"parameter `{SIM_TIME}`, which every ROS node has, is a bool")


def type_of(name: str, value: Any) -> int:
    """Return the number of the type of a value, 0 for None; raises `ParameterError` if ROS has none."""
    if value is None:
        return _NOT_SET
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
    """Return the value of an rcl_interfaces/msg/ParameterValue, None if it has none.

    Raises `ParameterError` for a type that ROS does not have.
    """
    number = record["type"]
    if number == _NOT_SET:
        return None
    if number not in _TYPES:
        raise ParameterError(f"a parameter has a type from 1 to {max(_TYPES)}, not {number}")
    value = record[_TYPES[number][0]]
    return bytes(value) if number == _BYTES else value


class _ParameterServer:
    """The six services of parameters, and the topic of their changes."""

    def __init__(
        self,
        parameters: RosParameters,
        node: RosNode,
        library: InterfaceLibrary,
        now: Callable[[], int],
        dropped: DroppedMessages,
    ) -> None:
        self._parameters = parameters
        self._node = full_node_name(node.name, node.namespace)
        self._now = now
        self._dropped = dropped
        self._event = library.message("rcl_interfaces/ParameterEvent")
        self._events: RosPublisher = node.create_publisher("/parameter_events", self._event, PARAMETERS)
        self._answers = AnswerThread(node, PARAMETERS, dropped)
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
            self._answers.serve(f"~/{_snake(name)}", type, partial(_answer_record, answer))
        self._answers.start("dora-ros2-parameters")

    def tell(self, **changes: Sequence[str]) -> None:
        """Publish names and values; the fields are ``new_parameters``, ``changed_parameters`` and
        ``deleted_parameters``."""
        event: Record = {"stamp": stamp_of(self._now()), "node": self._node}
        for field, names in changes.items():
            event[field] = [{"name": name, "value": self._record(name)} for name in names]
        try:
            self._events.publish(self._event.encode(event))
        except TransportError:
            pass  # the node is about to close
        except UnsupportedData as error:  # such as half of a surrogate pair in a text
            self._dropped.add(str(error))

    def close(self) -> None:
        self._answers.close()

    def _record(self, name: str) -> Record:
        return record_of(self._parameters.type(name), self._parameters.get(name))

    def _get(self, asked: Record) -> Record:
        return {"values": [self._record(name) for name in asked["names"]]}

    def _get_types(self, asked: Record) -> Record:
        return {"types": [self._parameters.type(name) for name in asked["names"]]}

    def _describe(self, asked: Record) -> Record:
        parameters = self._parameters
        return {
            "descriptors": [
                {
                    "name": name,
                    "type": parameters.type(name),
                    "dynamic_typing": parameters.may_become_anything(name),
                }
                for name in asked["names"]
            ]
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


def _answer_record(answer: Callable[[Record], Record], _: RequestId, asked: Any) -> Record:
    return answer(asked[0].as_py())


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
