"""The checked model of a dataflow: the YAML once every rule has been applied.

Everything here is immutable, normalised and complete: defaults are filled in, variables expanded,
sources parsed, operator references rewritten to their long form. Nothing here reads a file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Literal, get_args

import msgspec

from dora.dataflow.addresses import without_user
from dora.dataflow.ros2 import Ros2Block
from dora.errors import Problem
from dora.wire.input_rules import DEFAULT_QUEUE_SIZE, InputRules, SyncGroup
from dora.wire.output_rules import NO_RULES, OutputRules

LogLevel = Literal["error", "warn", "info", "debug", "trace", "stdout"]
LOG_LEVELS: tuple[LogLevel, ...] = get_args(LogLevel)
"""From the most severe to the least; ``stdout`` (raw lines) comes last."""

RestartMode = Literal["never", "on-failure", "always"]
OnMachineLost = Literal["keep", "stop"]
OnMiss = Literal["warn", "event", "safe_state", "save", "stop"]
ReloadMode = Literal["overlap", "replace", "never"]
SchedulingPolicyName = Literal["fifo", "rr", "other", "batch", "idle"]

DEFAULT_OPERATOR_ID = "op"


def asks_for_drops(policy: str, queue_size: int) -> bool:
    """Return whether an input says that it does without older messages.

    It does by `latest`, or by a queue that is shorter than the default. A longer queue says the opposite.

    >>> asks_for_drops("drop_oldest", 1), asks_for_drops("latest", 1), asks_for_drops("drop_oldest", 100)
    (True, True, False)
    """
    return policy == "latest" or (policy == "drop_oldest" and queue_size < DEFAULT_QUEUE_SIZE)


class NodeOutput(msgspec.Struct, frozen=True, tag="node"):
    """The source of an input: output ``output`` of node ``node``.

    For the output of an operator, ``output`` is ``"<operator id>/<output id>"``, or without an id
    ``"<output id>"``.
    """

    node: str
    output: str

    def __str__(self) -> str:
        return f"{self.node}/{self.output}"


class TimerSource(msgspec.Struct, frozen=True, tag="timer"):
    """The source of an input: a clock that ticks every ``interval_ns`` nanoseconds."""

    interval_ns: int
    text: str  # as written, for example "dora/timer/millis/50"

    def __str__(self) -> str:
        return self.text


class LogSource(msgspec.Struct, frozen=True, tag="logs"):
    """The source of an input: the log entries of other nodes, at least as severe as ``level``."""

    level: LogLevel
    node: str | None
    text: str  # as written, for example "dora/logs/warn/camera"

    def __str__(self) -> str:
        return self.text


Source = NodeOutput | TimerSource | LogSource


# msgspec freezes a record of its own, whatever it inherits from; mypy thinks of dataclasses.
class InputSpec(InputRules, frozen=True):  # type: ignore[misc]
    """An input, with its rules."""

    id: str
    source: Source


class LogOptions(msgspec.Struct, frozen=True):
    """Where the log of a node goes, and how much of it is kept."""

    send_stdout_as: str | None = None
    send_logs_as: str | None = None
    min_log_level: LogLevel | None = None
    max_log_size: int | None = None  # bytes; None: no rotation
    max_rotated_files: int = 5

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs that the daemon feeds with captured lines or log entries."""
        return tuple(output for output in (self.send_stdout_as, self.send_logs_as) if output)


class RestartOptions(msgspec.Struct, frozen=True):
    """When a node is started again, and how soon."""

    policy: RestartMode = "never"
    max_restarts: int = 0  # 0: no limit
    delay: float = 0.0  # seconds before the first restart, doubled for each further one
    max_delay: float | None = None  # seconds
    window: float | None = None  # seconds; None: the whole life of the dataflow


class SchedulingPolicy(msgspec.Struct, frozen=True):
    """A scheduling policy of Linux, with the priority of ``fifo`` and ``rr``."""

    name: SchedulingPolicyName
    priority: int = 0  # 1 to 99 for `fifo` and `rr`

    def __str__(self) -> str:
        return f"{self.name} {self.priority}" if self.priority else self.name


class Scheduling(msgspec.Struct, frozen=True):
    """How the system schedules a process: on which cores, and in which order with others."""

    cpu_affinity: tuple[int, ...] = ()  # empty: all cores
    nice: int | None = None
    scheduler: SchedulingPolicy | None = None


class Download(msgspec.Struct, frozen=True):
    """The file on the web that a node or operator runs; ``path`` or ``python`` is where it is put."""

    url: str
    sha256: str | None = None  # in lower case


class OperatorSpec(msgspec.Struct, frozen=True):
    """An operator, which shares its process with the other operators of its node."""

    id: str
    python: str  # path of the file as written, relative to the working directory
    inputs: tuple[InputSpec, ...] = ()
    syncs: tuple[SyncGroup, ...] = ()
    outputs: tuple[str, ...] = ()
    build: tuple[str, ...] = ()  # one command per entry
    conda_env: str | None = None
    download: Download | None = None
    pattern: str | None = None
    name: str | None = None
    description: str | None = None
    alone: bool = False  # the only one of its node, and nobody has given it an id

    @property
    def prefix(self) -> str:
        """Return what its inputs and outputs begin with in the node."""
        return "" if self.alone else f"{self.id}/"


