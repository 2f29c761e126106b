"""Dataflows for robotics and AI: nodes wired in YAML, Arrow messages between them without copies.

>>> from dora import Node                                                 # doctest: +SKIP
>>> for event in Node():                                                  # doctest: +SKIP
...     print(event["id"], event["value"])
"""

from typing import TYPE_CHECKING, Any

import dora._lean  # noqa: F401 - first: it decides how msgspec is imported
from dora._version import INTERFACE as __version__
from dora._version import __author__, __implementation__

if TYPE_CHECKING:
    from dora.api import build, run
    from dora.errors import (
        BuildError,
        CallFailed,
        CallRefused,
        CallTimedOut,
        ConnectError,
        DaemonLost,
        DataflowError,
        DataflowFailed,
        DoraError,
        NotInDataflow,
        ReceiveClosed,
        SampleAlreadySent,
        SendError,
        SharedMemoryFull,
        StartFailed,
        TransportError,
        UndeclaredInput,
        UndeclaredOutput,
        UnsupportedData,
        WrongProcess,
    )
    from dora.node.events import (
        BudgetMissed,
        DeadlineMet,
        DeadlineMissed,
        Error,
        Event,
        Input,
        InputClosed,
        InputRecovered,
        NodeFailed,
        NodeRestarted,
        ParamDeleted,
        ParamUpdate,
        Reload,
        SafeStateEntered,
        SafeStateLeft,
        Stop,
        Synced,
        Unknown,
    )
    from dora.node.external import External
    from dora.node.node import Node
    from dora.node.operator import DoraStatus, Operator, SendOutput
    from dora.node.patterns.action import Goal, GoalRun
    from dora.node.patterns.service import Call
    from dora.node.patterns.stream import Stream
    from dora.node.runtime import start_runtime
    from dora.ros2.api.actions import Ros2ActionClient, Ros2ActionServer
    from dora.ros2.api.context import Ros2Context, Ros2Node
    from dora.ros2.api.policies import (
        Ros2Durability,
        Ros2Liveliness,
        Ros2NodeOptions,
        Ros2QosPolicies,
        Ros2Transport,
    )
    from dora.ros2.api.services import Ros2ServiceClient, Ros2ServiceServer
    from dora.ros2.api.topics import Ros2Publisher, Ros2Subscription, Ros2Topic

_MODULES = {
    "dora.api": ("build", "run"),
    "dora.errors": (
        "BuildError",
        "CallFailed",
        "CallRefused",
        "CallTimedOut",
        "ConnectError",
        "DaemonLost",
        "DataflowError",
        "DataflowFailed",
        "DoraError",
        "NotInDataflow",
        "ReceiveClosed",
        "SampleAlreadySent",
        "SendError",
        "SharedMemoryFull",
        "StartFailed",
        "TransportError",
        "UndeclaredInput",
        "UndeclaredOutput",
        "UnsupportedData",
        "WrongProcess",
    ),
    "dora.node.events": (
        "BudgetMissed",
        "DeadlineMet",
        "DeadlineMissed",
        "Error",
        "Event",
        "Input",
        "InputClosed",
        "InputRecovered",
        "NodeFailed",
        "NodeRestarted",
        "ParamDeleted",
        "ParamUpdate",
        "Reload",
        "SafeStateEntered",
        "SafeStateLeft",
        "Stop",
        "Synced",
        "Unknown",
    ),
    "dora.node.external": ("External",),
    "dora.node.node": ("Node",),
    "dora.node.operator": ("DoraStatus", "Operator", "SendOutput"),
    "dora.node.patterns.action": ("Goal", "GoalRun"),
    "dora.node.patterns.service": ("Call",),
    "dora.node.patterns.stream": ("Stream",),
    "dora.node.runtime": ("start_runtime",),
    "dora.ros2.api.actions": ("Ros2ActionClient", "Ros2ActionServer"),
    "dora.ros2.api.context": ("Ros2Context", "Ros2Node"),
    "dora.ros2.api.policies": (
        "Ros2Durability",
        "Ros2Liveliness",
        "Ros2NodeOptions",
        "Ros2QosPolicies",
        "Ros2Transport",
    ),
    "dora.ros2.api.services": ("Ros2ServiceClient", "Ros2ServiceServer"),
    "dora.ros2.api.topics": ("Ros2Publisher", "Ros2Subscription", "Ros2Topic"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

_SUBMODULES = ("builder", "testing")  # found without being imported, as in dora-rs

__all__ = [
    "BudgetMissed",
    "BuildError",
    "Call",
    "CallFailed",
    "CallRefused",
    "CallTimedOut",
    "ConnectError",
    "DaemonLost",
    "DataflowError",
    "DataflowFailed",
    "DeadlineMet",
    "DeadlineMissed",
    "DoraError",
    "DoraStatus",
    "Error",
    "Event",
    "External",
    "Goal",
    "GoalRun",
    "Input",
    "InputClosed",
    "InputRecovered",
    "Node",
    "NodeFailed",
    "NodeRestarted",
    "NotInDataflow",
    "Operator",
    "ParamDeleted",
    "ParamUpdate",
    "ReceiveClosed",
    "Reload",
    "Ros2ActionClient",
    "Ros2ActionServer",
    "Ros2Context",
    "Ros2Durability",
    "Ros2Liveliness",
    "Ros2Node",
    "Ros2NodeOptions",
    "Ros2Publisher",
    "Ros2QosPolicies",
    "Ros2ServiceClient",
    "Ros2ServiceServer",
    "Ros2Subscription",
    "Ros2Topic",
    "Ros2Transport",
    "SafeStateEntered",
    "SafeStateLeft",
    "SampleAlreadySent",
    "SendError",
    "SendOutput",
    "SharedMemoryFull",
    "StartFailed",
    "Stop",
    "Stream",
    "Synced",
    "TransportError",
    "UndeclaredInput",
    "UndeclaredOutput",
    "Unknown",
    "UnsupportedData",
    "WrongProcess",
    "__author__",
    "__implementation__",
    "__version__",
    "build",
    "run",
    "start_runtime",
]


if not TYPE_CHECKING:  # to a type checker it would mean that every name exists

    def __getattr__(name: str) -> Any:
        """Import a public name on first use: a node does not pay for the daemon, nor the CLI for Arrow."""
        home = _HOMES.get(name)
        if home is None and name not in _SUBMODULES:
            raise AttributeError(f"module 'dora' has no attribute {name!r}")
        import gc
        from importlib import import_module

        if home is None:
            return import_module(f"dora.{name}")
        # Imported modules stay. Collections meanwhile take a node up to 9 ms, and find next to nothing.
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            value = getattr(import_module(home), name)
        finally:
            if was_enabled:
                gc.enable()
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
