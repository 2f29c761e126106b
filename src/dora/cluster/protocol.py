"""Messages between the coordinator and the daemons of machines (JSON).

The daemon opens a WebSocket to the coordinator, sends `Hello` and is answered `Welcome` or
`DaemonRejected`. Then the coordinator starts and stops runs, and the daemon reports on them. It repeats the
end of a run until it gets an `AckEnd`, so a broken connection loses no record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from dora._version import __version__
from dora.daemon.logs.entry import LogEntry
from dora.daemon.options import RunOptions
from dora.daemon.supervisor.result import DataflowResult
from dora.daemon.supervisor.status import FormerPart, PeerStatus
from dora.wire.clock import ClockOffset
from dora.wire.daemon_protocol import Answer, LookRequest, NodeRequest
from dora.wire.decoders import json_decoder
from dora.wire.metrics import DataflowMetrics
from dora.wire.node_config import TlsFiles
from dora.wire.node_protocol import PROTOCOL_VERSION
from dora.wire.operations import ProposedChange

# Bytes of a request or a frame. A larger request is refused. A larger frame ends the connection of its
# whole machine, so a daemon checks the size of an answer before it sends it (`Agent._ask`).
MAX_MESSAGE: Final = 16 << 20
VERSION_HEADER: Final = "dora-version"
DEFAULT_MACHINE: Final = "default"  # the id of a machine whose daemon has none
CLOSE_WITH_REASON: Final = 4000  # close code of an observer session; the reason is a sentence for the user
# Seconds between two heartbeats of a daemon. After five without any message, `SILENCE_TIMEOUT` of the API,
# its machine counts as silent.
HEARTBEAT_INTERVAL: Final = 1.0

SAME_VERSION: Final = "install the same version of dora for both, and restart both"
STILL_STARTING: Final = "the dataflow is still starting"
JUST_ENDED: Final = "the dataflow has just ended"
NO_TICKET: Final = 0  # the ticket of a change that a machine makes later; nobody waits for the answer

RunStatus = Literal["Starting", "Running", "Finished", "Failed"]
ACTIVE: Final = ("Starting", "Running")
Collectable = Literal["usage", "metrics", "templates"]


_CHANGED: Final = ("dataflow", "machines", "revision", "generations")  # fields of a run that changes set


class RunSpec(RunOptions, frozen=True, kw_only=True):
    """A run to start: the checked dataflow, and how to run it.

    ``interpreter`` is the Python that the command ran in. Times are in seconds.
    """

    name: str
    dataflow: Any  # `dora.dataflow.model.Dataflow`, as JSON
    interpreter: str = ""
    machines: dict[str, str] = {}  # node → machine; the coordinator decides
    revision: int = 0  # the number of changes of the running dataflow
    generations: dict[str, int] = {}  # as in `dora.dataflow.layout.Placement`

    def after(self, change: ProposedChange) -> RunSpec:
        """Return a copy with a changed dataflow."""
        return msgspec.structs.replace(self, **{name: getattr(change, name) for name in _CHANGED})

    def last_change(self) -> ProposedChange:
        """Return the last change, for a machine that has missed it."""
        return ProposedChange(**{name: getattr(self, name) for name in _CHANGED})

    def parameters_of(self, node_id: str) -> dict[str, Any] | None:
        """Return the parameters with which a node starts, None if there is no such node."""
        found = (node for node in self.dataflow["nodes"] if node["id"] == node_id)
        return next((node.get("parameters", {}) for node in found), None)

    def with_parameters(self, node_id: str, parameters: dict[str, Any]) -> RunSpec:
        """Return a copy with other parameters of a node, if it has that node."""
        nodes = [
            {**node, "parameters": parameters} if node["id"] == node_id else node
            for node in self.dataflow["nodes"]
        ]
        return msgspec.structs.replace(self, dataflow={**self.dataflow, "nodes": nodes})


class RunReport(msgspec.Struct, frozen=True, omit_defaults=True, tag=True):
    """The state of a run, or how it ended; in a dataflow on several machines, of one partition.

    ``reason`` says why the run failed if no node did, and while it runs which node failed first.
    ``crashed``: the process that ran it was killed. ``port`` is the machine's for links, 0 if it has none;
    None until the partition is prepared. ``peer_status`` is for the other machines. ``secret`` comes from
    the `Partition`: a restarted coordinator learns it here, and gives it to machines that join. ``lost``:
    the ``loss`` of a `MachineLost` → what this partition knows of the part of that machine.
    """

    dataflow_id: str
    status: RunStatus
    result: DataflowResult | None = None
    reason: str = ""
    port: int | None = None
    peer_status: PeerStatus | None = None
    revision: int = 0  # as in `RunSpec`: the change that its part has taken over
    secret: str = ""
    crashed: bool = False
    lost: dict[str, FormerPart] = {}


class RunUsage(msgspec.Struct, frozen=True):
    """Processor time and memory of the processes of a run."""

    dataflow_id: str
    cpu: float  # percent of one core
    memory: int  # bytes


class TemplateView(msgspec.Struct, frozen=True):
    """A template process that a machine keeps, or one of more packages that this has forked."""

    pid: int
    interpreter: str
    packages: list[str]  # that it has imported, apart from the ones of every node
    starts: int  # nodes that it has forked
    since: float  # seconds since the Unix epoch
    memory: int  # bytes of its proportional set size
    machine: str = ""


# ----------------------------------------------------------------------- daemon → coordinator


class Hello(msgspec.Struct, frozen=True, tag=True):
    """The first message of a daemon, with its runs and the ends that are not acknowledged."""

    version: str
    daemon_id: str  # a new one for each daemon process
    pid: int
    runs: tuple[RunReport, ...] = ()
    machine: str = DEFAULT_MACHINE
    labels: dict[str, str] = {}
    address: str = ""  # where other machines reach this one; "": as the coordinator sees it
    tls: str = ""  # the authority of its certificate for links, see `authority_digest`; "": it has none
    retained: tuple[str, ...] = ()  # dataflows that have files on its disk
    protocol: int = 0  # `PROTOCOL_VERSION`; 0: the daemon did not say
    request: str = ""  # that a certificate for links be signed (PEM); "": it has one, or wants none


class Introduction(msgspec.Struct, frozen=True, tag="Hello"):
    """The fields of `Hello` by which a daemon of any protocol version can be refused with a sentence.

    They stay as they are in every version, as do the tag and the field of `DaemonRejected`.
    """

    version: str
    pid: int = 0
    protocol: int = 0


class Collected(msgspec.Struct, frozen=True, omit_defaults=True, tag=True):
    """The answer to `Collect`, with the same number; only the field ``what`` is filled in."""

    number: int
    what: Collectable
    usage: list[RunUsage] = []  # of every dataflow that runs here, like the metrics
    metrics: list[DataflowMetrics] = []
    templates: list[TemplateView] = []


class RunDescription(msgspec.Struct, frozen=True, tag=True):
    """The answer to `DescribeRun`."""

    run: RunReport
    spec: RunSpec


class LogBatch(msgspec.Struct, frozen=True, tag=True):
    """Log entries of a run whose logs the coordinator collects. Answered by `AckLogs`."""

    dataflow_id: str
    entries: list[LogEntry]
    number: int = 0  # of the batches of a daemon


class ParametersSet(msgspec.Struct, frozen=True, tag=True):
    """The parameters of a node in a running dataflow have changed to these."""

    dataflow_id: str
    node: str
    parameters: dict[str, Any]


class Answered(msgspec.Struct, frozen=True, tag=True):
    """The answer to `Ask`, `Prepare` or `Apply`, with the same ticket."""

    ticket: int
    answer: Answer


class ObserverRefused(msgspec.Struct, frozen=True, tag=True):
    """The answer to an `OpenObserver` that failed; ``reason`` is a sentence for the user."""

    ticket: str
    reason: str


class Heartbeat(msgspec.Struct, frozen=True, tag=True):
    """The daemon is alive; answered by `HeartbeatAnswer`."""

    sent_ns: int = 0  # as all these times, nanoseconds since the Unix epoch
    clock: ClockOffset | None = None  # how far the coordinator's clock is ahead, once that is known


ToCoordinator = (
    Hello
    | RunReport
    | Collected
    | RunDescription
    | LogBatch
    | ParametersSet
    | Answered
    | ObserverRefused
    | Heartbeat
)

# ----------------------------------------------------------------------- coordinator → daemon


class SignedCertificate(msgspec.Struct, frozen=True, tag=True):
    """The certificate that a daemon has requested, and its authority, as PEM. Comes before `Welcome`."""

    certificate: str
    authority: str


class Welcome(msgspec.Struct, frozen=True, tag=True):
    """The coordinator accepts the daemon."""

    version: str  # of dora
    protocol: int = 0  # `PROTOCOL_VERSION`; 0: the coordinator did not say


class HeartbeatAnswer(msgspec.Struct, frozen=True, tag=True):
    """Times of the coordinator's clock, and how far it is ahead of the clocks of all machines."""

    sent_ns: int  # of the heartbeat
    received_ns: int
    answered_ns: int
    clocks: dict[str, ClockOffset]