class PythonEnvironment(msgspec.Struct, frozen=True):
    """The Python that a node asks for, instead of the one that runs dora."""

    version: str | None = None  # "3.12" or ">=3.11,<3.13"; None: dora's
    requirements: tuple[str, ...] = ()  # in pip's notation


class GitSource(msgspec.Struct, frozen=True):
    """The repository that a node's files come from; at most one of the three names a commit."""

    secret_address: str  # may have a password or a token: it is for git alone
    folder: str  # of the clone, relative to the working directory
    branch: str | None = None
    tag: str | None = None
    rev: str | None = None

    @property
    def repository(self) -> str:
        """The address without passwords and tokens, to show and to keep."""
        return without_user(self.secret_address)


class Deploy(msgspec.Struct, frozen=True):
    """Where a node runs. Without ``machine`` and ``labels``: on the default machine."""

    machine: str | None = None
    labels: dict[str, str] = {}  # that the machine must have
    working_dir: str | None = None  # on that machine, relative to the dataflow's; None: the same
    is_sent: bool = False  # its files are not there before `dora cluster start` copies them
    on_machine_lost: OnMachineLost = "keep"  # whether the dataflow goes on without the machine

    @property
    def names_place(self) -> bool:
        """Whether it says where the node, or its files, are."""
        return bool(self.machine or self.labels or self.working_dir or self.is_sent)


HERE = Deploy()


class PreloadedPackage(msgspec.Struct, frozen=True):
    """An installed package that is imported before a node starts, whether its program imports it or not."""

    name: str  # as in an `import`, "torch" or "torchvision.models"
    place: str  # "file.yml:3:5" of the name, for messages


class NodeSpec(msgspec.Struct, frozen=True):
    """One process of the dataflow: a program (``path``) or a runtime for ``operators``.

    For a runtime, ``inputs`` and ``outputs`` belong to its operators, with ids
    ``"<operator id>/<input id>"``; the operators' own lists keep the short ids. The only operator of a node
    may have no id of its own: then the node's ids are the short ones.

    For ``path: shell``, ``args`` is one entry: the command line exactly as written.
    """

    id: str
    path: str | None = None  # None: this node is a runtime
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    build: tuple[str, ...] = ()  # of the node and, for a runtime, of all its operators
    inputs: tuple[InputSpec, ...] = ()
    syncs: tuple[SyncGroup, ...] = ()  # as for inputs: of operators, too
    outputs: tuple[str, ...] = ()
    output_rules: dict[str, OutputRules] = {}  # of the outputs that have any
    operators: tuple[OperatorSpec, ...] = ()
    name: str | None = None
    description: str | None = None
    log: LogOptions = LogOptions()
    restart: RestartOptions = RestartOptions()
    health_check_timeout: float | None = None  # seconds
    finish_grace: float | None = None  # seconds
    startup_timeout: float | None = None  # seconds
    hot_reload: ReloadMode = "overlap"
    cpu_affinity: tuple[int, ...] = ()
    nice: int | None = None
    scheduler: SchedulingPolicy | None = None
    lock_memory: bool = False
    preload: tuple[PreloadedPackage, ...] | None = ()  # beside those that it imports; None: a plain start
    python: PythonEnvironment | None = None  # None: dora's, or with ``--uv`` one of uv
    git: GitSource | None = None
    download: Download | None = None
    parameters: dict[str, Any] = {}  # as they are at the start
    deploy: Deploy = HERE
    ros2: Ros2Block | None = None  # of a node that connects the dataflow with ROS 2
    pattern: str | None = None  # "service-server", "action-client", …; None: none is declared
    place: str | None = None  # "file.yml:3:5" of the node's mapping, for messages
    module: str = ""  # the id of the node that used the module it comes from, "" if none did

    @property
    def downloads(self) -> tuple[tuple[str, Download], ...]:
        """The files on the web that it runs, and where each is put."""
        sources = ((self.path, self.download), *((each.python, each.download) for each in self.operators))
        return tuple((path, source) for path, source in sources if path and source is not None)

    @property
    def scheduling(self) -> Scheduling:
        return Scheduling(self.cpu_affinity, self.nice, self.scheduler)

    @property
    def is_runtime(self) -> bool:
        """Whether it runs operators instead of a program."""
        return self.path is None

    def rules_of_output(self, output: str) -> OutputRules:
        """Return the rules of an output, or that it has none."""
        return self.output_rules.get(output, NO_RULES)

    def split_port(self, port: str) -> tuple[str, str]:
        """Return the operator's id of an input or an output of a runtime, and what it is called there."""
        if self.operators[0].alone:
            return self.operators[0].id, port
        operator_id, _, short = port.partition("/")
        return operator_id, short

    def kept_by_sync(self, item: InputSpec) -> int:
        """Return how many messages of an input its group may keep; 0 for an input in no group."""
        groups = (group for group in self.syncs if item.id in group.inputs)
        return sum(item.queue_size + group.history.get(item.id, 0) for group in groups)

    @property
    def declares_pattern(self) -> bool:
        """Whether it, or one of its operators, declares a pattern."""
        return self.pattern is not None or any(operator.pattern for operator in self.operators)

    @property
    def is_dynamic(self) -> bool:
        """Whether the user starts it, at any time (``path: dynamic``)."""
        return self.path == "dynamic"

    @property
    def is_shell(self) -> bool:
        """Whether it is a command line for a shell (``path: shell``)."""
        return self.path == "shell"


