"""Testing nodes, operators and dataflows without processes.

`MockNode` stands in for the node that a function takes; `run_node`, `run_operator`, `run_dataflow` and
`VirtualDataflow` run real nodes in virtual time, and `run_recorded` one node with its recorded events.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dora.testing.dataflow import VirtualDataflow, run_dataflow
    from dora.testing.mock import MockNode
    from dora.testing.record import Sent
    from dora.testing.recorded import run_recorded
    from dora.testing.scheduler import VirtualTimeError
    from dora.testing.single import NodeRun, at, run_node, run_operator

_HOMES = {
    "MockNode": "mock",
    "NodeRun": "single",
    "Sent": "record",
    "VirtualDataflow": "dataflow",
    "VirtualTimeError": "scheduler",
    "at": "single",
    "run_dataflow": "dataflow",
    "run_node": "single",
    "run_operator": "single",
    "run_recorded": "recorded",
}

__all__ = [
    "MockNode",
    "NodeRun",
    "Sent",
    "VirtualDataflow",
    "VirtualTimeError",
    "at",
    "run_dataflow",
    "run_node",
    "run_operator",
    "run_recorded",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a name on first use: every pytest run loads this package, for its fixtures."""
        if name not in _HOMES:
            raise AttributeError(f"module 'dora.testing' has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"dora.testing.{_HOMES[name]}"), name)

    def __dir__() -> list[str]:
        """Return the public names, imported yet or not."""
        return sorted(__all__)
