"""``python -m dora.nodes.lerobot_recorder``: the node that ``path: dora-lerobot-recorder`` starts."""

from __future__ import annotations

import sys
from collections.abc import Callable

from dora.node.node import Node
from dora.nodes.command_line import run_node_command
from dora.nodes.installed import check_installed

_DESCRIPTION = """
Record the inputs of a node as a data set for LeRobot.
It is started by a dataflow with `path: dora-lerobot-recorder`; to join a running one by hand, give
the id of its node with `path: dynamic`. Its settings are the `parameters` of the node.
"""


def load() -> Callable[[Node], None]:
    """Return what runs the node; raises `DoraError` without PyAV."""
    check_installed("dora-lerobot-recorder")
    from dora.nodes.lerobot_recorder.recorder import run

    return run


if __name__ == "__main__":
    sys.exit(run_node_command("dora.nodes.lerobot_recorder", _DESCRIPTION, load))
