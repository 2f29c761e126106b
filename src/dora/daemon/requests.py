"""Commands that look at a running dataflow: connections to the daemon that are no nodes.

What concerns the life of nodes goes to the supervisor; here is what only reads, who has taps open, and
the way of a message that is given to a node to be sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import msgspec

from dora._version import __version__
from dora.daemon.client import fits
from dora.daemon.control_server import Connection
from dora.daemon.options import LocalRunOptions
from dora.daemon.supervisor import events as on
from dora.daemon.supervisor.state import NodeState, RunState
from dora.daemon.supervisor.supervisor import Supervisor
from dora.dataflow.model import Dataflow
from dora.dataflow.plan import SPARE_RECEIVERS, Plan, RunContext, text_outputs
from dora.dataflow.problems import no_node
from dora.transport.shm.ring_buffer import remove_ring_buffers
from dora.wire.daemon_protocol import (
    Answer,
    ApplyChange,
    ChangeDataflow,
    CheckChange,
    CloseTaps,
    DataflowEnded,
    DataflowText,
    DescribeDataflow,
    Description,
    GetDataflow,
    GetGraph,
    GetModel,
    GraphText,
    Inspect,
    Inspection,
    LeaderHandover,
    LinkView,
    Model,
    NodeView,
    Ok,
    OpenTaps,
    OutputView,
    Publish,
    Rejected,
    ReplaceNode,
    StartEventLogs,
)
from dora.wire.decoders import DecodeError, from_plain
from dora.wire.node_config import WriteEventLog
from dora.wire.node_protocol import PROTOCOL_VERSION, PublishRequest, PublishResult, Register

# Who records, and what the nodes have to write down for it: the order of their events, small messages.


class EventLogHooks:
    """Tells nodes to write down what recorders need, and to end it with the recorder."""

    def __init__(self, members: Mapping[str, Connection]) -> None:
        self._members = members
        self._wanted: dict[int, StartEventLogs] = {}  # by the number of the connection that asked

    def begin(self, guest: int, wanted: StartEventLogs) -> None:
        """Let all nodes write, for as long as a connection lasts."""
        self.end(guest)
        self._wanted[guest] = wanted
        self._tell(wanted, end=False)

    def end(self, guest: int) -> None:
        """Note that a connection has ended, or wants no more."""
        wanted = self._wanted.pop(guest, None)
        if wanted is not None and wanted not in self._wanted.values():
            self._tell(wanted, end=True)
            remove_ring_buffers(
                wanted.ring_buffers
            )  # a recorder that was killed leaves them in shared memory

    def of(self, node_id: str) -> list[WriteEventLog]:
        """Return what a node has to write that starts now."""
        distinct: list[StartEventLogs] = []
        for wanted in self._wanted.values():
            if wanted not in distinct:
                distinct.append(wanted)
        return [_frame(wanted, node_id) for wanted in distinct]

    def _tell(self, wanted: StartEventLogs, *, end: bool) -> None:
        for node_id, member in self._members.items():
            member.send(_frame(wanted, node_id, end=end))


def _frame(wanted: StartEventLogs, node_id: str, *, end: bool = False) -> WriteEventLog:
    path = f"{wanted.directory}/{node_id}" if wanted.directory else ""
    return WriteEventLog(path, end, wanted.ring_buffers)


# Requests about which the supervisor decides, on their way from the socket.

MAX_GRACE: Final = 86_400.0  # seconds that nodes may be given to stop

Decided = on.ParameterRequest | on.OperationRequest | on.ChangeRequest | GetModel | LeaderHandover


class RunningDaemon(Protocol):
    """What the requests need of the daemon of a run; see `dora.daemon.daemon`."""

    supervisor: Supervisor
    options: LocalRunOptions
    context: RunContext

    def make_room(self, dataflow: Dataflow, context: RunContext | None = None) -> Plan:
        """Return the plan of a dataflow to come, with room for it; raises ``OSError``."""


def event_of(daemon: RunningDaemon, guest: Connection, request: Decided) -> on.Event | None:
    """Return what the supervisor has to decide; None for a request that is answered here."""
    revision = daemon.supervisor.state.revision
    grace = getattr(request, "grace", None)
    if grace is not None and not 0 <= grace <= MAX_GRACE:  # neither is NaN
        guest.send(Rejected(f"nodes get from 0 to {MAX_GRACE:,.0f} seconds to end, not {grace:g}"))
        return None
    match request:
        case GetModel():
            dataflow = msgspec.to_builtins(daemon.supervisor.state.dataflow)
            guest.send(Model(revision, dataflow, daemon.options.uv))
            return None
        case LeaderHandover(machine=machine):
            if reason := daemon.supervisor.why_no_handover():
                guest.send(Rejected(reason))
                return None
            daemon.context = msgspec.structs.replace(daemon.context, machine=machine)
            return on.RequestReceived(guest.number, request)
        case ChangeDataflow() | ReplaceNode() | CheckChange() | ApplyChange():
            return _change_event(daemon, guest, request)
        case _:
            return on.RequestReceived(guest.number, request)


def _change_event(daemon: RunningDaemon, guest: Connection, request: on.ChangeRequest) -> on.Event | None:
    """Return the event of a change, for which there is room; None if the request is answered here."""
    revision = daemon.supervisor.state.revision
    try:
        wanted = from_plain(request.dataflow, Dataflow)
        context = _context_after(daemon.context, request)
        orders = isinstance(request, (CheckChange, ApplyChange))
        if (
            request.revision > revision if orders else request.revision == revision
        ):  # else nothing comes of it
            daemon.make_room(wanted, context)
            if not isinstance(request, CheckChange):
                daemon.context = context
    except DecodeError as error:
        guest.send(Rejected(f"this is no dataflow: {error}"))
        return None
    except OSError as error:
        guest.send(Rejected(f"there is no room for what is to come: {error.strerror}"))
        return None
    elsewhere = {node.id: context.elsewhere(node.id) for node in wanted.nodes}
    return on.ChangeRequested(guest.number, request, wanted, elsewhere)


def _context_after(context: RunContext, request: on.ChangeRequest) -> RunContext:
    """Return the context of a run after a change."""
    if isinstance(request, ChangeDataflow) or (placement := request.placement) is None:
        return context
    return msgspec.structs.replace(
        context, machines=placement.machines, generations=placement.generations, remote=placement.remote
    )


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


_STATUS = {
    "dormant": "not started",
    "starting": "starting",
    "ready": "ready",
    "running": "running",
    "backoff": "restarting",
    "awaiting fix": "failed, waits for new code",
    "ended": "finished",
}


class RequestHandler:
    """The commands that are connected to one daemon."""

    def __init__(
        self,
        dataflow: Dataflow,
        plan: Plan,
        context: Callable[[], RunContext],
        name: str,
        state: RunState,
        members: Mapping[str, Connection],
        on_lost_tap: Callable[[], None],
    ) -> None:
        """``context`` returns the present context of the run, ``name`` is the name given to it.

        ``on_lost_tap`` is called when a command with taps is gone without having closed them.
        """
        self._state = state
        self._members = members
        self._on_lost_tap = on_lost_tap
        self.orders = EventLogHooks(members)
        self._current_context = context
        self._name = name
        self._tapping: dict[int, set[int]] = {}  # number of a connection → slots of outputs
        self._to_the_end: dict[int, Connection] = {}  # those of them who want the last messages
        self._lost: list[set[int]] = []  # of dead commands, whose taps still take room
        self._tickets: dict[int, tuple[Connection, str]] = {}  # who waits for which node to send
        self._last_ticket = 0
        self.change(dataflow, plan)

    @property
    def _context(self) -> RunContext:
        return self._current_context()

    def change(self, dataflow: Dataflow, plan: Plan) -> None:
        """Go over to another dataflow."""
        self._dataflow = dataflow
        self._plan = plan
        links = Counter(item.service for config in plan.configs.values() for item in config.inputs)
        self._room = {  # output slot → its name, and for how many taps there is room
            output.slot: (
                f"{node_id}/{output.id}",
                output.max_receivers - links[output.service] - SPARE_RECEIVERS,
            )
            for node_id, config in plan.configs.items()
            for output in config.outputs
        }

    def description(self) -> Description:
        """Return which dataflow this is."""
        nodes = [node.id for node in self._dataflow.nodes]
        context, file = self._context, self._dataflow.file
        return Description(context.dataflow_id, file, nodes, self._name, context.coordinator)

    def handle(
        self,
        guest: Connection,
        request: DescribeDataflow
        | Inspect
        | GetGraph
        | GetDataflow
        | OpenTaps
        | CloseTaps
        | StartEventLogs
        | Publish,
    ) -> None:
        """Answer a request, now or once a node has done what is asked."""
        match request:
            case DescribeDataflow():
                guest.send(self.description())
            case Inspect():
                guest.send(self._inspection())
            case GetGraph():
                from dora.dataflow.graph import graph_of

                guest.send(GraphText(msgspec.json.encode(graph_of(self._dataflow))))
            case GetDataflow():
                text = msgspec.json.encode(self._dataflow.descriptor, enc_hook=str)
                guest.send(DataflowText(text, self._dataflow.working_dir))
            case OpenTaps():
                guest.send(self._begin_taps(guest, request))
            case CloseTaps():
                self._forget_taps(guest.number)
                guest.send(Ok())
            case StartEventLogs():
                self.orders.begin(guest.number, request)
                guest.send(Ok())
            case Publish():
                if (declined := self._publish(guest, request)) is not None:
                    guest.send(declined)

    def gone(self, guest: Connection) -> None:
        """Note that a connection has ended."""
        self.orders.end(guest.number)
        slots = self._forget_taps(guest.number)
        if slots and self._context.engine == "iceoryx2":  # Zenoh's router forgets who is gone by itself
            self._lost.append(slots)
            self._on_lost_tap()

    @property
    def take_to_the_end(self) -> bool:
        """Whether somebody has taps who wants the last messages too."""
        return bool(self._to_the_end)

    def recorded_slots(self) -> set[int]:
        """Return the outputs, by slot, of which somebody takes all messages."""
        return {slot for number in self._to_the_end for slot in self._tapping[number]}

    def tell_end(self, failed: list[str]) -> None:
        """Tell those that the dataflow has ended."""
        for guest in self._to_the_end.values():
            guest.send(DataflowEnded(failed))

    def cleaned_up(self) -> None:
        """Note that nothing is left of dead processes."""
        self._lost.clear()

    def sent(self, node_id: str, answer: PublishResult) -> None:
        """Note what a node did with a message that it was given."""
        guest, asked = self._tickets.get(answer.ticket, (None, ""))
        if guest is not None and asked == node_id:
            del self._tickets[answer.ticket]
            guest.send(Rejected(answer.reason) if answer.reason else Ok())

    def node_gone(self, node_id: str) -> None:
        """Answer for a node whose process has ended."""
        for ticket, (guest, asked) in list(self._tickets.items()):
            if asked == node_id:
                del self._tickets[ticket]
                guest.send(Rejected(f"node `{node_id}` ended before it had sent the message"))

    def _forget_taps(self, number: int) -> set[int] | None:
        self._to_the_end.pop(number, None)
        return self._tapping.pop(number, None)

    def _begin_taps(self, guest: Connection, request: OpenTaps) -> Answer:
        number, slots = guest.number, set(request.slots)
        others = [taps for other, taps in self._tapping.items() if other != number] + self._lost
        for slot in slots & self._room.keys():
            name, room = self._room[slot]
            if sum(slot in taps for taps in others) >= room:
                who = "1 command looks" if room == 1 else f"{room} commands look"
                return Rejected(
                    f"{who} at `{name}` already, and there is no room for more; end one of them"
                )
        self._tapping[number] = slots
        if request.until_end:
            self._to_the_end[number] = guest
        return Ok()

    def _publish(self, guest: Connection, request: Publish) -> Rejected | None:
        node_id = request.node_id
        node = self._state.nodes.get(node_id)
        if node is None:
            return Rejected(no_node(node_id, self._state.nodes))
        if node.machine:
            return Rejected(f"node `{node_id}` is on machine `{node.machine}`; publish there")
        member = self._members.get(node_id)
        if member is None or not node.present:
            return Rejected(
                f"node `{node_id}` is not running (it is {self._status(node)}), and it is the node that "
                "sends what is published"
            )
        self._last_ticket += 1
        self._tickets[self._last_ticket] = (guest, node_id)
        member.send(PublishRequest(self._last_ticket, request.output, request.message))
        return None

    # ----------------------------------------------------------------------- inspection

    def _status(self, node: NodeState) -> str:
        failed = {failure.node_id for failure in self._state.failures}
        if node.phase == "ended" and node.spec.id in failed:
            return "failed"
        if node.phase == "dormant" and node.spec.is_dynamic:
            return "not connected"
        return _STATUS[node.phase]

    def _inspection(self) -> Inspection:
        return Inspection(
            dataflow_id=self._context.dataflow_id,
            file=self._dataflow.file,
            engine=self._context.engine,
            run_dir=self._context.run_dir,
            prefix=self._context.prefix,
            board=self._context.board,
            zenoh_endpoint=self._context.zenoh_endpoint,
            machine=self._context.machine,
            coordinator=self._context.coordinator,
            nodes=[self._node(node) for node in self._state.nodes.values()],
            links=[
                LinkView(
                    slot=link.slot,
                    output_slot=link.output_slot,
                    producer=f"{link.producer}/{link.output}",
                    consumer=f"{link.consumer}/{link.input}",
                    policy=link.policy,
                    queue_size=link.queue_size,
                    kind=link.kind,
                )
                for link in self._plan.links
            ],
        )

    def _node(self, node: NodeState) -> NodeView:
        spec = node.spec
        member = self._members.get(spec.id)
        texts = text_outputs(spec)
        return NodeView(
            id=spec.id,
            status=self._status(node),
            pid=node.pid if node.alive else member.pid if member is not None else None,
            restarts=len(node.restarts),
            name=spec.name,
            description=spec.description,
            path=spec.path,
            restart_policy=spec.restart.policy,
            machine=node.machine or self._context.machine,
            inputs={item.id: str(item.source) for item in spec.inputs},
            outputs=[
                OutputView(
                    id=output.id,
                    slot=output.slot,
                    service=output.service,
                    max_queue_size=output.max_queue_size,
                    max_receivers=output.max_receivers,
                    type=output.type,
                    text=output.id in texts,
                )
                for output in self._plan.configs[spec.id].outputs
            ],
        )
