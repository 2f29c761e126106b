"""`MockNode`: a stand-in for `dora.Node` that is given its events and remembers what was sent."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dora.node.events import (
    BudgetMissed,
    DeadlineMet,
    DeadlineMissed,
    Error,
    Event,
    Input,
    InputClosed,
    SafeStateEntered,
    SafeStateLeft,
    Stop,
    Synced,
)
from dora.wire.array_shape import describe, restore_described
from dora.wire.decode import decode_bytes, decode_numpy
from dora.wire.encode import as_message

if TYPE_CHECKING:
    from dora.node.node import Node as _Base
else:
    _Base = object


class _Given:
    """Makes an event out of a dictionary and nothing else: it equals that dictionary."""

    __init__ = dict.__init__
    __eq__ = dict.__eq__
    __ne__ = dict.__ne__

    def __missing__(self, key: str) -> Any:
        if key == "kind":
            return "dora"
        raise KeyError(key)


class _GivenInput(_Given, Input):
    def __missing__(self, key: str) -> Any:
        if key == "data" and "value" in self:
            return decode_bytes(as_message(self["value"]))
        return super().__missing__(key)

    def numpy(self) -> Any:
        return restore_described(decode_numpy(as_message(self["value"])), self.get("metadata") or {})


class _Synced(_Given, Synced):
    @classmethod
    def of(cls, given: dict[str, Any]) -> _Synced:
        """Return a set; its messages may be given as events or as values alone."""
        inputs = {
            name: [_message(name, each) for each in item]
            if isinstance(item, list)
            else None
            if item is None
            else _message(name, item)
            for name, item in given.get("inputs", {}).items()
        }
        missing = [
            name for name, item in inputs.items() if item is None or (type(item) is list and not item)
        ]
        filled = {"id": next(iter(inputs), ""), "complete": not missing, "missing": missing}
        found: _Synced = cls(filled | given | {"inputs": inputs})
        return found


def _message(input_id: str, given: Any) -> _GivenInput:
    """Return a message of a set: a whole event, which stays as it is, or a value alone."""
    if not (isinstance(given, dict) and "value" in given):
        return _input(input_id, given)
    found: _GivenInput = _GivenInput({"type": "INPUT", "id": input_id} | given)
    return found


def _input(input_id: str, value: Any, metadata: Mapping[str, Any] | None = None) -> _GivenInput:
    """Return the message that a receiver of a value gets, with the metadata of its shape and dtype."""
    described = dict(describe(value, metadata) or {})
    found: _GivenInput = _GivenInput(type="INPUT", id=input_id, value=value, metadata=described)
    return found


class _Error(_Given, Error):
    is_timeout = False


class _Other(_Given, Event):
    pass


# Events whose fields need no defaults.
_PLAIN = (InputClosed, BudgetMissed, Stop, SafeStateEntered, SafeStateLeft, DeadlineMissed, DeadlineMet)
_TYPES: dict[str, Any] = {
    "INPUT": _GivenInput,
    "SYNC": _Synced.of,
    "ERROR": _Error,
    **{event.type: type(f"_{event.__name__}", (_Given, event), {}) for event in _PLAIN},
}


class MockNode(_Base):
    """A node without a dataflow, for testing a function that takes its `dora.Node` as an argument.

    >>> node = MockNode([("number", 2), ("number", 3)])
    >>> for event in node:
    ...     if event["type"] == "INPUT":
    ...         node.send_output("double", 2 * event["value"])
    >>> node.outputs
    {'double': [4, 6]}

    Events are equal to plain dictionaries. Values are passed on as they are given; metadata tells the shape
    of NumPy arrays, as in a dataflow. There is no time: see
    `run_node` and `VirtualDataflow` for timers, queues and several nodes. Methods that need a running
    dataflow raise ``NotImplementedError``. A type checker takes it for a `dora.Node`.
    """

    def __init__(
        self,
        inputs: Sequence[tuple[str, Any] | tuple[str, Any, Mapping[str, Any]] | dict[str, Any]],
        metadata: dict[str, Any] | None = None,
        *,
        dataflow_descriptor: dict[str, Any] | None = None,
        dataflow_id: str | None = None,
        node_config: dict[str, Any] | None = None,
        is_restart: bool = False,
        restart_count: int = 0,
        service_responses: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        """``inputs``: ``(id, value)``, ``(id, value, metadata)``, or whole events as dictionaries.

        ``metadata`` is for all inputs; an input's own is added to it.

        The messages of a set are events or values: ``{"type": "SYNC", "inputs": {"left": 1, "arm": [2]}}``.
        A ``STOP`` follows unless there is one. ``service_responses``: output → payloads, one for each
        request that is sent there; the answer is an input with the id of the output.
        """
        self.id = "mock"
        self.outputs: dict[str, list[Any]] = {}
        self.logs: list[dict[str, Any]] = []
        self.service_requests: list[dict[str, Any]] = []
        self.service_responses_sent: list[dict[str, Any]] = []
        self._dataflow_descriptor = dataflow_descriptor or {}
        self._dataflow_id = dataflow_id or ""
        self._node_config = node_config or {}
        self._is_restart = is_restart
        self._restart_count = restart_count
        self._responses = {output: deque(items) for output, items in (service_responses or {}).items()}
        self._events: deque[Any] = deque()
        for item in inputs:
            if isinstance(item, dict):
                self._events.append(_TYPES.get(item.get("type", ""), _Other)(item))
            else:
                input_id, value, own = item if len(item) == 3 else (*item, {})
                self._events.append(_input(input_id, value, {**(metadata or {}), **own}))
        if not any(event.get("type") == "STOP" for event in self._events):
            self._events.append(_TYPES["STOP"](type="STOP", id="ALL_INPUTS_CLOSED"))

    # ------------------------------------------------------------------ receiving

    def next(self, timeout: float | None = None) -> Any:  # noqa: ARG002 - time stands still
        """Return the next event, None at the end; never waits."""
        return self._events.popleft() if self._events else None

    def try_recv(self) -> Any:
        """Return the next event, None at the end."""
        return self.next()

    async def recv_async(self, timeout: float | None = None) -> Any:
        """Return the next event, None at the end."""
        return self.next(timeout)

    def drain(self) -> list[Any]:
        """Return all events that are left."""
        events = list(self._events)
        self._events.clear()
        return events

    def is_empty(self) -> bool:
        """Return whether no event is left."""
        return not self._events

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if not self._events:
            raise StopIteration
        return self._events.popleft()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if not self._events:
            raise StopAsyncIteration
        return self._events.popleft()

    # ------------------------------------------------------------------ sending

    def send_output(
        self,
        output_id: str,
        data: Any,
        metadata: Mapping[str, Any] | None = None,  # noqa: ARG002
        *,
        follows: Any = None,  # noqa: ARG002
    ) -> None:
        """Append ``data``, as it is, to ``outputs[output_id]``."""
        self.outputs.setdefault(output_id, []).append(data)

    def send_output_raw(
        self, output_id: str, data_length: int, metadata: Mapping[str, Any] | None = None
    ) -> Any:
        """Raise ``NotImplementedError``: there is no shared memory."""
        raise NotImplementedError(
            "MockNode has no shared memory for send_output_raw; use send_output, or dora.testing.run_node"
        )

    def send_service_request(
        self, output_id: str, data: Any, metadata: Mapping[str, Any] | None = None
    ) -> str:
        """Remember a request, queue its answer if one was given, and return the ``request_id``."""
        request_id = str(uuid.uuid4())
        self.service_requests.append(
            {
                "output_id": output_id,
                "data": data,
                "metadata": dict(metadata or {}),
                "request_id": request_id,
            }
        )
        if answers := self._responses.get(output_id):
            answer = _input(output_id, answers.popleft(), {"request_id": request_id})
            position = next(
                (index for index, event in enumerate(self._events) if event.get("type") == "STOP"),
                len(self._events),
            )
            self._events.insert(position, answer)
        return request_id

    def send_service_response(self, output_id: str, data: Any, metadata: Mapping[str, Any]) -> None:
        """Remember a response."""
        self.service_responses_sent.append(
            {
                "output_id": output_id,
                "data": data,
                "metadata": dict(metadata),
                "request_id": metadata.get("request_id"),
            }
        )

    def merge_external_events(self, subscription: Any) -> None:
        """Raise ``NotImplementedError``: there is no ROS 2."""
        raise NotImplementedError("MockNode cannot merge external events")

    # ------------------------------------------------------------------ information, logging, end

    def dataflow_descriptor(self) -> dict[str, Any]:
        return self._dataflow_descriptor

    def dataflow_id(self) -> str:
        return self._dataflow_id

    def node_config(self) -> dict[str, Any]:
        return self._node_config

    def is_restart(self) -> bool:
        return self._is_restart

    def restart_count(self) -> int:
        return self._restart_count

    def timestamp(self) -> datetime:
        return datetime.now(UTC)

    def log(
        self,
        level: str,
        message: str,
        target: str | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> None:
        """Append the entry to ``logs``."""
        self.logs.append(
            {"level": level, "message": message, "target": target, "fields": dict(fields or {})}
        )

    def log_error(self, message: str) -> None:
        self.log("error", message)

    def log_warn(self, message: str) -> None:
        self.log("warn", message)

    def log_info(self, message: str) -> None:
        self.log("info", message)

    def log_debug(self, message: str) -> None:
        self.log("debug", message)

    def log_trace(self, message: str) -> None:
        self.log("trace", message)

    def __getattr__(self, name: str) -> Any:
        from dora.node.node import Node

        if hasattr(Node, name):
            raise AttributeError(
                f"MockNode has no `{name}`, which needs a dataflow; use run_node or VirtualDataflow"
            )
        raise AttributeError(f"a node has no `{name}`")

    def close(self) -> None:
        """Forget the events that are left."""
        self._events.clear()

    def __enter__(self) -> MockNode:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