class DaemonRejected(msgspec.Struct, frozen=True, tag=True):
    """The coordinator rejects the daemon; ``reason`` is a sentence for the user."""

    reason: str


class Partition(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a dataflow that one machine runs. A machine that joins begins without nodes.

    The gateways of other machines prove that they know ``secret``. The daemon fills in ``interface``,
    ``port`` and ``tls``. ``own_log_folder``: this machine keeps its log files in its data folder, because
    the coordinator writes the same entries to the dataflow's log folder, which the two may share.
    ``former``: this machine has lost its part, and starts it again.
    """

    machine: str
    secret: str
    collect_logs: bool = False  # log entries go to the coordinator too
    own_log_folder: bool = False
    interface: str = ""
    port: int = 0
    tls: TlsFiles | None = None
    former: FormerPart | None = None


class Limits(msgspec.Struct, frozen=True):
    """Seconds that a machine may take to build its nodes, and then to start their processes."""

    # A worker that is late reports that the run has failed, and ends the build or its nodes
    # (`Worker._limit`).
    build: float = 1200.0
    spawn: float = 60.0


class StartRun(msgspec.Struct, frozen=True, tag=True):
    """Start this machine's ``partition`` of a dataflow: all of its nodes, or some.

    The daemon fills in ``coordinator``, the address and port as it sees them.
    """

    dataflow_id: str
    spec: RunSpec
    partition: Partition
    coordinator: str = ""
    limits: Limits = Limits()

    @property
    def is_distributed(self) -> bool:
        """Whether other machines have nodes of the dataflow, too."""
        return not {*self.spec.machines.values()} <= {self.partition.machine}


class Endpoints(msgspec.Struct, frozen=True, tag=True):
    """All machines of a dataflow are prepared. ``endpoints``: other machine → its address and link port.

    "": it has no such port. It is sent again when an endpoint changes. A machine that is lost is left out.
    """

    dataflow_id: str
    endpoints: dict[str, str]


class PeerReport(msgspec.Struct, frozen=True, tag=True):
    """The peer status of another machine of a dataflow."""

    dataflow_id: str
    machine: str
    peer_status: PeerStatus


class ListensAt(msgspec.Struct, frozen=True, tag=True):
    """The address of this machine and its link port, 0: it has none. From the daemon to its workers."""

    address: str
    port: int


class MachineLost(msgspec.Struct, frozen=True, tag=True):
    """Another machine of a dataflow is lost; ``reason`` completes a sentence.

    ``loss`` is not "" if the machine may come back. It is answered with `RunReport.lost`.
    """

    dataflow_id: str
    machine: str
    reason: str
    loss: str = ""


class ReleasePartition(msgspec.Struct, frozen=True, tag=True):
    """This machine has no node of a dataflow any more: its partition may end."""

    dataflow_id: str


class StopRun(msgspec.Struct, frozen=True, tag=True):
    """Stop a dataflow. ``grace`` None: the default. ``force``: kill the nodes at once.

    ``may_return``: the machine counts as lost, and its part is started again, with the states of its nodes.
    """

    dataflow_id: str
    grace: float | None = None
    force: bool = False
    may_return: bool = False


class Ask(msgspec.Struct, frozen=True, tag=True):
    """Ask a running dataflow, as a client on its machine can. Answered by `Answered`.

    The daemon passes the request on to the dataflow's socket.
    """

    dataflow_id: str
    ticket: int
    request: NodeRequest | LookRequest


class Prepare(msgspec.Struct, frozen=True, tag=True):
    """Prepare this machine's partition for a change: check it, and build. Nothing changes yet.

    The first node of another machine has this one report its port. Answered by `SentCounts` in `Answered`.
    """

    dataflow_id: str
    ticket: int
    proposal: ProposedChange


class Apply(msgspec.Struct, frozen=True, tag=True):
    """Apply a committed change. Answered by `Answered`, as `dora.wire.daemon_protocol.ApplyChange`.

    ``endpoints``: see `Endpoints`. ``sent``: counts from `Prepare`. A part with this revision does nothing.
    """

    dataflow_id: str
    ticket: int
    proposal: ProposedChange
    endpoints: dict[str, str]
    sent: dict[str, dict[str, int]] = {}


class AckEnd(msgspec.Struct, frozen=True, tag=True):
    """The end of this run is in the store: the daemon need not repeat it."""

    dataflow_id: str


class DropRecords(msgspec.Struct, frozen=True, tag=True):
    """The records of these dataflows are gone: the daemon removes their files."""

    dataflow_ids: tuple[str, ...]


class AckLogs(msgspec.Struct, frozen=True, tag=True):
    """The batches of log entries up to this number are written."""

    number: int


class DescribeRun(msgspec.Struct, frozen=True, tag=True):
    """Ask for a run that has no record, or an older one. Answered by `RunDescription` while it runs."""

    dataflow_id: str


class Collect(msgspec.Struct, frozen=True, tag=True):
    """Ask a machine what all machines are asked: ``what`` is a field of `Collected`, the answer."""

    number: int
    what: Collectable


class OpenObserver(msgspec.Struct, frozen=True, tag=True):
    """Start an observer for a client on another machine; it connects to ``/api/observers/{ticket}``."""

    dataflow_id: str
    ticket: str


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """Stop all dataflows and end the daemon."""


ToDaemon = (
    Welcome
    | SignedCertificate
    | HeartbeatAnswer
    | DaemonRejected
    | StartRun
    | Endpoints
    | PeerReport
    | ListensAt
    | MachineLost
    | ReleasePartition
    | StopRun
    | Ask
    | Prepare
    | Apply
    | AckEnd
    | DropRecords
    | AckLogs
    | DescribeRun
    | Collect
    | OpenObserver
    | Shutdown
)

encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode
decode_to_coordinator: Callable[[bytes | str], ToCoordinator] = json_decoder(ToCoordinator)
decode_to_daemon: Callable[[bytes | str], ToDaemon] = json_decoder(ToDaemon)
decode_introduction: Callable[[bytes | str], Introduction] = json_decoder(Introduction)


def compatible(one: str, other: str) -> bool:
    """Return whether two versions of dora are compatible: no breaking release is between them.

    >>> compatible("1.2.0", "1.9.3"), compatible("1.2.0", "2.0.0"), compatible("0.1.0", "0.2.0")
    (True, False, False)
    """
    return _breaking(one) == _breaking(other)


def _breaking(version: str) -> tuple[str, ...]:
    numbers = version.split("+")[0].split("-")[0].split(".")
    for index, number in enumerate(numbers):
        if number != "0":
            return tuple(numbers[: index + 1])
    return tuple(numbers)


def version_fault(what: str, version: str, ours: str) -> str:
    """Return why two versions cannot work together, "" if they can."""
    if compatible(version, ours):
        return ""
    return (
        f"the {what} is dora {version or 'of an unknown version'} and the coordinator is dora {ours}, "
        f"which do not understand each other; {SAME_VERSION}"
    )


def hello_fault(hello: Hello | Introduction) -> str:
    """Return why this coordinator cannot work with a daemon, "" if it can."""
    return _daemon_fault(hello, Welcome(__version__, PROTOCOL_VERSION))


def welcome_fault(welcome: Welcome) -> str:
    """Return why this daemon cannot work with a coordinator, "" if it can."""
    return _daemon_fault(Introduction(__version__, protocol=PROTOCOL_VERSION), welcome)


def _daemon_fault(daemon: Hello | Introduction, coordinator: Welcome) -> str:
    if daemon.protocol == coordinator.protocol:
        return version_fault("daemon", daemon.version, coordinator.version)
    daemon_text, coordinator_text = _version_text(daemon), _version_text(coordinator)
    return (
        f"the daemon is dora {daemon_text} and the coordinator is dora {coordinator_text}, "
        f"which do not understand each other; {SAME_VERSION}"
    )


def _version_text(peer: Hello | Introduction | Welcome) -> str:
    protocol = f"protocol {peer.protocol}" if peer.protocol else "an unknown protocol"
    return f"{peer.version or 'of an unknown version'} with {protocol}"
