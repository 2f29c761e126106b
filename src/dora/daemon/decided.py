"""Requests about which the supervisor decides, on their way from the socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from dora._version import __version__
from dora.daemon.connections import Connection
from dora.daemon.runs import fits
from dora.dataflow.links import Place
from dora.dataflow.model import Dataflow
from dora.supervise import events as on
from dora.wire.control import PROTOCOL_VERSION, Register
from dora.wire.decoders import DecodeError, from_plain
from dora.wire.requests import (
    ApplyChange,
    ChangeDataflow,
    CheckChange,
    Description,
    GetModel,
    LeaderHandover,
    Model,
    Rejected,
    ReplaceNode,
)

if TYPE_CHECKING:
    from dora.daemon.daemon import Daemon

MAX_GRACE: Final = 86_400.0  # seconds that nodes may be given to stop

Decided = on.ParameterRequest | on.OperationRequest | on.ChangeRequest | GetModel | LeaderHandover


def event_of(daemon: Daemon, guest: Connection, request: Decided) -> on.Event | None:
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
            daemon.place = msgspec.structs.replace(daemon.place, machine=machine)
            return on.RequestReceived(guest.number, request)
        case ChangeDataflow() | ReplaceNode() | CheckChange() | ApplyChange():
            return _change_event(daemon, guest, request)
        case _:
            return on.RequestReceived(guest.number, request)


def _change_event(daemon: Daemon, guest: Connection, request: on.ChangeRequest) -> on.Event | None:
    """Return the event of a change, for which there is room; None if the request is answered here."""
    revision = daemon.supervisor.state.revision
    try:
        wanted = from_plain(request.dataflow, Dataflow)
        place = _place(daemon.place, request)
        orders = isinstance(request, (CheckChange, ApplyChange))
        if (
            request.revision > revision if orders else request.revision == revision
        ):  # else nothing comes of it
            daemon.make_room(wanted, place)
            if not isinstance(request, CheckChange):
                daemon.place = place
    except DecodeError as error:
        guest.send(Rejected(f"this is no dataflow: {error}"))
        return None
    except OSError as error:
        guest.send(Rejected(f"there is no room for what is to come: {error.strerror}"))
        return None
    elsewhere = {node.id: place.elsewhere(node.id) for node in wanted.nodes}
    return on.ChangeRequested(guest.number, request, wanted, elsewhere)


def _place(place: Place, request: on.ChangeRequest) -> Place:
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
