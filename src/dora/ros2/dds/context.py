"""Contexts and nodes over DDS: a context is a participant."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import Any, Final

from cyclonedds.core import DDSException, Policy
from cyclonedds.core import Qos as DdsQos
from cyclonedds.domain import DomainParticipant

from dora.errors import ConnectError, TransportError
from dora.ros2.dds.calls import delete, raw_topic
from dora.ros2.dds.domains import close_domain, open_domain
from dora.ros2.dds.receiver import DdsReceiver
from dora.ros2.dds.topics import DdsPublisher, DdsSubscription
from dora.ros2.dds.watch import GraphWatch
from dora.ros2.engine import EndpointSpec, RosContext, RosEndpoint, RosNode, RosType
from dora.ros2.graph import Kind, NodeName
from dora.ros2.names import TOPIC_PREFIX

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


class DdsContext(RosContext):
    """See `dora.ros2.engine.RosContext`."""

    engine = "dds"
    has_services = False
    checks_qos = True

    def __init__(self, domain_id: int) -> None:
        super().__init__(domain_id)
        self._topics: dict[tuple[str, str], Any] = {}
        open_domain(domain_id)
        with ExitStack() as undo:
            undo.callback(close_domain, domain_id)
            try:
                self.participant = DomainParticipant(domain_id, DdsQos(Policy.Userdata(_ENCLAVE)))
                undo.callback(delete, self.participant)
                self.receiver = DdsReceiver(self.participant)
                undo.callback(self.receiver.close)
                self.watch = GraphWatch(self.participant, self.receiver, self.graph)
            except (DDSException, TransportError) as error:
                raise ConnectError(f"DDS cannot take part in domain {domain_id}: {error}") from error
            undo.pop_all()
        self._begin()

    def _make_node(self, node: NodeName) -> DdsNode:
        return DdsNode(self, node)

    def topic(self, name: str, type: RosType) -> Any:
        """Return the topic of DDS for a topic and type of ROS."""
        with self._lock:
            key = (name, type.dds_name)
            if key not in self._topics:
                self._topics[key] = raw_topic(self.participant, f"{TOPIC_PREFIX}{name}", type.dds_name)
            return self._topics[key]

    def _end(self) -> None:
        self._close_nodes()  # while the watch can still publish that they are gone
        self.receiver.close()  # before the participant: its thread uses readers of that
        self._topics.clear()
        delete(self.participant)
        close_domain(self.domain_id)  # last: the participant is in it


class DdsNode(RosNode):
    """See `dora.ros2.engine.RosNode`."""

    def __init__(self, context: DdsContext, node: NodeName) -> None:
        super().__init__(context, node)
        self._context = context
        try:
            context.watch.announce(node)
        except DDSException as error:
            with suppress(DDSException):  # the next announcement of another node shall not have it
                context.watch.withdraw(node)
            raise TransportError(f"DDS cannot announce node {node.full}: {error}") from error

    def _make(self, spec: EndpointSpec) -> RosEndpoint:
        if spec.kind in (Kind.CLIENT, Kind.SERVER):
            raise TransportError(_NO_SERVICES)
        context = self._context
        endpoint: RosEndpoint | None = None
        try:
            topic = context.topic(spec.name, spec.type)
            if spec.kind is Kind.PUBLISHER:
                endpoint = DdsPublisher(spec, context.participant, topic)
                context.watch.announce(self._node, writers=(endpoint.gid,))
            else:
                endpoint = DdsSubscription(spec, context.participant, context.receiver, topic)
                context.watch.announce(self._node, readers=(endpoint.gid,))
            return endpoint
        except DDSException as error:
            if endpoint is not None:
                with suppress(DDSException):  # that it is gone cannot be announced either
                    endpoint.close()
            raise TransportError(
                f"DDS cannot create a {spec.kind.value} of {spec.name}: {error}"
            ) from error

    def _forget(self, endpoint: RosEndpoint) -> None:
        super()._forget(endpoint)
        self._context.watch.withdraw(self._node, endpoint.gid)

    def _end(self) -> None:
        self._context.watch.withdraw(self._node)
