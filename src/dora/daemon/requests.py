"""Requests of clients, such as the commands of dora, to the daemon of a run.

Requests that change the dataflow or its nodes become events, about which the supervisor decides. The
others are answered here: views of the run, taps on outputs, event logs for recorders, and messages that
a node publishes for a client.
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from dora._version import __version__
from dora.daemon.accounting import Accounting
from dora.daemon.black_box import BlackBox
from dora.daemon.cleanup import Cleanup
from dora.daemon.client import fits
from dora.daemon.control_server import Connection, NodeTable
from dora.daemon.event_loop import Loop, Timer
from dora.daemon.journal import Journal
from dora.daemon.options import LocalRunOptions
from dora.daemon.processes.scheduling import refusals
from dora.daemon.run_log import RunLog
from dora.daemon.supervisor import events as on
from dora.daemon.supervisor.state import NodeState
from dora.daemon.supervisor.status import Phase
from dora.daemon.supervisor.supervisor import Supervisor
from dora.daemon.taps import Taps
from dora.dataflow.gateway_plan import networks_of
from dora.dataflow.layout import Placement, Plan, RunContext, text_outputs
from dora.dataflow.model import Dataflow
from dora.errors import DoraError
from dora.transport.shm.ring_buffer import remove_ring_buffers
from dora.wire.daemon_protocol import (
    PUBLISH_PATIENCE,
    Answer,
    ApplyChange,
    CheckChange,
    CloseTaps,
    DataflowText,
    DescribeDataflow,
    Description,
    FailureView,
    FilePart,
    GetDataflow,
    GetGraph,
    GetJournal,
    GetModel,
    GetProgress,
    GraphText,
    InputView,
    Inspect,
    Inspection,
    Interrupt,
    LinkView,
    Model,
    NodeView,
    Ok,
    OpenTaps,
    OutputView,
    Publish,
    ReadSavedFile,
    Rejected,
    Request,
    RunProgress,
    SaveBlackBox,
    StartEventLogs,
)
from dora.wire.decoders import DecodeError, from_plain
from dora.wire.input_rules import input_rules_of
from dora.wire.node_config import WriteEventLog
from dora.wire.node_protocol import PROTOCOL_VERSION, PublishRequest, PublishResult, Register
from dora.wire.node_status import StatusWord
from dora.wire.operations import grace_fault, program_key
from dora.wire.output_rules import output_rules_of


class EventLogHooks:
    """The event logs that nodes write for recorders: the order of their events, and small messages."""

    def __init__(self, nodes: NodeTable) -> None:
        self._nodes = nodes
        self.black_box: WriteEventLog | None = None
        self._requested: dict[int, StartEventLogs] = {}  # number of a connection → its request

    def begin(self, number: int, request: StartEventLogs) -> None:
        """Start the event logs of all nodes, for as long as a connection lasts."""
        self.end(number)
        self._requested[number] = request
        self._send(request, end=False)

    def end(self, number: int) -> None:
        """End the event logs of a connection, unless another one has requested the same."""
        request = self._requested.pop(number, None)
        if request is not None and request not in self._requested.values():
            self._send(request, end=True)
            remove_ring_buffers(request.ring_buffers)  # a recorder that was killed leaves them

    def of(self, node_id: str) -> list[WriteEventLog]:
        """Return the event logs that a node has to write which starts now."""
        distinct: list[StartEventLogs] = []
        for request in self._requested.values():
            if request not in distinct:
                distinct.append(request)
        frames = [_frame(request, node_id) for request in distinct]
        return [*frames, self.black_box] if self.black_box is not None else frames

    def resume(self, frame: WriteEventLog) -> None:
        """Send all nodes the frame to go on writing to the black box."""
        for node_id in self._nodes:
            self._nodes.send(node_id, frame)

    def _send(self, request: StartEventLogs, *, end: bool) -> None:
        for node_id in self._nodes:
            self._nodes.send(node_id, _frame(request, node_id, end=end))


def _frame(request: StartEventLogs, node_id: str, *, end: bool = False) -> WriteEventLog:
    path = f"{request.directory}/{node_id}" if request.directory else ""
    return WriteEventLog(path, end, request.ring_buffers)


def registration_fault(connection: Connection, message: Register, description: Description) -> str:
    """Return why a registration cannot even be considered; "" if it can."""
    if connection.node_id:
        return "this connection is registered already"
    if message.protocol != PROTOCOL_VERSION:
        return (
            f"node `{message.node_id}` uses dora {message.version} with protocol "
            f"{message.protocol or 'unknown'}, and this run is dora {__version__} with protocol "
            f"{PROTOCOL_VERSION}; install the same version in both environments"
        )
    if message.dataflow and not fits(description, message.dataflow):
        return f"dataflow {description.dataflow_id} is not called `{message.dataflow}`"
    return ""


_STATUS: Final[dict[Phase, StatusWord]] = {
    "dormant": StatusWord.NOT_STARTED,
    "starting": StatusWord.STARTING,
    "ready": StatusWord.READY,
    "running": StatusWord.RUNNING,
    "backoff": StatusWord.RESTARTING,
    "awaiting fix": StatusWord.AWAITING_FIX,
    "ended": StatusWord.STOPPED,
}


class RunningDaemon(Protocol):
    """The part of `dora.daemon.daemon.Daemon` that requests use."""

    supervisor: Supervisor
    options: LocalRunOptions
    context: RunContext
    run_log: RunLog

    def progress(self) -> RunProgress:
        """Return how far the run is."""

    def prepare_plan(self, dataflow: Dataflow, context: RunContext | None = None) -> Plan:
        """Return the plan of a dataflow to come, with room for it; raises ``OSError``."""

    def feed(self, event: on.Event) -> None:
        """Give an event to the supervisor and perform its commands, in order."""


class RequestHandler:
    """Answers requests, or has the supervisor decide about them."""

    def __init__(
        self,
        daemon: RunningDaemon,
        plan: Plan,
        name: str,
        accounting: Accounting,
        nodes: NodeTable,
        taps: Taps,
        cleanup: Cleanup,
        loop: Loop,
        journal: Journal,
    ) -> None:
        """``name``: given to the run at its start; "": the file's."""
        self._daemon = daemon
        self._state = daemon.supervisor.state
        self._plan = plan
        self._name = name
        self._accounting = accounting
        self._nodes = nodes
        self._taps = taps
        self._cleanup = cleanup
        self._loop = loop
        self._journal = journal
        self.event_logs = EventLogHooks(nodes)
        self.black_box: BlackBox  # it needs this object, so the daemon sets it
        self._publishing: dict[int, tuple[Connection, str, Timer]] = {}  # by ticket: client, node, patience
        self._last_ticket = 0

    @property
    def _machine(self) -> str:
        """The name of this machine; "" as long as the dataflow is on one machine."""
        return self._daemon.context.placement.machine if self._state.distributed else ""

    def change(self, plan: Plan) -> None:
        """Change to the plan of another dataflow."""
        self._plan = plan
        self._taps.change(plan)

    def description(self) -> Description:
        """Return the identity of this dataflow."""
        context, dataflow = self._daemon.context, self._state.dataflow
        nodes = [node.id for node in dataflow.nodes]
        return Description(
            context.dataflow_id,
            dataflow.file,
            nodes,
            self._name,
            context.coordinator,
            self._daemon.run_log.directory,
        )

    def handle(self, client: Connection, request: Request) -> None:
        """Answer a request, now or once a node has carried it out or the supervisor has decided."""
        if fault := grace_fault(getattr(getattr(request, "proposal", request), "grace", None)):
            client.send(Rejected(fault))
            return
        match request:
            case DescribeDataflow():
                client.send(self.description())
            case Inspect():
                client.send(self.run_view())
            case GetGraph():
                from dora.dataflow.graph import graph_of

                client.send(GraphText(msgspec.json.encode(graph_of(self._state.dataflow))))
            case GetDataflow():
                text = msgspec.json.encode(self._state.dataflow.descriptor, enc_hook=str)
                client.send(DataflowText(text, self._state.dataflow.working_dir))
            case OpenTaps():
                client.send(self._taps.open(client, request))
            case CloseTaps():
                self._taps.close(client.number)
                client.send(Ok())
            case StartEventLogs():
                self.event_logs.begin(client.number, request)
                client.send(Ok())
            case SaveBlackBox(path=path, note=note):
                self.black_box.save(path, note, client.send)
            case ReadSavedFile(path=path, offset=offset):
                part = self.black_box.read_saved(path, offset)
                client.send(Rejected(f"{path} is no file of this run") if part is None else FilePart(part))
            case GetJournal(after=after):
                client.send(self._journal.entries(after))
            case Publish():
                if (rejected := self._publish(client, request)) is not None:
                    client.send(rejected)
            case GetModel():
                nodes = self._state.nodes.values()
                programs = {program_key(node.id): node.program for node in nodes if node.program}
                dataflow = msgspec.to_builtins(self._state.dataflow)
                uv = self._daemon.options.uv
                client.send(Model(self._state.revision, dataflow, uv, programs))
            case GetProgress():
                client.send(self._daemon.progress())
            case Interrupt():
                client.send(Ok())
                self._daemon.feed(
                    on.KillRequested("was stopped with `--force`")
                    if request.force
                    else on.StopRequested("stopped by `dora stop`", request.grace)
                )
            case CheckChange() | ApplyChange():
                self._ask_for_change(client, request)
            case _:
                self._daemon.feed(on.RequestReceived(client.number, request))

    def _ask_for_change(self, client: Connection, request: on.ChangeRequest) -> None:
        """Make room for a change, and ask the supervisor for it."""
        proposal = request.proposal
        try:
            wanted = from_plain(proposal.dataflow, Dataflow)
            context = self._daemon.context
            if request.machine:
                placement = Placement(
                    request.machine, proposal.machines, proposal.generations, request.remote
                )
                context = msgspec.structs.replace(context, placement=placement)
            # Before the supervisor decides: a command that it emits then cannot fail for lack of memory.
            if proposal.revision > self._state.revision:  # otherwise the supervisor rejects it
                self._daemon.prepare_plan(wanted, context)
                if isinstance(request, ApplyChange):
                    self._daemon.context = context
        except DecodeError as error:
            client.send(Rejected(f"this is no dataflow: {error}"))
            return
        except OSError as error:
            client.send(Rejected(f"there is no room for the changed dataflow: {error.strerror}"))
            return
        except DoraError as error:
            client.send(Rejected(str(error)))
            return
        elsewhere = {node.id: context.placement.elsewhere(node.id) for node in wanted.nodes}
        if isinstance(request, CheckChange):
            known = {node.id: node for node in self._state.dataflow.nodes}
            fresh = tuple(node for node in wanted.nodes if node != known.get(node.id))
            if reason := "\n".join(refusals(msgspec.structs.replace(wanted, nodes=fresh), elsewhere.get)):
                client.send(Rejected(reason))
                return
        self._daemon.feed(on.ChangeRequested(client.number, request, wanted, elsewhere))

    def client_disconnected(self, client: Connection) -> None:
        """Drop everything that a client had requested for the time of its connection."""
        self.event_logs.end(client.number)
        if self._taps.lose(client.number):
            self._cleanup.add_tap()

    def answer_publish(self, node_id: str, answer: PublishResult) -> None:
        """Answer the client whose message a node has published, or could not."""
        self._end_publish(answer.ticket, node_id, Rejected(answer.reason) if answer.reason else Ok())

    def node_disconnected(self, node_id: str) -> None:
        """Answer clients that waited for a node whose process has ended."""
        for ticket in list(self._publishing):
            self._end_publish(
                ticket, node_id, Rejected(f"node `{node_id}` ended before it had sent the message")
            )

    def _end_publish(self, ticket: int, node_id: str, answer: Answer) -> None:
        """Answer the client of a ticket, if it still waits for this node."""
        client, node, timer = self._publishing.get(ticket, (None, "", None))
        if client is not None and timer is not None and node == node_id:
            del self._publishing[ticket]
            timer.cancel()
            client.send(answer)

    def _publish(self, client: Connection, request: Publish) -> Rejected | None:
        node_id = request.node
        node = self._state.find_here(node_id)
        if isinstance(node, Rejected):
            return node
        member = self._nodes.get(node_id)
        if member is None or not node.present:
            status = self._status(node).lower()
            return Rejected(
                f"node `{node_id}` is not running (it is {status}), and it is the node that sends what is "
                "published"
            )
        self._last_ticket += 1
        ticket = self._last_ticket
        late = Rejected(
            f"node `{node_id}` has not polled for events for {PUBLISH_PATIENCE:g} s, so it has not sent "
            "the message yet"
        )
        timer = self._loop.call_later(PUBLISH_PATIENCE, lambda: self._end_publish(ticket, node_id, late))
        self._publishing[ticket] = (client, node_id, timer)
        member.send(PublishRequest(ticket, request.output, request.message))
        return None

    # ----------------------------------------------------------------------- views

    def _status(self, node: NodeState) -> StatusWord:
        if self._failure(node) is not None:
            return StatusWord.FAILED
        if node.phase == "dormant" and node.spec.is_dynamic:
            return StatusWord.NOT_CONNECTED
        return _STATUS[node.phase]

    def _failure(self, node: NodeState) -> FailureView | None:
        """Return why a node has failed, None if it has not."""
        if node.phase != "ended":
            return None
        numbered = enumerate(self._state.failures, 1)
        of_node = [(number, failure) for number, failure in numbered if failure.node_id == node.spec.id]
        if not of_node:
            return None
        number, failure = of_node[-1]  # it may have been started again
        return FailureView(number, failure.why(self._state.dataflow.working_dir))

    def run_view(self) -> Inspection:
        context = self._daemon.context
        return Inspection(
            dataflow_id=context.dataflow_id,
            file=self._state.dataflow.file,
            engine=context.engine,
            run_dir=context.run_dir,
            prefix=context.prefix,
            board=context.board,
            machine=self._machine,
            coordinator=context.coordinator,
            nodes=[self._node_view(node) for node in self._state.nodes.values()],
            links=[
                LinkView(
                    slot=link.slot,
                    output_slot=link.output_slot,
                    producer=f"{link.producer}/{link.output}",
                    consumer=f"{link.consumer}/{link.input}",
                    policy=link.queue_policy,
                    queue_size=link.queue_size,
                    kind=link.kind,
                )
                for link in self._plan.links
            ],
            networks=networks_of(self._plan.gateway),
        )

    def _node_view(self, node: NodeState) -> NodeView:
        spec = node.spec
        member = self._nodes.get(spec.id)
        texts = text_outputs(spec)
        return NodeView(
            id=spec.id,
            status=self._status(node),
            pid=node.pid if node.alive else member.pid if member is not None else None,
            counts=self._accounting.node_counts(spec.id),
            failure=self._failure(node),
            name=spec.name,
            description=spec.description,
            path=spec.path,
            restart_policy=spec.restart.policy,
            max_restarts=spec.restart.max_restarts,
            machine=node.machine or self._machine,
            inputs=[InputView(item.id, str(item.source), **input_rules_of(item)) for item in spec.inputs],
            outputs=[
                OutputView(
                    id=output.id,
                    slot=output.slot,
                    service=output.service,
                    max_queue_size=output.max_queue_size,
                    max_receivers=output.max_receivers,
                    type=output.type,
                    text=output.id in texts,
                    **output_rules_of(output),
                )
                for output in self._plan.configs[spec.id].outputs
            ],
        )
