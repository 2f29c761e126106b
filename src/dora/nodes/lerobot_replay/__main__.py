"""``python -m dora.nodes.lerobot_replay``: the node that ``path: dora-lerobot-replay`` starts."""

from __future__ import annotations

import sys
from collections.abc import Callable

from dora.node.node import Node
from dora.nodes.command_line import run_node_command
from dora.nodes.installed import check_installed

_DESCRIPTION = """
Send an episode of a data set for LeRobot as it was captured.
It is started by a dataflow with `path: dora-lerobot-replay`; to join a running one by hand, give
the id of its node with `path: dynamic`. Its settings are the `parameters` of the node.
"""


def load() -> Callable[[Node], None]:
    """Return what runs the node; raises `DoraError` without PyAV."""
    check_installed("dora-lerobot-replay")
    from dora.nodes.lerobot_replay.run import run

    return run


if __name__ == "__main__":
    sys.exit(run_node_command("dora.nodes.lerobot_replay", _DESCRIPTION, load))
