"""The life of a node with a `ros2` block."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, Protocol

from dora.dataflow.ros2 import Ros2Block, Ros2BlockCalls, Ros2BlockTopic
from dora.errors import ConnectError, TransportError
from dora.node.events import Input, ParamDeleted, ParamUpdate
from dora.node.external import External
from dora.node.node import Node
from dora.ros2.api.context import Ros2Context, Ros2Node
from dora.ros2.api.policies import Ros2NodeOptions, Ros2QosPolicies, Ros2Transport
from dora.ros2.api.reports import LOGGER
from dora.ros2.bridge.actions import CalledAction, ServedAction
from dora.ros2.bridge.check import engine_of
from dora.ros2.bridge.parameters import BridgeParameters
from dora.ros2.bridge.qualities import calls_qos, publisher_qos, subscription_qos
from dora.ros2.bridge.services import CalledService, ServedService
from dora.ros2.bridge.topics import PublishedTopic, SubscribedTopic
from dora.ros2.message_queue import Delivery
from dora.transport.board import WORDS
from dora.wire.counters import ROS2_LOST

_HIGHEST: Final = (1 << 64) - 1  # in a word of the board

Handler = Callable[[Input], None]


class Timed(Protocol):
    """A part of the bridge that has something to do at a time."""

    def due(self) -> float | None:
        """Return when `on_due` has something to do (monotonic seconds); None: never."""

    def on_due(self) -> None:
        """Do it."""


def run(block: Ros2Block) -> None:
    """Carry messages until the dataflow ends.

    Raises `ConnectError` if the engine does not get to the others, `TransportError` if the engine ends
    before the dataflow, `TypeNotFound`, and ``ValueError`` for a name that ROS does not have.
    """
    context = open_context(block)
    failure = None
    try:
        # It takes a second. The others wait until this node is ready, so it misses less of what they send.
        context.engine(services=block.needs_services)
    except ConnectError as error:
        failure = error  # of this node, once it is one: the others go on
    with Node() as node, context:  # the context ends first, so what it warns of is in the node's log
        LOGGER.addHandler(_LogOfNode(node))
        LOGGER.propagate = False
        choice = engine_of(block)
        node.log_info(f"ROS 2 over {choice.engine}: {choice.reason}")
        if failure is not None:
            raise failure
        parameters = BridgeParameters(node, node.log_warn)
        options = Ros2NodeOptions(rosout=True)
        ros_node = context.new_node(block.name_of(node.id), block.namespace, options, parameters.ros)
        ros_node.on_loss = Losses(node).add
        failures = EngineFailures()
        node.merge_external_events(failures)
        context.set_on_failure(failures.add)
        BridgeNode(node, ros_node, block, parameters).run()


def open_context(block: Ros2Block) -> Ros2Context:
    """Return the context of a block; relative paths begin in the folder of this process."""
    kind = engine_of(block).engine
    return Ros2Context(
        ros_paths=[os.path.join(os.getcwd(), path) for path in block.ros_paths],
        transport=Ros2Transport(kind, block.compatibility, block.config_uri),
        domain_id=block.domain_id,
    )


class BridgeNode:
    """Carries what comes to its handler: inputs by their id, and deliveries of the ROS side."""

    def __init__(
        self, node: Node, ros_node: Ros2Node, block: Ros2Block, parameters: BridgeParameters
    ) -> None:
        self._node = node
        self._ros_node = ros_node
        self._handlers: dict[str, Handler] = {}
        self._timed: list[Timed] = []
        self._parameters = parameters
        for topic in block.topics:
            self._add_topic(topic)
        if block.service is not None:
            self._add_service(block.service)
        if block.action is not None:
            self._add_action(block.action)

    def _add_topic(self, topic: Ros2BlockTopic) -> None:
        config, node, ros_node = self._node._config, self._node, self._ros_node
        found = ros_node.create_topic(topic.topic, topic.message_type, Ros2QosPolicies())
        if topic.direction == "publish":
            inputs = [item for item in config.inputs if item.id in topic.ports]
            qos = publisher_qos(topic, inputs)
            published = PublishedTopic(
                ros_node, topic, ros_node.create_publisher(found, qos), found.type.name
            )
            for port in topic.ports:
                self._handlers[port] = published.handle
        else:
            outputs = [item for item in config.outputs if item.id in topic.ports]
            qos = subscription_qos(topic, outputs)
            # The type is prepared now: the first message would wait 0.2 s for it.
            found.type.transcode(found.type.encode({}))
            subscription = ros_node.create_subscription(found, qos)
            subscribed = SubscribedTopic(node, ros_node, topic, subscription, found.type.name)
            self._timed.append(subscribed)
            node.merge_external_events(subscribed)

    def _add_service(self, calls: Ros2BlockCalls) -> None:
        ros_node, qos = self._ros_node, calls_qos(calls.qos)
        service: ServedService | CalledService
        if calls.role == "server":
            server = ros_node.create_service_server(calls.name, calls.type, qos)
            service = ServedService(self._node, ros_node, calls, server)
        else:
            client, type = ros_node.create_raw_client(calls.name, calls.type, qos)
            service = CalledService(self._node, ros_node, calls, client, type)
        self._timed.append(service)
        port = calls.ports["response" if calls.role == "server" else "request"]
        self._connect(service, (port,))

    def _add_action(self, calls: Ros2BlockCalls) -> None:
        ros_node, qos = self._ros_node, calls_qos(calls.qos)
        action: ServedAction | CalledAction
        if calls.role == "server":
            server = ros_node.create_action_server(calls.name, calls.type, qos)
            action = ServedAction(self._node, ros_node, calls, server)
        else:
            client = ros_node.create_action_client(calls.name, calls.type, qos)
            action = CalledAction(self._node, ros_node, calls, client)
            self._timed.append(action)
        self._connect(action, calls.ports.values())

    def _connect(
        self, part: ServedService | CalledService | ServedAction | CalledAction, ports: Iterable[str]
    ) -> None:
        """Give a part the messages of some ports, and what comes from ROS."""
        for port in ports:
            self._handlers[port] = part.handle
        self._node.merge_external_events(part)

    def run(self) -> None:
        """Carry until the stream of events ends."""
        while (event := self._node.next(self._do_due())) is not None:
            if isinstance(event, External):
                event["value"]()
            elif isinstance(event, Input):
                handler = self._handlers.get(event["id"])
                if handler is not None:
                    handler(event)
            elif isinstance(event, ParamUpdate | ParamDeleted):
                self._parameters.handle(event)
        for part in self._timed:  # losses that no look has found yet, too
            part.on_due()

    def _do_due(self) -> float | None:
        """Do what is due, also while events come without a pause; return the seconds until the next."""
        for part in self._timed:
            due = part.due()
            if due is not None and due <= time.monotonic():
                part.on_due()
        times = [due for part in self._timed if (due := part.due()) is not None]
        return max(min(times) - time.monotonic(), 0.0) if times else None


class EngineFailures:
    """Raises in the thread of the node that an engine has ended: only a new process gets another one.

    A source of external events of the node, without a lock: the node looks into it at each event.
    """

    def __init__(self) -> None:
        self._failure: TransportError | None = None
        self._wake: Callable[[], None] | None = None

    def add(self, error: TransportError) -> None:
        """Take the reason, from any thread."""
        self._failure = error
        if self._wake is not None:
            self._wake()

    def next(self, timeout: float | None = None) -> Delivery | None:  # noqa: ARG002
        """Return what raises the reason, or None. It does not wait."""
        if self._failure is None:
            return None
        failure, self._failure = self._failure, None
        return partial(_raise, failure)

    def set_on_message(self, callback: Callable[[], None] | None) -> None:
        self._wake = callback  # before the look: a failure between them wakes twice, and not never
        if callback is not None and self._failure is not None:
            callback()


def _raise(error: TransportError) -> None:
    raise error


class Losses:
    """Counts on the board what the node has lost. Any thread may add."""

    def __init__(self, node: Node) -> None:
        self._words = node._session.board.words
        self._word = node._config.node_slot * WORDS + ROS2_LOST.word
        self._lock = threading.Lock()  # to read and add is not one step

    def add(self, count: int) -> None:
        """Count messages; the highest number that the board has room for stays."""
        with self._lock:
            self._words[self._word] = min(self._words[self._word] + count, _HIGHEST)


class _LogOfNode(logging.Handler):
    """Writes what `dora.ros2` logs into the log of the node."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node

    def emit(self, record: logging.LogRecord) -> None:
        number = record.levelno
        level = "error" if number >= logging.ERROR else "warn" if number >= logging.WARNING else "info"
        self._node.log(level, record.getMessage())
