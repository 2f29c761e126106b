"""Connections of nodes to the daemon: registration, frames in both directions, disconnection."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from dora.daemon.accounting import Accounting
from dora.daemon.control_server import Connection, ControlServer, NodeTable
from dora.daemon.journal import Journal
from dora.daemon.link_changes import LinkChanges
from dora.daemon.requests import RequestHandler, registration_fault
from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor import events as on
from dora.dataflow.layout import Plan
from dora.wire.node_config import NodeConfig
from dora.wire.node_protocol import (
    InputAttached,
    InputDetached,
    PathMissed,
    PublishResult,
    Ready,
    Register,
    Registered,
    RegistrationRefused,
    ToDaemon,
)


class _Standby(msgspec.Struct):
    """The connection of a replacement that is not in charge of its node yet."""

    connection: Connection
    ready: bool = False


class NodeConnections:
    """The connections of one run's nodes; what nodes send becomes an event or an answer.

    ``state_directory`` is as in `LocalRunOptions`.
    ``on_closed`` is called with a node whose connection was lost, before the supervisor gets to know it.
    """

    def __init__(
        self,
        server: ControlServer,
        nodes: NodeTable,
        accounting: Accounting,
        link_changes: LinkChanges,
        requests: RequestHandler,
        journal: Journal,
        state_directory: str,
        *,
        feed: Callable[[on.Event], None],
        on_closed: Callable[[str], None],
    ) -> None:
        self._server = server
        self._nodes = nodes
        self._accounting = accounting
        self._link_changes = link_changes
        self._requests = requests
        self._journal = journal
        self._state_directory = state_directory
        self._feed = feed
        self._on_closed = on_closed
        self._standby: dict[str, _Standby] = {}

    # ----------------------------------------------------------------------- registration

    def register(self, connection: Connection, message: Register) -> None:
        """Feed `Registering`, or refuse a registration that is not valid."""
        if fault := registration_fault(connection, message, self._requests.description()):
            self.refuse(connection, fault)
            return
        connection.pid = message.pid
        connection.incarnation = message.incarnation
        self._feed(on.Registering(connection.number, message.node_id, message.incarnation, message.dynamic))

    def refuse(self, connection: Connection | None, reason: str) -> None:
        """Answer a registration with a reason and close the connection."""
        if connection is None:
            return
        connection.send(RegistrationRefused(reason))
        self._server.drop(connection)
        self.closed(connection)

    def admit(self, command: do.Admit, plan: Plan) -> None:
        """Answer a registration; the connection is the node's from now on."""
        connection = self._server.connections.get(command.connection)
        if connection is None:  # it was lost before the supervisor decided about it
            self._feed(on.Disconnected(command.node_id))
            return
        self._connect(command.node_id, connection)
        connection.send(Registered(self._config(command, plan)))

    def admit_replacement(self, command: do.AdmitReplacement, plan: Plan) -> None:
        """Answer the registration of a replacement, which stands by until it is promoted."""
        connection = self._server.connections.get(command.connection)
        if connection is None:
            return  # the end of its process is an event of its own
        connection.node_id = command.node_id
        self._standby[command.node_id] = _Standby(connection)
        config = msgspec.structs.replace(self._config(command, plan), standby=True)
        connection.send(Registered(config))

    def promote_replacement(self, node_id: str) -> None:
        """Give a node the connection of its replacement."""
        standby = self._standby.pop(node_id, None)
        if standby is None:  # it was lost while the replacement stood by, or there was none yet
            self._feed(on.Disconnected(node_id))
            return
        self._connect(node_id, standby.connection)
        if standby.ready:
            self._feed(on.MessageReceived(node_id, Ready()))

    def drop_replacement(self, node_id: str) -> None:
        """Forget the connection of a replacement, whose process is killed."""
        self._standby.pop(node_id, None)

    def _connect(self, node_id: str, connection: Connection) -> None:
        connection.node_id = node_id
        connection.on_written = lambda: self._accounting.notify(node_id)
        self._nodes.add(node_id, connection)
        self._accounting.reopen_receivers(node_id)

    def _config(self, command: do.Admit | do.AdmitReplacement, plan: Plan) -> NodeConfig:
        return msgspec.structs.replace(
            plan.configs[command.node_id],
            restart_count=command.restart_count,
            parameters=command.parameters,
            event_logs=self._requests.event_logs.of(command.node_id),
            state_file=self._state_file(command.node_id, plan),
        )

    def _state_file(self, node_id: str, plan: Plan) -> str:
        if not self._state_directory:
            return ""
        # Another node of the same name is not to find the state of the former one.
        return f"{self._state_directory}/{node_id}-{plan.generations.get(node_id, 0)}"

    # ----------------------------------------------------------------------- frames

    def handle(self, connection: Connection, message: ToDaemon) -> None:
        """Handle a frame that is no registration."""
        node_id = connection.node_id
        standby = self._standby.get(node_id)
        if not node_id:
            self.refuse(connection, "the first frame has to be a registration")
        elif standby is not None and standby.connection is connection:
            if isinstance(message, Ready):
                standby.ready = True
                self._feed(on.ReplacementReady(node_id, connection.incarnation))
        elif isinstance(message, PublishResult):
            self._requests.answer_publish(node_id, message)
        elif isinstance(message, PathMissed):
            self._journal.mark("missed", node_id, message.text, save=message.save)
        elif isinstance(message, InputAttached):
            self._link_changes.attached(node_id, message)
        elif isinstance(message, InputDetached):
            self._link_changes.detached(message)
        elif isinstance(message, on.NodeMessage):
            self._feed(on.MessageReceived(node_id, message))

    # ----------------------------------------------------------------------- disconnection

    def disconnect(self, node_id: str) -> None:
        """Close the connection of a node."""
        if (connection := self._nodes.get(node_id)) is not None:
            self._server.drop(connection)
            self.closed(connection)

    def closed(self, connection: Connection) -> None:
        """Handle the loss of a connection, if it was a node's."""
        node_id = connection.node_id
        standby = self._standby.get(node_id)
        if standby is not None and standby.connection is connection:
            del self._standby[node_id]  # the end of its process is an event of its own
            return
        if self._nodes.get(node_id) is not connection:
            return
        self._nodes.remove(node_id)  # first: what follows must not send to it
        self._on_closed(node_id)
        self._link_changes.node_disconnected(node_id)
        self._feed(on.Disconnected(node_id))
        self._requests.node_disconnected(node_id)

    def process_ended(self, node_id: str) -> None:
        """Handle what a process sent before it ended, and close its connection."""
        if (connection := self._nodes.get(node_id)) is None:
            return
        connection.read_rest()
        # Unless reading has closed it. No `Disconnected` is fed: `ProcessEnded` follows, and says more.
        if self._nodes.remove(node_id):
            self._server.drop(connection)
            self._link_changes.node_disconnected(node_id)
            self._requests.node_disconnected(node_id)
