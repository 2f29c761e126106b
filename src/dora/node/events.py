"""Events: what `Node.next` returns and what operators receive.

An event is a dictionary, as existing dora programs expect, and a typed object at the same time::

    if event["type"] == "INPUT" and event["id"] == "image":
        frame = event["value"]

    match event:
        case Input(id="image"):
            frame = event.value

Expensive parts are made on first access, and kept: ``value`` (a ``pyarrow.Array`` over the received
memory), ``metadata`` and ``data`` (the values as ``bytes``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, overload

from dora.node.contents import Reference as Reference
from dora.node.contents import Text as Text
from dora.node.contents import Tick as Tick
from dora.wire.array_shape import restore_described
from dora.wire.decode import decode_arrow, decode_bytes, decode_numpy, storage_of, to_numpy
from dora.wire.encode import as_message
from dora.wire.message import ENCODING, HEADER_SIZE, METADATA_SIZE, SCHEMA_SIZE, Encoding, Message
from dora.wire.metadata import as_datetime, decode_metadata

if TYPE_CHECKING:
    from _collections_abc import dict_items, dict_keys, dict_values

    import numpy as np
    import pyarrow as pa


class Event(dict[str, Any]):
    """Base of all events. ``event["kind"]`` is ``"dora"`` or ``"external"``, ``["type"]`` the class."""

    __slots__ = ()
    __match_args__: ClassVar[tuple[str, ...]] = ()
    kind: ClassVar[str] = "dora"
    type: ClassVar[str] = "UNKNOWN"

    def __init__(self, **fields: Any) -> None:
        super().__init__(kind=self.kind, type=self.type, **fields)

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, key: Literal["kind", "type", "id"]) -> str: ...
        @overload
        def __getitem__(self, key: Literal["metadata"]) -> dict[str, Any]: ...
        @overload
        def __getitem__(self, key: Literal["value"]) -> Any: ...
        @overload
        def __getitem__(self, key: Literal["data"]) -> bytes: ...
        @overload
        def __getitem__(self, key: str) -> Any: ...
        def __getitem__(self, key: str) -> Any: ...

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"an event of type {self.type} has no `{name}`") from None

    def __repr__(self) -> str:
        fields = ", ".join(f"{key}={self[key]!r}" for key in self if key not in ("kind", "type"))
        return f"{type(self).__name__}({fields})"


Content = Message | Tick | Text | Reference
_MADE_ON_DEMAND: Final = ("value", "metadata", "data")


class Input(Event):
    """A message on input ``id``.

    ``value``: ``pyarrow.Array``. ``data``: its values as ``bytes``. ``metadata``: ``dict`` with at
    least ``timestamp``, an aware UTC ``datetime``: the time of sending, unless the sender set one.
    Values stay valid for as long as they are referenced.
    """

    __slots__ = ("_content", "_number")
    __match_args__ = ("id", "value", "metadata")
    type: ClassVar[str] = "INPUT"
    _content: Content
    _number: int  # of a value from an operator of the same process, in a `Synced`: its number on the input
    if TYPE_CHECKING:
        id: str
        value: pa.Array[Any]
        metadata: dict[str, Any]
        data: bytes

        @overload
        def __getitem__(self, key: Literal["kind", "type", "id"]) -> str: ...
        @overload
        def __getitem__(self, key: Literal["metadata"]) -> dict[str, Any]: ...
        @overload
        def __getitem__(self, key: Literal["value"]) -> pa.Array[Any]: ...
        @overload
        def __getitem__(self, key: Literal["data"]) -> bytes: ...
        @overload
        def __getitem__(self, key: str) -> Any: ...
        def __getitem__(self, key: str) -> Any: ...

    # An input port makes thousands a second, from a template and a content: the dictionary's own
    # constructor is four times as fast as one of ours.
    if TYPE_CHECKING:

        def __init__(self, *content: Any, **fields: Any) -> None: ...

    else:
        __init__ = dict.__init__

    @classmethod
    def make(cls, input_id: str, content: Content) -> Input:
        event: Input = cls(cls.template(input_id))
        event._content = content
        return event

    @classmethod
    def of_reference(cls, template: dict[str, Any], content: Reference) -> Input:
        event: Input = cls(template, **content.entries())
        event._content = content
        return event

    @staticmethod
    def template(input_id: str) -> dict[str, Any]:
        return {"kind": "dora", "type": "INPUT", "id": input_id}

    def __missing__(self, key: str) -> Any:
        made: Any
        if key not in _MADE_ON_DEMAND:
            raise KeyError(key)
        try:
            content = self._content
        except AttributeError:  # made by a program, for its own tests, without this key
            raise KeyError(key) from None
        if key == "value":
            if isinstance(content, Message):
                made = decode_arrow(content)
                if content.header[ENCODING] != Encoding.PLAIN:
                    made = storage_of(made)
            else:
                made = content.value()
        elif key == "metadata":
            if isinstance(content, Message):
                header = content.header
                begin = HEADER_SIZE + header[SCHEMA_SIZE]
                made = decode_metadata(content.head[begin : begin + header[METADATA_SIZE]])
            else:
                made = content.metadata()
            if "timestamp" not in made:
                made["timestamp"] = as_datetime(content.time_ns)
        else:
            # Not stored: it is not one of the keys that iteration shows.
            return self._make_data(content)
        dict.__setitem__(self, key, made)
        return made

    def _make_data(self, content: Content) -> bytes:
        if isinstance(content, Message):
            return decode_bytes(content)
        if isinstance(content, Text):
            return content.text.encode()
        if isinstance(content, Tick):
            return b""
        # The same bytes as if the value had come from another process.
        return decode_bytes(as_message(content.value()))

    @property
    def send_time(self) -> datetime:
        """When the message was sent (aware, UTC), whatever ``metadata["timestamp"]`` says."""
        return as_datetime(self._content.time_ns)

    @property
    def sequence(self) -> int:
        """The message's number on its output, from 1; 0 for timers and other local events."""
        content = self._content
        return content.sequence if isinstance(content, Message) else 0

    def numpy(self) -> np.ndarray[Any, Any]:
        """Return the value as a NumPy array, in the shape and dtype of the array that was sent.

        The shape is ``shape`` in the message's metadata; a value without, or with one that does not fit,
        is one-dimensional. A read-only view of the received memory for numbers without nulls, else made
        from what ``value.to_numpy(zero_copy_only=False)`` gives; for intervals, Python objects.
        """
        content = self._content
        if isinstance(content, Message):
            return decode_numpy(content)
        return restore_described(to_numpy(content.value()), content.metadata())

    def extension(self) -> pa.Array[Any]:
        """Return the value with the Arrow extension type that it was sent with, ``value`` if it has none.

        ``value`` is the storage of such an array, as with dora-rs. The type has to be registered in this
        process.
        """
        content = self._content
        if isinstance(content, Message) and content.header[ENCODING] != Encoding.PLAIN:
            array: pa.Array[Any] = decode_arrow(content)
            return array
        return content.original if isinstance(content, Reference) else self["value"]

    # A dictionary with two keys that are made on demand: the methods that see all keys make them.

    def _complete(self) -> Input:
        try:
            self["value"], self["metadata"]
        except KeyError:  # made by a program, for its own tests
            pass
        return self

    def __contains__(self, key: object) -> bool:
        if dict.__contains__(self, key):
            return True
        return key in _MADE_ON_DEMAND and hasattr(self, "_content")

    def get(self, key: str, default: Any = None) -> Any:
        try:
            return self[key]
        except KeyError:
            return default

    def setdefault(self, key: str, default: Any = None) -> Any:
        return dict.setdefault(self._complete(), key, default)

    def __iter__(self) -> Iterator[str]:
        return dict.__iter__(self._complete())

    def __reversed__(self) -> Iterator[str]:
        return dict.__reversed__(self._complete())

    def __len__(self) -> int:
        return dict.__len__(self._complete())

    def keys(self) -> dict_keys[str, Any]:
        return dict.keys(self._complete())

    def values(self) -> dict_values[str, Any]:
        return dict.values(self._complete())

    def items(self) -> dict_items[str, Any]:
        return dict.items(self._complete())

    def copy(self) -> dict[str, Any]:
        return dict(dict.items(self._complete()))

    # An entry that was removed is not made again.

    def pop(self, key: str, *default: Any) -> Any:
        return dict.pop(self._make_plain(), key, *default)

    def popitem(self) -> tuple[str, Any]:
        return dict.popitem(self._make_plain())

    def clear(self) -> None:
        dict.clear(self._make_plain())

    def __delitem__(self, key: str) -> None:
        dict.__delitem__(self._make_plain(), key)

    def _make_plain(self) -> Input:
        """Make all entries, and none later; the attributes of the event stay.

        Another class, instead of a mark: a mark would be looked at for each message.
        """
        self._complete()
        self.__class__ = _plain(self.__class__)
        return self

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if isinstance(other, Input):
            other._complete()
        return dict.__eq__(self._complete(), other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __reduce__(self) -> Any:
        return dict, (self.copy(),)


@cache
def _plain(kind: type[Input]) -> type[Input]:
    """Return the class of events of a kind from which an entry was removed: none is made on demand.

    An object can only get a class with its own layout, so each subclass of `Input` has another one.
    """

    class Plain(kind):  # type: ignore[misc, valid-type]
        __slots__ = ()

        def __missing__(self, key: str) -> Any:
            if key in ("value", "metadata"):
                raise KeyError(key)
            return super().__missing__(key)  # `data` is no entry, but made each time

        def __contains__(self, key: object) -> bool:
            return dict.__contains__(self, key) or (key == "data" and hasattr(self, "_content"))

        def _complete(self) -> Input:
            return self

        def _make_plain(self) -> Input:
            return self

    Plain.__name__ = kind.__name__
    return Plain


class Synced(Event):
    """A set of messages that belong together, of a group in ``sync``.

    ``id`` is the input that leads: the first of the group. ``inputs`` has all inputs of the group in their
    order, with an `Input` each; with a list, oldest first, for one that has a ``history``. ``complete`` is
    False if a message is ``missing``, which only a group with a ``timeout`` gives: there, ``inputs`` has
    None, or an empty list. A message can be in several sets, and is the same object there.
    """

    __slots__ = ()
    __match_args__ = ("id", "inputs")
    type: ClassVar[str] = "SYNC"
    if TYPE_CHECKING:
        id: str
        inputs: dict[str, Any]
        complete: bool
        missing: list[str]

    def __init__(self, inputs: dict[str, Input | list[Input] | None], missing: Sequence[str] = ()) -> None:
        super().__init__(id=next(iter(inputs)), inputs=inputs, complete=not missing, missing=list(missing))

    def message(self, input_id: str) -> Input:
        """Return the message of an input, the newest one if it has a history.

        Raises ``KeyError`` if the group has no such input, or its message is missing.
        """
        found = self["inputs"][input_id]
        if isinstance(found, list):
            found = found[-1] if found else None
        if found is None:
            raise KeyError(f"the message of `{input_id}` is missing")
        message: Input = found
        return message

    def history(self, input_id: str) -> list[Input]:
        """Return the messages of an input, oldest first: one, if it has no history; none if it is missing.

        Raises ``KeyError`` if the group has no such input.
        """
        found = self["inputs"][input_id]
        if isinstance(found, list):
            return list(found)
        return [] if found is None else [found]

    def messages(self) -> Iterator[Input]:
        """Yield all messages, in the order of the inputs."""
        for input_id in self["inputs"]:
            yield from self.history(input_id)


class _EventOfId(Event):
    """An event that has an ``id`` and nothing else."""

    __slots__ = ()
    __match_args__ = ("id",)
    if TYPE_CHECKING:
        id: str

    def __init__(self, id: str) -> None:
        super().__init__(id=id)


class InputClosed(_EventOfId):
    """Nothing more will come on input ``id`` (or, after an ``input_timeout``, has not for too long).

    Comes after all messages of that input.
    """

    __slots__ = ()
    type: ClassVar[str] = "INPUT_CLOSED"


class InputRecovered(_EventOfId):
    """Messages come again on input ``id``, which an ``input_timeout`` had closed."""

    __slots__ = ()
    type: ClassVar[str] = "INPUT_RECOVERED"


class SafeStateEntered(Event):
    """The safe state of an output begins: it has missed a deadline or a budget, failed, or is silent.

    A receiver gets it before the safe value: ``id`` is the input, ``sender`` the output that feeds it. The
    sender gets it too, if it is alive: ``id`` is the output, ``receiver`` the input. ``reason``:
    ``"deadline"``, ``"budget"``, ``"failed"`` or ``"silent"``.
    """

    __slots__ = ()
    __match_args__ = ("id", "reason")
    type: ClassVar[str] = "SAFE_STATE_ENTERED"
    if TYPE_CHECKING:
        id: str
        reason: str

    def __init__(self, id: str, reason: str, **peer: str) -> None:
        super().__init__(id=id, reason=reason, **peer)


class SafeStateLeft(Event):
    """The safe state of an output ends with the message that follows. ``seconds``: how long it was.

    ``id``, and ``sender`` or ``receiver``, are as in `SafeStateEntered`.
    """

    __slots__ = ()
    __match_args__ = ("id", "seconds")
    type: ClassVar[str] = "SAFE_STATE_LEFT"
    if TYPE_CHECKING:
        id: str
        seconds: float

    def __init__(self, id: str, seconds: float, **peer: str) -> None:
        super().__init__(id=id, seconds=seconds, **peer)


class DeadlineMissed(Event):
    """No message has come on input ``id`` within its ``deadline``; comes once for each such pause.

    ``late``: seconds since the deadline.
    """

    __slots__ = ()
    __match_args__ = ("id", "late")
    type: ClassVar[str] = "DEADLINE_MISSED"
    if TYPE_CHECKING:
        id: str
        late: float

    def __init__(self, id: str, late: float) -> None:
        super().__init__(id=id, late=late)


class DeadlineMet(Event):
    """A message comes again on input ``id``, which has missed its ``deadline``; it follows this event.

    ``late``: seconds from the deadline to the message.
    """

    __slots__ = ()
    __match_args__ = ("id", "late")
    type: ClassVar[str] = "DEADLINE_MET"
    if TYPE_CHECKING:
        id: str
        late: float

    def __init__(self, id: str, late: float) -> None:
        super().__init__(id=id, late=late)


class BudgetMissed(Event):
    """The next message of input ``id`` took longer than a path of the dataflow file allows.

    ``source``: the output at which the time began. ``latency``, ``budget``, ``late``: seconds. ``misses``:
    how many messages in a row were late. ``slowest_hop``: where most of the time went, and
    ``slowest_hop_seconds`` how much.
    """

    __slots__ = ("on_miss",)
    __match_args__ = ("id", "late")
    type: ClassVar[str] = "BUDGET_MISSED"
    on_miss: str
    if TYPE_CHECKING:
        id: str
        late: float


class Stop(Event):
    """The node should end. ``id`` is ``"MANUAL"`` or ``"ALL_INPUTS_CLOSED"``.

    Iteration goes on with inputs that are buffered already, then ends by itself.
    """

    __slots__ = ()
    __match_args__ = ("id",)
    type: ClassVar[str] = "STOP"
    if TYPE_CHECKING:
        id: Literal["MANUAL", "ALL_INPUTS_CLOSED"]

    def __init__(self, reason: Literal["MANUAL", "ALL_INPUTS_CLOSED"]) -> None:
        super().__init__(id=reason)


class Error(Event):
    """Something went wrong in receiving, or ``next(timeout)`` timed out (``is_timeout``)."""

    __slots__ = ("is_timeout",)
    __match_args__ = ("error",)
    type: ClassVar[str] = "ERROR"
    is_timeout: bool
    if TYPE_CHECKING:
        error: str

    def __init__(self, error: str, *, is_timeout: bool = False) -> None:
        super().__init__(error=error)
        self.is_timeout = is_timeout


class NodeFailed(Event):
    """The upstream node ``id`` failed; comes before its inputs are closed.

    ``value`` has ``source_node_id``, ``error`` and ``affected_input_ids``.
    """

    __slots__ = ()
    __match_args__ = ("id", "value")
    type: ClassVar[str] = "NODE_FAILED"
    if TYPE_CHECKING:
        id: str
        value: dict[str, Any]

    def __init__(self, node_id: str, error: str, affected_input_ids: list[str]) -> None:
        super().__init__(
            id=node_id,
            value={
                "source_node_id": node_id,
                "error": error,
                "affected_input_ids": affected_input_ids,
            },
        )


class NodeRestarted(_EventOfId):
    """The upstream node ``id`` was restarted."""

    __slots__ = ()
    type: ClassVar[str] = "NODE_RESTARTED"


class Reload(Event):
    """New code is there (``dora run --hot-reload``).

    An operator gets it as the first event of its new code; ``id`` is the operator. A node gets it,
    without ``id``, right before the `Stop` with which it is replaced.
    """

    __slots__ = ("modules", "operators")
    __match_args__ = ("id",)
    type: ClassVar[str] = "RELOAD"
    if TYPE_CHECKING:
        id: str
    operators: Sequence[str]
    modules: Sequence[str]

    def __init__(
        self, operator_id: str | None = None, *, operators: Sequence[str] = (), modules: Sequence[str] = ()
    ) -> None:
        """``operators`` of a runtime, and the files among their imports, are to be loaded again."""
        super().__init__(**({} if operator_id is None else {"id": operator_id}))
        self.operators = operators
        self.modules = modules


class ParamUpdate(Event):
    """Parameter ``id`` of this node was set to ``value``, while it runs."""

    __slots__ = ()
    __match_args__ = ("id", "value")
    type: ClassVar[str] = "PARAM_UPDATE"
    if TYPE_CHECKING:
        id: str
        value: Any

    def __init__(self, key: str, value: Any) -> None:
        super().__init__(id=key, value=value)


class ParamDeleted(_EventOfId):
    """Parameter ``id`` of this node was deleted, while it runs."""

    __slots__ = ()
    type: ClassVar[str] = "PARAM_DELETED"


class Unknown(Event):
    """An event of a kind that this version does not know."""

    __slots__ = ()
