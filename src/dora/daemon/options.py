"""Options of builds and runs, and the environment variables that change them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from dora.errors import DoraError
from dora.transport.engines import ENGINES, best_engine
from dora.wire.node_config import EngineName, TraceConfig

if TYPE_CHECKING:
    from dora.daemon.supervisor.status import FormerPart
    from dora.dataflow.layout import Placement

ALLOW_SHELL = "DORA_ALLOW_SHELL_NODES"


class BuildOptions(msgspec.Struct, frozen=True):
    """Options of a build. ``update``: bring clones that follow a branch up to date."""

    uv: bool = False
    parallel: bool = False
    offline: bool = False
    update: bool = False


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of a run that users choose, in a terminal or on a coordinator.

    ``engine`` None: iceoryx2 where it is installed, else shm where it works, else Zenoh; the environment
    variable ``DORA_ENGINE`` forces one.
    """

    uv: bool = False  # build and run nodes with uv
    hot_reload: bool = False
    allow_shell_nodes: bool = False
    engine: EngineName | None = None
    strict: bool = False  # trouble is an error, see `DataflowResult.troubled`
    trace: bool = False  # nodes write spans
    # Nodes are forked by a template process where that is possible; None: where that saves time.
    preload: bool | None = None


class LocalRunOptions(RunOptions, frozen=True, kw_only=True):
    """Options of a run in this process. Times are in seconds.

    ``stop_after`` counts from the call; ``grace`` is the time between the stop event and SIGTERM,
    and half of it follows until SIGKILL (None: the default).
    """

    stop_after: float | None = None
    grace: float | None = None
    tap_queue: int = 0  # messages that a recorder's tap on an output holds; 0: no recorder is expected
    name: str = ""  # a name for commands, besides its UUID and the name of its file
    coordinator: str = ""  # address and port of the coordinator that started it
    trace_config: TraceConfig | None = None  # see `dora.observe.telemetry.traced_run`
    join: Callable[[], Placement] | None = None  # None: all nodes are on this machine
    log_directory: str = ""  # "": below the folder of the dataflow file
    run_id: str = ""  # as in `RunDirectory.create`
    state_directory: str = ""  # of nodes; "": with the files of the run, which do not outlive a reboot
    revision: int = 0  # the changes of the dataflow so far, if it runs on several machines
    former: FormerPart | None = None  # this machine has lost its part, and starts it again

    @classmethod
    def of(cls, options: RunOptions, **others: Any) -> LocalRunOptions:
        """Return the options of a user with those that this process adds."""
        return cls(**{name: getattr(options, name) for name in RunOptions.__struct_fields__}, **others)


def shell_nodes_allowed(options: RunOptions) -> bool:
    return options.allow_shell_nodes or os.environ.get(ALLOW_SHELL) == "true"


def choose_engine(options: RunOptions) -> EngineName:
    """Return the transport engine for a run; raises `DoraError` for an unknown or missing one."""
    wanted: EngineName
    if forced := os.environ.get("DORA_ENGINE"):
        wanted = _engine("DORA_ENGINE", forced)
    elif options.engine is not None:
        wanted = _engine("engine", options.engine)
    else:
        wanted = best_engine()
    if why := ENGINES[wanted].fault():
        raise DoraError(f"the engine {wanted} {why}")
    return wanted


def _engine(name: str, text: str) -> EngineName:
    for engine in ENGINES:
        if text == engine:
            return engine
    *others, last = ENGINES
    raise DoraError(f"{name} is `{text}`; it can be {', '.join(others)} or {last}")


def finish_grace_from_environment() -> float | None:
    """Return ``DORA_FINISH_DRAIN_GRACE_SECS``, None for ``off``; raises `DoraError`."""
    from dora.daemon.supervisor.state import DEFAULT_FINISH_GRACE

    text = os.environ.get("DORA_FINISH_DRAIN_GRACE_SECS", "").strip()
    if not text:
        return DEFAULT_FINISH_GRACE
    if text.lower() == "off":
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds <= 1e9:
        raise DoraError(
            f"DORA_FINISH_DRAIN_GRACE_SECS is `{text}`; it has to be a number of seconds, or `off`"
        )
    return seconds


def check_spin_from_environment() -> None:
    """Raise `DoraError` for a ``DORA_SPIN_US`` with which no node could start."""
    text = os.environ.get("DORA_SPIN_US", "")
    try:
        fits = not text or -1e9 <= float(text) <= 1e9
    except ValueError:
        fits = False
    if not fits:
        raise DoraError(f"DORA_SPIN_US is `{text[:60]}`; it has to be a number of microseconds")
