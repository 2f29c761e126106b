"""What the coordinator, the daemon of a machine and the commands say to each other, as JSON.

The daemon opens a WebSocket to the coordinator, sends `Hello` and is answered `Welcome` or `Rejected`.
From then on the coordinator says what shall run, and the daemon what became of it. A daemon repeats the
end of a run until it is `Recorded`, so that no record is lost with a connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from dora.supervise.result import DataflowResult

DEFAULT_PORT: Final = 6013
MAX_MESSAGE: Final = 16 << 20  # bytes of a request or a frame
VERSION_HEADER: Final = "dora-version"

RunStatus = Literal["starting", "running", "finished", "failed"]
ACTIVE: Final = ("starting", "running")


class RunSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked to run: the dataflow as it was read and checked, and how to run it.

    ``interpreter`` is the Python of the one who asks. Times are in seconds.
    """

    name: str
    dataflow: Any  # `dora.dataflow.model.Dataflow`, as JSON
    interpreter: str = ""
    uv: bool = False
    hot_reload: bool = False
    allow_shell_nodes: bool = False


class RunReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a run is, or how it ended. ``reason`` says why it failed where no node did."""

    dataflow_id: str
    status: RunStatus
    result: DataflowResult | None = None
    reason: str = ""


class RunUsage(msgspec.Struct, frozen=True):
    """What the processes of a run use."""

    dataflow_id: str
    cpu: float  # percent of one core
    memory: int  # bytes


# ----------------------------------------------------------------------- daemon → coordinator


class Hello(msgspec.Struct, frozen=True, tag=True):
    """A daemon introduces itself, with all runs it has and those whose end is not recorded."""

    version: str
    daemon_id: str  # made anew by every daemon process
    pid: int
    runs: tuple[RunReport, ...] = ()


class Changed(msgspec.Struct, frozen=True, tag=True):
    run: RunReport


class Usage(msgspec.Struct, frozen=True, tag=True):
    """The answer to `Measure`."""

    runs: tuple[RunUsage, ...]


class Explained(msgspec.Struct, frozen=True, tag=True):
    """The answer to `Explain`."""

    run: RunReport
    spec: RunSpec


ToCoordinator = Hello | Changed | Usage | Explained

# ----------------------------------------------------------------------- coordinator → daemon


class Welcome(msgspec.Struct, frozen=True, tag=True):
    version: str


class Rejected(msgspec.Struct, frozen=True, tag=True):
    """The daemon cannot take part; ``reason`` is a sentence for the user."""

    reason: str


class Start(msgspec.Struct, frozen=True, tag=True):
    dataflow_id: str
    spec: RunSpec


class Stop(msgspec.Struct, frozen=True, tag=True):
    """``grace`` None: the default. ``force``: kill the nodes at once."""

    dataflow_id: str
    grace: float | None = None
    force: bool = False


class Recorded(msgspec.Struct, frozen=True, tag=True):
    """The end of this run is in the store: the daemon may forget it."""

    dataflow_id: str


class Explain(msgspec.Struct, frozen=True, tag=True):
    """What is this run, of which there is no record? Answered by `Explained` while it runs."""

    dataflow_id: str


class Measure(msgspec.Struct, frozen=True, tag=True):
    """Answered by `Usage`."""


class Leave(msgspec.Struct, frozen=True, tag=True):
    """Stop what runs and end."""


ToDaemon = Welcome | Rejected | Start | Stop | Recorded | Explain | Measure | Leave

# ----------------------------------------------------------------------- command → coordinator


class DataflowView(msgspec.Struct, frozen=True, kw_only=True):
    """What the coordinator knows of one dataflow."""

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
    reason: str = ""
    result: DataflowResult | None = None


class StartRequest(msgspec.Struct, frozen=True):
    spec: RunSpec


class StopRequest(msgspec.Struct, frozen=True):
    grace: float | None = None
    force: bool = False


class DownRequest(msgspec.Struct, frozen=True):
    force: bool = False


class Failure(msgspec.Struct, frozen=True):
    """Why a request was refused: one sentence for the user."""

    error: str


class SystemStatus(msgspec.Struct, frozen=True):
    version: str
    pid: int  # of the coordinator
    daemons: list[str]  # ids of the daemons that are connected
    active_dataflows: int


encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode
decode_to_coordinator: Callable[[bytes | str], ToCoordinator] = msgspec.json.Decoder(ToCoordinator).decode
decode_to_daemon: Callable[[bytes | str], ToDaemon] = msgspec.json.Decoder(ToDaemon).decode


def compatible(one: str, other: str) -> bool:
    """Tell whether two versions of dora understand each other: no breaking release is between them.

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
        "which do not understand each other; use one version, and restart both"
    )
