"""Contexts and nodes, as a program has them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self
from weakref import WeakSet

from dora.errors import CallTimedOut, ConnectError, TransportError
from dora.ros2.api.actions import Ros2ActionClient, Ros2ActionServer
from dora.ros2.api.clock import CLOCK, CLOCK_TOPIC, CLOCK_TYPE, NodeClock
from dora.ros2.api.parameters import ParameterValue, RosParameters
from dora.ros2.api.policies import Ros2NodeOptions, Ros2QosPolicies, Ros2Transport, domain_of
from dora.ros2.api.reports import LOGGER, DroppedMessages, MismatchWatch, RosoutHandler, node_logger
from dora.ros2.api.services import SERVER_TIMEOUT, Ros2ServiceClient, Ros2ServiceServer
from dora.ros2.api.topics import Ros2Publisher, Ros2Subscription, Ros2Topic
from dora.ros2.names import check_namespace, check_node_name, full_node_name
from dora.ros2.qos import Durability, Qos, Reliability

if TYPE_CHECKING:
    from dora.ros2.engine import RosContext, RosEndpoint, RosNode, RosSubscription, ServiceClient
    from dora.ros2.types.library import InterfaceLibrary
    from dora.ros2.types.message_type import MessageType, ServiceType

__all__ = ["Ros2Context", "Ros2Node"]

# As in rcl, so tools of ROS that start later show the log of the last seconds.
ROSOUT: Final = Qos(durability=Durability.TRANSIENT_LOCAL, depth=1000, lifespan=10_000_000_000)


class Ros2Context:
    """Takes part in a ROS domain, and knows the types of messages.

    >>> from dora import Ros2Context, Ros2NodeOptions, Ros2QosPolicies                # doctest: +SKIP
    >>> node = Ros2Context().new_node("talker", "/", Ros2NodeOptions())               # doctest: +SKIP
    >>> topic = node.create_topic("/chatter", "std_msgs/String", Ros2QosPolicies())   # doctest: +SKIP
    >>> node.create_publisher(topic).publish({"data": "hello"})                       # doctest: +SKIP

    ``ros_paths``: folders with packages of message types, in front of ``AMENT_PREFIX_PATH`` and of the
    standard packages. ``transport``: see `Ros2Transport`. ``domain_id``: by default ``$ROS_DOMAIN_ID``,
    else 0. The engine opens with the first node.

    Raises ``ValueError`` for an impossible domain, and `DefinitionError` for a path that is no folder.
    """

    def __init__(
        self,
        ros_paths: Iterable[str | os.PathLike[str]] | None = None,
        transport: Ros2Transport | None = None,
        domain_id: int | None = None,
    ) -> None:
        from dora.ros2.types.library import InterfaceLibrary

        self.library: InterfaceLibrary = InterfaceLibrary(ros_paths or ())
        self.domain_id = domain_of(domain_id)
        self._transport = transport
        # Two threads that make nodes at once get one engine, and none opens after `close`.
        self._lock = threading.RLock()
        self._open: list[tuple[RosContext, MismatchWatch]] = []
        self._nodes: set[Ros2Node] = set()
        self._on_failure: Callable[[TransportError], None] | None = None
        self._closed = False

    @property
    def transport_kind(self) -> str:
        """``zenoh``, ``dds`` or ``rclpy``."""
        if self._transport is not None:
            return self._transport.kind
        from dora.ros2.choose import choose

        return choose(None).engine

    def new_node(
        self,
        name: str,
        namespace: str,
        options: Ros2NodeOptions,
        parameters: Mapping[str, ParameterValue] | RosParameters | None = None,
    ) -> Ros2Node:
        """Make a node of the ROS graph. ``parameters``: names and values that it declares.

        ``{"use_sim_time": True}`` gives it the time of ``/clock``, see `Ros2Node.time_ns`.

        Raises ``ValueError`` for a name that breaks the rules of ROS, ``ParameterError`` for a parameter
        that ROS does not have, and `ConnectError` if the engine does not get to the others.
        """
        node = Ros2Node(self, name, namespace, options, parameters)
        with self._lock:
            self._nodes.add(node)
        return node

    def forget(self, node: Ros2Node) -> None:
        """Keep a node no more, which is closed."""
        with self._lock:
            self._nodes.discard(node)

    def engine(self, *, services: bool) -> tuple[RosContext, MismatchWatch]:
        """Return a context of an engine, with services if they are needed; raises `ConnectError`.

        Over DDS the engine for topics has no services, so the second one opens when they are needed.
        """
        from dora.ros2.choose import choose

        with self._lock:
            if self._closed:
                raise ConnectError("the ROS context is closed")
            for opened in self._open:
                if opened[0].has_services or not services:
                    return opened
            transport = self._transport or Ros2Transport("")
            choice = choose(transport.kind or None, services=services)
            context = transport.open(choice, self.domain_id)
            context.set_on_failure(self._on_failure)
            found = context, MismatchWatch(context)
            self._open.append(found)
            return found

    def set_on_failure(self, callback: Callable[[TransportError], None]) -> None:
        """Set what any thread calls with the reason when an engine ends without `close`.

        That is the process of rclpy. The callback is called at once if it has ended already.
        """
        with self._lock:
            self._on_failure = callback
            opened = [context for context, _ in self._open]
        for context in opened:
            context.set_on_failure(callback)

    def close(self) -> None:
        """Leave the domain, with all nodes; a second time it does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            opened, nodes = list(self._open), list(self._nodes)
        for context, watch in opened:
            watch.close()
            context.close()
            if context.malformed:
                LOGGER.warning(
                    f"{context.malformed} times, what came about the ROS graph could not be read"
                )
        for node in nodes:  # their threads; the engine has left
            node.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Ros2Node:
    """A node of the ROS graph. Made by `Ros2Context.new_node`.

    ``logger`` is a ``logging.Logger``. Its messages also go to the logger ``dora.ros2``, and to ``/rosout``
    if that is wanted.
    """

    def __init__(
        self,
        context: Ros2Context,
        name: str,
        namespace: str,
        options: Ros2NodeOptions,
        parameters: Mapping[str, ParameterValue] | RosParameters | None,
    ) -> None:
        self.name, self.namespace = check_node_name(name), check_namespace(namespace)
        self.full_name = full_node_name(self.name, self.namespace)
        self.logger = node_logger(self.full_name)
        self.on_loss: Callable[[int], None] = lambda _: None  # told how many messages were lost
        self._context = context
        self._nodes: dict[str, RosNode] = {}  # engine → the node there
        self._lock = threading.RLock()  # two threads would make this node twice in one engine
        # Their threads hold them until they are closed.
        self._actions: WeakSet[Ros2ActionServer] = WeakSet()
        self.parameters = (
            parameters if isinstance(parameters, RosParameters) else RosParameters(parameters or {})
        )
        node = self._node(services=False)
        if options.rosout:
            log = context.library.message("rcl_interfaces/Log")
            publisher = node.create_publisher("/rosout", log, ROSOUT)
            self.logger.addHandler(RosoutHandler(publisher, log))
        self._clock = NodeClock(self._subscribe_clock)
        self.parameters.follow(self._clock.follow)
        self._serve_parameters()

    def _subscribe_clock(self) -> tuple[RosSubscription, MessageType]:
        type = self._context.library.message(CLOCK_TYPE)
        return self._node(services=False).create_subscription(CLOCK_TOPIC, type, CLOCK), type

    def _serve_parameters(self) -> None:
        """Serve the parameters where there are services.

        Over DDS another engine has them, which opens for a node that has declared some.
        """
        if not self.parameters.any_declared and not self._context.engine(services=False)[0].has_services:
            return
        try:
            node = self._node(services=True)
        except ConnectError as error:
            self.logger.info(f"other nodes cannot see the parameters of this node: {error}")
            return
        dropped = self.dropped(f"node {self.full_name}")
        self.parameters.serve(node, self._context.library, self.time_ns, dropped)

    def _node(self, *, services: bool) -> RosNode:
        """Return this node in an engine that has what is needed; raises `ConnectError`."""
        context, _ = self._context.engine(services=services)
        with self._lock:
            if context.engine not in self._nodes:
                self._nodes[context.engine] = context.create_node(self.name, self.namespace)
            return self._nodes[context.engine]

    def _watch(self, endpoint: RosEndpoint, *, services: bool) -> None:
        self._context.engine(services=services)[1].add(endpoint, self.logger.warning)

    # ------------------------------------------------------------------ topics

    def create_topic(self, name: str, message_type: str, qos: Ros2QosPolicies) -> Ros2Topic:
        """Name a topic, ``/chatter``, with its type, ``std_msgs/String``, and its quality of service.

        Raises `TypeNotFound`, which says where it was looked for, and `DefinitionError`.
        """
        return Ros2Topic(name, self._context.library.message(message_type), qos.qos)

    def create_publisher(self, topic: Ros2Topic, qos: Ros2QosPolicies | None = None) -> Ros2Publisher:
        """Publish on a topic. ``qos``: by default the one of the topic.

        Raises ``ValueError`` for a name that breaks the rules of ROS, and `TransportError`.
        """
        used = topic.qos if qos is None else qos.qos
        publisher = self._node(services=False).create_publisher(topic.name, topic.type, used)
        self._watch(publisher, services=False)
        return Ros2Publisher(publisher, topic.type)

    def create_subscription(self, topic: Ros2Topic, qos: Ros2QosPolicies | None = None) -> Ros2Subscription:
        """Subscribe to a topic. Raises as `create_publisher` does."""
        used = topic.qos if qos is None else qos.qos
        subscription = self._node(services=False).create_subscription(topic.name, topic.type, used)
        self._watch(subscription, services=False)
        return Ros2Subscription(
            subscription, topic.type, self.dropped(f"the subscription of {subscription.topic}")
        )

    def dropped(self, where: str) -> DroppedMessages:
        """Return a counter of messages left out at a place: it warns, and calls ``on_loss``."""
        return DroppedMessages(where, self.logger.warning, lambda count: self.on_loss(count))

    # ------------------------------------------------------------------ services

    def create_service_client(
        self, service_name: str, service_type: str, qos: Ros2QosPolicies
    ) -> Ros2ServiceClient:
        """Return a client of a service such as ``/add_two_ints`` of type ``example_interfaces/AddTwoInts``.

        Waits for a server, 20 seconds at most; raises `CallTimedOut` then. Raises `TypeNotFound`,
        `ConnectError` if the engine has no services, ``ValueError`` for a name or a quality of service that
        ROS does not have.
        """
        client, type = self.create_raw_client(service_name, service_type, qos)
        if not client.wait_for_service(SERVER_TIMEOUT):
            client.close()
            raise CallTimedOut(
                f"no server of {client.service} ({type.name}) has come within {SERVER_TIMEOUT:g} s"
            )
        return Ros2ServiceClient(client, type)

    def create_raw_client(
        self, service_name: str, service_type: str, qos: Ros2QosPolicies
    ) -> tuple[ServiceClient, ServiceType]:
        """Return a client of the engine, which sends bytes, and its type; does not wait for a server."""
        type = self._context.library.service(service_type)
        client = self._node(services=True).create_client(service_name, type, _reliable(qos, "a service"))
        self._watch(client, services=True)
        return client, type

    def create_service_server(
        self, service_name: str, service_type: str, qos: Ros2QosPolicies
    ) -> Ros2ServiceServer:
        """Offer a service. Raises as `create_service_client` does, but does not wait."""
        type = self._context.library.service(service_type)
        node = self._node(services=True)
        server = node.create_server(service_name, type, _reliable(qos, "a service"))
        self._watch(server, services=True)
        return Ros2ServiceServer(server, type, self.dropped(f"the server of {server.service}"))

    # ------------------------------------------------------------------ actions

    def create_action_client(
        self, action_name: str, action_type: str, qos: Ros2QosPolicies
    ) -> Ros2ActionClient:
        """Return a client of an action such as ``/fibonacci`` of type ``example_interfaces/Fibonacci``.

        Does not wait for a server. Raises `TypeNotFound`, `ConnectError` if the engine has no services,
        ``ValueError`` for a name or a quality of service that ROS does not have.
        """
        library = self._context.library
        type = library.action(action_type)
        node, reliable = self._node(services=True), _reliable(qos, "an action")
        dropped = self.dropped(f"the action of {action_name}")
        return Ros2ActionClient(node, action_name, type, reliable, library, dropped)

    def create_action_server(
        self, action_name: str, action_type: str, qos: Ros2QosPolicies
    ) -> Ros2ActionServer:
        """Offer an action. Raises as `create_action_client` does."""
        library = self._context.library
        type = library.action(action_type)
        node, reliable = self._node(services=True), _reliable(qos, "an action")
        dropped = self.dropped(f"the action of {action_name}")
        server = Ros2ActionServer(node, action_name, type, reliable, library, dropped, self.time_ns)
        self._actions.add(server)
        return server

    # ------------------------------------------------------------------ parameters

    def get_parameter(self, name: str) -> ParameterValue | None:
        """Return the value of a parameter, None if it is not declared."""
        value: ParameterValue | None = self.parameters.get(name)
        return value

    def set_parameter(self, name: str, value: ParameterValue) -> None:
        """Change a declared parameter, for other ROS nodes too.

        Raises ``ParameterError`` if it is not declared or has another type.
        """
        self.parameters.set(name, value)

    def has_parameter(self, name: str) -> bool:
        """Return whether a parameter is declared."""
        return name in self.parameters.names()

    def list_parameters(self) -> list[str]:
        """Return the names of the declared parameters, sorted."""
        return self.parameters.names()

    # ------------------------------------------------------------------ time

    @property
    def is_simulated(self) -> bool:
        """Whether ``use_sim_time`` is true, so that the time is the one of ``/clock``."""
        return self._clock.is_simulated

    def time_ns(self) -> int:
        """Return the time of this node, in nanoseconds since 1970.

        With the parameter ``use_sim_time``, it is the time in the last message on ``/clock``, and 0 before
        the first one, as in ROS.
        """
        return self._clock.time_ns()

    # ------------------------------------------------------------------ end

    def close(self) -> None:
        """Leave the graph, with everything that this node has made."""
        self._context.forget(self)
        self.parameters.close()
        for server in list(self._actions):
            server.close()
        for node in list(self._nodes.values()):
            node.close()


def _reliable(qos: Ros2QosPolicies, what: str) -> Qos:
    """Return the quality of a service. Raises ``ValueError`` for one that may lose requests."""
    if qos.qos.reliability is not Reliability.RELIABLE:
        raise ValueError(f"{what} of ROS needs `reliable=True` in its Ros2QosPolicies")
    return qos.qos
