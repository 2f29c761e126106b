"""What can happen to a running dataflow: the events that the `Supervisor` takes in."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from dora.dataflow.model import Dataflow
from dora.supervise.news import MachineNews


class Begin(msgspec.Struct, frozen=True):
    """The dataflow shall start. The first event, once."""


class Spawned(msgspec.Struct, frozen=True):
    """The process of a node exists."""

    node_id: str
    pid: int


class SpawnFailed(msgspec.Struct, frozen=True):
    """The process of a node could not be started; ``reason`` is a sentence for the user."""

    node_id: str
    reason: str


class ProcessEnded(msgspec.Struct, frozen=True):
    """The process of a node ended; everything it wrote to its socket was read before.

    Exactly one of ``exit_code`` and ``signal`` is set.
    """

    node_id: str
    exit_code: int | None = None
    signal: int | None = None
    last_lines: tuple[str, ...] = ()


class CodeChanged(msgspec.Struct, frozen=True):
    """The code of a node was saved (hot reload); of a runtime, that of some ``operators``.

    ``modules`` are the files that these import and that have to be imported anew.
    """

    node_id: str
    operators: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()


class SuccessorEnded(msgspec.Struct, frozen=True):
    """The process of a node's new code ended before it took over, or could not be started (``reason``)."""

    node_id: str
    incarnation: int
    exit_code: int | None = None
    signal: int | None = None
    last_lines: tuple[str, ...] = ()
    reason: str = ""


class SuccessorReady(msgspec.Struct, frozen=True):
    """A successor that was admitted has made ready, and waits."""

    node_id: str
    incarnation: int


class Registering(msgspec.Struct, frozen=True):
    """Somebody who calls itself ``node_id`` asks to take part. Answered by `Admit` or `Refuse`."""

    connection: int
    node_id: str
    incarnation: int = 0
    dynamic: bool = False


class PortsReady(msgspec.Struct, frozen=True):
    """Every port of the node exists."""

    node_id: str


class OutputsDone(msgspec.Struct, frozen=True):
    """The node will not send to these outputs any more."""

    node_id: str
    outputs: tuple[str, ...]


class NodeClosed(msgspec.Struct, frozen=True):
    """The node object was closed; the process may live on."""

    node_id: str
    undeclared: dict[str, int] = {}


class Disconnected(msgspec.Struct, frozen=True):
    """The connection of an admitted node ended."""

    node_id: str


class Progress(msgspec.Struct, frozen=True):
    """The node showed a sign of life: it waits for events, or it received or sent something."""

    node_id: str


class ParametersAsked(msgspec.Struct, frozen=True):
    """Somebody who is no node wants to know the parameters of one. Answered by `Answer`."""

    connection: int
    node_id: str


class ParameterSet(msgspec.Struct, frozen=True):
    """A parameter of a node shall have a value. Answered by `Answer`."""

    connection: int
    node_id: str
    key: str
    value: Any


class ParameterDeleted(msgspec.Struct, frozen=True):
    """A node shall not have a parameter any more. Answered by `Answer`."""

    connection: int
    node_id: str
    key: str


class NodeAsked(msgspec.Struct, frozen=True):
    """Somebody who is no node wants a node to end, and perhaps to come back. Answered by `Answer`.

    ``grace`` is the time until SIGTERM, in seconds; None: the default.
    """

    connection: int
    node_id: str
    what: Literal["stop", "restart", "remove", "retire"]  # the last one: see `dora.supervise.orders`
    grace: float | None = None


class ChangeAsked(msgspec.Struct, frozen=True):
    """The dataflow shall become another one, made from ``revision``. Answered by `Answer`.

    ``added`` and ``removed`` are the links that it gets and loses, as the log tells it.
    """

    connection: int
    revision: int
    dataflow: Dataflow
    added: str = ""
    removed: str = ""


class ReplaceAsked(msgspec.Struct, frozen=True):
    """A node shall run another program: that of ``dataflow``, made from ``revision``."""

    connection: int
    revision: int
    dataflow: Dataflow
    node_id: str
    grace: float | None = None
    ordered: bool = False  # by the coordinator, of a dataflow on several machines


class ChangeChecked(msgspec.Struct, frozen=True):
    """Could this part become this dataflow, as ``revision``? Answered by `AnswerSent` or `Answer`."""

    connection: int
    revision: int
    dataflow: Dataflow


class ChangeOrdered(msgspec.Struct, frozen=True):
    """The coordinator has decided what a dataflow on several machines is from now on, as ``revision``.

    ``elsewhere`` and ``births`` are as in `dora.dataflow.links.Place`, the former by node. Answered by
    `Answer`.
    """

    connection: int
    revision: int
    dataflow: Dataflow
    elsewhere: dict[str, str]
    births: dict[str, int]
    sent: dict[str, dict[str, int]] = {}  # node → output → what other machines had sent by then
    added: str = ""
    removed: str = ""


class HandedOver(msgspec.Struct, frozen=True):
    """The coordinator decides from now on; see `Supervisor.why_not_handed_over`. Answered by `Answer`."""

    connection: int


class AskerGone(msgspec.Struct, frozen=True):
    """The connection of somebody who is no node has ended."""

    connection: int


class StopRequested(msgspec.Struct, frozen=True):
    """The dataflow shall end in good order: Ctrl-C, a time limit, or an operator's ``STOP_ALL``.

    ``grace`` is the time until SIGTERM, in seconds; None: that of the supervisor.
    """

    reason: str
    grace: float | None = None


class KillRequested(msgspec.Struct, frozen=True):
    """The dataflow shall end at once: the second Ctrl-C."""


class NewsArrived(msgspec.Struct, frozen=True):
    """Another machine tells how its nodes are."""

    machine: str
    news: MachineNews


class MachineLost(msgspec.Struct, frozen=True):
    """Another machine has ended, or has not been heard of for too long; ``reason`` is half a sentence."""

    machine: str
    reason: str


class Released(msgspec.Struct, frozen=True):
    """The coordinator needs this part no more, as none of the nodes is on this machine."""


class TimePassed(msgspec.Struct, frozen=True):
    """Nothing happened, but a deadline may be due."""


Event = (
    Begin
    | Spawned
    | SpawnFailed
    | ProcessEnded
    | CodeChanged
    | SuccessorEnded
    | SuccessorReady
    | Registering
    | PortsReady
    | OutputsDone
    | NodeClosed
    | Disconnected
    | Progress
    | ParametersAsked
    | ParameterSet
    | ParameterDeleted
    | NodeAsked
    | ChangeAsked
    | ReplaceAsked
    | ChangeChecked
    | ChangeOrdered
    | HandedOver
    | AskerGone
    | StopRequested
    | KillRequested
    | NewsArrived
    | MachineLost
    | Released
    | TimePassed
)
