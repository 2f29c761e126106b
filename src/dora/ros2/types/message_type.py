"""Types of messages, services and actions: names, hashes, forms in Arrow and on the wire."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dora.ros2.types.definition import MessageDefinition, MessageField, MessageFieldType, Value, dds_name
from dora.ros2.types.description import describe, hash_of

if TYPE_CHECKING:
    import pyarrow as pa

    from dora.ros2.types.decode import Decoder
    from dora.ros2.types.encode import Encoder
    from dora.ros2.types.layout import CdrLayout
    from dora.wire.encode import EncodedArray

__all__ = ["ActionType", "MessageType", "ServiceType"]

_LINE = "=" * 80

DefinitionOf = Callable[[str], MessageDefinition]
"""Returns the definition of a full name."""


class _Described:
    """A type of messages, services or actions: its name, its description and its hash."""

    def __init__(self, name: str, fields: tuple[MessageField, ...], definition_of: DefinitionOf) -> None:
        self.name = name
        """The full name: ``std_msgs/msg/String``, ``std_srvs/srv/SetBool``."""
        self.dds_name = dds_name(name)
        """The name on the wire: ``std_msgs::msg::dds_::String_``, ``std_srvs::srv::dds_::SetBool_``."""
        self.fields = fields
        """The fields, in order; of a service or an action, its parts."""
        self._definition_of = definition_of

    @cached_property
    def description(self) -> Mapping[str, Any]:
        """A ``type_description_interfaces/msg/TypeDescription`` as a dictionary, with all types in it."""
        return describe(self.name, self._fields_of)

    @cached_property
    def hash(self) -> str:
        """The RIHS01 hash, as in ``RIHS01_df668c74…``. Peers with the same hash understand each other."""
        return hash_of(self.description)

    def _fields_of(self, name: str) -> tuple[MessageField, ...]:
        return self.fields if name == self.name else self._definition_of(name).fields

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class MessageType(_Described):
    """The type of the messages of a topic, or of one side of a service.

    Made by `InterfaceLibrary`. It may be used by several threads.
    """

    def __init__(self, name: str, definition_of: DefinitionOf) -> None:
        self._definition = definition_of(name)
        super().__init__(name, self._definition.fields, definition_of)

    def check(self) -> None:
        """Read all that the messages need; raises what ``definition_of`` does, and `DefinitionError`."""
        self.description  # noqa: B018
        self._layout  # noqa: B018

    @property
    def constants(self) -> Mapping[str, Value]:
        """The named values of the definition."""
        return {constant.name: constant.value for constant in self._definition.constants}

    @cached_property
    def arrow(self) -> pa.StructType:
        """The Arrow type of a message.

        A message is a struct, an array or a sequence a list, ``byte`` and ``char`` are ``uint8``, strings
        and wide strings are ``string``; all others have the type of the same name.
        """
        from dora.ros2.types.columns import arrow_type

        found: pa.StructType = arrow_type(self._layout.root, self._layout)
        return found

    def definition_text(self) -> str:
        """Return the definition with all that it needs, as a channel of MCAP (``ros2msg``) has it.

        After the own text, each other one begins with a line of 80 ``=`` and a line ``MSG: package/Name``.
        """
        names = [one["type_name"] for one in self.description["referenced_type_descriptions"]]
        others = [f"{_LINE}\nMSG: {_short(name)}\n{_text(self._definition_of(name))}" for name in names]
        return _text(self._definition) + "".join(others)

    def decode(self, buffer: Any) -> pa.StructArray:
        """Return a received message as a struct array of one row.

        ``buffer`` is what the network or a bag gives: CDR in either order of bytes, with its header of four
        bytes; ``bytes``, a ``pyarrow.Buffer`` or another buffer. Sequences of numbers are not copied,
        unless the place in memory or the order of bytes asks for it; so the buffer must not change
        afterwards. Bytes after the message are ignored, as ROS does.

        Raises `MalformedMessage`, and nothing else, whatever the bytes.
        """
        return self._decoder.decode(buffer)

    def transcode(self, buffer: Any) -> EncodedArray:
        """Return a received message encoded, as a node sends the array that `decode` returns.

        It takes a fraction of the time of both steps. Raises `MalformedMessage`, and nothing else.
        """
        return self._decoder.transcode(buffer)

    def encode(self, value: pa.Array[Any] | Mapping[str, Any]) -> bytes:
        """Return a message as ``rclpy`` sends it: plain CDR, little-endian, with its header.

        ``value`` is a struct array of one row, or a dictionary; numbers of arrays and sequences may be
        lists, NumPy or Arrow arrays or other buffers, and bytes for ``uint8``, ``int8``, ``byte`` and
        ``char``. Fields that are missing or null get the default of the definition. An integer is also
        taken for a float, and any integer type that holds the value.

        Raises `ValueMismatch` for a value that does not fit, or a field that the type does not have.
        """
        return self._encoder.encode(value)

    @cached_property
    def _layout(self) -> CdrLayout:
        from dora.ros2.types.layout import CdrLayout

        return CdrLayout(self.name, self._fields_of)

    @cached_property
    def _decoder(self) -> Decoder:
        from dora.ros2.types.decode import Decoder

        return Decoder(self._layout)

    @cached_property
    def _encoder(self) -> Encoder:
        from dora.ros2.types.encode import Encoder

        return Encoder(self._layout, self.name)


class ServiceType(_Described):
    """The type of a service. Made by `InterfaceLibrary`."""

    def __init__(self, name: str, definition_of: DefinitionOf) -> None:
        super().__init__(name, service_fields(name), definition_of)
        self.request = MessageType(name + "_Request", definition_of)
        self.response = MessageType(name + "_Response", definition_of)
        self.event = MessageType(name + "_Event", definition_of)
        """The messages about each request and response, if somebody introspects the service."""

    def check(self) -> None:
        """Do what `MessageType.check` does, for its messages."""
        for part in (self.request, self.response, self.event):
            part.check()


class ActionType(_Described):
    """The type of an action. Made by `InterfaceLibrary`."""

    def __init__(self, name: str, definition_of: DefinitionOf) -> None:
        super().__init__(name, action_fields(name), definition_of)
        self.goal = MessageType(name + "_Goal", definition_of)
        self.result = MessageType(name + "_Result", definition_of)
        self.feedback = MessageType(name + "_Feedback", definition_of)
        self.send_goal = ServiceType(name + "_SendGoal", definition_of)
        """The service that takes a goal, with its identifier."""
        self.get_result = ServiceType(name + "_GetResult", definition_of)
        """The service that gives the result of a goal."""
        self.feedback_message = MessageType(name + "_FeedbackMessage", definition_of)
        """The messages of the topic with the feedback of all goals."""

    def check(self) -> None:
        """Do what `MessageType.check` does, for its messages."""
        for part in (self.goal, self.result, self.feedback):
            part.check()


def _nested(name: str, kind: str) -> MessageField:
    return MessageField(name, MessageFieldType("message", kind))


def service_fields(name: str) -> tuple[MessageField, ...]:
    """Return the parts of a service, as its description lists them."""
    return (
        _nested("request_message", name + "_Request"),
        _nested("response_message", name + "_Response"),
        _nested("event_message", name + "_Event"),
    )


def action_fields(name: str) -> tuple[MessageField, ...]:
    """Return the parts of an action, as its description lists them."""
    return (
        _nested("goal", name + "_Goal"),
        _nested("result", name + "_Result"),
        _nested("feedback", name + "_Feedback"),
        _nested("send_goal_service", name + "_SendGoal"),
        _nested("get_result_service", name + "_GetResult"),
        _nested("feedback_message", name + "_FeedbackMessage"),
    )


def event_of(name: str) -> MessageDefinition:
    """Return the event message of a service, which ROS makes."""
    one = MessageFieldType("message", shape="sequence", size=1)
    return MessageDefinition(
        name + "_Event",
        (
            _nested("info", "service_msgs/msg/ServiceEventInfo"),
            MessageField("request", one._replace(nested=name + "_Request")),
            MessageField("response", one._replace(nested=name + "_Response")),
        ),
    )


def wrappers_of(name: str) -> list[MessageDefinition]:
    """Return the messages that ROS makes of an action: goals, results and feedback with an identifier."""
    goal_id = _nested("goal_id", "unique_identifier_msgs/msg/UUID")
    send_goal, get_result = name + "_SendGoal", name + "_GetResult"
    return [
        MessageDefinition(send_goal + "_Request", (goal_id, _nested("goal", name + "_Goal"))),
        MessageDefinition(
            send_goal + "_Response",
            (
                MessageField("accepted", MessageFieldType("bool")),
                _nested("stamp", "builtin_interfaces/msg/Time"),
            ),
        ),
        event_of(send_goal),
        MessageDefinition(get_result + "_Request", (goal_id,)),
        MessageDefinition(
            get_result + "_Response",
            (MessageField("status", MessageFieldType("int8")), _nested("result", name + "_Result")),
        ),
        event_of(get_result),
        MessageDefinition(name + "_FeedbackMessage", (goal_id, _nested("feedback", name + "_Feedback"))),
        MessageDefinition(send_goal, service_fields(send_goal)),
        MessageDefinition(get_result, service_fields(get_result)),
    ]


def _short(name: str) -> str:
    """Return the name as other definitions write it: without ``msg``, but with ``srv`` and ``action``."""
    return name.replace("/msg/", "/")


def _text(definition: MessageDefinition) -> str:
    """Return the text of a definition: the one of the file, or one of its fields and constants."""
    if definition.text:
        return definition.text
    lines = [
        f"{one.kind} {one.name}={one.value if one.kind != 'bool' else str(one.value).lower()}"
        for one in definition.constants
    ]
    for field in definition.fields:
        kind = str(field.type)
        if field.type.nested:
            kind = str(field.type._replace(nested=_short(field.type.nested)))
        default = "" if field.default is None else " " + _written(field.default)
        lines.append(f"{kind} {field.name}{default}")
    return "".join(line + "\n" for line in lines)


def _written(value: Value | tuple[Value, ...]) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_written(one) for one in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        quote = "'" if '"' in value and "'" not in value else '"'
        return quote + value.replace(quote, "\\" + quote) + quote
    return repr(value)
