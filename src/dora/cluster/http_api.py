"""Requests of commands to the coordinator over HTTP, and its answers (JSON)."""

from __future__ import annotations

from typing import Annotated

import msgspec

from dora.cluster.protocol import RunSpec, RunStatus
from dora.daemon.supervisor.result import DataflowResult
from dora.wire.clock import ClockOffset
from dora.wire.operations import MAX_GRACE


class DataflowView(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one dataflow, as commands see it."""

    uuid: str
    name: str
    status: RunStatus
    nodes: list[str]
    file: str | None = None
    log_directory: str = ""
    created: float = 0.0  # seconds since the Unix epoch
    ended: float | None = None
    cpu: float = 0.0  # percent of one core
    memory: int = 0  # bytes
    machines: list[str] = []  # that run a part of it
    reason: str = ""  # why it failed, or did not start; while it runs, its first failure
    result: DataflowResult | None = None


class StartRequest(msgspec.Struct, frozen=True):
    spec: RunSpec


class StopRequest(msgspec.Struct, frozen=True):
    """Stop a dataflow. ``grace``: seconds until SIGTERM; None: the default. ``force``: kill its nodes."""

    grace: Annotated[float, msgspec.Meta(ge=0, le=MAX_GRACE)] | None = None
    force: bool = False


class RestartView(msgspec.Struct, frozen=True):
    """A dataflow was restarted: its former UUID, and its new record."""

    old: str
    new: DataflowView


class DownRequest(msgspec.Struct, frozen=True):
    """End the daemons and the coordinator. ``force``: although dataflows run."""

    force: bool = False


class DownView(msgspec.Struct, frozen=True):
    """The coordinator is ending; these machines may still run nodes. Other versions may answer ``{}``."""

    away: list[str] = []  # were out of reach, and had a part of a dataflow
    late: list[str] = []  # were told to end, and had not done so in time


class Failure(msgspec.Struct, frozen=True):
    """Why a request was refused: one sentence for the user."""

    error: str


class MachineView(msgspec.Struct, frozen=True, kw_only=True):
    """A machine whose daemon is connected, or was connected and may come back."""

    id: str
    labels: dict[str, str] = {}
    address: str = ""  # where the coordinator sees it
    daemon_id: str = ""
    away_since: float | None = None  # seconds since the Unix epoch; None: it is connected
    tls: bool = False  # it has a certificate, so its links are encrypted
    clock: ClockOffset | None = None  # how far the coordinator's clock is ahead
    link_port: int | None = None  # 0: it only dials; None: unknown until it has had links to other machines


class SystemStatus(msgspec.Struct, frozen=True):
    """The coordinator and its machines."""

    version: str
    pid: int  # of the coordinator
    daemons: list[str]  # ids of the daemons that are connected
    active_dataflows: int
    machines: list[MachineView] = []
    interface: str = ""  # the address that the coordinator listens on


class DashboardView(msgspec.Struct, frozen=True):
    """The address of the dashboard."""

    path: str  # logs in a browser