class Program(msgspec.Struct, frozen=True):
    """A file or command that a node or operator runs, for the check before a start."""

    path: str
    built: bool  # a build may make the file
    place: Problem  # of the path in the file; its message is the owner, "the node `a`"
    node: str  # the id of the node
    elsewhere: bool = False  # it may be on another machine


class PortType(msgspec.Struct, frozen=True):
    """The type of an input or output: its name, and the Arrow types that messages may have."""

    name: str  # "std/media/v1/Image"
    shapes: tuple[Any, ...]  # see `dora.dataflow.types.library.Shape`; empty: any


ANY = PortType("", ())
"""The type of an input or output that declares none."""


class PathBudget(msgspec.Struct, frozen=True):
    """How long data may take from an output to an input, and what happens if it takes longer."""

    source: NodeOutput
    node: str
    input: str
    budget_ns: int
    on_miss: OnMiss = "warn"
    after: int = 1  # so many messages in a row

    @property
    def sink(self) -> str:
        """The input at the end, ``"node/input"``."""
        return f"{self.node}/{self.input}"


class BlackBoxRules(msgspec.Struct, frozen=True):
    """How a run keeps its last seconds. Outputs are ``"<node>/<output>"``."""

    enabled: bool = True
    duration_ns: int = 30 * 10**9
    memory: int | None = None  # bytes; None: the default, see `dora.daemon.black_box`
    outputs: tuple[str, ...] | None = None  # None: all
    leave_out: tuple[str, ...] = ()
    save_on: tuple[str, ...] = ()  # a message of these saves a file
    files: int = 5  # of one run; a further one replaces the oldest

    def keeps(self, output: str) -> bool:
        """Return whether messages of an output are kept."""
        return (self.outputs is None or output in self.outputs) and output not in self.leave_out


class Types(msgspec.Struct, frozen=True):
    """The types of messages, by ``"<node>/<input>"`` and ``"<node>/<output>"``."""

    inputs: dict[str, PortType] = {}
    outputs: dict[str, PortType] = {}
    inferred: tuple[tuple[str, str, str], ...] = ()  # (type, input, source) of inputs that declare none


class Dataflow(msgspec.Struct, frozen=True):
    """A checked dataflow: everything that a run needs, and nothing that is not in its files."""

    nodes: tuple[NodeSpec, ...]
    working_dir: str  # absolute
    file: str | None = None  # absolute path of the YAML, None if it came from elsewhere
    env: dict[str, str] = {}  # for every node; a node's own env wins per key
    health_check_interval: float = 5.0  # seconds
    exit_when_nodes_finish: bool = False
    debug: bool = False
    descriptor: dict[str, Any] = {}  # the document as plain values: `NodeSpec.dataflow_descriptor()`
    programs: tuple[Program, ...] = ()
    types: Types = Types()
    paths: tuple[PathBudget, ...] = ()
    black_box: BlackBoxRules = BlackBoxRules()
    warnings: tuple[Problem, ...] = ()  # of things that are suspicious but usable
    type_warnings: tuple[Problem, ...] = ()  # of declared types that do not fit together

    @property
    def file_stem(self) -> str:
        """The name of the file without folder and ending; ``dataflow`` if it came from elsewhere."""
        return os.path.splitext(os.path.basename(self.file or "dataflow"))[0]

    def node(self, node_id: str) -> NodeSpec:
        """Return the node with this id; raises ``KeyError``."""
        for node in self.nodes:
            if node.id == node_id:
                return node
        raise KeyError(node_id)

    def directory_of(self, node: NodeSpec) -> str:
        """Return where a node runs and its relative paths begin: its working directory, or its clone."""
        folder = self.home_of(node)
        return f"{folder}/{node.git.folder}" if node.git else folder

    def home_of(self, node: NodeSpec) -> str:
        """Return the working directory of a node: from its ``deploy``, or the dataflow's."""
        folder = node.deploy.working_dir
        return os.path.normpath(os.path.join(self.working_dir, folder)) if folder else self.working_dir

    def consumers(self, node_id: str, output: str) -> Iterator[tuple[NodeSpec, InputSpec]]:
        """Yield every (node, input) that is fed by this output."""
        wanted = NodeOutput(node_id, output)
        for node in self.nodes:
            for item in node.inputs:
                if item.source == wanted:
                    yield node, item
