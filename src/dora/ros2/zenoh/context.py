"""Contexts and nodes over Zenoh: a context is a session, a node is a liveliness token."""

from __future__ import annotations

import itertools
import threading
from typing import Any, Final

import zenoh

from dora.errors import TransportError
from dora.ros2.engine import EndpointSpec, RosContext, RosEndpoint, RosNode
from dora.ros2.graph import Kind, NodeName
from dora.ros2.zenoh.endpoint import Declaration, ZenohEndpoint, undeclare
from dora.ros2.zenoh.keys import (
    ADMIN_SPACE,
    PROFILES,
    Profile,
    endpoint_token,
    node_token,
    read_token,
    topic_key,
)
from dora.ros2.zenoh.services import ZenohClient, ZenohServer
from dora.ros2.zenoh.session import open_session
from dora.ros2.zenoh.topics import ZenohPublisher, ZenohSubscription

_CLASSES: Final[dict[Kind, type[ZenohEndpoint]]] = {
    Kind.PUBLISHER: ZenohPublisher,
    Kind.SUBSCRIPTION: ZenohSubscription,
    Kind.CLIENT: ZenohClient,
    Kind.SERVER: ZenohServer,
}
# Seconds that routers and peers have to tell what is there at the start; the subscriber hears later ones.
_GRAPH_TIMEOUT: Final = 5.0


def open_context(
    domain_id: int = 0, *, profile: str = "rep2016", config_uri: str | None = None
) -> ZenohContext:
    """Open a context; ``profile`` is ``humble``, or ``rep2016`` for Jazzy and later.

    Raises `ConnectError` if no router answers or the configuration cannot be used (see `open_session`), and
    `ValueError` for another profile.
    """
    if profile not in PROFILES:
        raise ValueError(f"`{profile}` is no profile of rmw_zenoh; there are {', '.join(PROFILES)}")
    return ZenohContext(open_session(config_uri), domain_id, PROFILES[profile])


class ZenohContext(RosContext):
    """See `dora.ros2.engine.RosContext`."""

    engine = "zenoh"
    has_services = True
    checks_qos = False  # Zenoh brings every publisher and subscription of a topic together

    def __init__(self, session: zenoh.Session, domain_id: int, profile: Profile) -> None:
        super().__init__(domain_id)
        self.profile = profile
        self.session = session
        self.session_id = str(session.info.zid())  # hexadecimal digits
        self.ids = itertools.count()  # of its nodes and endpoints
        self._ended: set[str] | None = set()  # tokens that have gone while the first answers come in
        # Threads of Zenoh tell of tokens meanwhile. One that went between a look at `_ended` and the entry
        # into the graph would stay there for ever.
        self._tokens = threading.Lock()
        self._begin()
        try:
            self._watch_graph()
        except zenoh.ZError as error:
            self.close()
            raise TransportError(f"Zenoh cannot watch the ROS graph: {error}") from error

    def _watch_graph(self) -> None:
        """Follow the tokens of the domain. The present ones are in the graph when this returns."""
        key = f"{ADMIN_SPACE}/{self.domain_id}/**"
        liveliness = self.session.liveliness()
        handler = zenoh.handlers.Callback(self._on_token, indirect=False)
        # Before the question: what comes or goes while its answers come in is not missed.
        self._watch: Any = liveliness.declare_subscriber(key, handler, history=True)
        # The history comes in the background; this one is waited for, as in rmw_zenoh.
        for reply in liveliness.get(key, timeout=_GRAPH_TIMEOUT):
            if reply.ok is not None:
                self._on_answer(reply.ok)
        self._ended = None

    def _on_answer(self, sample: zenoh.Sample) -> None:
        with self._tokens:
            if self._ended is not None and str(sample.key_expr) not in self._ended:
                self._add(sample)

    def _on_token(self, sample: zenoh.Sample) -> None:
        with self._tokens:
            if sample.kind != zenoh.SampleKind.DELETE:
                self._add(sample)
                return
            token = str(sample.key_expr)
            if self._ended is not None:
                self._ended.add(token)
            self.graph.update(gone=[token])

    def _add(self, sample: zenoh.Sample) -> None:
        token = str(sample.key_expr)
        try:
            entry = read_token(token)
        except ValueError:
            self.graph.malformed += 1
            return
        if isinstance(entry, NodeName):
            self.graph.update(nodes=[(token, entry)])
        else:
            self.graph.update(endpoints=[(token, entry)])

    def _make_node(self, node: NodeName) -> ZenohNode:
        return ZenohNode(self, node)

    def _end(self) -> None:
        self._close_nodes()
        try:
            self.session.close()  # type: ignore[no-untyped-call]  # a gap in its stubs
        except zenoh.ZError:
            pass  # the other side does not answer


class ZenohNode(RosNode):
    """See `dora.ros2.engine.RosNode`."""

    def __init__(self, context: ZenohContext, node: NodeName) -> None:
        super().__init__(context, node)
        self._context = context
        self._id = next(context.ids)
        token = node_token(context.domain_id, context.session_id, self._id, node)
        try:
            self._token = context.session.liveliness().declare_token(token)
        except zenoh.ZError as error:
            raise TransportError(f"Zenoh cannot announce node {node.full}: {error}") from error

    def _make(self, spec: EndpointSpec) -> RosEndpoint:
        context = self._context
        ids = (self._id, next(context.ids))
        topic = (spec.name, spec.type.dds_name, context.profile.hash_of(spec.type))
        token = endpoint_token(
            context.domain_id, context.session_id, ids, spec.kind, self._node, topic, spec.qos
        )
        declaration = Declaration(context.session, topic_key(context.domain_id, *topic), token)
        try:
            return _CLASSES[spec.kind](spec, declaration)
        except zenoh.ZError as error:
            raise TransportError(
                f"Zenoh cannot create a {spec.kind.value} of {spec.name}: {error}"
            ) from error

    def _end(self) -> None:
        undeclare(self._token)
