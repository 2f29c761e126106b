"""Dataflows for robotics and AI: nodes wired in YAML, Arrow messages between them without copies.

>>> from dora import Node                                                 # doctest: +SKIP
>>> for event in Node():                                                  # doctest: +SKIP
...     print(event["id"], event["value"])
"""

from typing import TYPE_CHECKING, Any

import dora._lean  # noqa: F401 - first: it decides how msgspec is imported
from dora._version import INTERFACE
from dora._version import __author__ as __author__
from dora._version import __implementation__ as __implementation__

if TYPE_CHECKING:  # `as` makes a name public for type checkers
    from dora.api import build as build
    from dora.api import run as run
    from dora.errors import BuildError as BuildError
    from dora.errors import CallFailed as CallFailed
    from dora.errors import CallRefused as CallRefused
    from dora.errors import CallTimedOut as CallTimedOut
    from dora.errors import ConnectError as ConnectError
    from dora.errors import DaemonLost as DaemonLost
    from dora.errors import DataflowError as DataflowError
    from dora.errors import DataflowFailed as DataflowFailed
    from dora.errors import DoraError as DoraError
    from dora.errors import NotInDataflow as NotInDataflow
    from dora.errors import ReceiveClosed as ReceiveClosed
    from dora.errors import SampleAlreadySent as SampleAlreadySent
    from dora.errors import SendError as SendError
    from dora.errors import SharedMemoryFull as SharedMemoryFull
    from dora.errors import StartFailed as StartFailed
    from dora.errors import TransportError as TransportError
    from dora.errors import UndeclaredInput as UndeclaredInput
    from dora.errors import UndeclaredOutput as UndeclaredOutput
    from dora.errors import UnsupportedData as UnsupportedData
    from dora.errors import WrongProcess as WrongProcess
    from dora.node.events import BudgetMissed as BudgetMissed
    from dora.node.events import DeadlineMet as DeadlineMet
    from dora.node.events import DeadlineMissed as DeadlineMissed
    from dora.node.events import Error as Error
    from dora.node.events import Event as Event
    from dora.node.events import Input as Input
    from dora.node.events import InputClosed as InputClosed
    from dora.node.events import InputRecovered as InputRecovered
    from dora.node.events import NodeFailed as NodeFailed
    from dora.node.events import NodeRestarted as NodeRestarted
    from dora.node.events import ParamDeleted as ParamDeleted
    from dora.node.events import ParamUpdate as ParamUpdate
    from dora.node.events import Reload as Reload
    from dora.node.events import SafeStateEntered as SafeStateEntered
    from dora.node.events import SafeStateLeft as SafeStateLeft
    from dora.node.events import Stop as Stop
    from dora.node.events import Synced as Synced
    from dora.node.events import Unknown as Unknown
    from dora.node.external import External as External
    from dora.node.node import Node as Node
    from dora.node.operator import DoraStatus as DoraStatus
    from dora.node.operator import Operator as Operator
    from dora.node.operator import SendOutput as SendOutput
    from dora.node.patterns.action import Goal as Goal
    from dora.node.patterns.action import GoalRun as GoalRun
    from dora.node.patterns.service import Call as Call
    from dora.node.patterns.stream import Stream as Stream
    from dora.node.runtime import start_runtime as start_runtime
    from dora.ros2.api.actions import Ros2ActionClient as Ros2ActionClient
    from dora.ros2.api.actions import Ros2ActionServer as Ros2ActionServer
    from dora.ros2.api.context import Ros2Context as Ros2Context
    from dora.ros2.api.context import Ros2Node as Ros2Node
    from dora.ros2.api.policies import Ros2Durability as Ros2Durability
    from dora.ros2.api.policies import Ros2Liveliness as Ros2Liveliness
    from dora.ros2.api.policies import Ros2NodeOptions as Ros2NodeOptions
    from dora.ros2.api.policies import Ros2QosPolicies as Ros2QosPolicies
    from dora.ros2.api.policies import Ros2Transport as Ros2Transport
    from dora.ros2.api.services import Ros2ServiceClient as Ros2ServiceClient
    from dora.ros2.api.services import Ros2ServiceServer as Ros2ServiceServer
    from dora.ros2.api.topics import Ros2Publisher as Ros2Publisher
    from dora.ros2.api.topics import Ros2Subscription as Ros2Subscription
    from dora.ros2.api.topics import Ros2Topic as Ros2Topic

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

__version__ = INTERFACE
__all__ = sorted([*_HOMES, "__author__", "__implementation__", "__version__"])


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
    return list(__all__)
