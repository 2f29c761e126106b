"""The field `ros2` of a node: its block, and the rules that go beyond single fields."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, get_args

from dora.dataflow.model import InputSpec, LogOptions, NodeOutput, TimerSource
from dora.dataflow.problems import ProblemReport, TextSpan, listed
from dora.dataflow.ros2 import (
    Compatibility,
    Direction,
    Durability,
    Liveliness,
    MessageFormat,
    Role,
    Ros2Block,
    Ros2BlockCalls,
    Ros2BlockQos,
    Ros2BlockTopic,
    TransportKind,
    port_of_topic,
)
from dora.dataflow.yaml.field_types import (
    DATA,
    TEXT_SCHEMA,
    ChoiceType,
    FlagType,
    ListType,
    RuledTextType,
    TextType,
)
from dora.dataflow.yaml.number_types import IntegerType, SecondsType
from dora.dataflow.yaml.schema_block import CheckedBlock, Field, SchemaBlock

MAX_TOPICS: Final = 64  # of one block, as in dora-rs
_MAX_DEPTH: Final = 10_000
_MAX_DOMAIN: Final = 232  # the ports of a higher one would be above 65,535

_NAME: Final = r"(~|~/|/)?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*"
_NODE_NAME: Final = r"[A-Za-z_][A-Za-z0-9_]{0,254}"
_NAMESPACE: Final = r"/|/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*/?"
_PACKAGE: Final = r"[A-Za-z][A-Za-z0-9_]*"
_OPTIONAL: Final = ("feedback", "cancel")  # parts of an action that a node may do without
_CLOCKS: Final = ("rosgraph_msgs/Clock", "rosgraph_msgs/msg/Clock")  # to which a timer can be published
_KINDS: Final = ("topic", "topics", "service", "action")


class _Named(RuledTextType):
    """A text that matches a pattern."""

    def __init__(self, wanted: str, pattern: str, hint: str) -> None:
        form = re.compile(pattern)

        def fault(text: str) -> tuple[str, str] | None:
            return None if form.fullmatch(text) else (f"`{text[:60]}` is not {wanted}", hint)

        super().__init__(wanted, fault, {**TEXT_SCHEMA, "pattern": f"^({pattern})$"})


def _type_name(kind: str, example: str) -> _Named:
    pattern = rf"{_PACKAGE}(/|::)({kind}(/|::))?{_PACKAGE}"
    return _Named(f"the name of a type such as `{example}`", pattern, f"for example `{example}`")


_TOPIC_NAME = _Named(
    "the name of a ROS topic", _NAME, "letters, digits and `_` between `/`, for example `/camera/image`"
)
_SERVICE_NAME = _Named(
    "the name of a ROS service or action", _NAME, "letters, digits and `_` between `/`, for example `/add`"
)

QOS = SchemaBlock(
    "`qos`",
    [
        Field(
            "reliable",
            FlagType(),
            "Whether lost messages are sent again. Unset: a publisher offers it and a subscription does "
            "without, so that both match every other node. Services and actions always have it.",
        ),
        Field(
            "durability",
            ChoiceType(get_args(Durability)),
            "`transient_local`: the publisher keeps its last messages for subscriptions that come later. "
            "Unset: as a `latched` output has it, else `volatile`.",
        ),
        Field(
            "liveliness",
            ChoiceType(get_args(Liveliness)),
            "The source that says that a publisher lives. Unset: `automatic`.",
        ),
        Field(
            "lease_duration",
            SecondsType(zero="refused"),
            "Seconds after which a publisher without a sign of life counts as gone. Unset: never.",
        ),
        Field(
            "max_blocking_time",
            SecondsType(),
            "Seconds that a reliable publisher waits at most for slow subscriptions (DDS). Unset: 0.1.",
        ),
        Field(
            "keep_last",
            IntegerType(1, _MAX_DEPTH),
            "How many messages a queue holds. Unset: `queue_size` of the input, else 10.",
        ),
        Field("keep_all", FlagType(), "Whether queues hold all messages.", default=False),
    ],
)

_MESSAGE_TYPE = Field(
    "message_type",
    _type_name("msg", "std_msgs/String"),
    "The type of the messages: `sensor_msgs/Image`.",
)
_DIRECTION = Field(
    "direction",
    ChoiceType(get_args(Direction)),
    "`subscribe`: from ROS to outputs; `publish`: from inputs to ROS.",
    default="subscribe",
)
_FORMAT = Field(
    "format",
    ChoiceType(get_args(MessageFormat)),
    "How an image leaves on the output: as a `message`, or as an `image`: flat bytes with `width`, "
    "`height` and `encoding` in the metadata.",
    default="message",
)
_QOS = Field("qos", QOS, "The quality of service.")

TOPIC = SchemaBlock(
    "a topic in `topics`",
    [
        Field("topic", _TOPIC_NAME, "The name of the topic: `/camera/image`.", required=True),
        Field("message_type", _MESSAGE_TYPE.field_type, _MESSAGE_TYPE.description, required=True),
        _DIRECTION,
        Field("output", DATA, "The output for its messages. Unset: the topic's name, with `_` for `/`."),
        Field("input", DATA, "The input with its messages. Unset: the topic's name, with `_` for `/`."),
        _FORMAT,
        Field("qos", QOS, "The quality of service of this topic, instead of the block's."),
    ],
    example="{topic: /chatter, message_type: std_msgs/String, direction: subscribe}",
)

TRANSPORT = SchemaBlock(
    "`transport`",
    [
        Field(
            "kind",
            ChoiceType(get_args(TransportKind)),
            "`dds`, `zenoh`, or `rclpy`: the one of an installed ROS.",
            required=True,
        ),
        Field(
            "compatibility",
            ChoiceType(get_args(Compatibility)),
            "The form of rmw_zenoh: `humble`, or `rep2016` for Jazzy and later. Only for `zenoh`.",
        ),
        Field(
            "config_uri",
            TextType("the path of a Zenoh configuration", may_be_empty=False),
            "The path of a Zenoh configuration. Only for `zenoh`. Unset: `$ZENOH_SESSION_CONFIG_URI`.",
        ),
    ],
)

ROS2 = SchemaBlock(
    "`ros2`",
    [
        Field("topic", _TOPIC_NAME, "One topic: `/chatter`."),
        _MESSAGE_TYPE,
        _DIRECTION,
        _FORMAT,
        Field(
            "topics",
            ListType(TOPIC, "topics", "begin each topic with `- topic:`", keeps_rest=True),
            f"Several topics of one ROS node, at most {MAX_TOPICS}.",
        ),
        Field("service", _SERVICE_NAME, "A service: `/add_two_ints`."),
        Field("service_type", _type_name("srv", "std_srvs/SetBool"), "The type of the service."),
        Field("action", _SERVICE_NAME, "An action: `/fibonacci`."),
        Field(
            "action_type",
            _type_name("action", "example_interfaces/Fibonacci"),
            "The type of the action.",
        ),
        Field(
            "role",
            ChoiceType(get_args(Role)),
            "Of a service or action. `client`: requests or goals come from inputs; `server`: from ROS.",
        ),
        _QOS,
        Field(
            "namespace",
            _Named("a ROS namespace", _NAMESPACE, "for example `/robot`"),
            "The namespace of the ROS node.",
            default="/",
        ),
        Field(
            "node_name",
            _Named("the name of a ROS node", _NODE_NAME, "letters, digits and `_`"),
            "The name of the ROS node. Unset: the node's id.",
        ),
        Field("transport", TRANSPORT, "The way to ROS. Unset: by `$RMW_IMPLEMENTATION`, else DDS."),
        Field(
            "domain_id",
            IntegerType(0, _MAX_DOMAIN),
            "The ROS domain. Unset: `$ROS_DOMAIN_ID`, else 0.",
        ),
        Field(
            "ros_paths",
            ListType(TextType("a folder", may_be_empty=False), "folders"),
            "Folders with packages of message types, relative to the folder that the node runs in.",
        ),
    ],
    example="{topic: /chatter, message_type: std_msgs/String, direction: subscribe}",
)


def ros2_of(
    checked: CheckedBlock,
    inputs: Sequence[InputSpec],
    outputs: Iterable[str],
    log: LogOptions,
    report: ProblemReport,
    owner: str,
) -> Ros2Block | None:
    """Return the block of a node; None if it has none. ``owner`` is the node in messages."""
    block: CheckedBlock | None = checked.get("ros2")
    if block is None:
        return None
    for name in ("args", "git"):
        if checked.has(name):
            report.error(checked.keys[name], f"{owner} has `{name}` beside `ros2`, and runs no program")
    messages = [output for output in outputs if output not in log.outputs]
    # An input whose source is not found has an error of its own, and is there.
    others = {item.id for item in inputs if not isinstance(item.source, NodeOutput)}
    names = [name for name in checked.get("inputs") or () if name not in others]
    ticks = [item.id for item in inputs if isinstance(item.source, TimerSource)]
    reading = _Reading(block, names, ticks, messages, report, owner)
    transport: CheckedBlock | None = block.get("transport")
    if transport is not None and transport.get("kind") not in (None, "zenoh"):
        for name in ("compatibility", "config_uri"):
            if transport.has(name):
                report.error(transport.keys[name], f"`{name}` is an option of `kind: zenoh` only")
    return Ros2Block(
        topics=reading.topics(),
        service=reading.calls("service", {"request": ("input", "output"), "response": ("output", "input")}),
        action=reading.calls(
            "action",
            {
                "goal": ("input", "output"),
                "feedback": ("output", "input"),
                "result": ("output", "input"),
                "cancel": ("input", "output"),
            },
        ),
        namespace=block.get("namespace"),
        node_name=block.get("node_name") or "",
        transport=transport.get("kind") if transport else None,
        compatibility=transport.get("compatibility") if transport else None,
        config_uri=transport.get("config_uri") if transport else None,
        domain_id=block.get("domain_id"),
        ros_paths=block.get("ros_paths") or (),
    )


class _Reading:
    """Reads one block with the inputs and outputs of its node."""

    def __init__(
        self,
        block: CheckedBlock,
        inputs: Sequence[str],
        ticks: Sequence[str],
        outputs: Sequence[str],
        report: ProblemReport,
        owner: str,
    ) -> None:
        self._block = block
        self._inputs = inputs
        self._ticks = ticks
        self._outputs = outputs
        self._report = report
        self._owner = owner
        self._kind = self._find_kind()

    def _find_kind(self) -> str:
        block = self._block
        kinds = [name for name in _KINDS if block.has(name) or name in block.suggested]
        if len(kinds) > 1:
            self._report.error(
                block.keys.get(kinds[1], block.span),
                f"`ros2` of {self._owner} has {listed(kinds)}",
                "keep one of them; several topics stand in `topics`",
            )
            return ""
        if not kinds:
            self._report.error(
                block.span,
                f"`ros2` of {self._owner} does not say what it connects",
                f"add one of {listed(_KINDS)}",
            )
            return ""
        kind = kinds[0]
        needs = {"topic": ("message_type",), "topics": (), "service": ("service_type", "role")}
        for name in needs.get(kind, ("action_type", "role")):
            if not block.has(name) and name not in block.suggested:
                self._report.error(
                    block.keys.get(kind, block.span),
                    f"`ros2` of {self._owner} has `{kind}`, but no `{name}`",
                )
        others = {
            "topic": ("message_type", "direction", "format"),
            "service": ("service_type", "role"),
            "action": ("action_type", "role"),
        }
        mine = others.get(kind, ())
        for name in {name for names in others.values() for name in names if name not in mine}:
            if block.has(name):
                hint = "write it into each topic" if kind == "topics" else ""
                self._report.error(block.keys[name], f"`{name}` has no meaning beside `{kind}`", hint)
        return kind

    # ---------------------------------------------------------------- topics

    def topics(self) -> tuple[Ros2BlockTopic, ...]:
        block = self._block
        if self._kind == "topic":
            direction = block.get("direction")
            ports = self._ports_for(block)
            if not ports:
                wants = "an output" if direction == "subscribe" else "an input"
                self._report.error(
                    block.place("direction") if block.has("direction") else block.place("topic"),
                    f"{self._owner} needs {wants} for `direction: {direction}`",
                    "add `outputs: [message]`" if direction == "subscribe" else "add `inputs:`",
                )
            return (self._topic(block, tuple(ports), self._qos(block)),)
        if self._kind != "topics":
            return ()
        blocks: tuple[CheckedBlock, ...] = block.get("topics") or ()
        if not block.failed("topics") and not 1 <= len(blocks) <= MAX_TOPICS:
            self._report.error(
                block.place("topics"), f"`topics` has 1 to {MAX_TOPICS} entries, not {len(blocks)}"
            )
        general = self._qos(block)
        return tuple(
            self._topic(item, self._port(item), self._qos(item) if item.has("qos") else general)
            for item in blocks
        )

    def _ports_for(self, topic: CheckedBlock) -> Sequence[str]:
        """Return the inputs or outputs that a topic can have. A timer has no message, but a time."""
        if topic.get("direction") == "subscribe":
            return self._outputs
        is_clock = (topic.get("message_type") or "").replace("::", "/") in _CLOCKS
        return [*self._inputs, *self._ticks] if is_clock else self._inputs

    def _topic(self, block: CheckedBlock, ports: tuple[str, ...], qos: Ros2BlockQos) -> Ros2BlockTopic:
        kind = (block.get("message_type") or "").rpartition("/")[2]
        if block.get("format") == "image" and kind not in ("", "Image", "CompressedImage"):
            self._report.error(
                block.place("format"),
                f"`format: image` is for images, and not for {block.get('message_type')}",
            )
        return Ros2BlockTopic(
            topic=block.get("topic") or "",
            message_type=block.get("message_type") or "",
            direction=block.get("direction"),
            ports=ports,
            qos=qos,
            format=block.get("format"),
        )

    def _port(self, item: CheckedBlock) -> tuple[str, ...]:
        """Return the input or output of one of several topics; it has to be declared."""
        subscribes = item.get("direction") == "subscribe"
        field, other = ("output", "input") if subscribes else ("input", "output")
        if item.has(other):
            self._report.error(
                item.keys[other], f"a topic with `direction: {item.get('direction')}` has an `{field}`"
            )
        port: str | None = item.get(field)
        if port is None:
            if item.failed(field) or not item.get("topic"):
                return ()
            port = port_of_topic(item.get("topic"))
        if port not in self._ports_for(item):
            self._undeclared(item.place(field) if item.has(field) else item.place("topic"), field, port)
        return (port,)

    def _undeclared(self, place: TextSpan, kind: str, port: str) -> None:
        declared = self._outputs if kind == "output" else self._inputs
        hint = f"it has {listed(declared)}" if declared else f"it has no {kind}s"
        self._report.error(place, f"{self._owner} has no {kind} `{port}`", hint)

    # ---------------------------------------------------------------- services, actions

    def calls(self, kind: str, parts: dict[str, tuple[str, str]]) -> Ros2BlockCalls | None:
        """Return the service or action; ``parts``: whether a part is an input or output of a client, and of
        a server."""
        block = self._block
        if self._kind != kind:
            return None
        role = block.get("role")
        if role is None:
            return None
        qos = self._qos(block)
        if qos.reliable is False:
            at = block.get("qos").place("reliable")
            self._report.error(at, f"{'an action' if kind == 'action' else 'a service'} is always reliable")
        ports: dict[str, str] = {}
        for part, sides in parts.items():
            side = sides[get_args(Role).index(role)]
            declared = self._outputs if side == "output" else self._inputs
            others = [name for name in declared if name not in _OPTIONAL]
            if part in declared:
                ports[part] = part
            elif part in _OPTIONAL:
                continue
            elif len(others) == 1:  # no other one can be meant
                ports[part] = others[0]
            else:
                article = "an" if side[0] in "aeiou" else "a"
                self._report.error(
                    block.place(kind),
                    f"{self._owner} needs {article} {side} `{part}` for `role: {role}`",
                    f"it has {listed(declared)}" if declared else f"it has no {side}s",
                )
        return Ros2BlockCalls(block.get(kind) or "", block.get(f"{kind}_type") or "", role, ports, qos)

    # ---------------------------------------------------------------- quality of service

    def _qos(self, block: CheckedBlock) -> Ros2BlockQos:
        found: CheckedBlock | None = block.get("qos")
        if found is None:
            return Ros2BlockQos()
        if found.get("keep_all") and found.has("keep_last"):
            self._report.error(found.keys["keep_last"], "`keep_last` contradicts `keep_all: true`")
        values: dict[str, Any] = {name: found.get(name) for name in Ros2BlockQos.__struct_fields__}
        return Ros2BlockQos(**values)
