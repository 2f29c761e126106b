"""Requests about which the supervisor decides, on their way from the socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from dora._version import __version__
from dora.daemon.connections import Connection
from dora.daemon.runs import fits
from dora.dataflow.links import Place
from dora.dataflow.model import Dataflow
from dora.supervise import events as on
from dora.wire.control import PROTOCOL_VERSION, Register
from dora.wire.requests import (
    AskModel,
    AskParameters,
    ChangeDataflow,
    CheckChange,
    Declined,
    DeleteParameter,
    Description,
    HandOver,
    Model,
    OrderChange,
    RemoveNode,
    ReplaceNode,
    RestartNode,
    SetParameter,
    StopNode,
)

if TYPE_CHECKING:
    from dora.daemon.daemon import Daemon

Decided = (
    AskParameters
    | SetParameter
    | DeleteParameter
    | StopNode
    | RestartNode
    | RemoveNode
    | AskModel
    | ChangeDataflow
    | ReplaceNode
    | CheckChange
    | OrderChange
    | HandOver
)


def event_of(daemon: Daemon, guest: Connection, request: Decided) -> on.Event | None:
    """Return what the supervisor has to decide; None for a request that is answered here."""
    revision = daemon.supervisor.revision
    match request:
        case AskParameters():
            return on.ParametersAsked(guest.number, request.node_id)
        case SetParameter():
            return on.ParameterSet(guest.number, request.node_id, request.key, request.value)
        case DeleteParameter():
            return on.ParameterDeleted(guest.number, request.node_id, request.key)
        case AskModel():
            guest.send(Model(revision, msgspec.to_builtins(daemon.supervisor.dataflow), daemon.options.uv))
            return None
        case StopNode():
            return on.NodeAsked(guest.number, request.node_id, "stop", request.grace)
        case RestartNode():
            return on.NodeAsked(guest.number, request.node_id, "restart", request.grace)
        case RemoveNode():
            what: Literal["retire", "remove"] = "retire" if request.ordered else "remove"
            return on.NodeAsked(guest.number, request.node_id, what, request.grace)
        case HandOver(machine=machine):
            if reason := daemon.supervisor.why_not_handed_over():
                guest.send(Declined(reason))
                return None
            daemon.place = msgspec.structs.replace(daemon.place, machine=machine)
            return on.HandedOver(guest.number)
    try:
        wanted = msgspec.convert(request.dataflow, type=Dataflow)
        place = _place(daemon.place, request)
        orders = isinstance(request, (CheckChange, OrderChange))
        if (
            request.revision > revision if orders else request.revision == revision
        ):  # else nothing comes of it
            daemon.make_room(wanted, place)
            if not isinstance(request, CheckChange):
                daemon.place = place
    except msgspec.ValidationError as error:
        guest.send(Declined(f"this is no dataflow: {error}"))
        return None
    except OSError as error:
        guest.send(Declined(f"there is no room for what is to come: {error.strerror}"))
        return None
    number = guest.number
    match request:
        case CheckChange():
            return on.ChangeChecked(number, request.revision, wanted)
        case OrderChange(revision=revision, added=added, removed=removed, sent=sent):
            elsewhere = {node.id: place.elsewhere(node.id) for node in wanted.nodes}
            return on.ChangeOrdered(number, revision, wanted, elsewhere, place.births, sent, added, removed)
        case ReplaceNode(node_id=node_id, grace=grace):
            ordered = request.places is not None
            return on.ReplaceAsked(number, request.revision, wanted, node_id, grace, ordered)
        case ChangeDataflow(added=added, removed=removed):
            return on.ChangeAsked(number, request.revision, wanted, added, removed)


def _place(place: Place, request: ChangeDataflow | ReplaceNode | CheckChange | OrderChange) -> Place:
    """Return where a run is that has become what is asked for."""
    if isinstance(request, ChangeDataflow) or (places := request.places) is None:
        return place
    return msgspec.structs.replace(
        place, machines=places.machines, births=places.births, remote=places.remote
    )


def registration_fault(connection: Connection, message: Register, description: Description) -> str:
    """Return why a registration cannot even be considered; "" if it can."""
    if connection.node_id:
        return "this connection is registered already"
    if message.protocol != PROTOCOL_VERSION:
        return (
            f"node `{message.node_id}` uses dora {message.version}, whose protocol differs from the "
            f"one of this run, of dora {__version__}; install the same version in both environments"
        )
    if message.dataflow and not fits(description, message.dataflow):
        return f"dataflow {description.dataflow_id} is not called `{message.dataflow}`"
    return ""
