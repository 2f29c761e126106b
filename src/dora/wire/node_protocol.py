"""Protocol between a node and its daemon, in frames (`dora.wire.framing`).

The first message of a node is `Register`, answered by `Registered` or `RegistrationRefused`. The node then
creates its ports, sends `Ready` and waits for `Started` or `StartRefused`. All later messages are one-way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from dora.wire.decoders import msgpack_decoder
from dora.wire.node_config import (
    ChannelConfig,
    InputConfig,
    LinkConfig,
    NodeConfig,
    WriteEventLog,
)

# The version of all messages between nodes, daemons and coordinators. Raise it with every change that an
# older process would misread; a process with another number is refused.
PROTOCOL_VERSION = 11


# --------------------------------------------------------------------------- node → daemon


class Register(msgspec.Struct, tag=True):
    """Introduce a node.

    Every protocol version keeps the fields and the tag of this struct and of `RegistrationRefused`, so that
    a node of another version can be refused with a sentence.
    """

    node_id: str
    pid: int
    version: str  # of dora
    protocol: int = 0  # `PROTOCOL_VERSION`; 0: the node did not say
    dynamic: bool = False
    incarnation: int = 0
    dataflow: str = ""  # of a dynamic node: the name or UUID of its dataflow


class Ready(msgspec.Struct, tag=True):
    """All ports of this node exist."""


class OutputsClosed(msgspec.Struct, tag=True):
    """The node has closed these outputs; its process may go on."""

    outputs: list[str]


class Closing(msgspec.Struct, tag=True):
    """The node object was closed, and so all outputs; the process may go on."""

    undeclared: dict[str, int] = {}  # output id → messages dropped because it is not declared


class OperatorFailure(msgspec.Struct, tag=True):
    """The code of an operator has raised an error; the process is about to end."""

    operator: str


class StopDataflow(msgspec.Struct, tag=True):
    """An operator returned ``DoraStatus.STOP_ALL``."""


class PublishResult(msgspec.Struct, tag=True):
    """The answer to `PublishRequest`; ``reason``: why nothing was sent, "" if it was."""

    ticket: int
    reason: str = ""


class InputAttached(msgspec.Struct, tag=True):
    """The answer to `AttachInput`; ``fault``: why the input cannot receive, "" if it can."""

    slot: int
    fault: str = ""


class InputDetached(msgspec.Struct, tag=True):
    """All messages of a disconnected input have been received."""

    input: str
    slot: int


class PathMissed(msgspec.Struct, tag=True):
    """A message came later than the budget of a path allows; sent for the 1st, 2nd, 4th, 8th … in a row."""

    text: str  # a sentence for the user
    save: bool = False  # the black box is to be saved


class SafeStateChanged(msgspec.Struct, tag=True):
    """An input begins the safe state of its source, or with ``entered`` False leaves it."""

    input: str
    reason: str
    entered: bool
    seconds: float = 0.0  # how long it was, at the end


class SetOwnParameters(msgspec.Struct, tag=True):
    """The node sets parameters of its own, all together; answered by a `ParamUpdateFrame` for each."""

    values: dict[str, Any]


ToDaemon = (
    Register
    | Ready
    | OutputsClosed
    | Closing
    | OperatorFailure
    | StopDataflow
    | PublishResult
    | InputAttached
    | InputDetached
    | PathMissed
    | SafeStateChanged
    | SetOwnParameters
)

# --------------------------------------------------------------------------- daemon → node


class Registered(msgspec.Struct, tag=True):
    """The registration is accepted; the process is the node from now on, or stands by."""

    config: NodeConfig


class RegistrationRefused(msgspec.Struct, tag=True):
    """The registration is refused; ``reason`` is a sentence for the user."""

    reason: str


class Started(msgspec.Struct, tag=True):
    """The start barrier is open. ``epoch_ns`` is the first tick of all timers, on CLOCK_MONOTONIC."""

    epoch_ns: int


class StartRefused(msgspec.Struct, tag=True):
    """The start barrier broke."""

    reason: str


class InputsClosed(msgspec.Struct, tag=True):
    """No more messages come on these inputs. The node gets ``INPUT_CLOSED`` after the data."""

    inputs: list[str]


class NodeFailedFrame(msgspec.Struct, tag=True):
    """An upstream node failed. Comes before the `InputsClosed` of the affected inputs."""

    node_id: str
    error: str
    affected_input_ids: list[str]


class NodeRestartedFrame(msgspec.Struct, tag=True):
    """An upstream node runs again, in a new process."""

    node_id: str


class SourceFailed(msgspec.Struct, tag=True):
    """The process of the source of these inputs has ended, and may be started again."""

    inputs: list[str]


class SafeStateFrame(msgspec.Struct, tag=True):
    """A receiver of an output begins the output's safe state, or leaves it."""

    output: str
    receiver: str  # "node/input"
    reason: str
    entered: bool
    seconds: float = 0.0


class ReloadFrame(msgspec.Struct, tag=True):
    """Code has changed: of the ``operators`` of a runtime; if there are none, of the node itself.

    Operators are reloaded, with their imported ``modules``; a node ends with the `StopFrame` that follows.
    """

    operators: list[str] = []
    modules: list[str] = []


class StopFrame(msgspec.Struct, tag=True):
    """The node has to stop (event ``STOP`` with id ``MANUAL``)."""


class ParamUpdateFrame(msgspec.Struct, tag=True):
    """A parameter of the node was set."""

    key: str
    value: Any


class ParamDeletedFrame(msgspec.Struct, tag=True):
    """A parameter of the node was deleted."""

    key: str


class PublishRequest(msgspec.Struct, tag=True):
    """Send a message on an output for `dora topic pub`; answered by `PublishResult`."""

    ticket: int
    output: str
    message: bytes


class AttachLink(msgspec.Struct, tag=True):
    """An output gets one more link. ``change`` is the output's ``LINKS_VERSION`` from here on."""

    output: str
    link: LinkConfig
    change: int
    credit_bell: str = ""
    overflow_channel: ChannelConfig | None = None  # a new channel that this link needs


class DetachLink(msgspec.Struct, tag=True):
    """Remove a link from an output."""

    output: str
    slot: int
    change: int
    overflow_channel: str = ""  # the channel that is not needed any more


class AttachInput(msgspec.Struct, tag=True):
    """Add an input. Answered by `InputAttached`."""

    item: InputConfig


class DetachInput(msgspec.Struct, tag=True):
    """Close an input once the messages sent so far are received; then answered by `InputDetached`.

    If it was the node's last one, the node waits for another input.
    """

    input: str
    slot: int


class TextInput(msgspec.Struct, tag=True):
    """One line for inputs of kind ``text``; arrives as a string array of length 1."""

    inputs: list[str]
    text: str


ToNode = (
    Registered
    | RegistrationRefused
    | Started
    | StartRefused
    | InputsClosed
    | NodeFailedFrame
    | NodeRestartedFrame
    | SourceFailed
    | SafeStateFrame
    | ReloadFrame
    | ParamUpdateFrame
    | ParamDeletedFrame
    | StopFrame
    | PublishRequest
    | WriteEventLog
    | AttachLink
    | DetachLink
    | AttachInput
    | DetachInput
    | TextInput
)
decode_to_node: Callable[[bytes], ToNode] = msgpack_decoder(ToNode)

TopologyChange = AttachLink | DetachLink | AttachInput | DetachInput
SessionFrame = TopologyChange | PublishRequest | WriteEventLog  # those that concern more than the inputs
