"""Contexts and nodes over DDS: a context is a participant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from cyclonedds.core import DDSException, Policy
from cyclonedds.core import Qos as DdsQos
from cyclonedds.domain import DomainParticipant

from dora.errors import ConnectError, TransportError
from dora.ros2.dds.calls import raw_topic
from dora.ros2.dds.domains import close_domain, open_domain
from dora.ros2.dds.receiver import DdsReceiver
from dora.ros2.dds.topics import DdsPublisher, DdsSubscription
from dora.ros2.dds.watch import GraphWatch
from dora.ros2.engine import RosType, ServiceClient, ServiceServer
from dora.ros2.graph import NodeName
from dora.ros2.life import OpenContext, OpenNode
from dora.ros2.names import TOPIC_PREFIX
from dora.ros2.qos import DEFAULT, SERVICES, Qos

MAX_DOMAIN: Final = 232  # the ports of a higher one would be above 65,535
_ENCLAVE: Final = b"enclave=/;"
_NO_SERVICES: Final = (
    "services, actions and parameters over DDS need the rclpy of a ROS installation (`engine: rclpy`), "
    "or take the Zenoh engine"
)


def open_context(domain_id: int = 0) -> DdsContext:
    """Open a context. The variables of ROS (``ROS_AUTOMATIC_DISCOVERY_RANGE``, ``ROS_STATIC_PEERS``) or
    ``CYCLONEDDS_URI`` say which machines it reaches.

    Raises `ValueError` for a domain above 232, and `ConnectError`.
    """
    if not 0 <= domain_id <= MAX_DOMAIN:
        raise ValueError(f"domain {domain_id} does not exist over DDS: the domains are 0 to {MAX_DOMAIN}")
    return DdsContext(domain_id)


class DdsContext(OpenContext):
    """See `dora.ros2.engine.RosContext`."""

    engine = "dds"
    has_services = False
    checks_qos = True

    def __init__(self, domain_id: int) -> None:
        super().__init__(domain_id)
        self._topics: dict[tuple[str, str], Any] = {}
        open_domain(domain_id)
        try:
            self._participant = DomainParticipant(domain_id, DdsQos(Policy.Userdata(_ENCLAVE)))
            self._receiver = DdsReceiver(self._participant)
            self._watch = GraphWatch(self._participant, self._receiver, self.graph)
        except DDSException as error:
            close_domain(domain_id)
            raise ConnectError(f"DDS cannot take part in domain {domain_id}: {error}") from error
        self._begin()

    @property
    def malformed(self) -> int:
        return self._watch.malformed

    def create_node(self, name: str, namespace: str = "/") -> DdsNode:
        return self._add_node(name, namespace, lambda node: DdsNode(self, node))

    def topic(self, name: str, type: RosType) -> Any:
        """Return the topic of DDS for a topic and type of ROS."""
        with self._lock:
            key = (name, type.dds_name)
            if key not in self._topics:
                self._topics[key] = raw_topic(self._participant, f"{TOPIC_PREFIX}{name}", type.dds_name)
            return self._topics[key]

    @property
    def parts(self) -> tuple[Any, DdsReceiver, GraphWatch]:
        """The participant, its receiver and its watch, for the nodes."""
        return self._participant, self._receiver, self._watch

    def _end(self) -> None:
        self._close_nodes()
        self._receiver.close()  # first: its thread uses the readers of the watch
        self._watch.close()
        self._topics.clear()
        del self._receiver, self._participant
        close_domain(self.domain_id)


class DdsNode(OpenNode):
    """See `dora.ros2.engine.RosNode`."""

    def __init__(self, context: DdsContext, node: NodeName) -> None:
        super().__init__(context, node)
        self._context = context
        context.parts[2].announce(node)

    def create_publisher(self, topic: str, type: RosType, qos: Qos = DEFAULT) -> DdsPublisher:
        def make(full: str, dds_topic: Any, on_close: Callable[[], None]) -> DdsPublisher:
            return DdsPublisher(self._context.parts[0], dds_topic, full, type, qos, on_close)

        publisher: DdsPublisher = self._create(make, "publisher", topic, type)
        self._context.parts[2].announce(self._node, writers=(publisher.gid,))
        return publisher

    def create_subscription(self, topic: str, type: RosType, qos: Qos = DEFAULT) -> DdsSubscription:
        def make(full: str, dds_topic: Any, on_close: Callable[[], None]) -> DdsSubscription:
            participant, receiver, _ = self._context.parts
            return DdsSubscription(participant, receiver, dds_topic, full, type, qos, on_close)

        subscription: DdsSubscription = self._create(make, "subscription", topic, type)
        self._context.parts[2].announce(self._node, readers=(subscription.gid,))
        return subscription

    def create_client(self, service: str, type: RosType, qos: Qos = SERVICES) -> ServiceClient:  # noqa: ARG002
        raise TransportError(_NO_SERVICES)

    def create_server(self, service: str, type: RosType, qos: Qos = SERVICES) -> ServiceServer:  # noqa: ARG002
        raise TransportError(_NO_SERVICES)

    def _create(self, make: Callable[..., Any], what: str, name: str, type: RosType) -> Any:
        full = self._full_name(name)
        watch = self._context.parts[2]

        def on_close() -> None:
            watch.withdraw(self._node, endpoint.gid)
            self._endpoints.discard(endpoint)

        try:
            endpoint = make(full, self._context.topic(full, type), on_close)
        except DDSException as error:
            raise TransportError(f"DDS cannot create a {what} of {full}: {error}") from error
        self._endpoints.add(endpoint)
        return endpoint

    def _end(self) -> None:
        self._context.parts[2].withdraw(self._node)
