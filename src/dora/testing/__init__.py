"""Testing nodes, operators and dataflows without processes.

`MockNode` for functions that take a node; `run_node`, `run_operator`, `run_dataflow` and
`VirtualDataflow` for the real thing in virtual time.
"""

from dora.testing.dataflow import VirtualDataflow, run_dataflow
from dora.testing.mock import MockNode
from dora.testing.record import Sent
from dora.testing.scheduler import VirtualTimeError
from dora.testing.single import NodeRun, at, run_node, run_operator

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
]
