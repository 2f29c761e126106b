"""Requests about which the supervisor decides, on their way from the socket."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from dora.daemon.connections import Connection
from dora.dataflow.model import Dataflow
from dora.supervise import events as on
from dora.wire.control import PROTOCOL_VERSION, Register
from dora.wire.requests import (
    AskModel,
    AskParameters,
    ChangeDataflow,
    Declined,
    DeleteParameter,
    Model,
    RemoveNode,
    ReplaceNode,
    RestartNode,
    SetParameter,
    StopNode,
)

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
)


def event_of(
    guest: Connection,
    request: Decided,
    dataflow: Dataflow,
    revision: int,
    make_room: Callable[[Dataflow], object],
    uv: bool,
) -> on.Event | None:
    """Return what the supervisor has to decide; None for a request that is answered here.

    ``make_room`` gets a dataflow that is to come; it raises ``OSError`` if there is no room for it.
    """
    match request:
        case AskParameters():
            return on.ParametersAsked(guest.number, request.node_id)
        case SetParameter():
            return on.ParameterSet(guest.number, request.node_id, request.key, request.value)
        case DeleteParameter():
            return on.ParameterDeleted(guest.number, request.node_id, request.key)
        case AskModel():
            guest.send(Model(revision, msgspec.to_builtins(dataflow), uv))
            return None
        case StopNode():
            return on.NodeAsked(guest.number, request.node_id, "stop", request.grace)
        case RestartNode():
            return on.NodeAsked(guest.number, request.node_id, "restart", request.grace)
        case RemoveNode():
            return on.NodeAsked(guest.number, request.node_id, "remove", request.grace)
    try:
        wanted = msgspec.convert(request.dataflow, type=Dataflow)
        if request.revision == revision:  # else nothing comes of it
            make_room(wanted)
    except msgspec.ValidationError as error:
        guest.send(Declined(f"this is no dataflow: {error}"))
        return None
    except OSError as error:
        guest.send(Declined(f"there is no room for what is to come: {error.strerror}"))
        return None
    if isinstance(request, ReplaceNode):
        return on.ReplaceAsked(guest.number, request.revision, wanted, request.node_id, request.grace)
    return on.ChangeAsked(guest.number, request.revision, wanted, request.added, request.removed)


def registration_fault(connection: Connection, message: Register) -> str:
    """Return why a registration cannot even be considered; "" if it can."""
    if connection.node_id:
        return "this connection is registered already"
    if message.protocol != PROTOCOL_VERSION:
        return (
            f"node `{message.node_id}` uses dora {message.version}, whose protocol differs from the "
            "one of this run; install the same version in both environments"
        )
    return ""
